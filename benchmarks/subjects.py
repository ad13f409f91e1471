"""The models that are measured, and the peers when they are installed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import nbsight.core.saving  # noqa: F401  (before nnsight: so that tensors have our `save` in our traces)
from nbsight.core.model import Model
from nbsight.models.language_model import LanguageModel

try:
    import nnsight
except ImportError:
    nnsight = None

__all__ = ["LAYERS", "VOCABULARY", "Subject", "Two", "gpt2", "hooked", "nnsight", "subject", "twin"]

LAYERS = 12
VOCABULARY = 8192
TEXT = "The capital of France is"


class Two(nn.Module):
    """Next to nothing: what a trace costs by itself shows best on it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Identity()
        self.b = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


@dataclass
class Subject:
    """One set of weights in three module trees, so that no library meets what another left behind."""

    raw: Any
    ours: Model
    theirs: Any
    ids: torch.Tensor


def gpt2(d_model: int, layers: int = LAYERS, vocabulary: int = VOCABULARY) -> Any:
    """An untrained GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=layers,
        n_embd=d_model,
        n_head=max(4, d_model // 64),
        vocab_size=vocabulary,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


def twin(module: nn.Module) -> Any:
    """Another tree of modules over the same parameters."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def hooked(raw: Any) -> Any:
    """The same weights in TransformerLens's own forward; None where it is not installed."""
    try:
        import transformer_lens
        from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
    except ImportError:
        return None
    own = raw.config
    config = transformer_lens.HookedTransformerConfig(
        n_layers=own.n_layer,
        d_model=own.n_embd,
        n_heads=own.n_head,
        d_head=own.n_embd // own.n_head,
        d_mlp=4 * own.n_embd,
        d_vocab=own.vocab_size,
        n_ctx=own.n_positions,
        eps=own.layer_norm_epsilon,
        act_fn=own.activation_function,
        normalization_type="LN",
        device="cpu",
    )
    model = transformer_lens.HookedTransformer(config)
    model.load_and_process_state_dict(
        convert_gpt2_weights(raw, config), fold_ln=False, center_writing_weights=False, center_unembed=False
    )
    return model.eval()


def subject(d_model: int, layers: int = LAYERS, tokens: int = 9, vocabulary: int = VOCABULARY) -> Subject:
    """A GPT-2 for everybody, nbsight as a `LanguageModel` with the shipped model's tokenizer."""
    raw = gpt2(d_model, layers, vocabulary)
    tokenizer = LanguageModel("nbsight/demo").tokenizer
    ours = LanguageModel(twin(raw), tokenizer=tokenizer)
    theirs = nnsight.NNsight(twin(raw)) if nnsight is not None else None
    torch.manual_seed(1)
    return Subject(raw, ours, theirs, torch.randint(1, 1000, (1, tokens)))
