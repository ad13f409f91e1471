"""A read of what the model has passed: one more forward, the same bits as a plain hook, or an error."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nbsight.core.model import wrap
from nbsight.errors import NeverCalledError, OrderNotice, OutOfOrderError
from nbsight.models.language_model import LanguageModel
from tests.core.small import WIDTH, Block, Chain, Formed, Repeats, build, has_gates, hooked, rows, same

X, Y = rows(seed=1), rows(seed=2)

pytestmark = pytest.mark.filterwarnings("ignore::nbsight.errors.OrderNotice")


@pytest.fixture
def net():
    return build(Chain)


@pytest.fixture
def model(net):
    return wrap(net)


def forwards(net):
    """A list that grows by one entry with each forward."""
    seen = []
    net.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


def notices(block):
    """What is said when a block runs, and the line that it is said of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        block()
    return [
        (str(one.message), one.lineno, one.filename)
        for one in caught
        if issubclass(one.category, OrderNotice)
    ]


# -- the same numbers ------------------------------------------------------------------------------


def test_a_value_that_was_passed_is_what_a_hook_sees(net, model):
    with model.trace(X):
        late = model.h[3].output
        early = model.h[1].output
    want = hooked(net, (X,))
    assert same(late, want["h.3.output"][0])
    assert same(early, want["h.1.output"][0])
    assert not has_gates(net)


def test_an_input_and_a_part_inside_can_be_read_after_the_block(net, model):
    with model.trace(X):
        out = model.h[2].output
        inside = model.h[2].lin.output
        again = model.h[2].act.output
        before = model.h[2].input
        args, _ = model.h[1].inputs
    want = hooked(net, (X,))
    assert same(out, want["h.2.output"][0])
    assert same(inside, want["h.2.lin.output"][0])
    assert same(again, want["h.2.act.output"][0])
    assert same(before, want["h.2.inputs"][0][0][0])
    assert same(args, want["h.1.inputs"][0][0])


def test_everything_can_be_read_after_the_end(net, model):
    with model.trace(X) as tracer:
        result = tracer.result
        first = model.input
        out = model.output
    want = hooked(net, (X,))
    assert same(first, X)
    assert same(out, want[""][0])
    assert same(result, want[""][0])


def test_reads_in_the_models_order_share_one_extra_forward(net, model):
    seen = forwards(net)
    with model.trace(X):
        late = model.h[3].output
        states = [model.h[layer].output for layer in (0, 1, 2, 3)]
        final = model.output
    assert len(seen) == 2
    want = hooked(net, (X,))
    assert all(same(states[layer], want[f"h.{layer}.output"][0]) for layer in range(4))
    assert same(states[3], late)
    assert same(final, want[""][0])


def test_the_second_forward_goes_no_further_than_the_first_stood(net, model):
    calls = []
    for number, block in enumerate(net.h):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    with model.trace(X):
        model.h[1].output
        model.h[0].output
    # The first had to go to its end to see that h[0] does not come again.
    assert calls == [0, 1, 2, 3, 0]


def test_descending_reads_cost_a_forward_each(net, model):
    seen = forwards(net)
    with model.trace(X):
        states = {layer: model.h[layer].output for layer in (3, 2, 1, 0)}
    want = hooked(net, (X,))
    assert all(same(states[layer], want[f"h.{layer}.output"][0]) for layer in states)
    assert len(seen) == 5  # four and the look of `hooked`


def test_a_module_that_is_called_again_is_read_where_it_is_called_next():
    net = build(Repeats)
    model, seen = wrap(net), forwards(net)
    with model.trace(X):
        first = model.cell.output
        second = model.cell.input
    want = hooked(net, (X,))
    assert same(first, want["cell.output"][0])
    assert same(second, want["cell.inputs"][1][0][0])
    assert len(seen) == 2  # one of them the look of `hooked`


def test_a_module_called_several_times_is_read_from_its_first_call_when_all_are_over():
    net = build(Repeats)
    model = wrap(net)
    with model.trace(X):
        last = model.last.output
        calls = [model.cell.output for _ in range(1)]
        after = model.cell.input
    want = hooked(net, (X,))
    assert same(calls[0], want["cell.output"][0])
    assert same(after, want["cell.inputs"][1][0][0])
    assert same(last, want["last.output"][0])


