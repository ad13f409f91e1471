"""A layer × position patching sweep: nbsight's engine, and what the peers do instead."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.measure import measure
from benchmarks.subjects import LAYERS, VOCABULARY, Subject, hooked, nnsight
from benchmarks.table import Row
from nbsight.analysis.growing import Point
from nbsight.analysis.sweep import Sweep

__all__ = ["by_sites", "patching"]

POSITIONS = 8


def patching(
    subject: Subject, size: str, rounds: int, positions: int, loop_goal: float | None, goal: float | None
) -> list[Row]:
    """96 runs, each with one layer and position taken from another prompt; the metric is one logit.

    Args:
        subject: The models.
        size: For the row's name.
        rounds: How often each is timed.
        positions: Length of the prompt; eight of its positions, evenly spread, are patched.
        loop_goal: Against nnsight's loop of traces; None to leave that row out.
        goal: Against nnsight's 96 invokes in one trace.
    """
    raw, ours, theirs = subject.raw, subject.ours, subject.theirs
    generator = torch.Generator().manual_seed(1)
    ids, other = (torch.randint(VOCABULARY, (1, positions), generator=generator) for _ in range(2))
    donors: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda module, args, out: donors.append(out.clone()))
        for block in raw.transformer.h
    ]
    with torch.no_grad():
        raw(other)
    for handle in handles:
        handle.remove()
    places = range(0, positions - positions % POSITIONS, positions // POSITIONS)
    points = [Point(layer, "resid_post", (place,)) for layer in range(LAYERS) for place in places]

    def change(layer: int, site: str, where: Any, current: torch.Tensor) -> torch.Tensor:
        return donors[layer][0][where]

    def engine() -> Any:
        sweep = Sweep(ours, ids, points, change, lambda logits: logits[:, 0, 5])
        sweep.run()
        return sweep.values

    contestants: dict[str, Any] = {"nbsight": engine}
    rows: list[Row] = []
    if theirs is not None:
        text_model = nnsight.TransformersModel(
            theirs._module, task="text-generation", tokenizer=ours.tokenizer
        )

        def loop() -> None:
            with torch.no_grad():
                for layer in range(LAYERS):
                    for place in places:
                        with theirs.trace(ids):
                            theirs.transformer.h[layer].output[:, place] = donors[layer][:, place]
                            last = nnsight.save(theirs.output.logits[:, -1])

        def invokes() -> None:
            with torch.no_grad():
                with text_model.trace() as tracer:
                    for layer in range(LAYERS):
                        for place in places:
                            with tracer.invoke(ids):
                                text_model.transformer.h[layer].output[:, place] = donors[layer][:, place]
                                last = nnsight.save(text_model.lm_head.output[:, -1])

        contestants["invokes"] = invokes
        if loop_goal is not None:
            contestants["loop"] = loop
    lens = hooked(raw) if loop_goal is not None else None
    if lens is not None:

        def hooks() -> None:
            for layer in range(LAYERS):
                for place in places:

                    def write(stream: Any, hook: Any, layer: int = layer, place: int = place) -> Any:
                        stream[:, place] = donors[layer][:, place]
                        return stream

                    with torch.no_grad():
                        last = lens.run_with_hooks(
                            ids, fwd_hooks=[(f"blocks.{layer}.hook_resid_post", write)]
                        )[:, -1]

        contestants["hooks"] = hooks
    times = measure(contestants, rounds=rounds, warm=1)
    name = f"{size}, {positions} positions: sweep of 96"
    rows.append(Row(f"{name}", times.median("nbsight") * 1e3, unit="ms"))
    if "loop" in times:
        rows.append(Row(f"{name} / nnsight's loop", times.ratio("nbsight", "loop"), loop_goal, None, 1.0))
    if "hooks" in times:
        rows.append(Row(f"{name} / TransformerLens's loop", times.ratio("nbsight", "hooks")))
    if "invokes" in times:
        rows.append(Row(f"{name} / nnsight's invokes", times.ratio("nbsight", "invokes"), goal, None, 1.0))
    return rows


def by_sites(subject: Subject, size: str, rounds: int, positions: int = 9) -> list[Row]:
    """What four sites cost beside four times one: the cost is to grow linearly, with something saved."""
    ids = torch.randint(VOCABULARY, (1, positions), generator=torch.Generator().manual_seed(1))
    sites = ("resid_pre", "attn_out", "mlp_out", "resid_post")

    def change(layer: int, site: str, where: Any, current: torch.Tensor) -> torch.Tensor:
        return current / 2

    def swept(some: tuple[str, ...]) -> Any:
        points = [
            Point(layer, site, (place,))
            for layer in range(LAYERS)
            for site in some
            for place in range(POSITIONS)
        ]
        Sweep(subject.ours, ids, points, change, lambda logits: logits[:, 0, 5]).run()

    times = measure({"one": lambda: swept(sites[-1:]), "four": lambda: swept(sites)}, rounds=rounds, warm=1)
    return [Row(f"{size}: sweep of 4 sites / 4 sweeps of one", times.ratio("four", "one") / 4, 1.1)]
