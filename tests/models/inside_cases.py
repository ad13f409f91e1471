"""Where queries, keys, values and the MLP's values are natively, written by hand from the blocks' source.

Knows nothing of `nbsight.models.architectures`; beside each case of `standard_cases.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.models.standard_cases import Case, hooks

D_HEAD = 8


@dataclass(frozen=True)
class Inside:
    """The native modules of one family.

    Args:
        q, k, v: The modules that give them; where one gives all, `qkv` is that one.
        split: Takes what `qkv` gives apart, (q, k, v) as (batch, position, head, d_head).
        up, gate, down: The MLP's matrices; `gate_up` is one for both, the gate first.
        is_rotary: Whether positions turn queries and keys.
        has_mlp: Whether every layer's MLP is one.
        first_is_dense: Whether that of the first layer is one although the others are mixtures of experts.
        alibi: Whether something else than masks is added to the scores.
    """

    q: str = "self_attn.q_proj"
    k: str | None = "self_attn.k_proj"
    v: str | None = "self_attn.v_proj"
    qkv: str | None = None
    split: Callable[[torch.Tensor], Any] | None = None
    up: str | None = "mlp.up_proj"
    gate: str | None = "mlp.gate_proj"
    gate_up: str | None = None
    down: str = "mlp.down_proj"
    is_rotary: bool = True
    has_mlp: bool = True
    first_is_dense: bool = False
    alibi: bool = False


def one_after_the_other(heads: int, kv: int) -> Callable[[torch.Tensor], Any]:
    def split(fused: torch.Tensor) -> Any:
        sizes = [heads * D_HEAD, kv * D_HEAD, kv * D_HEAD]
        return tuple(part.unflatten(-1, (-1, D_HEAD)) for part in fused.split(sizes, dim=-1))

    return split


def by_head(fused: torch.Tensor) -> Any:
    shaped = fused.view(*fused.shape[:-1], -1, 3, D_HEAD)
    return shaped[..., 0, :], shaped[..., 1, :], shaped[..., 2, :]


def by_group(fused: torch.Tensor) -> Any:
    """Falcon's newer form with 6 heads and 3 of keys: two queries, a key, a value, three times."""
    shaped = fused.view(*fused.shape[:-1], 3, 4, D_HEAD)
    return shaped[..., :2, :].reshape(*fused.shape[:-1], 6, D_HEAD), shaped[..., 2, :], shaped[..., 3, :]


H_TO_4H = {"up": "mlp.dense_h_to_4h", "gate": None, "down": "mlp.dense_4h_to_h"}
EXPERTS = Inside(has_mlp=False)
DEEPSEEK = Inside(q="self_attn.q_b_proj", k=None, v=None, has_mlp=False, first_is_dense=True)

CASES = {
    "gpt2": Inside(
        qkv="attn.c_attn",
        split=one_after_the_other(6, 6),
        up="mlp.c_fc",
        gate=None,
        down="mlp.c_proj",
        is_rotary=False,
    ),
    "gpt_neox": Inside(qkv="attention.query_key_value", split=by_head, **H_TO_4H),
    "phi3": Inside(qkv="self_attn.qkv_proj", split=one_after_the_other(6, 3), gate_up="mlp.gate_up_proj"),
    "gpt_neo": Inside(
        q="attn.attention.q_proj",
        k="attn.attention.k_proj",
        v="attn.attention.v_proj",
        up="mlp.c_fc",
        gate=None,
        down="mlp.c_proj",
        is_rotary=False,
    ),
    "gptj": Inside(
        q="attn.q_proj", k="attn.k_proj", v="attn.v_proj", up="mlp.fc_in", gate=None, down="mlp.fc_out"
    ),
    "opt": Inside(up="fc1", gate=None, down="fc2", is_rotary=False),
    "bloom": Inside(
        qkv="self_attention.query_key_value", split=by_head, is_rotary=False, alibi=True, **H_TO_4H
    ),
    "falcon": Inside(qkv="self_attention.query_key_value", split=one_after_the_other(6, 1), **H_TO_4H),
    "falcon-parallel_attn=False-alibi=True": Inside(
        qkv="self_attention.query_key_value",
        split=one_after_the_other(6, 1),
        is_rotary=False,
        alibi=True,
        **H_TO_4H,
    ),
    "falcon-new_decoder_architecture=True-num_kv_heads=3": Inside(
        qkv="self_attention.query_key_value", split=by_group, **H_TO_4H
    ),
    "mpt": Inside(
        qkv="attn.Wqkv",
        split=one_after_the_other(6, 6),
        up="ffn.up_proj",
        gate=None,
        down="ffn.down_proj",
        is_rotary=False,
        alibi=True,
    ),
    "phi": Inside(up="mlp.fc1", gate=None, down="mlp.fc2"),
    "starcoder2": Inside(up="mlp.c_fc", gate=None, down="mlp.c_proj"),
    "glm4": Inside(gate_up="mlp.gate_up_proj"),
    "mixtral": EXPERTS,
    "qwen2_moe": EXPERTS,
    "qwen3_moe": EXPERTS,
    "olmoe": EXPERTS,
    "gpt_oss": EXPERTS,
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
}
"""What differs from Llama."""


def inside_of(case: Case) -> Inside:
    """The row of a case."""
    return CASES.get(str(case)) or CASES.get(case.name) or Inside()


def seen_inside(case: Case, module: nn.Module, ids: torch.Tensor, layer: int) -> dict[str, torch.Tensor]:
    """What plain hooks at the native modules of a layer see, by name."""
    row, block = inside_of(case), module.get_submodule(case.blocks)[layer]
    found: dict[str, torch.Tensor] = {}
    pairs = []

    def keep(
        path: str | None, take: Callable[[torch.Tensor], dict[str, torch.Tensor]], kind="output"
    ) -> None:
        if path is None:
            return

        def on_output(_: Any, __: Any, value: torch.Tensor) -> None:
            found.update(take(value.detach().clone()))

        def on_input(_: Any, args: Any, kwargs: Any) -> None:
            found.update(take(args[0].detach().clone()))

        pairs.append((block.get_submodule(path), on_output if kind == "output" else on_input, kind))

    def flat(value: torch.Tensor) -> torch.Tensor:
        return value.unflatten(0, (len(ids), -1)) if case.flat else value

    def heads(name: str) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
        count = case.heads[0 if name == "q" else 1]
        return lambda value: {name: value.unflatten(-1, (count, -1))}

    if row.qkv is not None:
        keep(row.qkv, lambda value: dict(zip("qkv", row.split(value), strict=True)))
    else:
        for name in "qkv":
            keep(getattr(row, name), heads(name))
    if row.has_mlp:
        if row.gate_up is not None:
            keep(row.gate_up, lambda value: dict(zip(("gate", "pre"), value.chunk(2, -1), strict=True)))
        else:
            keep(row.up, lambda value: {"pre": flat(value)})
            keep(row.gate, lambda value: {"gate": value})
        keep(row.down, lambda value: {"post": flat(value)}, "input")
    keep(case.mix, lambda value: {"z": value.unflatten(-1, (case.heads[0], -1))}, "input")
    keep(case.mix, lambda value: {"mixed": value})
    with torch.no_grad(), hooks(*pairs):
        found["logits"] = module(ids).logits
    return found
