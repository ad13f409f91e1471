"""Two runs side by side: how far they are apart at every site, in the order of the forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from nbsight.analysis.parts import has_part
from nbsight.core.saving import save
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance
from nbsight.models.steering import Steering
from nbsight.models.tokenised import tokens_of_ids
from nbsight.models.verifying import TOLERANCE
from nbsight.results.alignment import Alignment
from nbsight.results.alignment import align as line_up
from nbsight.results.run_difference import NO_LAYER, RunDifference

__all__ = ["compare_runs"]

COMPONENTS = ("embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post", "logits")
"""What is compared unless something else is asked for."""

_BEFORE, _AFTER = ("embed", "pos_embed"), ("ln_final", "logits")
#: In the order of the forward, with the text under which each can be read anywhere.
_OF_LAYER = {
    "resid_pre": "hook_resid_pre",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "rot_q": "attn.hook_rot_q",
    "rot_k": "attn.hook_rot_k",
    "scores": "attn.hook_attn_scores",
    "pattern": "attn.hook_pattern",
    "z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "gate": "mlp.gate.hook_out",
    "pre": "mlp.in.hook_out",
    "post": "mlp.hook_post",
    "mlp_out": "hook_mlp_out",
    "resid_post": "hook_resid_post",
}
_OF_MODEL = {
    "embed": "hook_embed",
    "pos_embed": "hook_pos_embed",
    "ln_final": "ln_final.hook_normalized",
}
#: Keys lie along their last axis: between prompts that are only aligned they do not correspond.
_BY_KEY = ("scores", "pattern")

#: A site's component and layer.
Site = tuple[str, "int | None"]


def compare_runs(
    model: LanguageModel,
    prompt: Any,
    other_prompt: Any = None,
    *,
    other: Any = None,
    remote: Any = None,
    components: Sequence[str] = COMPONENTS,
    layers: Sequence[int] | None = None,
    align: str | Mapping[str, str] | None = None,
    tolerance: float | None = None,
) -> RunDifference:
    """Run twice and say how far the runs are apart at every site, and where they part first.

    What differs between the runs is what is given: another prompt, another model or edits, another place; any
    of them together. With none of them it is the same run again, which says whether it can be repeated.

    Args:
        model: A language model whose standard names are known.
        prompt: One prompt, whatever `model.trace` takes.
        other_prompt: The second run's prompt; by default the same.
        other: The second run's model: one with as many layers of the same width (another checkpoint, another
            dtype), an edited copy, or `model.steer(...)`, or a list of these steerings.
        remote: Where the second run is done, as for `model.trace(..., remote=)`.
        components: Standard names: those of the stream, `embed`, `pos_embed`, `ln_final`, `logits`, and
            inside a block q, k, v, rot_q, rot_k, scores, pattern, z, gate, pre, post.
        layers: Which blocks; by default all. Negative ones count from the end.
        align: How prompts of different lengths line up: "diff", or strings that stand for each other.
        tolerance: The relative distance from which on the runs count as apart. By default 0, which is any
            difference at all; between different dtypes what rounding in the coarser one may bring.

    Returns:
        Relative L2 distance, cosine and largest difference by site and position; `first`, and the first site
        of each token. Distances are taken in float64.

    Raises:
        InputError: several prompts, prompts that do not line up, models of different shapes, a component or
            layer that is not there.
        UnknownArchitectureError: the standard names are not known or not verified for a model.
    """
    second, steerings = _second(model, other)
    prompts = (prompt, prompt if other_prompt is None else other_prompt)
    ids = [_one(each, text) for each, text in zip((model, second), prompts, strict=True)]
    pairs = _aligned(model, second, ids, align)
    sites = _sites((model, second), components, layers, is_shifted=_is_shifted(pairs))
    here = _values(model, ids[0], sites, None)
    with ExitStack() as stack:
        for steering in steerings:
            stack.enter_context(steering)
        there = _values(second, ids[1], sites, remote)
    own, others = (torch.from_numpy(index) for index in pairs.index)
    rows = [_distances(site, here[at], there[at], own, others) for at, site in enumerate(sites)]
    relative, cosine, largest = (np.stack([row[place] for row in rows]) for place in range(3))
    known = [_dtype(here), _dtype(there)]
    texts = [tokens.text for tokens in (pairs.first, pairs.second)]
    what = _what(model, second, steerings, remote, texts, known)
    return RunDifference(
        prompt=texts[0],
        other_prompt=texts[1],
        what=what,
        sites=[name if layer is None else f"{layer}.{name}" for name, layer in sites],
        components=[name for name, _ in sites],
        layers=[NO_LAYER if layer is None else layer for _, layer in sites],
        tokens=[pairs.first.strings[place] for place in own.tolist()],
        other_tokens=[pairs.second.strings[place] for place in others.tolist()],
        positions=own.tolist(),
        other_positions=others.tolist(),
        relative=relative,
        cosine=cosine,
        max_abs=largest,
        tolerance=_default_tolerance(known) if tolerance is None else float(tolerance),
        provenance=provenance(model, texts, second_run=what, second_model=provenance(second)),
    )


# --- what is run ----------------------------------------------------------------------------------


def _second(model: LanguageModel, other: Any) -> tuple[LanguageModel, list[Steering]]:
    if other is None:
        return model, []
    if isinstance(other, LanguageModel):
        return other, []
    steerings = list(other) if isinstance(other, Sequence) and not isinstance(other, str) else [other]
    if not steerings or not all(isinstance(one, Steering) for one in steerings):
        kinds = ", ".join(sorted({type(one).__name__ for one in steerings})) or "an empty list"
        raise InputError(
            "`other` is a LanguageModel (another one, or an edited copy of this), what `model.steer(vector, "
            f"layer=...)` gives, or a list of these; it was {kinds}. A second prompt is `other_prompt`."
        )
    for one in steerings:
        if one.model._family is not model._family:
            raise InputError("a steering was made of another model: write `model.steer(...)` with this one.")
        if one.owner is not None:
            raise InputError(
                f"this steering acts already, so both runs would have it: {one!r}. Take it off first: "
                "`steering.remove()`, or compare outside its `with`."
            )
    return model, steerings


def _one(model: LanguageModel, prompt: Any) -> torch.Tensor:
    ids = model.to_tokens(prompt)
    if len(ids) != 1:
        raise InputError(f"a run of one prompt is compared, and {len(ids)} were given; call it for each.")
    return ids


def _aligned(model: LanguageModel, second: LanguageModel, ids: Sequence[torch.Tensor], how: Any) -> Alignment:
    first, other = (
        tokens_of_ids(each, row[0].tolist()) for each, row in zip((model, second), ids, strict=True)
    )
    if how is None and len(first) != len(other):
        raise InputError(
            f"the prompts have {len(first)} and {len(other)} tokens, so positions do not correspond. Say "
            'what does, `align={"Eiffel Tower": "Colosseum"}`, or let `align="diff"` find what they share.'
        )
    if isinstance(how, Mapping):
        found = line_up(first, other, spans=how)
    else:
        found = line_up(first, other, how=how or "equal")
    if not len(found):
        raise InputError("the prompts have no token in common, so there is no position to compare at.")
    return found


def _is_shifted(pairs: Alignment) -> bool:
    return len(pairs.first) != len(pairs.second) or any(one != other for one, other in pairs)


def _sites(
    models: tuple[LanguageModel, LanguageModel],
    components: Sequence[str],
    layers: Sequence[int] | None,
    *,
    is_shifted: bool,
) -> list[Site]:
    """Where both are read, in the order of the forward."""
    one, other = (model.std for model in models)
    shapes = [(std.n_layers, std.d_model) for std in (one, other)]
    if shapes[0] != shapes[1]:
        said = [f"{layers} layers of width {width}" for layers, width in shapes]
        raise InputError(
            f"the models have {said[0]} and {said[1]}; only models of one shape have the same sites."
        )
    asked = [components] if isinstance(components, str) else list(components)
    known = (*_BEFORE, *_OF_LAYER, *_AFTER)
    for name in asked:
        if name not in known:
            raise InputError(f"{name!r} is none of the sites that are compared: {', '.join(known)}.")
        if is_shifted and name in _BY_KEY:
            raise InputError(
                f"{name!r} has an axis of keys, which do not correspond in prompts that are only aligned; "
                "leave it out, or choose prompts with equally many tokens."
            )
    chosen = range(shapes[0][0]) if layers is None else sorted({one._index(layer) for layer in layers})
    # What a model has not is left out of the usual list; who asks for it by name is told why not.
    is_usual = tuple(asked) == COMPONENTS
    sites: list[Site] = [(name, None) for name in _BEFORE if name in asked]
    sites += [(name, layer) for layer in chosen for name in _OF_LAYER if name in asked]
    sites += [(name, None) for name in _AFTER if name in asked]
    found = []
    for name, layer in sites:
        if name not in _AFTER:
            if is_usual and not all(has_part(std, name, layer) for std in (one, other)):
                continue
            for std in (one, other):
                std.place(name, layer)
        found.append((name, layer))
    if not found:
        raise InputError("nothing is compared: give at least one component and one layer.")
    return found


def _values(
    model: LanguageModel, ids: torch.Tensor, sites: Sequence[Site], remote: Any
) -> list[torch.Tensor]:
    """What a run has at the sites, (position, ...) each, in main memory; one block for here and elsewhere."""
    places = [
        (at, _OF_MODEL[name] if layer is None else f"blocks.{layer}.{_OF_LAYER[name]}")
        for at, (name, layer) in enumerate(sites)
        if name != "logits"
    ]
    found: dict[int, torch.Tensor] = {}
    logits = None
    options: dict[str, Any] = {} if remote is None else {"remote": remote}
    with model.trace(ids, grad=False, use_cache=False, **options):
        kept = save({})
        for at, place in places:
            # Copies, because the model may write into the stream in place.
            kept[at] = model[place].detach().cpu().clone()
        logits = model.output.logits.detach().cpu().save()
    found.update(kept)
    for at, (name, _) in enumerate(sites):
        if name == "logits":
            found[at] = logits
    # The head comes before the query in attention's square.
    return [
        found[at][0].transpose(0, 1) if name in _BY_KEY else found[at][0]
        for at, (name, _) in enumerate(sites)
    ]


# --- how far apart --------------------------------------------------------------------------------


def _distances(
    site: Site, first: torch.Tensor, second: torch.Tensor, own: torch.Tensor, others: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relative L2 distance, cosine and largest difference, each (position,)."""
    if first.shape[1:] != second.shape[1:]:
        raise InputError(
            f"{site[0]} has shape {tuple(first.shape)} in one run and {tuple(second.shape)} in the other; "
            "leave it out of `components`."
        )
    one, other = (value[index].double().flatten(1) for value, index in ((first, own), (second, others)))
    if site[0] == "scores":
        one, other = (_unmasked(values, value.dtype) for values, value in ((one, first), (other, second)))
    # Equal infinities (of masks) and NaN in both are no difference.
    equal = (one == other) | (one.isnan() & other.isnan())
    one, other = (value.masked_fill(equal & ~value.isfinite(), 0.0) for value in (one, other))
    gap = (other - one).masked_fill(equal, 0.0)
    gap = gap.masked_fill(gap.isnan(), float("inf"))
    length = one.norm(dim=-1)
    relative = torch.where(equal.all(-1), torch.zeros_like(length), gap.norm(dim=-1) / length)
    relative = relative.masked_fill(relative.isnan(), float("inf"))
    # Of itself exactly 1; of nothing there is none.
    cosine = (one * other).sum(-1) / (length * other.norm(dim=-1))
    cosine = torch.where(equal.all(-1) & (length > 0), torch.ones_like(cosine), cosine.clamp(-1, 1))
    return relative.numpy(), cosine.numpy(), gap.abs().amax(-1).numpy()


