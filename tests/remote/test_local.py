"""A block sent with `remote="local"` does what the same block does here, bit for bit."""

from __future__ import annotations

import collections
import math
import threading
import warnings

import numpy as np
import pytest
import torch
import transformers

import nbsight
from nbsight.core.backend import Job
from nbsight.core.model import wrap
from nbsight.errors import CaptureError, InputError, OrderNotice, RemoteError
from nbsight.remote.local import LocalBackend
from nbsight.wire.missing import NotHere

PROMPT = "The capital of France is"
OTHER = "The capital of Italy is"
BOTH = pytest.mark.parametrize("where", [None, "local"])

SCALE = 3.0
HISTORY: list[int] = []


def steer(x, by=None):
    return x + (SCALE if by is None else by)


def hooked(model, prompt, layers):
    """Hidden states by plain hooks."""
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    found, handles = {}, []
    for layer in layers:
        handles.append(
            model._model.transformer.h[layer].register_forward_hook(
                lambda _, __, out, layer=layer: found.update(
                    {layer: (out if isinstance(out, torch.Tensor) else out[0]).clone()}
                )
            )
        )
    with torch.no_grad():
        logits = model._model(ids).logits
    for handle in handles:
        handle.remove()
    return found, logits


# -- the same numbers ------------------------------------------------------------------------------


def test_what_is_read_equals_a_plain_hook(model):
    with model.trace(PROMPT, remote="local") as tracer:
        hidden = model.transformer.h[4].output[0].save()
        whole = model.transformer.h[5].output.save()
        logits = model.output.save()
    wanted, wanted_logits = hooked(model, PROMPT, [4, 5])
    assert type(hidden) is torch.Tensor
    assert torch.equal(hidden, wanted[4])
    assert torch.equal(whole[0], wanted[5])
    assert torch.equal(logits, wanted_logits)
    assert torch.equal(logits.logits, wanted_logits)
    assert tracer is not None


def _edit(model, where):
    with model.trace(PROMPT, remote=where):
        donor = model.transformer.h[2].output[0][:, -1].save()
        model.transformer.h[5].output[0][:, 0] = donor
        model.transformer.h[6].mlp.output = model.transformer.h[6].mlp.output * SCALE
        logits = model.output.save()
    return donor, logits


def _invokes(model, where):
    with model.trace(remote=where) as tracer:
        with tracer.invoke(PROMPT):
            given = model.transformer.h[6].output[0].save()
        with tracer.invoke(OTHER):
            model.transformer.h[6].output[0][:] = given
            patched = model.output.save()
        with tracer.invoke():
            every = model.transformer.h[6].output.shape[0]
    return given, patched, every


def _generate(model, where):
    steps = []
    with model.generate(PROMPT, max_new_tokens=4, do_sample=False, remote=where) as tracer:
        for step in tracer.iter[:]:
            steps.append((step, model.output[0, -1].argmax(-1).item()))
        out = tracer.result.save()
    return steps, out


def _labelled(model, where):
    with model.generate(PROMPT, max_new_tokens=4, do_sample=True, seed=3, remote=where) as tracer:
        steps = list(tracer.iter[:])
        every = tracer.steps
        text = [step.token for step in steps]
    return (
        [(step, step.token, step.token_id, step.position, step.is_prompt) for step in steps],
        repr(every),
        text,
    )


def _gradient(model, where):
    with model.trace(PROMPT, remote=where):
        hidden = model.transformer.h[3].output[0]
        hidden.retain_grad()
        model.output[0, -1].logsumexp(-1).backward()
        grad = hidden.grad.save()
    model._module.zero_grad(set_to_none=True)
    return grad


def _functions(model, where):
    local = torch.arange(64.0)
    with model.trace(PROMPT, remote=where):
        h = model.transformer.h[3].output[0]
        first = steer(h, local).save()
        second = (lambda x: x * local + SCALE)(h).save()
        third = torch.softmax(first, -1).mean(dim=(0, 1)).save()
        fourth = math.sqrt(float(h.norm()))
    return first, second, third, fourth


def _messages(model, where):
    with model.trace(model.to_tokens(PROMPT), remote=where):
        x = model.output.save()
    with model.trace([PROMPT, "The dog"], remote=where):
        y = model.transformer.h[1].output[0].save()
    return x, y


