"""What all results share: named dimensions, tables, files, and where the numbers come from.

A result is a frozen dataclass. Its arrays say in their declaration which dimensions they have and
in what unit they are; from that follow the checks of shape, the tables and the files:

    @dataclass(frozen=True, eq=False, repr=False)
    class Norms(Result):
        layers: Sequence[int] = coordinate("layer")
        tokens: Sequence[str] = coordinate("position")
        norm: NDArray[np.float32] = variable("layer", "position", unit="L2 norm")
"""

from __future__ import annotations

import hashlib
import importlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from nbsight.display import html
from nbsight.errors import InputError

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["Result", "coordinate", "load_result", "variable"]

FORMAT = 1
_PACKAGES = ("nbsight", "torch", "transformers")

R = TypeVar("R", bound="Result")


def variable(*dims: str, unit: str = "", name: str | None = None, **options: Any) -> Any:
    """Declare an array of a result.

    Args:
        dims: Its dimensions, in order.
        unit: What a number is, as one would write it at an axis.
        name: Its name in tables, if another than the attribute's.
        options: As for `dataclasses.field`.
    """
    return field(metadata={"dims": dims, "unit": unit, "name": name}, **options)


def coordinate(dim: str, *, name: str | None = None, **options: Any) -> Any:
    """Declare the labels along a dimension.

    Args:
        dim: The dimension that they label.
        name: Their name in tables: the dimension's own, if not given.
        options: As for `dataclasses.field`.
    """
    return field(metadata={"along": dim, "name": name or dim}, **options)


_kinds: dict[str, type[Result]] = {}


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Base of all results.

    Args:
        provenance: What the numbers depend on: model, revision, dtype, prompts, seed, versions.
            Plain values only.
    """

    #: What it is, in the words of a methods section.
    title: ClassVar[str] = "result"

    provenance: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):  # what several kinds share is none itself
            _kinds[cls.__name__] = cls

    def __post_init__(self) -> None:
        settle = object.__setattr__  # frozen: arrays and labels are made uniform once, here
        sizes: dict[str, tuple[int, str]] = {}
        for own in fields(self):
            value = getattr(self, own.name)
            if "along" in own.metadata:
                settle(self, own.name, tuple(value))
                self._agree(sizes, own.metadata["along"], len(getattr(self, own.name)), own.name)
        for own in fields(self):
            if "dims" not in own.metadata or getattr(self, own.name) is None:
                continue
            array = np.asarray(getattr(self, own.name))
            settle(self, own.name, array)
            dims = own.metadata["dims"]
            if array.ndim != len(dims):
                raise ValueError(f"{own.name} is ({', '.join(dims)}) and was given shape {array.shape}.")
            for dim, size in zip(dims, array.shape, strict=True):
                self._agree(sizes, dim, size, own.name)

    def _agree(self, sizes: dict[str, tuple[int, str]], dim: str, size: int, name: str) -> None:
        known, other = sizes.setdefault(dim, (size, name))
        if known != size:
            raise ValueError(
                f"{type(self).__name__}: `{name}` has {size} entries along `{dim}` and `{other}` has {known}."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is not saved: a model does not travel with its results."""
        kept = {own.name: own.default for own in fields(self) if not own.metadata.get("saved", True)}
        return {**self.__dict__, **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)  # frozen: `setattr` would refuse

    # -- on show -------------------------------------------------------------------------------

    def _repr_html_(self) -> str:
        """What a notebook shows: the same as the text repr, with what it depends on as a hint."""
        known = self.provenance
        names = ("model", "revision", "dtype", "attn_implementation", "seed", *_PACKAGES)
        hint = " · ".join(f"{name} {known[name]}" for name in names if known.get(name) is not None)
        return html.document(*self._html(), title=hint)

    def _html(self) -> Sequence[str]:
        """The parts of the HTML; for results without tables of their own their text."""
        head, _, rest = repr(self).partition("\n")
        return html.heading(head), html.preformatted(rest)

    # -- as tables -----------------------------------------------------------------------------

    def to_xarray(self) -> xarray.Dataset:
        """All arrays with their dimensions, labels and units (needs xarray)."""
        import xarray

        data = {
            table: (own.metadata["dims"], array, {"unit": own.metadata["unit"]})
            for table, own, array in self._variables()
        }
        coords: dict[str, Any] = {}
        for name, dim, labels in self._coordinates():
            if name == dim or not _are_words(labels):
                coords[name] = (dim, _array(labels))
            else:  # words may occur twice, so they cannot be the index
                coords.setdefault(dim, np.arange(len(labels)))
                coords[name] = (dim, _array(labels))
        # Only what a file of xarray's can hold.
        known = {name: value for name, value in self.provenance.items() if value is not None}
        plain = {
            name: json.dumps(_plain(v)) if isinstance(v, (Mapping, bool)) else v for name, v in known.items()
        }
        return xarray.Dataset(data, coords=coords, attrs={"kind": type(self).__name__, **plain})

    def to_dataframe(self, variable: str | None = None) -> pandas.DataFrame:
        """One row for each entry of an array, its labels beside it (needs pandas).

        Arrays over some of its dimensions are in the table, too, repeated along the others.

        Args:
            variable: Name of the array, as `to_xarray` has it; by default the one with most dimensions.

        Raises:
            InputError: there is no such array.
        """
        import pandas

        dims = self._dims(variable)
        shape = tuple(dims.values())
        places = dict(zip(dims, np.indices(shape).reshape(len(shape), -1), strict=True))
        columns: dict[str, Any] = {}
        for dim, index in places.items():
            labels = [(name, values) for name, along, values in self._coordinates() if along == dim]
            if not any(name == dim for name, _ in labels):
                columns[dim] = index
            for name, values in labels:
                columns[name] = _array(values)[index]
        for table, own, array in self._variables():
            if set(own.metadata["dims"]) <= set(dims):
                columns[table] = array[tuple(places[dim] for dim in own.metadata["dims"])]
        return pandas.DataFrame(columns)

    def _variables(self) -> list[tuple[str, Any, Any]]:
        return [
            (own.metadata["name"] or own.name, own, getattr(self, own.name))
            for own in fields(self)
            if "dims" in own.metadata and getattr(self, own.name) is not None
        ]

    def _coordinates(self) -> list[tuple[str, str, Sequence[Any]]]:
        return [
            (own.metadata["name"], own.metadata["along"], getattr(self, own.name))
            for own in fields(self)
            if "along" in own.metadata
        ]

    def _dims(self, variable: str | None) -> dict[str, int]:
        """The dimensions of one array and their sizes."""
        every = {table: (own, array) for table, own, array in self._variables()}
        if variable is None:
            variable = max(every, key=lambda table: every[table][1].ndim)
        elif variable not in every:
            raise InputError(
                f"there is no {variable!r} in this {type(self).__name__}; it has {', '.join(every)}."
            )
        own, array = every[variable]
        return dict(zip(own.metadata["dims"], array.shape, strict=True))

    # -- as a file -----------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the result to a file that `load_result` reads: arrays and JSON, no pickle.

        Args:
            path: Where; `.npz` is added if there is no ending.
        """
        path = Path(path)
        path = path if path.suffix else path.with_suffix(".npz")
        arrays: dict[str, Any] = {}
        plain: dict[str, Any] = {}
        for own in fields(self):
            value = getattr(self, own.name)
            if not own.metadata.get("saved", True):
                continue
            if isinstance(value, np.ndarray) and value.dtype != object:
                arrays[own.name] = value
            elif isinstance(value, np.ndarray):
                plain[own.name] = {"words": value.ravel().tolist(), "shape": list(value.shape)}
            else:
                plain[own.name] = _plain(value)
        header = {"format": FORMAT, "kind": type(self).__name__, "fields": plain}
        text = json.dumps(header, ensure_ascii=False).encode()
        with path.open("wb") as file:
            np.savez_compressed(file, header=np.frombuffer(text, np.uint8), **arrays)
        return path

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read a result of this kind from a file."""
        found = load_result(path)
        if not isinstance(found, cls):
            raise InputError(f"{path} holds a {type(found).__name__}, not a {cls.__name__}.")
        return found

    # -- where it comes from -------------------------------------------------------------------

    @property
    def hash(self) -> str:
        """Twelve characters that change whenever a number, a label or the provenance does."""
        digest = hashlib.sha256()
        for own in fields(self):
            if not own.metadata.get("saved", True):
                continue
            value = getattr(self, own.name)
            digest.update(own.name.encode())
            if isinstance(value, np.ndarray) and value.dtype != object:
                digest.update(f"{value.dtype}{value.shape}".encode())
                digest.update(np.ascontiguousarray(value).tobytes())
            else:
                value = value.tolist() if isinstance(value, np.ndarray) else _plain(value)
                digest.update(json.dumps(value, sort_keys=True, default=str).encode())
        return digest.hexdigest()[:12]

    def cite(self) -> str:
        """The sentence for a methods section: what was computed, on what, with what."""
        known = self.provenance
        model = str(known.get("model", "an unnamed model"))
        if known.get("revision"):
            model += f" (revision {str(known['revision'])[:12]})"
        how = [str(known[name]) for name in ("dtype",) if known.get(name)]
        if known.get("attn_implementation"):
            how.append(f"{known['attn_implementation']} attention")
        if known.get("seed") is not None:
            how.append(f"seed {known['seed']}")
        packages = [f"{name} {known[name]}" for name in _PACKAGES if known.get(name)]
        return (
            f"{self.title[:1].upper()}{self.title[1:]} of {model}"
            + (f" in {', '.join(how)}" if how else "")
            + (f", computed with {', '.join(packages)}" if packages else "")
            + f" (result {self.hash})."
        )


