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

__all__ = ["LAYERS", "Subject", "Two", "gpt2", "nnsight", "subject", "twin"]

LAYERS = 12
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


def gpt2(d_model: int, layers: int = LAYERS) -> Any:
    """An untrained GPT-2 with a vocabulary of 8192."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=layers,
        n_embd=d_model,
        n_head=max(4, d_model // 64),
        vocab_size=8192,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


def twin(module: nn.Module) -> Any:
    """Another tree of modules over the same parameters."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def subject(d_model: int, layers: int = LAYERS, tokens: int = 9) -> Subject:
    """A GPT-2 for everybody, nbsight as a `LanguageModel` with the shipped model's tokenizer."""
    raw = gpt2(d_model, layers)
    tokenizer = LanguageModel("nbsight/demo").tokenizer
    ours = LanguageModel(twin(raw), tokenizer=tokenizer)
    theirs = nnsight.NNsight(twin(raw)) if nnsight is not None else None
    torch.manual_seed(1)
    return Subject(raw, ours, theirs, torch.randint(1, 1000, (1, tokens)))