def _stop(model, where):
    with model.trace(PROMPT, remote=where) as tracer:
        x = model.transformer.h[1].output[0].save()
        tracer.stop()
        x = None
    return x


def _one_line(model, where):
    with model.trace(PROMPT, remote=where): x = model.output[0, -1].save()  # noqa: E701  # fmt: skip
    return x


@pytest.mark.parametrize(
    "experiment", [_edit, _invokes, _generate, _labelled, _gradient, _functions, _messages, _stop, _one_line]
)
def test_there_and_here_agree_bit_for_bit(model, experiment):
    def compare(a, b):
        assert type(a) is type(b)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        elif isinstance(a, (list, tuple)):
            assert len(a) == len(b)
            for x, y in zip(a, b, strict=True):
                compare(x, y)
        else:
            assert a == b

    compare(experiment(model, None), experiment(model, "local"))


def test_a_wrapped_module_gets_literally_what_it_returns():
    torch.manual_seed(0)
    module = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=24, n_layer=2, n_head=3, vocab_size=50)
    ).eval()
    model, ids = wrap(module), torch.tensor([[1, 2, 3]])
    with model.trace(ids, output_hidden_states=True, remote="local"):
        out = model.output
        kept = nbsight.save({"logits": out.logits, "states": out.hidden_states})
    with torch.no_grad():
        wanted = module(ids, output_hidden_states=True)
    assert torch.equal(kept["logits"], wanted.logits)
    assert all(torch.equal(a, b) for a, b in zip(kept["states"], wanted.hidden_states, strict=True))
    assert out.logits is kept["logits"]
    with pytest.raises(RemoteError, match=r"past_key_values.*DynamicCache stays where its block ran"):
        len(out.past_key_values)


def test_the_users_grad_mode_holds_there_too(model):
    with torch.no_grad(), model.trace(PROMPT, remote="local", grad=True):
        there = torch.is_grad_enabled()
    assert there is False


# -- what comes back -------------------------------------------------------------------------------


def test_names_come_back_as_python_knows_them(model):
    with model.trace(PROMPT, remote="local"):
        h = model.transformer.h[1].output[0].save()
        same, view = h, h[0].save()
        shape, count, text = h.shape, 3, "ok"
        table = {"h": h, "rows": [1, (2, None)], ("a", 1): {4}}
        numbers = np.arange(3)
        envoy = model.transformer.h[1]
        top = nbsight.save(h.topk(2))
    assert same is h
    assert table["h"] is h
    view += 1
    assert torch.equal(h[0], view)
    assert type(shape) is torch.Size
    assert (count, text, table["rows"], table["a", 1]) == (3, "ok", [1, (2, None)], {4})
    assert numbers.tolist() == [0, 1, 2]
    assert envoy is model.transformer.h[1]
    assert top.indices.shape == (1, 5, 2)


def test_nothing_is_shared_with_the_run(model):
    with model.trace(PROMPT, remote="local"):
        weight = model.transformer.wte.weight
        copied = (weight * 1).save()
        alias = weight.detach().save()
    alias += 1
    assert weight is model._model.transformer.wte.weight  # the model's own, by name
    assert torch.equal(copied, weight)
    assert not torch.equal(alias, weight)


def test_a_tensor_that_was_not_saved_is_not_there_and_hides_no_older_value(model):
    unsaved = torch.ones(1)
    acts = {}
    with model.trace(PROMPT, remote="local"):
        unsaved = model.transformer.h[1].output[0]
        acts["kept"] = model.transformer.h[2].output[0].save()
        acts["lost"] = model.transformer.h[3].output[0]
    with pytest.raises(RemoteError, match=r"Write `unsaved = ....save\(\)` in the block"):
        unsaved.norm()
    with pytest.raises(RemoteError, match=r"`acts\['lost'\]` is not here"):
        acts["lost"].norm()
    assert torch.equal(acts["kept"], hooked(model, PROMPT, [2])[0][2])


def test_a_value_that_does_not_travel_says_so_only_when_it_is_used(model):
    with model.trace(PROMPT, remote="local"):
        generator = (number for number in range(3))
        kept = model.output.save()
    assert torch.equal(kept, hooked(model, PROMPT, [])[1])
    with pytest.raises(RemoteError, match="a generator stays where its block ran"):
        next(iter(generator))