def test_torch_switches_of_the_first_forward_hold_in_the_second(net, model):
    with torch.autocast("cpu", torch.bfloat16), model.trace(X):
        late = model.h[3].output
        early = model.h[1].lin.output
    with torch.autocast("cpu", torch.bfloat16):
        want = hooked(net, (X,))
    assert early.dtype == torch.bfloat16
    assert same(early, want["h.1.lin.output"][0])
    with model.trace(X):
        late = model.h[3].output
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            early = model.h[1].lin.output
    assert same(early, hooked(net, (X,))["h.1.lin.output"][0])


def test_training_without_anything_random_can_be_repeated():
    net = build(Chain).train()
    model = wrap(net)
    with model.trace(X):
        late = model.h[3].output
        early = model.h[1].output
    assert same(early, hooked(net, (X,))["h.1.output"][0])


def test_a_part_traced_alone_and_a_single_invoke_in_place_answer_too(net, model):
    with model.h[2].trace(X):
        out = model.h[2].output
        lin = model.h[2].lin.output
    want = hooked(net.h[2], (X,))
    assert same(out, want[""][0])
    assert same(lin, want["lin.output"][0])
    names = {"model": model, "x": X}
    exec(
        "with model.trace() as tracer:\n    with tracer.invoke(x):\n"
        "        late = model.h[3].output\n        early = model.h[1].output",
        names,
    )
    assert same(names["early"], hooked(net, (X,))["h.1.output"][0])


def test_result_and_finish_are_those_of_the_one_run(net, model):
    with model.trace(X, finish=True) as tracer:
        model.h[3].output
        model.h[1].output
    assert same(tracer.result, hooked(net, (X,))[""][0])
    with model.trace(X) as tracer:
        model.h[3].output
        model.h[1].output
        result = tracer.result
        head = model.head.output
    assert same(result, hooked(net, (X,))[""][0])
    assert same(head, result)


# -- edits -----------------------------------------------------------------------------------------


def ones(value):
    return torch.ones_like(value)


def test_edits_before_and_after_act_in_the_second_forward(net, model):
    with model.trace(X):
        model.h[0].output[:, 0] = 0
        model.h[1].lin.output = torch.ones(1, 3, WIDTH)
        model.h[2].act.skip(torch.full((1, 3, WIDTH), 2.0))
        late = model.h[3].output
        early = model.h[1].output
        skipped = model.h[2].output
        model.h[3].output = torch.ones(1, 3, WIDTH)
        final = model.output

    def zero(value):
        value[:, 0] = 0

    want = hooked(
        net,
        (X,),
        edit={"h.0": zero, "h.1.lin": ones, "h.2.act": lambda v: torch.full_like(v, 2), "h.3": ones},
    )
    assert same(early, want["h.1.output"][0])
    assert same(skipped, want["h.2.output"][0])
    assert same(final, want[""][0])
    unedited = hooked(
        net, (X,), edit={"h.0": zero, "h.1.lin": ones, "h.2.act": lambda v: torch.full_like(v, 2)}
    )
    assert same(late, unedited["h.3.output"][0])


def test_an_edit_in_place_changes_what_shares_its_memory_again(net, model):
    with model.trace(X):
        model.h[1].lin.input[:, 1] = 5  # the residual's own tensor
        late = model.h[3].output
        early = model.h[1].output

    def five(given, named):
        given[0][:, 1] = 5

    assert same(early, hooked(net, (X,), edit_input={"h.1.lin": five})["h.1.output"][0])


def test_an_edited_place_is_read_as_it_was_left(net, model):
    with model.trace(X):
        model.h[1].output = model.h[1].output * 2
        late = model.h[3].output
        again = model.h[1].output
    assert same(again, hooked(net, (X,))["h.1.output"][0] * 2)


def test_kept_edits_act_in_the_second_forward(net, model):
    with model.edit(inplace=True):
        model.h[0].output[:] = model.h[0].output * 2
        model.h[2].output = model.h[2].output + 1
    with model.trace(X):
        model.h[1].output[:, 1] = 3
        late = model.h[3].output
        early = model.h[0].output
        mid = model.h[2].output
        final = model.output

    def three(value):
        value[:, 1] = 3

    want = hooked(net, (X,), edit={"h.0": lambda v: v * 2, "h.1": three, "h.2": lambda v: v + 1})
    assert same(late, want["h.3.output"][0])
    assert same(early, want["h.0.output"][0])
    assert same(mid, want["h.2.output"][0])
    assert same(final, want[""][0])