def _unmasked(scores: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Scores with infinities for masks: some models add the lowest number of their dtype instead."""
    return scores.masked_fill(scores < torch.finfo(dtype).min / 2, -float("inf"))


def _dtype(values: Sequence[torch.Tensor]) -> torch.dtype:
    return values[0].dtype


def _default_tolerance(dtypes: Sequence[torch.dtype]) -> float:
    return 0.0 if dtypes[0] == dtypes[1] else max(TOLERANCE.get(dtype, 1e-5) for dtype in dtypes)


def _what(
    model: LanguageModel,
    second: LanguageModel,
    steerings: Sequence[Steering],
    remote: Any,
    texts: Sequence[str],
    dtypes: Sequence[torch.dtype],
) -> str:
    found = [repr(texts[1])] if texts[0] != texts[1] else []
    if steerings:
        found.append("steered: " + "; ".join(one.source for one in steerings))
    elif second is not model:
        is_copy = second._family is model._family
        found.append("an edited copy of the model" if is_copy else str(second._name))
    if dtypes[0] != dtypes[1]:
        found.append(f"{_short(dtypes[1])}, not {_short(dtypes[0])}")
    if remote is not None:
        found.append(f"run at {'the server' if remote is True else remote}")
    return ", ".join(found) or "the same run again"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
