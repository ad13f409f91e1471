"""What the view of a lens gets, and the cell that makes it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbsight.results.component_lens import ComponentLens
from nbsight.results.lens import Lens
from nbsight.widgets.code import fill, literal, name_of
from nbsight.widgets.lens_readings import STREAM, Key, Readings
from nbsight.widgets.payload import Payload, encode, texts_of

__all__ = ["full_code", "lens_payload", "template_of"]


def lens_payload(
    readings: Readings,
    key: Key,
    *,
    live: bool,
    more: Lens | None = None,
    followed: Sequence[tuple[int, int]] = (),
) -> Payload:
    """The lens as its view reads it: every token's text once, and numbers in one buffer.

    Args:
        readings: All lenses that the view can show.
        key: The one on show.
        live: Whether Python can be asked for more.
        more: The same lens with what was asked for since: statistics, followed tokens.
        followed: Of the tokens that `more` follows, each one's place in it and its id.
    """
    lens = readings.get(key)
    vocabulary, words = np.unique(lens.top_tokens.astype(str), return_inverse=True)
    small = len(vocabulary) <= np.iinfo(np.uint16).max
    arrays: dict[str, NDArray[Any]] = {
        "probs": lens.top_probs,
        "ids": lens.top_ids.astype(np.int32),
        "words": words.reshape(lens.top_probs.shape).astype(np.uint16 if small else np.uint32),
    }
    known = next((one for one in (more, lens) if one is not None and one.entropy is not None), None)
    if known is not None and known.entropy is not None and known.kl is not None:
        arrays |= {"entropy": known.entropy.astype(np.float32), "kl": known.kl.astype(np.float32)}
    places, pins = [at for at, _ in followed], []
    if more is not None and more.track_probs is not None and more.track_ranks is not None:
        pins = [{"id": token, "token": more.tracked[at]} for at, token in followed]
        arrays["courses"] = more.track_probs[..., places].astype(np.float32)
        arrays["ranks"] = more.track_ranks[..., places].astype(np.int32)
        if more.track_logits is not None:
            arrays["logits"] = more.track_logits[..., places].astype(np.float32)
    name, component = key
    return encode(
        "lens",
        {
            "model": lens.model,
            "prompt": lens.prompt,
            "tokens": list(lens.tokens),
            "layers": [label if isinstance(label, str) else int(label) for label in lens.layers],
            "vocabulary": vocabulary.tolist(),
            "followed": pins,
            "lens": name,
            "lenses": readings.names,
            "component": component,
            "components": readings.components(name),
            "editable": not readings.is_many and readings.model(name) is not None,
            "asks": readings.detail(key) is not None,
            "provenance": texts_of(lens.provenance),
            "check": lens.check,
            "code": template_of(readings, key),
            "live": live,
        },
        arrays,
    )


def template_of(readings: Readings, key: Key) -> str:
    """A cell that makes a lens again; `$track` and the like stand for what the view asks for beside."""
    name, component = key
    source = readings.given(name)
    if readings.is_many and isinstance(source, ComponentLens):
        return f"lens = {name_of(readings.source, 'lenses')}[{literal(name)}].of({component!r})"
    if readings.is_many and component == STREAM:
        more = "" if readings.detail(key) is None else "$more"
        return f"lens = {name_of(readings.source, 'lenses')}[{literal(name)}]{more}"
    known, lens = readings.model(name), source if isinstance(source, Lens) else readings.get(key)
    model = "model" if known is None else name_of(known, "model")
    first, top_k = f"{model}, {literal(lens.prompt)}", f"top_k={lens.top_k}"
    if component == STREAM:
        return f"import nbsight\n\nlens = nbsight.logit_lens({first}, {top_k}$track$statistics)"
    head = component.removeprefix("head_")
    part = f"components=[], heads=[{head}]" if head != component else f"components=[{component!r}]"
    if isinstance(source, ComponentLens):
        part += f", positions={list(map(int, source.positions))}"
    call = f"component_lens({first}, {part}, {top_k}$track).of({component!r})"
    return f"from nbsight.analysis.component_lens import component_lens\n\nlens = {call}"


def full_code(template: str, state: Mapping[str, Any], selection: tuple[int, int] | None) -> str:
    """The cell with what the view is set to (js/src/widgets/lens/data.ts does the same)."""
    pair = [pin for pin in state["contrast"] if pin] if len(state["contrast"]) == 2 else []
    pins = {int(pin["id"]): pin for pin in [*state["pins"], *pair]}
    track = f", track=[{', '.join(map(str, pins))}]" if pins else ""
    is_asked = state["statistic"] in ("entropy", "kl")
    more = f".detail.more([{', '.join(map(str, pins))}], {is_asked})" if pins or is_asked else ""
    statistics = ", statistics=True" if is_asked else ""
    code = fill(template, {"track": track, "statistics": statistics, "more": more})
    what, _, difference = state["statistic"].partition("_")
    if difference and len(pair) == 2:
        names = [_name(pin, list(pins.values())) for pin in pair]
        names += [] if what == "logit" else ['what="probability"']
        code += f"\ncontrast = lens.contrast({', '.join(names)})"
        return f"{code}\ncontrast" + ("" if selection is None else f"[{selection[0]}, {selection[1]}]")
    if selection is None:
        return f"{code}\nlens"
    return f"{code}\nlens.at(layer={selection[0]}, position={selection[1]})"


def _name(pin: Mapping[str, Any], pins: Sequence[Mapping[str, Any]]) -> str:
    """A followed token in code: its text, or its place where two have the same."""
    texts = [one["token"] for one in pins]
    if texts.count(pin["token"]) == 1:
        return literal(pin["token"])
    return str([int(one["id"]) for one in pins].index(int(pin["id"])))