def test_a_third_forward_has_the_edits_of_the_first_two(net, model):
    with model.trace(X):
        model.h[0].output[:] = 1
        model.h[1].output
        model.h[0].lin.output
        model.h[2].output[:] = 2
        model.h[3].output
        early = model.h[1].output
        late = model.h[3].output
    want = hooked(net, (X,), edit={"h.0": lambda v: v.fill_(1), "h.2": lambda v: v.fill_(2)})
    assert same(early, want["h.1.output"][0])
    assert same(late, want["h.3.output"][0])


@pytest.mark.parametrize("form", ["list", "dict", "mapping", "dataclass", "tuple", "nested"])
def test_values_of_any_form_are_put_back_or_refused(form):
    net = build(Formed, form)
    model = wrap(net)
    with model.trace(X):
        value = model.part.output
        late = model.tail.output
        early = model.part.lin.output
        again = model.part.output
    want = hooked(net, (X,))
    assert same(early, want["part.lin.output"][0])
    assert same(again, want["part.output"][0])
    assert same(late, want["tail.output"][0])


def test_other_items_in_a_container_are_seen_as_an_edit():
    model = wrap(build(Formed, "list"))
    with pytest.raises(OutOfOrderError, match="replaced as well"), model.trace(X):
        model.part.output[0] = torch.zeros(1, 3, WIDTH)
        model.tail.output
        model.part.lin.output


# -- invokes ---------------------------------------------------------------------------------------


def test_bodies_that_ask_too_late_share_one_second_forward(net, model):
    seen = forwards(net)
    with model.trace() as tracer:
        with tracer.invoke(X):
            late = model.h[3].output
            early = model.h[1].output
            inside = model.h[2].lin.output
        with tracer.invoke(Y):
            final = model.output
            first = model.h[0].output
        with tracer.invoke(X):
            plain = model.h[2].output
    assert len(seen) == 2
    want = hooked(net, (torch.cat([X, Y, X]),))
    assert same(late, want["h.3.output"][0][:1])
    assert same(early, want["h.1.output"][0][:1])
    assert same(inside, want["h.2.lin.output"][0][:1])
    assert same(final, want[""][0][1:2])
    assert same(first, want["h.0.output"][0][1:2])
    assert same(plain, want["h.2.output"][0][2:])


def test_bodies_see_the_edits_of_all_in_the_second_forward(net, model):
    with model.edit(inplace=True):
        model.h[0].output[:, 0] = 9
    with model.trace() as tracer:
        with tracer.invoke(X):
            donor = model.h[1].output
            late = model.h[3].output
            early = model.h[1].lin.output
            again = model.h[2].output
        with tracer.invoke(Y):
            model.h[1].output[:, 1] = 5
            model.h[2].output = donor
            final = model.output
        with tracer.invoke():
            both = model.h[3].output
            whole = model.h[2].lin.output

    def nine(value):
        value[:, 0] = 9

    def five(value):
        value[1:, 1] = 5

    def donate(value):
        value[1:] = want_donor

    want_donor = hooked(net, (torch.cat([X, Y]),), edit={"h.0": nine})["h.1.output"][0][:1]
    want = hooked(net, (torch.cat([X, Y]),), edit={"h.0": nine, "h.1": five, "h.2": donate})
    assert same(donor, want_donor)
    assert same(early, want["h.1.lin.output"][0][:1])
    assert same(again, want["h.2.output"][0][:1])
    assert same(final, want[""][0][1:])
    assert same(whole, want["h.2.lin.output"][0])
    assert same(both, want["h.3.output"][0])


def test_a_name_bound_in_the_second_forward_is_awaited(net, model):
    with model.trace() as tracer:
        with tracer.invoke(X):
            late = model.h[3].output
            early = model.h[0].output
        with tracer.invoke(Y):
            total = early.sum() + model.output.sum()
    want = hooked(net, (torch.cat([X, Y]),))
    assert same(total, want["h.0.output"][0][:1].sum() + want[""][0][1:].sum())


def test_bodies_that_go_back_twice_get_a_third_forward(net, model):
    seen = forwards(net)
    with model.trace() as tracer:
        with tracer.invoke(X):
            values = [model.h[layer].output for layer in (3, 2, 1)]
        with tracer.invoke(Y):
            other = [model.h[layer].output for layer in (2, 0, 3)]
    assert len(seen) == 3
    want = hooked(net, (torch.cat([X, Y]),))
    for layer, value in zip((3, 2, 1), values, strict=True):
        assert same(value, want[f"h.{layer}.output"][0][:1])
    for layer, value in zip((2, 0, 3), other, strict=True):
        assert same(value, want[f"h.{layer}.output"][0][1:])


