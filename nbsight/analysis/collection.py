"""Collected activations, read back: memory-mapped, by text or token, or as shuffled batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from nbsight.analysis.shards import file_hash, read_index
from nbsight.errors import InputError, StorageError

__all__ = ["Batch", "Collection"]

_OPEN = 64
"""Shards that are mapped at a time."""


@dataclass(frozen=True)
class Batch:
    """Tokens of a collection, with what the model held there.

    Args:
        values: By site, (token, ...).
        ids: Ids of the tokens, (token,).
        texts: Which text each is of, (token,).
        positions: Where in it, counted from its first token, (token,).
    """

    values: Mapping[str, torch.Tensor]
    ids: torch.Tensor
    texts: torch.Tensor
    positions: torch.Tensor


class Collection:
    """What `nbsight.collect` wrote to a folder.

        col = Collection("activations")
        col.values(17)                        # (position, d_model) of text 17, from the file
        for batch in col.batches(1024):       # shuffled tokens
            batch.values["layers.3.resid_post"]

    Args:
        folder: The folder.

    Attributes:
        sites: Names of the sites, in the order of a forward.
        shapes: The shape of one token's value, by site.
        provenance: Model, revision, dtype, versions and settings.
        is_complete: Whether all texts are in it.
        skipped: Texts without tokens, and texts that were too long and left out or cut.

    Raises:
        InputError: there is no collection.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = read_index(self.folder)
        if index is None:
            raise InputError(
                f"{self.folder} holds no collected activations; `nbsight.collect(model, texts, sites, "
                "folder)` writes some."
            )
        self._index = index
        self.sites: tuple[str, ...] = tuple(index["sites"])
        self.shapes = {name: tuple(known["shape"]) for name, known in index["sites"].items()}
        self.provenance: dict[str, Any] = index["provenance"]
        self.is_complete: bool = index["complete"]
        self.skipped: dict[str, int] = {name: index[name] for name in ("empty", "left_out", "cut")}
        shards = index["shards"]
        self._texts = np.cumsum([0, *(shard["texts"] for shard in shards)])
        self._tokens = np.cumsum([0, *(shard["tokens"] for shard in shards)])
        self._mapped: OrderedDict[int, _Shard] = OrderedDict()

    def __len__(self) -> int:
        """The number of texts, those without tokens included."""
        return int(self._texts[-1])

    @property
    def n_tokens(self) -> int:
        """The number of tokens in all texts."""
        return int(self._tokens[-1])

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(shard["bytes"] for shard in self._index["shards"])

    # -- one text ------------------------------------------------------------------------------

    def values(self, text: int, site: str | None = None) -> torch.Tensor:
        """What the model held at every position of one text, (position, ...), straight from the file.

        Args:
            text: The number of the text, counted from 0; negative ones count from the end.
            site: Which site, where there are several.
        """
        shard, first, last = self._where(text)
        return shard.tensors[self._site(site)][first:last]

    def ids(self, text: int) -> torch.Tensor:
        """The ids of one text's tokens, int64, (position,)."""
        shard, first, last = self._where(text)
        return shard.tensors["ids"][first:last].long()

    def length(self, text: int) -> int:
        """How many tokens one text has."""
        _, first, last = self._where(text)
        return last - first

    def _where(self, text: int) -> tuple[_Shard, int, int]:
        if not -len(self) <= text < len(self):
            raise InputError(f"there are {len(self)} texts, 0 to {len(self) - 1}; there is no {text}.")
        text %= len(self)
        number = int(np.searchsorted(self._texts, text, "right")) - 1
        shard = self._shard(number)
        own = text - int(self._texts[number])
        return shard, int(shard.starts[own]), int(shard.starts[own + 1])

    # -- tokens of all texts -------------------------------------------------------------------

    def tokens(self, numbers: Any, sites: Any = None) -> Batch:
        """Tokens by their number in the whole collection.

        Args:
            numbers: Numbers from 0 to `n_tokens` - 1, in any order.
            sites: The names of some sites; all by default.
        """
        wanted = np.asarray(numbers, np.int64).reshape(-1)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < self.n_tokens):
            raise InputError(f"there are {self.n_tokens} tokens, counted from 0.")
        names = self._sites(sites)
        owner = np.searchsorted(self._tokens, wanted, "right") - 1
        values = {
            name: torch.empty((len(wanted), *self.shapes[name]), dtype=self._dtype(name)) for name in names
        }
        ids, texts, positions = (torch.empty(len(wanted), dtype=torch.int64) for _ in range(3))
        for number in np.unique(owner):
            shard = self._shard(int(number))
            rows = np.flatnonzero(owner == number)
            own = wanted[rows] - self._tokens[number]
            order = np.argsort(own)  # the file is read from front to back
            rows, own = torch.from_numpy(rows[order]), own[order]
            at = torch.from_numpy(own)
            for name in names:
                values[name][rows] = shard.tensors[name][at]
            text = np.searchsorted(shard.starts, own, "right") - 1
            ids[rows] = shard.tensors["ids"][at].long()
            texts[rows] = torch.from_numpy(text + self._texts[number])
            positions[rows] = torch.from_numpy(own - shard.starts[text])
        return Batch(values, ids, texts, positions)

    def batches(
        self,
        size: int,
        sites: Any = None,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        skip_first: bool = False,
    ) -> Iterator[Batch]:
        """Every token once, in batches.

        Args:
            size: Tokens in one batch.
            sites: The names of some sites; all by default.
            shuffle: Whether tokens of all shards are mixed; 8 bytes of memory a token.
            seed: What the order is drawn with; another one for each epoch.
            drop_last: Whether a last batch that is not full is left out.
            skip_first: Whether the first token of each text is left out, where many models park attention.
        """
        if not isinstance(size, int) or size < 1:
            raise InputError(f"size={size!r} is no number of tokens; write 1 or more.")
        numbers = np.arange(self.n_tokens)
        if skip_first:
            first = [
                self._shard(number).starts[:-1][np.diff(self._shard(number).starts) > 0] + before
                for number, before in enumerate(self._tokens[:-1])
            ]
            numbers = np.delete(numbers, np.concatenate(first)) if first else numbers
        if shuffle:
            numbers = np.random.default_rng(seed).permutation(numbers)
        end = len(numbers) - len(numbers) % size if drop_last else len(numbers)
        for start in range(0, end, size):
            yield self.tokens(numbers[start : start + size], sites)

    # -- files ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Read every file and compare it with the hash that was taken when it was written.

        Raises:
            StorageError: some are missing or not what was written; the message names them.
        """
        bad = []
        for shard in self._index["shards"]:
            path = self.folder / shard["file"]
            if not path.exists() or file_hash(path) != shard["sha256"]:
                bad.append(f"{shard['file']} ({'changed' if path.exists() else 'missing'})")
        if bad:
            raise StorageError(f"{self.folder} is damaged: {', '.join(bad)}.")

    def _shard(self, number: int) -> _Shard:
        if number in self._mapped:
            self._mapped.move_to_end(number)
            return self._mapped[number]
        known = self._index["shards"][number]
        path = self.folder / known["file"]
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in ("ids", "lengths", *self.sites)}
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{path} cannot be read: {error}. `collection.check()` reads all.") from None
        starts = np.concatenate([[0], np.cumsum(tensors.pop("lengths").numpy().astype(np.int64))])
        self._mapped[number] = _Shard(tensors, starts)
        while len(self._mapped) > _OPEN:
            self._mapped.popitem(last=False)
        return self._mapped[number]

    def _dtype(self, site: str) -> torch.dtype:
        return getattr(torch, self._index["sites"][site]["dtype"])

    def _site(self, site: str | None) -> str:
        if site is None and len(self.sites) == 1:
            return self.sites[0]
        if site not in self.sites:
            asked = "which site is not said" if site is None else f"there is no {site!r} here"
            raise InputError(f"{asked}; there are {', '.join(self.sites)}.")
        return site

    def _sites(self, sites: Any) -> list[str]:
        if sites is None:
            return list(self.sites)
        return [self._site(name) for name in ([sites] if isinstance(sites, str) else sites)]

    def __repr__(self) -> str:
        state = "" if self.is_complete else ", not complete"
        said = {"empty": "without tokens", "left_out": "too long and left out", "cut": "cut off"}
        odd = "".join(f", {count} {said[name]}" for name, count in self.skipped.items() if count)
        head = (
            f"Collection of {self.provenance['model']}: {len(self)} texts, {self.n_tokens} tokens, "
            f"{self.nbytes / 1e6:.1f} MB in {len(self._index['shards'])} shards{odd}{state}"
        )
        lines = [head]
        for name, known in self._index["sites"].items():
            lines.append(f"  {name}: (token, {', '.join(map(str, known['shape']))}), {known['dtype']}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Shard:
    """One file: its tensors, which are read when they are touched, and where each text begins."""

    tensors: dict[str, torch.Tensor]
    starts: NDArray[np.int64]
