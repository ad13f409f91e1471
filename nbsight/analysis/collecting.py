"""Activations over a data set, to disk: streamed, in shards, stopped and gone on with at any time.

Texts are taken in chunks, a chunk is run in batches of similar length, and what its tokens had at each site
is written as one shard in the order of the texts. A chunk ends where the texts say, not where time or memory
does, so a run that was killed and gone on with writes the very bytes that it would have written in one go.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nbsight.analysis.collection import Collection
from nbsight.analysis.memory import is_out_of_memory, let_go
from nbsight.analysis.progress import Progress
from nbsight.analysis.shards import FORMAT, read_index, write_index, write_shard
from nbsight.analysis.site import Site, read_site, sites_of
from nbsight.analysis.texts import Text, TextHash, count_of, read_texts
from nbsight.core.displays import name_of
from nbsight.errors import InputError, NbsightWarning
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance

__all__ = ["collect"]

OVER_LONG = ("error", "cut", "leave_out")
_STORED = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def collect(
    model: LanguageModel,
    texts: Any,
    sites: Any,
    folder: str | Path,
    *,
    field: str = "text",
    max_length: int | None = None,
    over_long: str = "error",
    batch_tokens: int = 4096,
    shard_tokens: int = 65_536,
    dtype: torch.dtype | None = None,
    progress: bool | None = None,
) -> Collection:
    """Run a model over texts and write what it holds at some sites to a folder, token by token.

    The forward ends after the last site. Called again with the same arguments it goes on where it was
    stopped or killed; what is finished is not computed again.

    Args:
        model: A language model whose standard names are known.
        texts: Texts, lists of token ids or rows with a text, from anything that can be gone through; or
            the `Path` of a text file (a text a line) or `.jsonl` file. They are never all held at once.
        sites: Such as `["layers.3.resid_post"]`, `("mlp_out", 3)` or `"blocks.3.hook_resid_post"`.
        folder: Where to write; it is made if it is not there.
        field: Where the text stands in a row.
        max_length: The most tokens of a text; by default what the model takes.
        over_long: What is done with longer ones: "error", "cut", or "leave_out".
        batch_tokens: Tokens in one forward, pads included.
        shard_tokens: Tokens in one file, to the end of a text.
        dtype: What is stored, float32, float16 or bfloat16; by default what the model computes.
        progress: Whether to show a bar; by default when it takes longer than half a second.

    Returns:
        The collection. An interrupt gives what is finished, with a warning.

    Raises:
        InputError: an argument, a text that is too long, or a folder that holds something else.
        StorageError: the disk is full; finished shards are kept.
    """
    chosen = sites_of(model, sites)
    asked = _Asked(
        sites=chosen,
        max_length=_longest(model, max_length),
        over_long=over_long,
        batch_tokens=_count(batch_tokens, "batch_tokens"),
        shard_tokens=_count(shard_tokens, "shard_tokens"),
        dtype=_dtype(dtype),
    )
    return _Collecting(model, texts, field, Path(folder), asked).run(progress)


@dataclass(frozen=True)
class _Asked:
    """What was asked for, and must be the same when it is gone on with."""

    sites: Sequence[Site]
    max_length: int | None
    over_long: str
    batch_tokens: int
    shard_tokens: int
    dtype: torch.dtype | None

    def __post_init__(self) -> None:
        if self.over_long not in OVER_LONG:
            raise InputError(f"over_long={self.over_long!r} is none of {', '.join(map(repr, OVER_LONG))}.")

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "sites": [str(site) for site in self.sites],
            "max_length": self.max_length,
            "over_long": self.over_long,
            "batch_tokens": self.batch_tokens,
            "shard_tokens": self.shard_tokens,
            "dtype": None if self.dtype is None else str(self.dtype).removeprefix("torch."),
        }


@dataclass
class _Chunk:
    """The texts of one shard."""

    ids: list[list[int]] = field(default_factory=list)
    hash: TextHash = field(default_factory=TextHash)
    tokens: int = 0
    empty: int = 0
    left_out: int = 0
    cut: int = 0


class _Collecting:
    """One collection on its way."""

    def __init__(self, model: LanguageModel, texts: Any, field: str, folder: Path, asked: _Asked) -> None:
        self.model, self.folder, self.asked = model, folder, asked
        self.texts = read_texts(texts, field)
        self.total = count_of(texts)
        self.index = self._begin()

    # -- the index -----------------------------------------------------------------------------

    def _begin(self) -> dict[str, Any]:
        """The index that is there, if it is of the same work, or a new one."""
        model, asked = self.model, self.asked
        model.dispatch()
        told = {
            "settings": asked.settings,
            "weights": _weights_hash(model),
            "edits": [getattr(edit, "source", "") for edit in model._edits],
        }
        found = read_index(self.folder)
        if found is None:
            if self.folder.exists() and any(
                not one.name.endswith(".part") and not one.name.startswith("shard-")
                for one in self.folder.iterdir()
            ):
                raise InputError(f"{self.folder} holds other files; give a folder of its own.")
            self.folder.mkdir(parents=True, exist_ok=True)
            return {
                "kind": "activations",
                "format": FORMAT,
                "complete": False,
                "provenance": provenance(model),
                **told,
                "sites": {},
                "empty": 0,
                "left_out": 0,
                "cut": 0,
                "shards": [],
            }
        old, new = dict(found["settings"]), dict(asked.settings)
        if old["over_long"] == "error":  # none was too long so far, so what is done is the same
            old["over_long"] = new["over_long"]
        other = [name for name in new if old.get(name) != new[name]]
        other += [name for name in ("weights", "edits") if found[name] != told[name]]
        if other:
            what = ", ".join(
                f"{name} {old[name]!r}, now {new[name]!r}" if name in new else f"other {name}"
                for name in other
            )
            raise InputError(
                f"{self.folder} holds a collection that was begun with {what}. To go on give the same; for "
                "another collection give another folder."
            )
        found["settings"] = asked.settings
        return found

    def _skip_done(self) -> int:
        """Go through the texts that are done, and see that they are the same."""
        number = 0
        for shard in self.index["shards"]:
            found = TextHash()
            first = number
            for _ in range(shard["texts"]):
                text = next(self.texts, None)
                if text is None:
                    break
                found.add(text)
                number += 1
            if found.value != shard["texts_sha256"]:
                raise InputError(
                    f"texts {first} to {first + shard['texts'] - 1} are not those that {self.folder} was "
                    "begun with. To go on give the same texts in the same order; for others give "
                    "another folder."
                )
        return number

    # -- the work ------------------------------------------------------------------------------

    def run(self, progress: bool | None) -> Collection:
        done = self._skip_done()
        began, tokens = time.monotonic(), 0
        bar = Progress(self.total, "collecting", progress, name_of(self.model), done=done)
        try:
            with bar:
                for chunk in self._chunks(done):
                    values: dict[str, torch.Tensor] = {}
                    for batch in _batches(chunk.ids, self.asked.batch_tokens):
                        self._run(chunk.ids, batch, values)
                        tokens += sum(len(chunk.ids[one]) for one in batch)
                        rate = tokens / max(time.monotonic() - began, 1e-9)
                        bar.update(len(batch), f"{rate:,.0f} tokens/s")
                    bar.update(sum(not ids for ids in chunk.ids))
                    self._write(chunk, values)
                if not self.index["complete"]:
                    self.index["complete"] = True
                    write_index(self.folder, self.index)
        except KeyboardInterrupt:
            count = sum(shard["texts"] for shard in self.index["shards"])
            warnings.warn(
                f"stopped; {count} texts are in {self.folder}, and the same call goes on from there.",
                NbsightWarning,
                stacklevel=3,
            )
            if not (self.folder / "index.json").exists():
                write_index(self.folder, self.index)
        found = Collection(self.folder)
        bar.job.keep(found)
        return found

    def _chunks(self, number: int) -> Iterator[_Chunk]:
        """The texts that are left, a shard at a time."""
        chunk = _Chunk()
        for number, text in enumerate(self.texts, number):  # noqa: B020 - goes on counting
            ids = self._ids(text, number, chunk)
            chunk.hash.add(text)
            chunk.ids.append(ids)
            chunk.tokens += len(ids)
            if chunk.tokens >= self.asked.shard_tokens:
                yield chunk
                chunk = _Chunk()
        if chunk.ids:
            yield chunk

    def _ids(self, text: Text, number: int, chunk: _Chunk) -> list[int]:
        ids = self._encode(text) if isinstance(text, str) else text
        most = self.asked.max_length
        if not ids:
            chunk.empty += 1
        elif most is not None and len(ids) > most:
            if self.asked.over_long == "cut":
                chunk.cut += 1
                return ids[:most]
            if self.asked.over_long == "leave_out":
                chunk.left_out += 1
                return []
            raise InputError(
                f"text {number} has {len(ids)} tokens, and at most {most} are taken. Write `over_long='cut'` "
                "or `over_long='leave_out'`; finished shards are kept, and the call goes on from them."
            )
        return ids

    def _encode(self, text: str) -> list[int]:
        self.model._need_tokenizer("nbsight.collect")
        return list(self.model._encoder.encode(text, {})["input_ids"])

    def _run(self, ids: list[list[int]], batch: list[int], values: dict[str, torch.Tensor]) -> None:
        """Run some texts of a chunk and put what they hold where it belongs."""
        starts = [0]
        for one in ids:
            starts.append(starts[-1] + len(one))
        places = torch.cat([torch.arange(starts[one], starts[one + 1]) for one in batch])

        def put(site: Site, value: torch.Tensor) -> None:
            name, kind = str(site), self.asked.dtype or value.dtype
            if name not in values:
                values[name] = torch.empty((starts[-1], *value.shape[1:]), dtype=kind)
            values[name][places] = value.to("cpu", kind)

        try:
            _forward(self.model, self.asked.sites, [ids[one] for one in batch], put)
            return
        except Exception as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
        let_go()  # here, where the error and all that it holds are gone
        half = len(batch) // 2
        self._run(ids, batch[:half], values)
        self._run(ids, batch[half:], values)

    def _write(self, chunk: _Chunk, values: dict[str, torch.Tensor]) -> None:
        if not values:  # nothing but empty texts: shapes are what is known of them
            values = {
                name: torch.empty((0, *known["shape"]), dtype=getattr(torch, known["dtype"]))
                for name, known in self.index["sites"].items()
            }
        index = self.index
        shard = write_shard(
            self.folder,
            len(index["shards"]),
            {
                "ids": torch.tensor([one for ids in chunk.ids for one in ids], dtype=torch.int32),
                "lengths": torch.tensor([len(ids) for ids in chunk.ids], dtype=torch.int32),
                **values,
            },
        )
        known = {
            name: {"shape": list(value.shape[1:]), "dtype": str(value.dtype).removeprefix("torch.")}
            for name, value in values.items()
        }
        shard.update(texts=len(chunk.ids), tokens=chunk.tokens, texts_sha256=chunk.hash.value)
        more = {name: index[name] + getattr(chunk, name) for name in ("empty", "left_out", "cut")}
        self.index = {**index, **more, "sites": known, "complete": False, "shards": [*index["shards"], shard]}
        write_index(self.folder, self.index)


def _batches(ids: list[list[int]], most: int) -> Iterator[list[int]]:
    """Texts of similar length together, the longest first; numbers of texts."""
    order = sorted((one for one in range(len(ids)) if ids[one]), key=lambda one: (-len(ids[one]), one))
    start = 0
    while start < len(order):
        rows = max(1, most // len(ids[order[start]]))
        yield order[start : start + rows]
        start += rows


def _forward(
    model: LanguageModel,
    sites: Sequence[Site],
    rows: list[list[int]],
    put: Callable[[Site, torch.Tensor], None],
) -> None:
    """Hand on what the sites hold at the tokens of some texts, (token, ...), one text after the other."""
    is_level = len({len(row) for row in rows}) == 1
    given: Any = torch.tensor(rows) if is_level else rows
    real: Any = None
    with model.trace(given, grad=False, receipts=False) as tracer:
        if not is_level:
            real = model.inputs[1]["attention_mask"].bool()
        for site in sites:
            value = read_site(model, site)
            # copied at once, because the model may write into the stream in place
            put(site, value.flatten(0, 1) if real is None else value[real.to(value.device)])
        tracer.stop()


# --- what is asked for ----------------------------------------------------------------------------


def _longest(model: LanguageModel, asked: int | None) -> int | None:
    most = model._limits.positions
    if asked is None:
        return most
    asked = _count(asked, "max_length")
    if most is not None and asked > most:
        raise InputError(f"max_length={asked}, and this model takes at most {most} tokens.")
    return asked


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r} is no number of tokens; write 1 or more.")
    return value


def _dtype(dtype: Any) -> torch.dtype | None:
    if dtype is not None and dtype not in _STORED.values():
        raise InputError(f"dtype={dtype!r} cannot be stored; write torch.{', torch.'.join(_STORED)}.")
    return dtype


def _weights_hash(model: LanguageModel) -> str:
    """Changes with the weights: of every parameter its shape and a few numbers over its length."""
    digest = hashlib.sha256()
    for name, value in model._module.named_parameters():
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        if value.device.type != "meta":
            flat = value.detach().reshape(-1)
            some = flat[:: max(1, len(flat) // 64)]
            digest.update(some.double().cpu().numpy().tobytes())
    return digest.hexdigest()