def test_a_body_that_changes_what_it_read_after_the_run_disturbs_nobody(net, model):
    with model.trace() as tracer:
        with tracer.invoke(X):
            late = model.h[3].output
            early = model.h[1].output
        with tracer.invoke(Y):
            mine = model.h[3].output
            model.head.output
            model.h[0].output
            mine -= mine.mean()  # the first forward is over: its own affair
    want = hooked(net, (torch.cat([X, Y]),))
    assert same(early, want["h.1.output"][0][:1])
    assert torch.allclose(mine, want["h.3.output"][0][1:] - want["h.3.output"][0][1:].mean())


def test_a_module_that_no_forward_calls_is_named_in_an_invoke(net, model):
    net.spare = Block()
    model = wrap(net)
    with pytest.raises(NeverCalledError, match="spare"), model.trace() as tracer:
        with tracer.invoke(X):
            model.h[3].output
            model.spare.output
        with tracer.invoke(Y):
            model.h[1].output


# -- operations ------------------------------------------------------------------------------------


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x):
        q, k, v = self.qkv(x).split(WIDTH, dim=-1)
        return torch.softmax(mix(q, k), dim=-1) @ v


def mix(query, key):
    return torch.matmul(query, key.transpose(-1, -2))


def test_operations_that_were_passed_are_read_in_a_second_forward():
    net = build(lambda: nn.Sequential(Mixer(), Mixer()))
    model = wrap(net)
    with model.trace(X):
        late = model[1].output
        q, k, v = model[0].source.split_0.output
        scores = model[0].source.mix_0.source.torch_matmul_0.output
        pattern = model[1].source.torch_softmax_0.output
    with torch.no_grad():
        wanted = net[0].qkv(X).split(WIDTH, dim=-1)
        middle = net[0](X)
        other = net[1].qkv(middle).split(WIDTH, dim=-1)
    assert all(map(same, (q, k, v), wanted))
    assert same(scores, mix(*wanted[:2]))
    assert same(pattern, torch.softmax(mix(*other[:2]), dim=-1))
    assert same(late, net[1](middle).detach())


def test_an_edited_operation_is_edited_again():
    net = build(lambda: nn.Sequential(Mixer(), Mixer()))
    model = wrap(net)
    with model.trace(X):
        model[0].source.torch_softmax_0.output = torch.ones(1, 3, 3)
        late = model[1].output
        early = model[0].output
    with torch.no_grad():
        v = net[0].qkv(X).split(WIDTH, dim=-1)[2]
    assert same(early, torch.ones(1, 3, 3) @ v)
    assert same(late, net[1](early).detach())


# -- the language model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo():
    return LanguageModel("nbsight/demo", dispatch=True)


def blocks(demo, ids):
    """The hidden state after each block, by plain hooks."""
    seen = []
    handles = [
        block.register_forward_hook(
            lambda _, __, out: seen.append((out if isinstance(out, torch.Tensor) else out[0]).clone())
        )
        for block in demo._model.transformer.h
    ]
    with torch.no_grad():
        demo._model(ids)
    for handle in handles:
        handle.remove()
    return seen


def test_blocks_of_a_language_model_in_any_order(demo):
    prompt = "The capital of France is"
    want = blocks(demo, demo.to_tokens(prompt))
    with demo.trace(prompt):
        states = {layer: demo.transformer.h[layer].output[0] for layer in (5, 2, 3, 9, 0)}
        attention = demo.transformer.h[0].attn.output[0]
        logits = demo.output.logits
    assert all(torch.equal(state, want[layer]) for layer, state in states.items())
    with demo.trace(prompt):
        assert torch.equal(demo.transformer.h[0].attn.output[0], attention)
        assert torch.equal(demo.output.logits, logits)