def test_containers_that_are_filled_in_the_block_are_filled_here(model):
    rows, table, seen, recent = [0], collections.defaultdict(list), {0}, collections.deque(maxlen=2)
    array, tensor, inner = np.zeros(3), torch.zeros(2, 3), [[]]
    column = tensor[:, 1]
    ids = [id(x) for x in (rows, table, seen, recent, array, tensor, inner[0])]
    with model.trace(PROMPT, remote="local"):
        for layer in range(3):
            hidden = model.transformer.h[layer].output[0].save()
            rows.append(hidden)
            table["norm"].append(float(hidden.norm()))
            seen.add(layer)
            recent.append(layer)
            array[layer] = layer
            tensor[:, layer] = float(layer)
            inner[0].append(layer)
    wanted, _ = hooked(model, PROMPT, range(3))
    assert rows[0] == 0
    assert all(torch.equal(rows[layer + 1], wanted[layer]) for layer in range(3))
    assert table == {"norm": [float(wanted[layer].norm()) for layer in range(3)]}
    assert (seen, list(recent), array.tolist(), inner) == ({0, 1, 2}, [1, 2], [0, 1, 2], [[0, 1, 2]])
    assert tensor.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert column.tolist() == [1, 1]
    assert ids == [id(x) for x in (rows, table, seen, recent, array, tensor, inner[0])]


def test_a_container_that_a_function_fills_is_filled_here(model):
    HISTORY.clear()

    def note(x):
        HISTORY.append(x.shape[1])
        return x

    with model.trace(PROMPT, remote="local"):
        out = note(model.transformer.h[0].output[0]).save()
    assert HISTORY == [5]
    assert out.shape == (1, 5, 64)


def test_a_parameter_of_the_users_collects_its_gradient_here(model):
    def run(where):
        vector = torch.zeros(64, requires_grad=True)
        with model.trace(PROMPT, remote=where):
            model.transformer.h[3].output[0][:] += vector
            model.output[0, -1].logsumexp(-1).backward()
        model._module.zero_grad(set_to_none=True)
        return vector.grad

    assert torch.equal(run("local"), run(None))


def test_a_saved_container_brings_everything_in_it(model):
    with model.trace(PROMPT, remote="local"):
        acts = nbsight.save([])
        for layer in (0, 1):
            acts.append({"h": model.transformer.h[layer].output[0]})
    wanted, _ = hooked(model, PROMPT, [0, 1])
    assert [torch.equal(act["h"], wanted[layer]) for layer, act in enumerate(acts)] == [True, True]


def test_running_a_cell_again_takes_nothing_from_the_last_time(model):
    values = []
    for prompt in (PROMPT, OTHER):
        with model.trace(prompt, remote="local"):
            unsaved = model.transformer.h[1].output[0]
            kept = unsaved.mean().save()
        values.append(kept)
        assert type(unsaved) is NotHere
    for value, prompt in zip(values, (PROMPT, OTHER), strict=True):
        assert value == hooked(model, prompt, [1])[0][1].mean()


def test_a_name_bound_in_one_branch_only_keeps_its_value_otherwise(model):
    for flag, wanted in ((True, 1), (False, 0)):
        found = 0
        with model.trace(PROMPT, remote="local"):
            x = model.output[0, -1, 0].save()
            if flag:
                found = 1
        assert found == wanted
        assert x.ndim == 0


# -- sessions --------------------------------------------------------------------------------------


def _session(model, where):
    offset = 2
    with model.session(remote=where) as session:
        with model.trace(PROMPT):
            one = model.transformer.h[3].output[0].save()
            unsaved = model.transformer.h[4].output[0]
        mean = one.mean(dim=1).save()
        with model.trace(OTHER):
            model.transformer.h[3].output[0][:] = one + offset
            other = model.output.save()
        with model.trace() as tracer:
            with tracer.invoke(PROMPT):
                given = model.transformer.h[4].output[0]
            with tracer.invoke(OTHER):
                model.transformer.h[4].output[0][:] = given
                patched = model.output.save()
        kept = []
        with model.trace(OTHER):
            held = nbsight.save([])
            held.append(model.transformer.h[1].output[0])
            kept.append(held[0].norm().item())
        number = float(mean.norm())
    return one, mean, other, patched, kept, number, held, unsaved