def load_result(path: str | Path) -> Any:
    """Read a result that `save` wrote.

    Args:
        path: The file.

    Raises:
        InputError: it is not such a file, or of a kind that this version does not know.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop("header").tobytes())
        kind, plain = header["kind"], header["fields"]
    except (EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a result that nbsight saved: {error}.") from None
    if kind not in _kinds:
        # Each kind is known once its module is imported, and a new kernel may only want to look.
        for module in Path(__file__).parent.glob("*.py"):
            importlib.import_module(f"{__package__}.{module.stem}")
    if header.get("format") != FORMAT or kind not in _kinds:
        raise InputError(
            f"{path} holds a {kind} of format {header.get('format')}; this version reads format {FORMAT} of "
            f"{', '.join(sorted(_kinds))}."
        )
    cls = _kinds[kind]
    values: dict[str, Any] = {}
    for own in fields(cls):
        if own.name in arrays:
            values[own.name] = arrays[own.name]
        elif own.name in plain:
            value = plain[own.name]
            if "dims" in own.metadata and value is not None:
                words = np.empty(len(value["words"]), object)
                words[:] = value["words"]
                value = words.reshape(value["shape"])
            values[own.name] = value
    return cls(**values)


def _plain(value: Any) -> Any:
    """The value in what JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def _are_words(labels: Sequence[Any]) -> bool:
    return any(isinstance(label, str) for label in labels)


def _array(labels: Sequence[Any]) -> Any:
    if not _are_words(labels):
        return np.array(labels)
    words = np.empty(len(labels), object)
    words[:] = list(labels)
    return words