def test_prompts_of_different_lengths_in_any_order(demo):
    prompts = ["The capital of France is", "The dog"]
    with demo.trace() as tracer:
        with tracer.invoke(prompts[0]):
            late = demo.transformer.h[5].output[0]
            early = demo.transformer.h[2].output[0]
        with tracer.invoke(prompts[1]):
            short = demo.transformer.h[1].output[0]
            first = demo.transformer.h[0].output[0]
    for prompt, value, layer in ((prompts[0], early, 2), (prompts[1], short, 1), (prompts[1], first, 0)):
        assert torch.allclose(value, blocks(demo, demo.to_tokens(prompt))[layer], atol=1e-5)


def test_edits_of_blocks_act_in_the_second_forward(demo):
    prompt, layers = "The capital of France is", demo.transformer.h
    with demo.trace(prompt):
        layers[1].output[0][:, 1] = 0
        layers[2].attn.output[0][:] *= 2
        layers[3].output = layers[3].output[0] * 2
        layers[4].mlp.skip(layers[4].mlp.input)
        late = layers[8].output[0]
        early = [layers[layer].output[0] for layer in (1, 2, 3, 4, 6)]
        logits = demo.output.logits
    with demo.trace(prompt):
        layers[1].output[0][:, 1] = 0
        first = [layers[1].output[0]]
        layers[2].attn.output[0][:] *= 2
        first.append(layers[2].output[0])
        layers[3].output = layers[3].output[0] * 2
        first.append(layers[3].output[0])
        layers[4].mlp.skip(layers[4].mlp.input)
        first += [layers[layer].output[0] for layer in (4, 6, 8)]
        assert torch.equal(demo.output.logits, logits)
    assert all(map(torch.equal, first, (*early, late)))


@pytest.mark.parametrize("name", ["resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"])
@pytest.mark.parametrize("shares", [False, True])
def test_edits_by_standard_names_act_in_the_second_forward(demo, name, shares):
    prompts = ["The capital of France is", "The dog"][: 2 if shares else 1]

    def run(layers):
        with demo.trace() as tracer:
            for prompt in prompts:
                with tracer.invoke(prompt):
                    owner = demo.layers[1].attn if name == "z" else demo.layers[1]
                    value = getattr(owner, name)
                    value[:, 1] = value[:, 1] * 3
                    seen = {layer: demo.layers[layer].resid_post.clone() for layer in layers}
                    seen["logits"] = demo.output.logits.clone()
        return seen

    in_order, out_of_order = run([2, 3]), run([3, 2])
    assert all(torch.equal(out_of_order[key], value) for key, value in in_order.items())


# -- what is said ----------------------------------------------------------------------------------


def test_each_line_is_told_once_with_its_place_and_its_cost(model):
    def block():
        with model.trace(X):
            late = model.h[3].output
            early = model.h[1].output
            mid = model.h[2].output

    ((text, line, filename),) = notices(block)
    first = block.__code__.co_firstlineno
    assert text == f"read `h.1.output` after `h.3.output` (line {first + 2}): one extra forward"
    assert (line, filename) == (first + 3, __file__)


def test_a_loop_says_what_it_cost_in_all(model):
    def block():
        with model.trace(X):
            for layer in (3, 2, 1, 0):
                state = model.h[layer].output

    ((text, line, _),) = notices(block)
    assert line == block.__code__.co_firstlineno + 3
    assert text.startswith("read `h.2.output` after `h.3.output`")
    assert text.endswith("and 2 more of this line out of order: 3 extra forwards")


def test_bodies_that_share_a_forward_say_so(model):
    def block():
        with model.trace() as tracer:
            with tracer.invoke(X):
                late = model.h[3].output
                early = model.h[1].output
            with tracer.invoke(Y):
                late = model.h[2].output
                early = model.h[0].output

    first = block.__code__.co_firstlineno
    said = {line - first: text for text, line, _ in notices(block)}
    assert sorted(said) == [4, 7]
    assert sum("one extra forward" in text for text in said.values()) == 1
    leader = next(line for line, text in said.items() if "one extra forward" in text)
    assert f"in the extra forward of line {first + leader}" in said[11 - leader]


def test_after_the_end_is_said(model):
    def block():
        with model.trace(X) as tracer:
            tracer.result
            model.h[1].output

    ((text, _, _),) = notices(block)
    assert text == "read `h.1.output` after the end of the model: one extra forward"


def test_in_order_nothing_is_said_and_nothing_is_extra(net, model):
    seen = forwards(net)

    def block():
        with model.trace(X):
            states = [model.h[layer].output for layer in range(4)]

    assert notices(block) == []
    assert len(seen) == 1


