"""Programs in nnsight's style: reading, writing, order and saving."""

# These programs are written as nnsight's users write them.

from __future__ import annotations

import pytest
import torch

import nbsight as nnsight
from tests.compat import models
from tests.compat.models import PROMPT, first, ids_of
from tests.core.small import Formed, Keywords, build, hooked, rows, same

X = rows(2)


def test_output_input_and_inputs_are_what_torch_saw(chain):
    with chain.trace(X):
        given = chain.h[2].input.save()
        both = nnsight.save(chain.h[2].inputs)
        out = chain.h[2].output.save()
    wanted = hooked(chain._module, (X,))
    assert torch.equal(given, wanted["h.2.inputs"][0][0][0])
    assert same(both, wanted["h.2.inputs"][0])
    assert torch.equal(out, wanted["h.2.output"][0])


def test_values_are_real_tensors(chain):
    with chain.trace(X):
        hidden = chain.h[0].output
        again = chain.h[0].output
        shape = tuple(hidden.shape)
        total = float(hidden.sum())
        branch = "large" if hidden.abs().max() > 1e-9 else "small"
    wanted = hooked(chain._module, (X,))["h.0.output"][0]
    assert type(hidden) is torch.Tensor
    assert hidden is again
    assert (shape, branch) == ((2, 3, 6), "large")
    assert total == pytest.approx(float(wanted.sum()))


def test_a_value_is_not_copied(chain):
    addresses = []
    chain._module.h[1].register_forward_hook(lambda _, __, out: addresses.append(out.data_ptr()))
    with chain.trace(X):
        hidden = chain.h[1].output.save()
        chain.output.save()
    assert hidden.data_ptr() == addresses[0]


def test_an_edit_in_place_changes_the_run(chain):
    with chain.trace(X):
        chain.h[1].output[:, -1] = 0
        out = chain.output.save()

    def silence(value):
        value[:, -1] = 0

    assert torch.equal(out, hooked(chain._module, (X,), edit={"h.1": silence})[""][0])


def test_an_assigned_output_replaces_it(chain):
    with chain.trace(X):
        chain.h[1].output = chain.h[1].output * 2 + 1
        out = chain.output.save()
    assert torch.equal(out, hooked(chain._module, (X,), edit={"h.1": lambda value: value * 2 + 1})[""][0])


def test_an_assigned_input_keeps_the_other_arguments():
    keywords = nnsight.NNsight(build(Keywords))
    shift = rows(2, seed=3)
    with keywords.trace(X, shift=shift):
        keywords.by_name.input = keywords.by_name.input + 1
        keywords.mixed.inputs = ((keywords.mixed.input,), {"scale": 0.0})
        out = keywords.output.save()
    wanted = hooked(
        keywords._module,
        (X,),
        {"shift": shift},
        edit_input={
            "by_name": lambda _, named: ((), {**named, "x": named["x"] + 1}),
            "mixed": lambda given, _: (given, {"scale": 0.0}),
        },
    )
    assert torch.equal(out, wanted[""][0])


def test_rebinding_a_name_changes_nothing(chain):
    with chain.trace(X):
        hidden = chain.h[0].output
        hidden = hidden * 100
        out = chain.output.save()
    assert torch.equal(out, chain._module(X))


def test_an_edit_of_a_slice_of_a_tuple_is_seen(model):
    ids = ids_of(model, PROMPT)
    with model.trace(PROMPT):
        model.transformer.h[2].attn.output[0][:] = 0
        logits = model.output.logits.save()

    def silence(value):
        value[0][:] = 0

    wanted = hooked(model._model, (ids,), edit={"transformer.h.2.attn": silence})[""][0].logits
    assert torch.equal(logits, wanted)


@pytest.mark.parametrize("style", ["item", "whole", "tuple"])
def test_a_block_takes_a_new_hidden_state_in_every_style(model, style):
    ids, noise = ids_of(model, PROMPT), models.noise(1, 5, 64)
    with model.trace(PROMPT):
        block = model.transformer.h[4]
        if style == "item":
            block.output[0][:] = block.output[0] + noise[:, : block.output[0].shape[1]]
        elif style == "whole":
            block.output = block.output + noise[:, : block.output.shape[1]]
        else:
            block.output = (block.output[0] + noise[:, : block.output.shape[1]],)
        logits = model.output.logits.save()

    def shifted(value):
        hidden = first(value) + noise[:, : first(value).shape[1]]
        return (hidden, *value[1:]) if isinstance(value, tuple) else hidden

    assert torch.equal(logits, hooked(model._model, (ids,), edit={"transformer.h.4": shifted})[""][0].logits)


@pytest.mark.parametrize("form", ["tuple", "list", "dict", "nested", "named", "mapping", "dataclass", "none"])
def test_a_module_may_return_anything(form):
    formed = nnsight.NNsight(build(Formed, form))
    with formed.trace(X):
        value = nnsight.save(formed.part.output)
        out = formed.output.save()
    wanted = hooked(formed._module, (X,))
    assert same(value, wanted["part.output"][0])
    assert torch.equal(out, wanted[""][0])


