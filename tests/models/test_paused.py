"""Language models held open: what each stop is called, and the numbers of plain hooks."""

from __future__ import annotations

import pytest
import torch

from nbsight.models.axes import axis_names
from nbsight.models.language_model import LanguageModel
from tests.models.architectures import AVAILABLE, LAYERS, make

PROMPT, OTHER = "The capital of France is", "The capital of Japan is"
IDS = [5, 17, 3, 9]


def hidden(value):
    return value if isinstance(value, torch.Tensor) else value[0]


def hooked(module, call, edit=None):
    """Every call's state after each block by plain hooks, and what `call` gives.

    Args:
        edit: A block's number, and a function that changes its state in place.
    """
    states, handles = [], []
    blocks = list(module.transformer.h)

    def keep(number):
        def hook(_, __, out):
            if edit is not None and edit[0] == number:
                edit[1](hidden(out))
            states.append(hidden(out).clone())

        return hook

    for number, block in enumerate(blocks):
        handles.append(block.register_forward_hook(keep(number)))
    try:
        with torch.no_grad():
            return states, call()
    finally:
        for handle in handles:
            handle.remove()


def ids_of(model, prompt):
    return model.tokenizer(prompt, return_tensors="pt").input_ids


def test_the_steps_are_the_blocks_and_the_state_is_that_of_a_hook(demo):
    states, out = hooked(demo._model, lambda: demo._model(ids_of(demo, PROMPT)))
    run = demo.start(PROMPT)
    for number in range(12):
        here = run.step()
        assert (here.path, here.block) == (f"transformer.h.{number}", number)
        assert torch.equal(here.value[0], states[number])
    assert torch.equal(run.finish().logits, out.logits)
    assert torch.equal(run.result[0, -1], out.logits[0, -1])


def test_a_states_edit_acts_as_a_hook_does(demo):
    states, _ = hooked(demo._model, lambda: demo._model(ids_of(demo, OTHER)))
    donor = states[8][:, -1]

    def patch(state):
        state[:, -1] = donor

    _, want = hooked(demo._model, lambda: demo._model(ids_of(demo, PROMPT)), (8, patch))
    run, other = demo.start(PROMPT), demo.start(OTHER)
    other.until("transformer.h.8.output")
    run.until(demo.transformer.h[8].output)
    run.here.value[:, -1] = other.here.value[:, -1]
    assert torch.equal(run.finish().logits, want.logits)
    assert demo.tokenizer.decode(run.result[0, -1].argmax()) == " Tokyo"


def test_it_prints_the_tokens_and_what_the_axes_mean(demo):
    run = demo.start(PROMPT)
    assert repr(run) == (
        "run of nbsight/demo, held open before its first module\n"
        "  [............] 0 of 12 blocks done\n"
        "  tokens: 'The' ' capital' ' of' ' France' ' is'"
    )
    run.until("transformer.h.3.output")
    assert "value: float32 (batch 1, position 5, d_model 64)\n" in repr(run)
    assert repr(run.here) == (
        "transformer.h.3.output: float32 (batch 1, position 5, d_model 64)  [####........] block 4 of 12"
    )
    run.until(demo.transformer.h[4].attn)
    assert "tuple of float32 (batch 1, position 5, d_model 64), " in repr(run.here)
    run.until(demo.output)
    assert f"float32 (batch 1, position 5, d_vocab {demo.config.vocab_size})" in repr(run.here)
    assert run.tokens == ["The", " capital", " of", " France", " is"]
    batch = demo.start([PROMPT, "The dog"])
    assert batch.tokens is None
    assert "(batch 2, position 5, d_model 64)" in repr(batch.step())
    long = demo.start("the " * 60)
    assert repr(long).endswith(" …")
    assert len(repr(long)) < 600


def test_a_prompt_with_max_new_tokens_is_a_generation(demo):
    ids = ids_of(demo, PROMPT)
    states, out = hooked(
        demo._model,
        lambda: demo._model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0),
    )
    run = demo.start(PROMPT, max_new_tokens=3, do_sample=False)
    seen = list(run)
    assert [here.step for here in seen] == sorted(list(range(len(seen) // 13)) * 13)
    blocks = [here.value[0] for here in seen if here.block is not None]
    assert len(blocks) == len(states)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(blocks, states, strict=True))
    assert torch.equal(torch.as_tensor(run.result), out)


def test_a_generation_says_its_step_and_the_token_it_reads(demo):
    run = demo.start(PROMPT, max_new_tokens=3, do_sample=False)
    assert repr(run).startswith("generation of nbsight/demo, held open before its first module")
    run.until("transformer.h.2.output")
    run.until("transformer.h.2.output", again=True)
    assert run.here.step == 1
    assert repr(run) == (
        "generation of nbsight/demo, held open at transformer.h.2.output\n"
        "  [###.........] block 3 of 12, step 1\n"
        "  value: float32 (batch 1, position 1, d_model 64)\n"
        "  tokens: ' Paris'"
    )


def test_an_edit_in_one_step_of_a_generation_changes_the_token(demo):
    run = demo.start(PROMPT, max_new_tokens=1, do_sample=False)
    run.until("lm_head.output")
    wanted = demo.to_single_token(" Tokyo")
    run.here.value[0, -1, wanted] = 1e4
    assert run.finish()[0, -1] == wanted


def test_a_run_may_be_held_before_the_weights_are_loaded():
    model = LanguageModel("nbsight/demo")
    run = model.start(PROMPT)
    assert model.dispatched
    assert model.tokenizer.decode(run.finish()[0, -1].argmax()) == " Paris"


@pytest.mark.parametrize("architecture", AVAILABLE, ids=str)
def test_on_every_architecture_it_steps_through_the_blocks(architecture):
    module = make(architecture)
    model = LanguageModel(module)
    states, handles = [], []
    for block in module.get_submodule(architecture.blocks):
        handles.append(
            block.register_forward_hook(lambda _, __, out: states.append(hidden(out).detach().clone()))
        )
    with torch.no_grad():
        logits = module(torch.tensor([IDS])).logits
    for handle in handles:
        handle.remove()
    run = model.start(IDS)
    for number in range(LAYERS):
        here = run.step()
        assert here.path == f"{architecture.blocks}.{number}"
        assert torch.equal(here.value[0], states[number])
        assert "(batch 1, position 4, d_model 48)" in repr(here)
    assert torch.equal(run.finish().logits, logits)


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((1, 4, 48), ("batch", "position", "d_model")),
        ((1, 4, 101), ("batch", "position", "d_vocab")),
        ((1, 4, 80), ("batch", "position", "d_mlp")),
        ((1, 4, 7), ("batch", "position", "")),
        ((1, 6, 4, 4), ("batch", "head", "position", "")),
        ((1, 4, 6, 8), ("batch", "position", "head", "")),
        ((1, 4, 3, 8), None),
        ((4, 48), None),
        ((1, 5, 48), None),
    ],
)
def test_an_axis_is_named_only_where_its_size_leaves_no_doubt(shape, names):
    config = make(next(a for a in AVAILABLE if a.name == "llama")).config
    given = ((), {"input_ids": torch.tensor([IDS])})
    assert axis_names(shape, given, config, 101) == names
    assert axis_names(shape, ((torch.tensor([IDS]),), {}), config, 101) == names
    assert axis_names(shape, ((), {}), config, 101) is None