def test_a_session_there_and_here_agree_bit_for_bit(model):
    here, there = _session(model, None), _session(model, "local")
    for a, b in zip(here[:-1], there[:-1], strict=True):
        if isinstance(a, torch.Tensor):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        elif isinstance(a, list) and isinstance(a[0], torch.Tensor):
            assert torch.equal(a[0], b[0])
        else:
            assert a == b
    assert isinstance(here[-1], torch.Tensor)
    with pytest.raises(RemoteError, match="`unsaved` is not here"):
        there[-1].norm()


@pytest.mark.parametrize("inner", ["local", True, "http://nowhere"])
def test_in_a_session_the_remotes_of_its_traces_are_the_sessions(model, inner):
    with model.session(remote="local"):
        with model.trace(PROMPT, remote=inner):
            h = model.transformer.h[3].output[0].save()
    assert torch.equal(h, hooked(model, PROMPT, [3])[0][3])


def test_nnsights_options_of_remote_traces_are_accepted(model):
    with model.trace(PROMPT, remote="local", blocking=True, verbose=True, job_id=None):
        h = model.output[0, -1].save()
    with model.session(remote="local", blocking=False, verbose=False):
        with model.trace(PROMPT):
            again = model.output[0, -1].save()
    assert torch.equal(h, again)
    with pytest.raises(RemoteError, match="asks for an earlier job"):
        with model.trace(PROMPT, remote="local", job_id="3f97"):
            h = model.output.save()
    with pytest.raises(RemoteError, match="was given max_new_tokens"):
        with model.session(remote="local", max_new_tokens=3):
            pass


# -- errors ----------------------------------------------------------------------------------------


def here() -> int:
    import sys

    return sys._getframe(1).f_lineno


def test_an_error_in_the_block_is_the_same_error_on_the_users_line(model):
    with pytest.raises(ZeroDivisionError) as caught:
        with model.trace(PROMPT, remote="local"):
            h = model.transformer.h[1].output[0].save()
            # a comment, which a text made from the tree would lose

            line = here(); x = 1 / 0  # noqa: E702  # fmt: skip
    last = caught.traceback[-1]
    assert str(last.path) == __file__
    assert last.statement.lines == ["            line = here(); x = 1 / 0  # noqa: E702  # fmt: skip"]
    frames = [
        entry for entry in caught.traceback if "nbsight" in str(entry.path) and "tests" not in str(entry.path)
    ]
    assert len(frames) <= 3
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@BOTH
def test_our_errors_name_the_users_line(model, where):
    with pytest.raises(nbsight.NbsightError, match=r"line \d+: early = model.transformer.h\[2\].output"):
        with model.trace(PROMPT, remote=where, strict_order=True):
            late = model.transformer.h[5].output.save()
            early = model.transformer.h[2].output.save()


@BOTH
def test_a_read_out_of_order_is_told_on_the_users_line(model, where):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with model.trace(PROMPT, remote=where):
            late = model.transformer.h[5].output[0].save()
            early = model.transformer.h[2].output[0].save(); line = here()  # noqa: E702  # fmt: skip
    (notice,) = [one for one in caught if issubclass(one.category, OrderNotice)]
    assert "read `transformer.h.2.output` after `transformer.h.5.output`" in str(notice.message)
    assert (notice.filename, notice.lineno) == (__file__, line)
    wanted, _ = hooked(model, PROMPT, [2, 5])
    assert torch.equal(early, wanted[2])
    assert torch.equal(late, wanted[5])


@BOTH
def test_the_order_that_a_model_asks_for_holds(model, where):
    model.strict_order = True
    try:
        with pytest.raises(nbsight.OutOfOrderError), model.trace(PROMPT, remote=where):
            late = model.transformer.h[5].output.save()
            early = model.transformer.h[2].output.save()
    finally:
        model.strict_order = False


@BOTH
def test_nan_is_found_where_it_comes_up(model, where):
    with pytest.raises(FloatingPointError, match=r"line \d+: .*float\('inf'\)"):
        with model.trace(PROMPT, remote=where, check_finite=True):
            model.transformer.h[2].output[0][:, 1] = float('inf')  # fmt: skip
            late = model.transformer.h[5].output.save()


