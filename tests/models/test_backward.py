"""Gradients on a language model: what the user holds is the tensor that the model goes on with."""

from __future__ import annotations

import pytest
import torch

from nbsight.errors import GraphError
from nbsight.models.language_model import LanguageModel

PROMPT, OTHER = "one two three", "four five six seven eight"


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    """The last position's first logits, weighed differently."""
    return (logits[:, -1, :8] * torch.arange(1.0, 9.0)).pow(2).sum()


def wanted(model: LanguageModel, prompt: str, replace=None) -> list[torch.Tensor]:
    """Gradients of the hidden states after each block, by hooks of torch's own."""
    states: list[torch.Tensor] = []

    def keep(module, args, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        hidden.retain_grad()
        if replace is not None and len(states) == replace[0]:
            hidden.register_hook(replace[1])
        states.append(hidden)

    module = model._module
    hooks = [block.register_forward_hook(keep) for block in module.transformer.h]
    try:
        ids = model.tokenizer(prompt, return_tensors="pt").input_ids
        loss_of(module(input_ids=ids).logits).backward()
    finally:
        for hook in hooks:
            hook.remove()
        module.zero_grad()
    return [state.grad for state in states]


def close(left, right) -> bool:
    scale = float(right.abs().max())
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("entry", [True, False], ids=["output[0]", "output"])
def test_block_outputs_have_gradients_in_a_block(demo, entry):
    with demo.trace(PROMPT):
        states = [block.output[0] if entry else block.output for block in demo.transformer.h]
        with loss_of(demo.output.logits).backward():
            got = [state.grad for state in states]
    assert all(map(close, got, wanted(demo, PROMPT)))


@pytest.mark.parametrize("entry", [True, False], ids=["output[0]", "output"])
def test_block_outputs_have_gradients_after_a_plain_backward(demo, entry):
    with demo.trace(PROMPT):
        states = [block.output[0] if entry else block.output for block in demo.transformer.h]
        loss = loss_of(demo.output)
    loss.backward()
    demo._module.zero_grad()
    assert all(close(state.grad, want) for state, want in zip(states, wanted(demo, PROMPT), strict=True))


@pytest.mark.parametrize("entry", [True, False], ids=["output[0]", "output"])
def test_gradients_of_block_outputs_can_be_changed(demo, entry):
    with demo.trace(PROMPT):
        states = [block.output[0] if entry else block.output for block in demo.transformer.h]
        with loss_of(demo.output.logits).backward():
            states[1].grad = states[1].grad * 3
            states[1].grad[:, 0] = 0
            got = [state.grad for state in states]

    def change(gradient):
        gradient = gradient * 3
        gradient[:, 0] = 0
        return gradient

    assert all(map(close, got, wanted(demo, PROMPT, (1, change))))


def test_prompts_of_different_lengths_have_the_gradients_they_have_alone(demo):
    with demo.trace() as tracer:
        with tracer.invoke(PROMPT):
            one = [block.output[0] for block in demo.transformer.h]
            with loss_of(demo.output.logits).backward():
                a = [state.grad for state in one]
        with tracer.invoke(OTHER):
            two = [block.output for block in demo.transformer.h]
            with loss_of(demo.output.logits).backward():
                b = [state.grad for state in two]
    assert all(map(close, a, wanted(demo, PROMPT)))
    assert all(map(close, b, wanted(demo, OTHER)))


def test_logits_have_a_gradient(demo):
    with demo.trace(PROMPT):
        logits = demo.output
        with loss_of(logits).backward():
            got = logits.grad
    ids = demo.tokenizer(PROMPT, return_tensors="pt").input_ids
    plain = demo._module(input_ids=ids).logits
    (want,) = torch.autograd.grad(loss_of(plain), plain)
    assert close(got, want)


def test_generation_says_where_gradients_are_to_be_had(demo):
    with pytest.raises(GraphError, match=r"model\.trace\(tokens\)"):
        with demo.generate(PROMPT, max_new_tokens=2):
            with demo.transformer.h[1].output.sum().backward():
                pass
