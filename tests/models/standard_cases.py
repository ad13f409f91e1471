"""The models on which the standard names are tested, and plain hooks at the native modules.

The table is written by hand and knows nothing of `nbsight.models.architectures`: what a row says is what the
source of transformers' blocks says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from tests.models.architectures import AVAILABLE, Architecture, make


@dataclass(frozen=True, eq=False)
class Case:
    """One checkpoint.

    Args:
        name: The row of `tests.models.architectures` that it is made from.
        attn: The module that returns what the attention adds.
        mlp: The module that returns what the MLP adds.
        mix: The module that takes the heads side by side.
        mid: The module that reads the stream between the two; None where there is none.
        ln_final: The last norm.
        embed: The module whose output enters the first block, with `pos` if that is given.
        options: What the configuration says beside the row's own.
        heads: Heads, and heads of keys and values.
        factor: What the block multiplies with before it adds.
        flat: Whether the MLP's tensors have rows and positions in one dimension.
    """

    name: str
    attn: str = "self_attn"
    mlp: str = "mlp"
    mix: str = "self_attn.o_proj"
    mid: str | None = "post_attention_layernorm"
    ln_final: str = "model.norm"
    embed: str | None = "model.embed_tokens"
    pos: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    heads: tuple[int, int] = (6, 3)
    factor: float = 1.0
    flat: bool = False

    def __str__(self) -> str:
        return self.name + "".join(f"-{key}={value}" for key, value in self.options.items())

    @property
    def architecture(self) -> Architecture | None:
        return next((one for one in AVAILABLE if one.name == self.name), None)

    @property
    def blocks(self) -> str:
        assert self.architecture is not None
        return self.architecture.blocks

    def make(self) -> nn.Module:
        own = self.architecture
        assert own is not None
        return make(Architecture(own.name, own.config, {**own.options, **self.options}, own.blocks))


NEOX = {
    "attn": "attention",
    "mix": "attention.dense",
    "ln_final": "gpt_neox.final_layer_norm",
    "embed": "gpt_neox.embed_in",
    "heads": (6, 6),
}
GEMMA = {
    "attn": "post_attention_layernorm",
    "mlp": "post_feedforward_layernorm",
    "mid": "pre_feedforward_layernorm",
}
OLMO = {**GEMMA, "mid": "mlp"}

TIER_A = [
    Case(
        "gpt2",
        attn="attn",
        mix="attn.c_proj",
        mid="ln_2",
        ln_final="transformer.ln_f",
        embed="transformer.wte",
        pos="transformer.wpe",
        heads=(6, 6),
    ),
    Case("gpt_neox", mid=None, **NEOX),
    Case("gpt_neox", **NEOX, options={"use_parallel_residual": False}),
    Case("llama"),
    Case("mistral"),
    Case("qwen2"),
    Case("qwen3"),
    # The oldest release scales the embedding between the modules, so there only the block's input tells.
    Case("gemma", embed=None),
    Case("gemma2", **GEMMA, embed=None),
    Case("gemma3", **GEMMA),
    Case("phi3"),
    Case("olmo"),
    Case("olmo2", **OLMO),
    Case("olmo3", **OLMO),
]


GPT_LIKE = {"attn": "attn", "mid": "ln_2", "ln_final": "transformer.ln_f", "heads": (6, 6)}
PARALLEL = {"mid": None}
FALCON = {
    "attn": "self_attention",
    "mix": "self_attention.dense",
    "ln_final": "transformer.ln_f",
    "embed": "transformer.word_embeddings",
}

TIER_B = [
    Case(
        "gpt_neo",
        mix="attn.attention.out_proj",
        embed="transformer.wte",
        pos="transformer.wpe",
        **GPT_LIKE,
    ),
    Case("gptj", mix="attn.out_proj", embed="transformer.wte", **{**GPT_LIKE, **PARALLEL}),
    Case(
        "opt",
        mlp="fc2",
        mix="self_attn.out_proj",
        mid="final_layer_norm",
        ln_final="model.decoder.final_layer_norm",
        embed="model.decoder.embed_tokens",
        pos="model.decoder.embed_positions",
        heads=(6, 6),
        flat=True,
    ),
    Case(
        "bloom",
        attn="self_attention.dense",
        mlp="mlp.dense_4h_to_h",
        mix="self_attention.dense",
        ln_final="transformer.ln_f",
        embed="transformer.word_embeddings_layernorm",
        heads=(6, 6),
    ),
    Case("falcon", **FALCON, mid=None, heads=(6, 1)),
    Case("falcon", **FALCON, options={"parallel_attn": False, "alibi": True}, heads=(6, 1)),
    Case(
        "falcon",
        **FALCON,
        mid=None,
        options={"new_decoder_architecture": True, "num_kv_heads": 3},
    ),
    Case(
        "mpt",
        attn="attn",
        mlp="ffn.down_proj",
        mix="attn.out_proj",
        mid="norm_2",
        ln_final="transformer.norm_f",
        embed="transformer.wte",
        heads=(6, 6),
    ),
    Case("phi", mix="self_attn.dense", ln_final="model.final_layernorm", mid=None),
    Case("stablelm"),
    Case("stablelm", mid=None, options={"use_parallel_residual": True}),
    Case("granite"),
    Case("granite", options={"residual_multiplier": 0.22}, factor=0.22),
    Case("smollm3"),
    Case("starcoder2"),
    Case("cohere", mid=None),
    Case("glm4", attn="post_self_attn_layernorm", mlp="post_mlp_layernorm"),
    Case("mixtral", mlp="mlp" if int(transformers.__version__.split(".")[0]) > 4 else "block_sparse_moe"),
    Case("qwen2_moe"),
    Case("qwen3_moe"),
    Case("olmoe"),
    Case("gpt_oss"),
    Case("deepseek_v2", heads=(6, 6)),
    Case("deepseek_v3", heads=(6, 6)),
]


def hidden(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else value[0]


def replaced(value: Any, new: torch.Tensor) -> Any:
    return new if isinstance(value, torch.Tensor) else (new, *value[1:])


@contextmanager
def hooks(*pairs: tuple[nn.Module, Callable[..., Any], str]) -> Iterator[None]:
    """Plain torch hooks for as long as the block lasts."""
    handles = []
    for module, hook, kind in pairs:
        if kind == "output":
            handles.append(module.register_forward_hook(hook))
        else:
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def seen_natively(case: Case, module: nn.Module, ids: torch.Tensor) -> dict[Any, torch.Tensor]:
    """What plain hooks at the native modules see, by (name, layer) or name."""
    found: dict[Any, torch.Tensor] = {}

    def output(key: Any, factor: float = 1.0) -> Callable[..., None]:
        def hook(_: Any, __: Any, value: Any) -> None:
            found[key] = hidden(value).detach().clone() * factor

        return hook

    def taken(key: Any) -> Callable[..., None]:
        def hook(_: Any, args: Any, kwargs: Any) -> None:
            found[key] = (args or tuple(kwargs.values()))[0].detach().clone()

        return hook

    def unflat(key: Any, take: Callable[..., None]) -> Callable[..., None]:
        def hook(*arguments: Any) -> None:
            take(*arguments)
            found[key] = found[key].unflatten(0, (len(ids), -1))

        return hook if case.flat else take

    pairs = [(module.get_output_embeddings(), output("unembed"), "output")]
    pairs.append((module.get_submodule(case.ln_final), output("ln_final"), "output"))
    if case.embed is not None:
        pairs.append((module.get_submodule(case.embed), output("embed"), "output"))
    if case.pos is not None:
        pairs.append((module.get_submodule(case.pos), output("pos_embed"), "output"))
    for layer, block in enumerate(module.get_submodule(case.blocks)):
        pairs.append((block, taken(("resid_pre", layer)), "input"))
        pairs.append((block, output(("resid_post", layer)), "output"))
        pairs.append((block.get_submodule(case.attn), output(("attn_out", layer), case.factor), "output"))
        pairs.append(
            (
                block.get_submodule(case.mlp),
                unflat(("mlp_out", layer), output(("mlp_out", layer), case.factor)),
                "output",
            )
        )
        pairs.append((block.get_submodule(case.mix), taken(("z", layer)), "input"))
        if case.mid is not None:
            pairs.append(
                (
                    block.get_submodule(case.mid),
                    unflat(("resid_mid", layer), taken(("resid_mid", layer))),
                    "input",
                )
            )
    with torch.no_grad(), hooks(*pairs):
        found["logits"] = module(ids).logits
    return found


_folders: dict[str, Path] = {}


def saved(row: Case, make_folder: Callable[[str], Path]) -> Path:
    """The folder of a checkpoint, which is saved once for all tests; skips where there is no such model.

    Args:
        make_folder: `tmp_path_factory.mktemp`.
    """
    if row.architecture is None:
        pytest.skip("this release of transformers has no such architecture")
    folder = _folders.get(str(row))
    if folder is None:
        folder = _folders[str(row)] = make_folder("model")
        row.make().save_pretrained(folder)
    return folder