def test_the_same_line_is_told_once_in_a_process(model):
    def block():
        with model.trace(X):
            late = model.h[3].output
            early = model.h[1].output

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(5):
            block()
    assert sum(issubclass(one.category, OrderNotice) for one in caught) == 1


# -- random programs -------------------------------------------------------------------------------

PARTS = [("", "i"), (".lin", "i"), (".lin", "o"), (".act", "i"), (".act", "o"), ("", "o")]
#: When a forward of three blocks comes to each place.
TIMES = {
    (f"h.{layer}{part}", kind): 6 * layer + time
    for layer in range(3)
    for time, (part, kind) in enumerate(PARTS)
}
ACTS = ["read", "read", "in place", "assign"]


def with_hooks(net, x, edits):
    """What each place holds after the edits there, and the result, by plain hooks."""
    seen, handles = {}, []
    for path, sub in net.named_modules():
        if (path, "i") not in TIMES:
            continue

        def before(_, given, path=path):
            value = edits.get((path, "i"), lambda value: value)(given[0])
            seen[path, "i"] = value.clone()
            return (value, *given[1:])

        def after(_, given, value, path=path):
            value = edits.get((path, "o"), lambda value: value)(value)
            seen[path, "o"] = value.clone()
            return value

        handles += [sub.register_forward_pre_hook(before), sub.register_forward_hook(after)]
    with torch.no_grad():
        seen[""] = net(x)
    for handle in handles:
        handle.remove()
    return seen


def changed(act, number):
    def change(value):
        if act == "assign":
            return value * number
        value[..., 0] = number
        return value

    return change


def test_what_two_extra_forwards_went_back_behind_stays_behind():
    net = build(Chain, 3)
    model = wrap(net)
    with pytest.raises(OutOfOrderError, match="after the model had gone on from it"):
        with model.trace(rows(seed=1)):
            model.h[0].lin.output[..., 0] = 2
            given = model.h[0].lin.input
            model.h[0].input
            given = model.h[0].lin.input
            given[..., 0] = 4  # what was read of `lin.output` came of another input
            model.output


def test_a_kept_edit_acts_on_what_the_block_writes_after_an_extra_forward():
    net = build(Chain, 3)
    model = wrap(net)
    with model.edit(inplace=True):
        model.h[0].act.output[:] = model.h[0].act.output + 1
    with model.trace(rows(seed=1)):
        model.h[0].lin.input
        model.h[0].input
        model.h[0].lin.input[..., 0] = 4
        out = model.output
    edits = {
        ("h.0.act", "o"): lambda value: value + 1,
        ("h.0.lin", "i"): changed("in place", 4),
    }
    assert same(out, with_hooks(net, rows(seed=1), edits)[""])


@given(st.lists(st.tuples(st.sampled_from([*TIMES]), st.sampled_from(ACTS)), max_size=8), st.booleans())
def test_random_orders_of_reads_and_edits_equal_hooks(steps, kept):
    net = build(Chain, 3)
    model = wrap(net)
    edits, seen, reached, refused = {}, [], -1, ""
    if kept:
        with model.edit(inplace=True):
            model.h[0].act.output[:] = model.h[0].act.output + 1
        edits["h.0.act", "o"] = lambda value: value.add_(1)
    try:
        with model.trace(rows(seed=1)):
            for number, (place, act) in enumerate(steps):
                envoy = model.get(place[0])
                if TIMES[place] < reached or place in edits:
                    act = "read"  # what was passed cannot be changed
                reached = max(reached, TIMES[place])
                value = envoy.output if place[1] == "o" else envoy.input
                if act != "read":
                    seen = [entry for entry in seen if entry[0] != place]
                    edits[place] = changed(act, number + 2)
                    value = edits[place](value)
                    if act == "assign":
                        setattr(envoy, "output" if place[1] == "o" else "input", value)
                seen.append((place, value.clone()))
            seen.append(("", model.output))
    except OutOfOrderError as error:
        refused = str(error)
    if refused:
        # The first input is the user's own tensor: changed in place, it is another input. And a
        # tensor that is changed at two places cannot be put back as it was at the first.
        own = any(path in ("h.0", "h.0.lin") and kind == "i" for path, kind in edits)
        assert ("the input was changed in place" in refused and own) or (
            "was changed in place later" in refused and len(edits) > 1
        )
        return
    want = with_hooks(net, rows(seed=1), edits)
    for place, value in seen:
        assert same(value, want[place]), place
