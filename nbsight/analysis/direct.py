"""Direct logit attribution: what each part of the stream adds to the logit of a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nbsight.analysis.frozen import frozen
from nbsight.analysis.lens import one_row, token_ids
from nbsight.analysis.parts import (
    chosen_heads,
    chosen_positions,
    has_part,
    stream_values,
    values_by_head,
)
from nbsight.analysis.unembedding import TOLERANCE, unembedding_of
from nbsight.errors import InputError, UnknownArchitectureError
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance
from nbsight.models.tokens import str_tokens
from nbsight.results.component_lens import ONCE
from nbsight.results.direct import DirectAttribution

__all__ = ["direct_attribution"]


def direct_attribution(
    model: LanguageModel,
    prompt: Any,
    answers: str | int | Sequence[str | int],
    *,
    positions: Any = -1,
    heads: bool = False,
) -> DirectAttribution:
    """Split the logit of a token, or the difference of two, into what each part of the model adds to it.

    The final norm is held at the size that the stream has in this run. Then the logit is a sum over the
    embeddings, every attention (or every head), every MLP and the biases, and that sum is exact: how far it
    is from the model's own logit is measured and kept as `gap`.

    Args:
        model: A language model whose standard names are known.
        prompt: One prompt, whatever `model.trace` takes.
        answers: A token, text of one token or an id; or two, the right one and another, whose difference
            is meant.
        positions: Which positions' predictions are split: numbers, slices, strings of the text, or a list
            of these; the last by default.
        heads: Whether attention is split by head, and its bias kept apart.

    Returns:
        What every part adds, (part, position), with the model's own logit.

    Raises:
        InputError: several prompts, more than two answers, or a token or position that is not there.
        UnknownArchitectureError: the standard names or the way to the logits are not known, or, with
            `heads`, a norm stands between the heads and the stream.

    Source: Elhage et al., "A mathematical framework for transformer circuits", 2021; for the norm held
        Wang et al., "Interpretability in the wild", 2022.
    """
    ids = one_row(model, prompt)
    tokens = token_ids(model, [answers] if isinstance(answers, (str, int)) else list(answers))
    if not 1 <= len(tokens) <= 2 or len(set(tokens)) != len(tokens):
        raise InputError(
            'answers are one token, `" Paris"`, or two of which the difference is meant, `(" Paris", " '
            f'Rome")`; these are {answers!r}.'
        )
    where = chosen_positions(model, prompt, positions)
    unembedding = unembedding_of(model, ids)
    names = [
        "resid_pre",
        "attn_out",
        "mlp_out",
        *(["z"] if heads else []),
        *(name for name in ONCE if has_part(model.std, name, None)),
    ]
    values, final = stream_values(model, ids, names, where)
    with torch.no_grad():
        parts = _parts(model, values, chosen_heads(model, heads))
        way = frozen(unembedding, final, tokens)
        signs = torch.tensor([1.0, -1.0][: len(tokens)], dtype=torch.float64, device=way.constant.device)
        found = [(way.of(vector) @ signs).cpu().numpy() for *_, vector in parts]
        found.append((way.constant @ signs).cpu().numpy())
        native = unembedding.head(unembedding.normed(final))[:, tokens].double() * way.factor
        logit = (native.to(signs.device) @ signs).cpu().numpy()
    words = str_tokens(model.tokenizer, ids[0])
    result = DirectAttribution(
        prompt=prompt if isinstance(prompt, str) else "".join(words),
        answers=str_tokens(model.tokenizer, tokens),
        parts=[*(name for name, *_ in parts), "bias"],
        kinds=[*(kind for _, kind, *_ in parts), "bias"],
        layers=[*(layer for _, _, layer, _ in parts), -1],
        positions=where,
        tokens=[words[position] for position in where],
        contribution=np.stack(found),
        logit=logit,
        capped=way.cap,
        provenance=provenance(model, [prompt] if isinstance(prompt, str) else ()),
    )
    _check(model, result, native, final.dtype)
    return result


def _parts(
    model: LanguageModel, values: dict[tuple[str, int], torch.Tensor], heads: Sequence[int]
) -> list[tuple[str, str, int, torch.Tensor]]:
    """Name, kind, layer and vector, (position, d_model), of every part of the stream."""
    first = values["resid_pre", 0]
    entering = [(name, values[name, 0]) for name in ONCE if (name, 0) in values]
    whole = torch.stack([value.to(first) for _, value in entering]).sum(0) if entering else None
    # Where more is done before the first block, such as a norm, what enters it is one part.
    tolerance = TOLERANCE.get(first.dtype, 1e-4)
    if whole is None or (whole - first).float().norm() > tolerance * first.float().norm():
        entering = [("resid_pre 0", first)]
    parts = [(name, "embed", -1, value) for name, value in entering]
    for layer in range(int(model.std.n_layers)):
        attention = values["attn_out", layer]
        if heads:
            by_head = values_by_head(model, layer, values["z", layer], attention, heads)
            split = [by_head[f"head_{head}", layer] for head in heads]
            parts += [
                (f"head {layer}.{head}", "head", layer, value)
                for head, value in zip(heads, split, strict=True)
            ]
            rest = attention - torch.stack(split).sum(0)
            parts.append((f"attn bias {layer}", "attn bias", layer, rest))
        else:
            parts.append((f"attn_out {layer}", "attn_out", layer, attention))
        parts.append((f"mlp_out {layer}", "mlp_out", layer, values["mlp_out", layer]))
    return parts


def _check(model: LanguageModel, result: DirectAttribution, native: torch.Tensor, dtype: torch.dtype) -> None:
    scale = max(float(native.abs().max()), float(np.abs(result.contribution).max()))
    tolerance = 10 * TOLERANCE.get(dtype, 1e-4)
    if np.abs(result.gap).max() > tolerance * scale:
        raise UnknownArchitectureError(
            f"the parts of {type(model._module).__name__} do not add up to its logits (the sum is "
            f"{np.abs(result.gap).max():.3g} off {np.abs(result.logit).max():.3g}): it adds something to the "
            "stream that has no standard name, or a kept edit does. `nbsight.verify(model)` says which."
        )
