"""What one family of architectures looks like inside: a record of paths and switches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Architecture", "Paths", "always", "never"]

Config = Any

#: A path, or several of which the first that exists is meant (names change between releases).
Paths = str | tuple[str, ...]


def never(config: Config) -> bool:
    """The answer of a switch that a family has not."""
    return False


def always(config: Config) -> bool:
    """The answer of a switch that is always on in a family."""
    return True


def nothing(config: Config) -> None:
    """The answer of a family that says nothing."""


def interface(config: Config) -> tuple[str, ...]:
    """What the attention modules of transformers call, as a rule."""
    return ("attention_interface",)


def one(config: Config) -> float:
    """The factor of blocks that add what their modules return."""
    return 1.0


@dataclass(frozen=True)
class Architecture:
    """Where the standard names are in the models of one family.

    A place is a module's path and `output` or `input`. Those of a layer count from the block, the others from
    the module that holds the list of blocks; `unembed` is found by what transformers says.

    Args:
        name: What the family is called.
        model_types: The `model_type` of its configurations.
        layers: The list of blocks.
        embed: Where what the token embedding puts into the stream can be read and replaced.
        pos_embed: The same of learned positions; None where positions are no part of the stream.
        ln_final: The norm before the unembedding.
        attn: The attention module of a block.
        mix: The module that takes the heads' results, side by side, back into the stream's width.
        down: The module that ends the MLP; its input is `d_mlp` wide.
        attn_out: What is added to the stream by the attention.
        resid_mid: A place whose *very tensor* is the stream after the attention, also for the addition that
            follows, so that a change in place reaches both.
        mlp_out: What is added to the stream by the MLP.
        scale: The factor with which a block adds both.
        is_parallel: Whether attention and MLP read the same stream, so that there is no `resid_mid`.
        is_post_norm: Whether the stream itself is normalised after each addition.
        overwritten: Names whose tensor the block itself changes after it was made.
        flat: Names whose tensor has rows and positions in one dimension.
        why_no_positions: Why there is no `pos_embed`.
        q: The module that gives all queries of a layer, side by side; None where no module does.
        k: The same for keys.
        v: The same for values; None where they are to be had only as the attention function gets them.
        qkv: The one module that gives all three, where there is one.
        is_grouped: Whether in what it gives a key head and its value lie beside their queries; otherwise all
            queries come first, then all keys, then all values.
        is_rotary: Whether queries and keys are turned by their positions.
        attends: What the call that attends is named in the attention's forward (`module.source`), with or
            without its number; none where that forward computes the pattern itself.
        scores: The operation and side where the scores are, if not what the softmax gets.
        pattern: The operation and side where the pattern is, if not what is multiplied with the values.
        mlp: The module of the MLP; None where it is none.
        up: The module that gives what the MLP holds before its activation, or what the gate multiplies.
        gate: The module that gives what is activated to be the gate, where there is one.
        gate_up: The one module that gives both, the gate first.
        first_position: The row of the position embedding that belongs to position 0.
    """

    name: str
    model_types: tuple[str, ...]
    layers: str = "layers"
    embed: Paths = "layers.0.input"
    pos_embed: str | None = None
    ln_final: Paths = "norm"
    attn: str = "self_attn"
    mix: str = "self_attn.o_proj"
    down: Paths = "mlp.down_proj"
    attn_out: Paths = "self_attn.output"
    resid_mid: Paths = "post_attention_layernorm.input"
    mlp_out: Paths = "mlp.output"
    scale: Callable[[Config], float] = one
    is_parallel: Callable[[Config], bool] = never
    is_post_norm: Callable[[Config], bool] = never
    overwritten: frozenset[str] = frozenset()
    flat: frozenset[str] = frozenset()
    why_no_positions: str = "its positions are rotary: they turn queries and keys inside the attention"
    q: Paths | None = "self_attn.q_proj"
    k: Paths | None = "self_attn.k_proj"
    v: Paths | None = "self_attn.v_proj"
    qkv: Paths | None = None
    is_grouped: Callable[[Config], bool] = never
    is_rotary: Callable[[Config], bool] = always
    attends: Callable[[Config], tuple[str, ...]] = interface
    scores: Callable[[Config], str | None] = nothing
    pattern: Callable[[Config], str | None] = nothing
    mlp: Paths | None = "mlp"
    up: Paths = "mlp.up_proj"
    gate: Paths | None = "mlp.gate_proj"
    gate_up: Paths | None = None
    first_position: int = 0
