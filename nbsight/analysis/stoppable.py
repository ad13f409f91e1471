"""Sweeps that can be watched, stopped and gone on with: what patching and ablation share."""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from nbsight.analysis.memory import is_out_of_memory, let_go
from nbsight.analysis.progress import Progress
from nbsight.core.displays import name_of
from nbsight.errors import InputError, NbsightWarning
from nbsight.models.language_model import LanguageModel

__all__ = ["Stoppable"]

R = TypeVar("R")


class Stoppable(ABC, Generic[R]):
    """Runs in batches, with a result at any time.

    for partial in sweep:      # a result after each batch
        ...
    """

    model: LanguageModel
    #: What the bar is labelled with.
    what = "sweep"

    @abstractmethod
    def __len__(self) -> int:
        """The number of runs."""

    @property
    @abstractmethod
    def done(self) -> int:
        """How many of them are done."""

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether all are."""

    @abstractmethod
    def result(self) -> R:
        """What is known so far."""

    @abstractmethod
    def _batches(self) -> Iterator[int]:
        """Run what is left, batch by batch."""

    def __iter__(self) -> Iterator[R]:
        for _ in self._batches():
            yield self.result()

    def run(self, *, progress: bool | None = None, on_batch: Callable[[R], None] | None = None) -> R:
        """Do what is left and return the result; what stops it half way returns what is there.

        Args:
            progress: Whether to show a bar; by default when it takes longer than half a second.
            on_batch: Called with what is known so far after every batch.

        Raises:
            InputError: a metric that gives no number for some run. Its `result` is what was done before.
        """
        bar = Progress(len(self), self.what, progress, name_of(self.model), done=self.done)
        try:
            with bar:
                for _ in self._batches():
                    bar.update(self.done - bar.n)
                    if on_batch is not None:
                        on_batch(self.result())
        except KeyboardInterrupt:
            self._say("stopped")
        except Exception as error:
            if not self.done:
                raise
            if not is_out_of_memory(error):
                raise self._with_result(error) from error.__cause__
            self._say(f"memory ran out ({(str(error) or type(error).__name__).splitlines()[0]})")
            let_go()
        result = self.result()
        bar.job.keep(result)
        return result

    def _say(self, why: str) -> None:
        level, frame = 1, sys._getframe()
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("nbsight."):
            level, frame = level + 1, frame.f_back
        said = f"{why} after {self.done} of {len(self)} runs; the rest are NaN. `result.resume()` goes on."
        warnings.warn(said, NbsightWarning, stacklevel=level)

    def _with_result(self, error: Exception) -> Exception:
        """The error, with what was done before it."""
        if type(error) is InputError:
            error = InputError(
                f"{error}\nThe {self.done} of {len(self)} runs before it are in the error's `.result`."
            )
        error.result = self.result()  # type: ignore[attr-defined]
        return error
