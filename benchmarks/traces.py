# ruff: noqa: B007, B018  (blocks read values that nobody uses: that is what is timed)
"""What is done in one forward: reads, saves, edits, generation, gradients, with every contestant.

Every function here does one thing several ways and returns the rows of the table that come of it.
The contestants' bodies are written out, not shared: nnsight reads the text of its blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import Times, measure
from benchmarks.subjects import LAYERS, TEXT, Subject, nnsight, subject
from benchmarks.table import Row
from nbsight.core.model import wrap

__all__ = ["generating", "gradients", "many_layers", "reading", "sweeping"]

Contestants = dict[str, Callable[[], object]]


def _hooked(model: Any, points: list[Any], ids: torch.Tensor) -> dict[int, Any]:
    """What a careful user writes by hand: one hook a point, taken off again."""
    kept: dict[int, Any] = {}
    handles = [
        point.register_forward_hook(lambda module, args, out, place=place: kept.__setitem__(place, out))
        for place, point in enumerate(points)
    ]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return kept


def reading(subject: Subject, size: str, rounds: int) -> list[Row]:
    """Reads of one forward: none, the logits, one block, twelve blocks, 36 places."""
    raw, ours, theirs, ids = subject.raw, subject.ours, subject.theirs, subject.ids
    plain = wrap(ours._module)
    blocks = list(raw.transformer.h)
    points = [place for block in blocks for place in (block.attn, block.mlp, block)]
    with ours.trace(ids):  # so that "outside a trace" is a model that has been traced
        ours.output.save()

    def raw_ids() -> None:
        with torch.no_grad():
            raw(ids)

    def outside() -> None:
        with torch.no_grad():
            ours._module(ids)

    def default() -> None:
        with ours.trace(TEXT):
            ours.output.save()

    def raw_prompt() -> None:
        with torch.no_grad():
            raw(prompt)

    def hooks_12() -> None:
        _hooked(raw, blocks, ids)

    def hooks_36() -> None:
        _hooked(raw, points, ids)

    def ours_12() -> None:
        with ours.trace(ids):
            hidden = [ours.transformer.h[layer].output.save() for layer in range(LAYERS)]
            logits = ours.output.save()

    def plain_12() -> None:
        with plain.trace(ids):
            hidden = [plain.transformer.h[layer].output.save() for layer in range(LAYERS)]
            logits = plain.output.logits.save()

    def ours_36() -> None:
        with ours.trace(ids):
            for block in ours.transformer.h:
                block.attn.output
                block.mlp.output
                block.output
            ours.output.save()

    def fifth() -> None:
        with ours.trace(ids):
            ours.transformer.h[5].output.save()

    contestants: Contestants = {
        "raw": raw_ids,
        "outside": outside,
        "default": default,
        "raw prompt": raw_prompt,
        "hooks 12": hooks_12,
        "hooks 36": hooks_36,
        "nbsight 12": ours_12,
        "wrap 12": plain_12,
        "nbsight 36": ours_36,
        "block 5": fifth,
    }
    prompt = ours.to_tokens(TEXT)
    if theirs is not None:
        text_model = nnsight.TransformersModel(
            theirs._module, task="text-generation", tokenizer=ours.tokenizer
        )

        def theirs_12() -> None:
            with torch.no_grad():
                with theirs.trace(ids):
                    hidden = nnsight.save(
                        [nnsight.save(theirs.transformer.h[layer].output) for layer in range(LAYERS)]
                    )
                    logits = nnsight.save(theirs.output.logits)

        def theirs_36() -> None:
            with torch.no_grad():
                with theirs.trace(ids):
                    for block in theirs.transformer.h:
                        block.attn.output
                        block.mlp.output
                        block.output
                    logits = nnsight.save(theirs.output.logits)

        def theirs_default() -> None:
            with text_model.trace(TEXT):
                logits = nnsight.save(text_model.output.logits)

        def theirs_fifth() -> None:
            with torch.no_grad():
                with theirs.trace(ids):
                    hidden = nnsight.save(theirs.transformer.h[5].output)

        def theirs_outside() -> None:
            with torch.no_grad():
                theirs._module(ids)

        contestants |= {
            "nnsight 12": theirs_12,
            "nnsight 36": theirs_36,
            "nnsight default": theirs_default,
            "nnsight block 5": theirs_fifth,
            "nnsight outside": theirs_outside,
        }
    times = measure(contestants, rounds=rounds)

    def peer(name: str, to: str) -> float | None:
        return times.ratio(name, to) if name in times else None

    rows = [
        Row(
            f"{size}: default trace from a string, logits saved / raw on its ids",
            times.ratio("default", "raw prompt"), 1.10, 1.00, peer("nnsight default", "raw prompt"),
        ),
        *_against(times, size),
        Row(
            f"{size}: 36 reads / hooks by hand",
            times.ratio("nbsight 36", "hooks 36"), 1.05, 1.00, peer("nnsight 36", "hooks 36"),
        ),
        Row(
            f"{size}: wrapped model outside a trace / raw",
            times.ratio("outside", "raw"), 1.02, 1.00, peer("nnsight outside", "raw"),
        ),
        Row(
            f"{size}: block 5 of 12 only / raw",
            times.ratio("block 5", "raw"), 0.60, 0.55, peer("nnsight block 5", "raw"),
        ),
    ]  # fmt: skip
    return rows


def _against(times: Times, size: str) -> list[Row]:
    """Twelve block outputs and the logits: what is added to a raw forward."""
    if times.added("hooks 12", "raw") < 0.01 * times.median("raw"):
        # A large model: what is added drowns in the noise of the forward itself.
        peer = times.ratio("nnsight 12", "raw") if "nnsight 12" in times else None
        rows = [Row(f"{size}: 12 block outputs / raw", times.ratio("nbsight 12", "raw"), peer=peer)]
        return [*rows, Row(f"{size}: 12 block outputs by hooks / raw", times.ratio("hooks 12", "raw"))]
    rows = []
    for name, what in (("nbsight 12", "LanguageModel"), ("wrap 12", "wrap")):
        if "nnsight 12" in times:
            rows.append(
                Row(
                    f"{size}: added by 12 block outputs ({what}) / nnsight's",
                    times.added_ratio(name, "nnsight 12", "raw"), 0.25, 0.16, 1.0,
                )
            )  # fmt: skip
        rows.append(
            Row(
                f"{size}: added by 12 block outputs ({what}) / hooks'",
                times.added_ratio(name, "hooks 12", "raw"), 1.4, 1.1,
                times.added_ratio("nnsight 12", "hooks 12", "raw") if "nnsight 12" in times else None,
            )
        )  # fmt: skip
    for name in ("hooks 12", "wrap 12", "nbsight 12", "nnsight 12"):
        if name in times:
            rows.append(Row(f"{size}: {name}: added", times.added(name, "raw") * 1e6, unit="µs"))
    return rows


def many_layers(rounds: int) -> list[Row]:
    """96 layers, 96 saves."""
    deep = subject(64, layers=96)
    raw, theirs, ids = deep.raw, deep.theirs, deep.ids
    ours = wrap(deep.ours._module)

    def raw_ids() -> None:
        with torch.no_grad():
            raw(ids)

    def ours_96() -> None:
        with ours.trace(ids):
            hidden = [block.output.save() for block in ours.transformer.h]

    contestants: Contestants = {"raw": raw_ids, "nbsight": ours_96}
    if theirs is not None:

        def theirs_96() -> None:
            with torch.no_grad():
                with theirs.trace(ids):
                    hidden = nnsight.save([nnsight.save(block.output) for block in theirs.transformer.h])

        contestants["nnsight"] = theirs_96
    times = measure(contestants, rounds=rounds, warm=2)
    peer = times.ratio("nnsight", "raw") if "nnsight" in times else None
    return [Row("96 layers, 96 saves / raw", times.ratio("nbsight", "raw"), 1.08, 1.05, peer)]


def sweeping(subject: Subject, rounds: int) -> list[Row]:
    """96 invokes, each patching one layer and position, against one hooked batch of 96."""
    raw, theirs, ids = subject.raw, subject.theirs, subject.ids
    ours = wrap(subject.ours._module)
    positions = 8
    count = LAYERS * positions
    kept = _hooked(raw, list(raw.transformer.h), ids)
    clean = [kept[layer] for layer in range(LAYERS)]
    other = (ids + 1) % 8192
    batch = other.expand(count, -1)

    def write(layer: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, out: torch.Tensor) -> None:
            for position in range(positions):
                out[layer * positions + position, position] = clean[layer][0, position]

        return hook

    def hooks() -> None:
        handles = [block.register_forward_hook(write(n)) for n, block in enumerate(raw.transformer.h)]
        with torch.no_grad():
            last = raw(batch).logits[:, -1]
        for handle in handles:
            handle.remove()

    def ours_96() -> None:
        with ours.trace() as tracer:
            for layer in range(LAYERS):
                for position in range(positions):
                    with tracer.invoke(other):
                        ours.transformer.h[layer].output[:, position] = clean[layer][:, position]
                        last = ours.lm_head.output[:, -1].save()

    contestants: Contestants = {"hooks": hooks, "nbsight": ours_96}
    if theirs is not None:
        text_model = nnsight.TransformersModel(
            theirs._module, task="text-generation", tokenizer=subject.ours.tokenizer
        )

        def theirs_96() -> None:
            with torch.no_grad():
                with text_model.trace() as tracer:
                    for layer in range(LAYERS):
                        for position in range(positions):
                            with tracer.invoke(other):
                                text_model.transformer.h[layer].output[:, position] = clean[layer][
                                    :, position
                                ]
                                last = nnsight.save(text_model.lm_head.output[:, -1])

        contestants["nnsight"] = theirs_96
    times = measure(contestants, rounds=rounds, warm=2)
    peer = times.ratio("nnsight", "hooks") if "nnsight" in times else None
    return [Row("96 invokes / one hooked batch of 96", times.ratio("nbsight", "hooks"), 1.08, 1.00, peer)]


def generating(subject: Subject, rounds: int, tokens: int = 20) -> list[Row]:
    """Greedy generation with every block read at every step."""
    raw, ours, theirs, ids = subject.raw, subject.ours, subject.theirs, subject.ids
    asked = {"max_new_tokens": tokens, "do_sample": False}

    def plain() -> None:
        raw.generate(ids, **asked)

    def ours_all() -> None:
        with ours.generate(ids, **asked) as tracer:
            kept = []
            for step in tracer.iter[:]:
                for block in ours.transformer.h:
                    kept.append(block.output)

    contestants: Contestants = {"plain": plain, "nbsight": ours_all}
    if theirs is not None:

        def theirs_all() -> None:
            with theirs.trace(ids, fn=theirs._module.generate, **asked) as tracer:
                kept = nnsight.save([])
                for step in tracer.iter[:tokens]:
                    for block in theirs.transformer.h:
                        kept.append(block.output)

        contestants["nnsight"] = theirs_all
    times = measure(contestants, rounds=rounds, warm=2)
    peer = times.ratio("nnsight", "plain") if "nnsight" in times else None
    name = f"generate {tokens} tokens, 12 blocks a step / plain"
    return [Row(name, times.ratio("nbsight", "plain"), 1.10, 0.90, peer)]


def gradients(subject: Subject, size: str, rounds: int, goal: float, stretch: float) -> list[Row]:
    """Gradients of a loss with respect to twelve block outputs; the weights' own are not wanted."""
    raw, theirs, ids = subject.raw, subject.theirs, subject.ids
    ours = wrap(subject.ours._module)

    def hooks() -> None:
        hidden: list[torch.Tensor] = []

        def keep(module: Any, args: Any, out: torch.Tensor) -> None:
            out.retain_grad()
            hidden.append(out)

        handles = [block.register_forward_hook(keep) for block in raw.transformer.h]
        raw(ids).logits[0, -1].sum().backward()
        for handle in handles:
            handle.remove()

    def ours_all() -> None:
        with ours.trace(ids):
            hidden = [block.output for block in ours.transformer.h]
            loss = ours.output.logits[0, -1].sum()
            with loss.backward():
                gradients = [value.grad for value in reversed(hidden)]

    def by_function() -> None:
        with ours.trace(ids):
            hidden = [block.output for block in ours.transformer.h]
            loss = ours.output.logits[0, -1].sum()
            gradients = torch.autograd.grad(loss, hidden)

    contestants: Contestants = {"hooks": hooks, "nbsight": ours_all, "autograd": by_function}
    if theirs is not None:

        def theirs_all() -> None:
            with theirs.trace(ids):
                hidden = [block.output for block in theirs.transformer.h]
                loss = theirs.output.logits[0, -1].sum()
                with loss.backward():
                    gradients = nnsight.save([value.grad for value in reversed(hidden)])

        contestants["nnsight"] = theirs_all
    times = measure(contestants, rounds=rounds, warm=2)
    what = f"{size}: gradients of 12 blocks"
    rows = [Row(f"{what} / hooks with all weights'", times.ratio("nbsight", "hooks"))]
    if "nnsight" in times:
        rows = [
            Row(f"{what} / nnsight's", times.ratio("nbsight", "nnsight"), goal, stretch, 1.0),
            Row(f"{what} by torch.autograd.grad / nnsight's", times.ratio("autograd", "nnsight")),
            *rows,
        ]
    return rows