@BOTH
def test_an_error_in_an_invoke_is_the_same_there(model, where):
    with pytest.raises(KeyError, match="nope"):
        with model.trace(remote=where) as tracer:
            with tracer.invoke(PROMPT):
                x = model.transformer.h[1].output[0].save()
                y = {}["nope"]


def test_after_an_error_the_model_works(model):
    with pytest.raises(InputError):
        with model.trace("", remote="local"):
            h = model.output.save()
    with model.trace(PROMPT, remote="local"):
        h = model.output.save()
    assert torch.equal(h, hooked(model, PROMPT, [])[1])


class Optimizer:
    lr = 0.1


def test_what_cannot_travel_is_refused_with_the_line_that_reads_it(model):
    opt = Optimizer()
    ran = []
    with pytest.raises(RemoteError) as caught:
        with model.trace(PROMPT, remote="local"):
            ran.append(1)
            # the first line that reads it:
            x = model.output[0, -1] * opt.lr
    text = str(caught.value)
    assert text.startswith("`opt` (")
    assert "Optimizer) cannot travel to where the block runs." in text
    assert ": x = model.output[0, -1] * opt.lr" in text
    assert "take what you need of it into such a value before the block" in text
    assert ran == []


def test_an_argument_that_cannot_travel_is_named(model):
    with pytest.raises(RemoteError, match=r"argument `stopping` of the trace .*Optimizer"):
        with model.trace(PROMPT, stopping=Optimizer(), remote="local"):
            h = model.output.save()


def test_what_an_earlier_run_left_does_not_have_to_travel(model):
    h = Optimizer()
    with model.trace(PROMPT, remote="local"):
        h = model.output[0, -1]
        kept = h.mean().save()
    assert kept.ndim == 0
    flag = False
    h = Optimizer()
    with pytest.raises(RemoteError, match=r"`h` \(.*Optimizer\) cannot travel"):
        with model.trace(PROMPT, remote="local"):
            if flag:
                h = model.output.save()
            x = h.lr


def test_a_placeholder_of_an_earlier_run_explains_itself_when_it_is_sent(model):
    with model.trace(PROMPT, remote="local"):
        h = model.transformer.h[1].output[0]
    with pytest.raises(RemoteError, match=r"`h` .*\n.*\nIt was not saved.*block\.$"):
        with model.trace(PROMPT, remote="local"):
            model.transformer.h[1].output[0][:] = h
            out = model.output.save()


def test_a_block_without_text_says_so(model):
    with pytest.raises(CaptureError, match="needs the text of its block"):
        exec('with model.trace("x", remote="local"):\n    h = model.output.save()', {"model": model})


def test_an_unknown_place_is_an_error_that_names_the_known_ones(model):
    with pytest.raises(RemoteError, match='remote="local"'):
        with model.trace(PROMPT, remote="nowhere"):
            h = model.output.save()


def test_a_backend_can_be_given_as_an_object(model):
    jobs: list[Job] = []

    class Noting(LocalBackend):
        def run(self, job):
            jobs.append(job)
            return super().run(job)

    with model.trace(PROMPT, remote=Noting()):
        h = model.output[0, -1].save()
    assert torch.equal(h, hooked(model, PROMPT, [])[1][0, -1])
    assert [job.kind for job in jobs] == ["trace"]


def test_threads_send_blocks_side_by_side(model):
    wanted, results = hooked(model, PROMPT, [2])[0][2], []

    def work():
        for _ in range(5):
            with model.trace(PROMPT, remote="local"):
                h = model.transformer.h[2].output[0].save()
            results.append(torch.equal(h, wanted))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 15


def test_the_weights_are_loaded_when_a_block_needs_them():
    fresh = nbsight.LanguageModel("nbsight/demo")
    with fresh.trace(PROMPT, remote="local"):
        row = fresh.transformer.wte.weight[3].detach().save()
        h = fresh.output[0, -1].save()
    assert torch.equal(row, fresh._model.transformer.wte.weight[3])
    assert torch.equal(h, hooked(fresh, PROMPT, [])[1][0, -1])
