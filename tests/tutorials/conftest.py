"""A plain model to compare with, a small Llama, and one kernel, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from jupyter_client import KernelManager

from tests.tutorials import running


@dataclass(frozen=True)
class Plain:
    """A Hugging Face model that nbsight has never seen, read with torch's own hooks."""

    model: Any
    tokenizer: Any

    @torch.no_grad()
    def run(self, prompt: str, edit: Any = None) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The state after every block, shape (1, position, d_model), and the logits.

        Args:
            prompt: Text.
            edit: A layer, and a function of the state there that gives the one to go on with.
        """
        blocks = getattr(
            self.model, "transformer", self.model.model if hasattr(self.model, "model") else None
        )
        blocks = blocks.h if hasattr(blocks, "h") else blocks.layers
        states: list[torch.Tensor] = []

        def keep(layer: int) -> Any:
            def hook(module: Any, args: Any, output: Any) -> Any:
                state = output[0] if isinstance(output, tuple) else output
                if edit is not None and edit[0] == layer:
                    state = edit[1](state)
                states.append(state.clone())
                return (state, *output[1:]) if isinstance(output, tuple) else state

            return hook

        handles = [block.register_forward_hook(keep(layer)) for layer, block in enumerate(blocks)]
        try:
            logits = self.model(**self.tokenizer(prompt, return_tensors="pt")).logits
        finally:
            for handle in handles:
                handle.remove()
        return states, logits

    def top(self, logits: torch.Tensor, count: int) -> list[str]:
        """The likeliest tokens as the tutorials print them."""
        best = torch.softmax(logits, dim=-1).topk(count)
        return [
            f"{self.tokenizer.decode([int(token)])!r}: {prob.item():.3f}"
            for token, prob in zip(best.indices, best.values, strict=True)
        ]


def load(folder: str) -> Plain:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return Plain(AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="session")
def demo() -> Plain:
    """The shipped model, loaded by transformers alone."""
    from nbsight.models.demo import folder

    return load(str(folder()))


@pytest.fixture(scope="session")
def llama_folder(demo: Plain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 80 thin layers, untrained, with the shipped tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=80,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(demo.tokenizer),
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    demo.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> Plain:
    """The same Llama, loaded by transformers alone."""
    return load(str(llama_folder))


@pytest.fixture(scope="session")
def kernel() -> Iterator[KernelManager]:
    """One real kernel: importing torch takes longer than most notebooks."""
    with running.kernel() as manager:
        yield manager


@pytest.fixture
def fresh_kernel(kernel: KernelManager) -> KernelManager:
    """The same kernel, as if nothing had been run on it."""
    running.forget(kernel)
    return kernel