def test_modules_can_be_applied_out_of_place(model):
    with model.trace(PROMPT):
        hidden = model.transformer.h[3].output[0]
        early = model.lm_head(model.transformer.ln_f(hidden)).save()
        late = model.lm_head.output.save()
    wanted = hooked(model._model, (ids_of(model, PROMPT),))
    state = first(wanted["transformer.h.3.output"][0])
    assert torch.equal(early, model._model.lm_head(model._model.transformer.ln_f(state)))
    assert torch.equal(late, wanted["lm_head.output"][0])


def test_a_weight_can_be_read_in_a_trace(chain):
    with chain.trace(X):
        given = chain.head.input
        by_hand = (given @ chain.head.weight.T + chain.head.bias).save()
        out = chain.head.output.save()
    assert torch.allclose(by_hand, out, atol=1e-6)


# -- order -----------------------------------------------------------------------------------------


def test_a_value_of_a_sampled_run_that_has_passed_says_both_lines(model):
    with pytest.raises(nnsight.OutOfOrderError) as caught:
        with model.generate(PROMPT, max_new_tokens=1, do_sample=True):
            late = model.transformer.h[5].output[0]
            early = model.transformer.h[2].output[0]
    text = str(caught.value)
    assert "transformer.h.2" in text
    assert "transformer.h.5" in text


def test_outside_a_trace_there_is_no_value(chain):
    with pytest.raises(ValueError, match="inside a trace"):
        chain.h[0].output
    with pytest.raises(ValueError, match="no trace is running"):
        nnsight.save(torch.zeros(1))
    with pytest.raises(ValueError, match="no trace is running"):
        torch.zeros(1).save()


# -- saving ----------------------------------------------------------------------------------------


def test_what_is_saved_comes_back_under_its_name(chain):
    with chain.trace(X):
        a = chain.h[0].output.save()
        b = a
        c = nnsight.save(a.sum() + 1)
    wanted = hooked(chain._module, (X,))["h.0.output"][0]
    assert b is a
    assert torch.equal(a, wanted)
    assert torch.equal(c, wanted.sum() + 1)


def test_containers_made_in_the_block_are_there_after_it(chain):
    with chain.trace(X):
        found = {}
        listed = nnsight.save([])
        for place, block in enumerate(chain.h):
            found[place] = block.output.save()
            listed.append(found[place].mean())
        number = 3
    wanted = hooked(chain._module, (X,))
    for place in range(4):
        assert torch.equal(found[place], wanted[f"h.{place}.output"][0])
        assert torch.equal(listed[place], wanted[f"h.{place}.output"][0].mean())
    assert number == 3


def test_a_container_from_before_the_block_is_filled(chain):
    found = []
    with chain.trace(X):
        found.append(chain.h[1].output.save())
    assert torch.equal(found[0], hooked(chain._module, (X,))["h.1.output"][0])


def test_save_before_an_operation_saves_the_tensor_not_the_result(chain):
    with chain.trace(X):
        double = chain.h[1].output.save() * 2
    assert torch.equal(double, hooked(chain._module, (X,))["h.1.output"][0] * 2)


def test_saving_a_list_is_said_to_be_done_by_the_function():
    # Departure: nothing is put on `object`, so a list has no `save`.
    with pytest.raises(AttributeError):
        [1, 2].save()


# -- prompts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["list", "ids", "row", "numpy", "nested", "encoding", "unpacked", "embeds"])
def test_a_prompt_may_come_in_any_form(model, form):
    ids = ids_of(model, PROMPT)
    wanted = first(hooked(model._model, (ids,))["transformer.h.2.output"][0])
    encoding = model.tokenizer(PROMPT, return_tensors="pt")
    args, kwargs = {
        "list": (([PROMPT],), {}),
        "ids": ((ids,), {}),
        "row": ((ids[0],), {}),
        "numpy": ((ids.numpy(),), {}),
        "nested": ((ids.tolist(),), {}),
        "encoding": ((encoding,), {}),
        "unpacked": ((), dict(encoding)),
        "embeds": ((), {"inputs_embeds": model._model.transformer.wte(ids).detach()}),
    }[form]
    with model.trace(*args, **kwargs):
        hidden = model.transformer.h[2].output[0].save()
    assert torch.allclose(hidden, wanted, atol=1e-6)


def test_chat_messages_are_put_into_the_template(model):
    chat = [{"role": "user", "content": PROMPT}]
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with model.trace(chat, chat_template=template):
        hidden = model.transformer.h[2].output[0].save()
    wanted = first(hooked(model._model, (ids_of(model, PROMPT),))["transformer.h.2.output"][0])
    assert torch.equal(hidden, wanted)


def test_labels_make_a_loss(model):
    ids = ids_of(model, PROMPT)
    with model.trace(PROMPT, labels=ids):
        loss = model.output.loss.save()
    assert torch.allclose(loss, model._model(ids, labels=ids).loss)
