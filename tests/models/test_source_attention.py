"""Patterns and their ablation through `attn.source`, against GPT-2's attention written out by hand."""

from __future__ import annotations

import pytest
import torch
import transformers

from nbsight.errors import SourceNotAvailable
from nbsight.models.language_model import LanguageModel
from tests.models.architectures import TABLE, WIDTH, make

IDS = [7, 8, 9, 10, 11, 12, 13]
HEADS, D_HEAD = 6, WIDTH // 6


def gpt2(implementation):
    module = make(TABLE[0])
    module.config._attn_implementation = implementation
    return module


def attend(attn, x, change=lambda pattern: pattern):
    """The attention module's output and pattern, written out."""
    batch, length, _ = x.shape
    parts = attn.c_attn(x).split(WIDTH, dim=2)
    q, k, v = (part.view(batch, length, HEADS, D_HEAD).transpose(1, 2) for part in parts)
    scores = q @ k.transpose(-1, -2) / D_HEAD**0.5
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    pattern = change(scores.masked_fill(hidden, -torch.inf).softmax(-1))
    mixed = (pattern @ v).transpose(1, 2).reshape(batch, length, WIDTH)
    return attn.c_proj(mixed), pattern


def forward_by_hand(module, ids, change):
    """The logits and the patterns; `change` acts on the patterns of layer 0."""
    body, patterns = module.transformer, []
    x = body.wte(ids) + body.wpe(torch.arange(ids.shape[1]))
    for layer, block in enumerate(body.h):
        out, pattern = attend(block.attn, block.ln_1(x), change if layer == 0 else lambda p: p)
        patterns.append(pattern)
        x = x + out
        x = x + block.mlp(block.ln_2(x))
    return module.lm_head(body.ln_f(x)), patterns


def interface_of(attn):
    """The call of the attention function: the last operation of that name, on every version."""
    return [op for op in attn.source if op.name.startswith("attention_interface_")][-1]


def weights_of(attn):
    """The pattern that GPT-2's eager attention computes, as an operation."""
    return interface_of(attn).source.nn_functional_softmax_0


@pytest.fixture
def model():
    return LanguageModel(gpt2("eager"))


def test_the_pattern_read_in_eager_attention_is_the_one_computed_by_hand(model):
    with torch.no_grad():
        _, want = forward_by_hand(model._model, torch.tensor([IDS]), lambda p: p)
    with model.trace(IDS):
        got = [weights_of(block.attn).output for block in model.transformer.h]
    for left, right in zip(got, want, strict=True):
        assert left.shape == (1, HEADS, len(IDS), len(IDS))
        assert torch.allclose(left, right, atol=1e-6)
        assert torch.allclose(left.sum(-1), torch.ones(()), atol=1e-5)


def test_ablating_a_heads_pattern_does_what_the_written_out_model_does(model):
    def ablate(pattern):
        changed = pattern.clone()
        changed[:, 2] = 0
        return changed

    with torch.no_grad():
        want, _ = forward_by_hand(model._model, torch.tensor([IDS]), ablate)
        plain, _ = forward_by_hand(model._model, torch.tensor([IDS]), lambda p: p)
    with model.trace(IDS):
        weights_of(model.transformer.h[0].attn).output[:, 2] = 0
        logits = model.lm_head.output
    assert torch.allclose(logits, want, atol=1e-5)
    assert not torch.allclose(logits, plain, atol=1e-3)


def test_each_prompt_of_a_padded_batch_sees_the_pattern_it_has_alone(model):
    with model.trace(IDS):
        want_long = weights_of(model.transformer.h[1].attn).output
    with model.trace(IDS[:4]):
        want_short = weights_of(model.transformer.h[1].attn).output
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            long = weights_of(model.transformer.h[1].attn).output
        with tracer.invoke(IDS[:4]):
            short = weights_of(model.transformer.h[1].attn).output
    assert short.shape == (1, HEADS, 4, 4)
    assert torch.allclose(long, want_long, atol=1e-6)
    assert torch.allclose(short, want_short, atol=1e-6)


@pytest.mark.skipif(int(transformers.__version__.split(".")[0]) < 5, reason="the text was another one")
def test_nnsights_names_for_gpt2s_attention_hold(model):
    source = model.transformer.h[0].attn.source
    with pytest.raises(SourceNotAvailable, match="assignment"):
        source.attention_interface_0.source
    with model.trace(IDS):
        q, k, v = source.split_1.output
        function = source.attention_interface_0.output
        _, pattern = source.attention_interface_1.output
        assert function is transformers.models.gpt2.modeling_gpt2.eager_attention_forward
    assert q.shape == k.shape == v.shape == (1, len(IDS), WIDTH)
    assert pattern.shape == (1, HEADS, len(IDS), len(IDS))


def test_sdpa_is_one_operation_in_c(model):
    with model.trace(IDS):
        mixed = interface_of(model.transformer.h[0].attn).output[0]
    sdpa = LanguageModel(gpt2("sdpa"))
    with sdpa.trace(IDS):
        inner = interface_of(sdpa.transformer.h[0].attn).source
        with pytest.raises(SourceNotAvailable, match=r"not written in Python.*`.input` or `.output`"):
            inner.torch_nn_functional_scaled_dot_product_attention_0.source
        heads = inner.torch_nn_functional_scaled_dot_product_attention_0.output
    assert torch.allclose(heads.transpose(1, 2), mixed, atol=1e-6)


def test_every_step_of_a_generation_has_its_pattern(model):
    shapes = []
    with model.generate(IDS, max_new_tokens=3, do_sample=False) as tracer:
        for _ in tracer.iter[:]:
            shapes.append(tuple(weights_of(model.transformer.h[1].attn).output.shape))
    length = len(IDS)
    assert shapes == [
        (1, HEADS, length, length),
        (1, HEADS, 1, length + 1),
        (1, HEADS, 1, length + 2),
    ]
