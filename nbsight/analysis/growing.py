"""One batch of a sweep: rows that join the forward where they begin to differ.

The prompt is run once as it is (`plain_run`, with the first rows beside it), and what its stream holds
before every block is kept. A row that is changed in layer 7 is a copy of that stream until there, so that
is where it joins the batch (a *growing batch*). With a prefix only the positions from the first changed one
on are computed at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nbsight.analysis.prefix import Kept, KeysAndValues, Prefix
from nbsight.analysis.unembedding import hidden_state, last_blocks, unembedding_of
from nbsight.models.language_model import LanguageModel

__all__ = [
    "SITES",
    "Change",
    "Plain",
    "Point",
    "is_edited",
    "plain_run",
    "run_points",
    "stored_values",
]

#: Where a block can be changed, in the order in which it computes them.
SITES = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")

#: What stands at some places becomes what: `change(layer, site, where, current)`. `where` is one index
#: tensor for positions and, at `z`, one for heads; `current` and the result are (place, d_model).
Change = Callable[[int, str, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Point:
    """One run of a sweep: where it differs from the plain run.

    Args:
        layer: Index of the block.
        site: One of `SITES`.
        positions: Indices of tokens, counted from the first.
        heads: Indices of heads, for `z`; None means all.
    """

    layer: int
    site: str
    positions: tuple[int, ...]
    heads: tuple[int, ...] | None = None

    @property
    def order(self) -> tuple[int, int]:
        """When it happens in a forward."""
        return self.layer, SITES.index(self.site)

    @property
    def joins(self) -> int:
        """The block before which its row must be there; one more than there are: before the final norm."""
        return self.layer + (self.site == "resid_post")


#: A run and its row in the batch.
Entry = tuple[int, Point]


@dataclass(frozen=True)
class Plain:
    """The run without any change, from which all rows of a sweep begin.

    Args:
        ids: The prompt, (1, position).
        logits: At the positions that are read, (1, read position, d_vocab).
        stream: What each block reads, and last what the final norm reads, each (1, position, d_model).
        kept: Keys and values by layer; empty if they were not wanted.
    """

    ids: torch.Tensor
    logits: torch.Tensor
    stream: list[torch.Tensor]
    kept: Kept


def plain_run(
    model: LanguageModel,
    ids: torch.Tensor,
    read: Sequence[int],
    *,
    prefix: bool = False,
    points: Sequence[Point] = (),
    change: Change | None = None,
    grow: bool = True,
) -> tuple[Plain, torch.Tensor]:
    """Run a prompt as it is, keep what rows need to join later, and let the first rows come along.

    Args:
        model: A language model.
        ids: The prompt, (1, position).
        read: Positions whose logits are wanted.
        prefix: Whether keys and values are kept too.
        points: Runs in the same forward, in the order of their layers.
        change: What their places become.
        grow: Whether they join where they begin to differ.

    Returns:
        The plain run, and the logits of the points, (point, read position, d_vocab).
    """
    cache = KeysAndValues() if prefix else None
    stream: list[torch.Tensor] = []
    logits = _forward(model, ids, points, change, read, grow=grow, cache=cache, stream=stream)
    return Plain(ids, logits[:1], stream, {} if cache is None else cache.kept), logits[1:]


def run_points(
    model: LanguageModel,
    plain: Plain,
    points: Sequence[Point],
    change: Change,
    read: Sequence[int],
    *,
    grow: bool,
    start: int = 0,
) -> torch.Tensor:
    """Logits of one run for each point, (point, read position, d_vocab).

    Args:
        model: A language model.
        plain: The plain run of the same prompt.
        points: In the order of their layers.
        change: What a run's places become.
        read: Positions whose logits are wanted; none before `start`.
        grow: Whether rows join where they begin to differ; otherwise all run from the start.
        start: The first position that is computed; those before it are `plain`'s keys and values.
    """
    cache = Prefix(plain.kept, start) if start else None
    return _forward(model, plain.ids, points, change, read, grow=grow, cache=cache, plain=plain, start=start)


def _forward(
    model: LanguageModel,
    ids: torch.Tensor,
    points: Sequence[Point],
    change: Change | None,
    read: Sequence[int],
    *,
    grow: bool,
    cache: Any,
    plain: Plain | None = None,
    stream: list[torch.Tensor] | None = None,
    start: int = 0,
) -> torch.Tensor:
    """One forward: of the points, or of the plain run (the first row, kept in `stream`) and the points."""
    count = len(points) + (plain is None)
    joining: dict[int, list[Entry]] = {}
    for row, point in enumerate(points, count - len(points)):
        joining.setdefault(point.joins, []).append((row, point))
    unembedding = unembedding_of(model, ids)
    head, final = (model.get(model._path_of(part)) for part in (unembedding.head, unembedding.first))
    options = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
    begin, length = ids[:, start:], ids.shape[1]
    with model.trace(begin if grow else begin.expand(count, -1), grad=False, receipts=False, **options):
        for number, place in enumerate([*last_blocks(model), final]):
            entries = joining.get(number, [])
            if stream is not None:
                stream.append(place.input[:1].clone())  # a later module may write into it
            if entries and change is not None:
                value = place.input
                known = plain.stream[number][:, start:] if plain is not None else value[:1]
                place.input = _joined(value, known, number, entries, change, start)
                _change_inside(model, number, entries, change, start)
        wanted = [position % length - start for position in read]
        logits = _logits(model, head, wanted)
    if logits.shape[0] != count or logits.shape[1] != len(read):
        raise RuntimeError(f"the model's logits came out with shape {tuple(logits.shape)} for {count} rows.")
    return logits


def _joined(
    value: torch.Tensor,
    known: torch.Tensor,
    number: int,
    entries: Sequence[Entry],
    change: Change,
    start: int,
) -> torch.Tensor:
    """What a block reads, with the rows that join before it, and changed where they ask.

    `resid_post` is written here too, one block later: a block's own output keeps its number of rows.
    """
    missing = entries[-1][0] + 1 - len(value)
    if missing > 0:
        value = torch.cat([value, known.to(value).expand(missing, -1, -1)])
    for layer, site in ((number - 1, "resid_post"), (number, "resid_pre")):
        value = _changed(value, layer, site, entries, change, start)
    return value


def stored_values(
    model: LanguageModel, ids: torch.Tensor, sites: Sequence[str], layers: Sequence[int]
) -> tuple[dict[tuple[int, str], torch.Tensor], torch.Tensor]:
    """What sites hold in a plain run, and its last logits, (1, d_vocab).

    Args:
        model: A language model.
        ids: The prompt, (1, position).
        sites: Some of `SITES`.
        layers: Which blocks.

    Returns:
        By layer and site the value, (position, d_model), at `z` (position, head, d_head); a copy.
    """
    blocks, stored = last_blocks(model), {}
    unembedding = unembedding_of(model, ids)
    with model.trace(ids, grad=False, use_cache=False, receipts=False):
        for layer in sorted(layers):
            for site in SITES:
                if site not in sites:
                    continue
                if site == "resid_pre":
                    value = blocks[layer].input
                elif site == "resid_post":
                    value = hidden_state(blocks[layer].output)
                else:
                    value = model.std.get(site, layer)
                stored[layer, site] = value[0].clone()
        logits = _logits(model, model.get(model._path_of(unembedding.head)), [-1])
    return stored, logits[:, 0].clone()


def is_edited(model: LanguageModel) -> bool:
    """Whether kept edits act in every run of a model."""
    return any(edit.enabled for edit in model.edits)


def _logits(model: LanguageModel, head: Any, wanted: list[int]) -> torch.Tensor:
    """In a trace: the logits of some positions, computed for these alone."""
    if not is_edited(model):  # a kept edit may write to the logits of a position
        head.input = head.input[:, wanted]
        wanted = list(range(len(wanted)))
    found: torch.Tensor = model.output.logits[:, wanted]
    return found


def _change_inside(
    model: LanguageModel, layer: int, entries: Sequence[Entry], change: Change, start: int
) -> None:
    for site in SITES[1:-1]:
        if any(point.site == site for _, point in entries):
            value = model.std.get(site, layer)
            model.std.set(site, layer, _changed(value, layer, site, entries, change, start))


def _changed(
    value: torch.Tensor, layer: int, site: str, entries: Sequence[Entry], change: Change, start: int
) -> torch.Tensor:
    """The value with the places of those entries changed that are about this site, each in its own row."""
    places: list[tuple[int, int, int]] = []
    for row, point in entries:
        if point.site == site:
            heads: Sequence[int] = (0,)
            if site == "z":
                heads = range(value.shape[2]) if point.heads is None else point.heads
            places += [(row, position, head) for position in point.positions for head in heads]
    if not places:
        return value
    rows, positions, heads_of = torch.tensor(places, device=value.device).unbind(1)
    where = (positions, heads_of) if site == "z" else (positions,)
    value = value.clone()
    index = (rows, positions - start, *where[1:])
    current = value[index]
    value[index] = change(layer, site, where, current).to(current)
    return value
