"""Every error nbsight raises on purpose, as one small tree.

    NbsightError
    ├── InputError (ValueError)          the prompt or the arguments of a trace
    ├── ModelLoadError (OSError)         a model or tokenizer that cannot be had
    ├── PathError (AttributeError, LookupError)   no such module, index or name
    ├── OutsideTraceError (ValueError)   a value asked for where nothing runs
    ├── OutOfOrderError (ValueError)     a place the model has already passed
    ├── NeverCalledError (ValueError)    a module the model never called
    ├── EditError (ValueError)           a value that does not fit where it was written
    ├── ModelRunError (RuntimeError)     the model failed, often because of an edit
    ├── NotFiniteError (FloatingPointError)   NaN or Inf, in a trace that was asked to watch for it
    ├── GraphError (RuntimeError)        a gradient asked for where none was recorded
    ├── CaptureError (ValueError)        a block whose text is needed and cannot be had or used
    ├── SourceNotAvailable (ValueError)  a forward that cannot be shown operation by operation
    ├── NotEnoughMemoryError (MemoryError)   weights or values that do not fit into memory
    ├── UnknownArchitectureError (ValueError)   an analysis that does not know where to look in a model
    ├── StorageError (OSError)           a disk that is full, or files there that are damaged
    └── RemoteError (RuntimeError)       a block that cannot travel, or a job that failed

Each message says what was asked, what is there and what to write instead.

`NbsightWarning` has three: `OrderNotice`, `MemoryNotice`, and `EditWarning` for an edit that may not do what
was meant.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CaptureError",
    "EditError",
    "EditWarning",
    "GraphError",
    "InputError",
    "MemoryNotice",
    "ModelLoadError",
    "ModelRunError",
    "NbsightError",
    "NbsightWarning",
    "NeverCalledError",
    "NotEnoughMemoryError",
    "NotFiniteError",
    "OrderNotice",
    "OutOfOrderError",
    "OutsideTraceError",
    "PathError",
    "RemoteError",
    "SourceNotAvailable",
    "StorageError",
    "UnknownArchitectureError",
]


class NbsightError(Exception):
    """Base of all errors that nbsight raises on purpose."""


class InputError(NbsightError, ValueError):
    """The prompt or the arguments of a trace cannot be used."""


class ModelLoadError(NbsightError, OSError):
    """A model, its configuration or its tokenizer cannot be had."""


class PathError(NbsightError, AttributeError, LookupError):
    """There is no such module, index or name.

    It is an `AttributeError` so that `hasattr` and completion work, and a `LookupError` so that
    indexing code can catch it.
    """


class OutsideTraceError(NbsightError, ValueError):
    """A value was asked for where no model is running."""


class OutOfOrderError(NbsightError, ValueError):
    """A value was asked for after the model had passed the place where it is made."""


class NeverCalledError(NbsightError, ValueError):
    """The run ended and the module had not been called."""


class EditError(NbsightError, ValueError):
    """A value does not fit the place it was written to."""

    #: Where it was written, as a code object and an offset in it, if the error came up later.
    line: Any = None


class ModelRunError(NbsightError, RuntimeError):
    """The model failed while it ran; `original` is the error that it raised."""

    original: BaseException | None = None


class NotFiniteError(NbsightError, FloatingPointError):
    """NaN or Inf came up in a trace with `check_finite=True`."""


class GraphError(NbsightError, RuntimeError):
    """A gradient was asked for where no graph was recorded."""


class CaptureError(NbsightError, ValueError):
    """The text of a block is needed and cannot be found, or holds what cannot wait."""


class SourceNotAvailable(NbsightError, ValueError):
    """A forward cannot be shown operation by operation."""


class NotEnoughMemoryError(NbsightError, MemoryError):
    """Weights, or the values that a run keeps, do not fit into the memory that is free."""


class UnknownArchitectureError(NbsightError, ValueError):
    """An analysis needs a part of the model that could not be found in it."""


class StorageError(NbsightError, OSError):
    """Files could not be written, or are not what was written."""


class RemoteError(NbsightError, RuntimeError):
    """A block cannot travel, or the job that ran it failed."""

    #: What a server calls it ("time_limit", "unknown_model", ...); empty where none was asked.
    code = ""
    #: Whether the same may succeed later.
    retryable = False


class NbsightWarning(UserWarning):
    """Something that is probably not meant, said on one line; silence it by this class."""


class OrderNotice(NbsightWarning):
    """A value was read after the model had passed it, at the price of another forward."""


class MemoryNotice(NbsightWarning):
    """Values like those that were just saved would not all fit into memory."""


class EditWarning(NbsightWarning):
    """An edit that may not do what was meant."""
