"""The steps of a generation: numbers that know their token.

`for step in tracer.iter[:]` gives them (loops.py) and `tracer.steps` lists them. A step is an `int`, so
it counts, compares and indexes like one. Which token a pass chose is known when the pass is over; asked
for earlier, in the body of the loop, it lets the model go on until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

from nbsight.core.batching import Rows
from nbsight.errors import InputError, PathError

__all__ = ["Kept", "Step", "StepList", "StepRecord", "shown", "step_of", "steps_of"]

T = TypeVar("T")

#: Lines of a list of steps that are shown.
SHOWN = 60


class Knowledge(Protocol):
    """What is asked about steps: a running `Generation` (generation.py), or a `Kept` one."""

    is_ragged: bool

    @property
    def is_running(self) -> bool: ...
    @property
    def knows_tokens(self) -> bool: ...
    def count(self, rows: Rows | None) -> int: ...
    def width(self, rows: Rows | None) -> int: ...
    def knows(self, number: int) -> bool: ...
    def reads_prompt(self, number: int) -> bool: ...
    def position(self, number: int, rows: Rows | None) -> int: ...
    def chosen(self, number: int, rows: Rows | None) -> list[list[int] | None]: ...
    def text(self, ids: list[int]) -> str: ...
    def show(self, ids: list[int], with_ids: bool = False) -> str: ...


class Step(int):
    """The number of a pass of the model, counted from 0, with what the pass read and chose.

    In an invoke it knows the tokens of the invoke's own rows.
    """

    _generation: Knowledge | None
    _rows: Rows | None

    def __new__(cls, number: int, generation: Knowledge | None = None, rows: Rows | None = None) -> Step:
        """A step; without a generation it is a plain count of calls."""
        step = super().__new__(cls, number)
        step._generation = generation
        step._rows = rows
        return step

    @property
    def is_prompt(self) -> bool:
        """Whether this pass reads the prompt."""
        return self._known("is_prompt").reads_prompt(self)

    @property
    def position(self) -> int:
        """The position of the token that this pass reads (the last one, in the prompt pass).

        It is the position at which `stack_steps` puts this step's value.
        """
        return self._known("position").position(self, self._rows)

    @property
    def tokens(self) -> list[str | None]:
        """The text of the token that this pass chose in each row; None where a row had ended.

        Asked for in the body of a loop, it takes the model to the end of this pass.
        """
        generation = self._known("tokens")
        return [None if ids is None else generation.text(ids) for ids in self._chosen()]

    @property
    def token_ids(self) -> list[int | None]:
        """The id of the token that this pass chose in each row; None where a row had ended."""
        found: list[int | None] = []
        for ids in self._chosen():
            if ids is not None and len(ids) > 1:
                raise InputError(
                    f"step {int(self)} chose {len(ids)} tokens at once, as assisted generation does; "
                    "`step.tokens` has their text, `tracer.result` the ids."
                )
            found.append(ids[0] if ids else None)
        return found

    @property
    def token(self) -> str | None:
        """The text of the token that this pass chose, where there is one row.

        Raises:
            InputError: there are several rows, or the model has no tokenizer.
        """
        return self._only(self.tokens, "step.tokens")

    @property
    def token_id(self) -> int | None:
        """The id of the token that this pass chose, where there is one row."""
        return self._only(self.token_ids, "step.token_ids")

    def _only(self, values: list[Any], instead: str) -> Any:
        if len(values) != 1:
            raise InputError(
                f"step {int(self)} chose a token in each of {len(values)} rows; write `{instead}`, a list "
                "with one entry a row."
            )
        return values[0]

    def _chosen(self) -> list[list[int] | None]:
        return self._known("tokens").chosen(self, self._rows)

    def _known(self, what: str) -> Knowledge:
        if self._generation is None:
            raise InputError(
                f"`step.{what}` is for the steps of `model.generate(...)`. In `trace` the model makes one "
                "pass, and a loop counts the calls of a module within it."
            )
        return self._generation

    # As text a step is its number, since programs print it and write it into names.
    __str__ = int.__repr__

    def __format__(self, spec: str) -> str:
        return format(int(self), spec)

    def __repr__(self) -> str:
        generation = self._generation
        if generation is None or not generation.knows(self):
            return f"Step({int(self)})"
        tokens = [None if ids is None else generation.show(ids) for ids in self._chosen()]
        chosen = str(tokens[0]) if len(tokens) == 1 else f"[{', '.join(map(str, tokens))}]"
        return f"Step({int(self)}: {'the prompt, ' if self.is_prompt else ''}{chosen})"

    def record(self) -> StepRecord:
        """What is known of it now, as plain data; nothing lets the model go on for it."""
        generation = self._generation
        if generation is None:
            return StepRecord(int(self))
        position = _if_known(lambda: self.position)
        if not generation.knows(self):
            return StepRecord(int(self), self.is_prompt, position)
        ids = self._chosen()
        texts = _if_known(lambda: [None if row is None else generation.text(row) for row in ids])
        return StepRecord(int(self), self.is_prompt, position, ids, texts)

    def __reduce__(self) -> Any:
        return step_of, (self.record(),)  # a copy leaves the generation and takes what it knows


class StepList(Sequence[Step]):
    """The steps that a generation has made so far. Print it to see their tokens."""

    def __init__(self, generation: Knowledge, rows: Rows | None = None) -> None:
        self._generation = generation
        self._rows = rows

    def __len__(self) -> int:
        return self._generation.count(self._rows)

    @overload
    def __getitem__(self, key: int) -> Step: ...

    @overload
    def __getitem__(self, key: slice) -> list[Step]: ...

    def __getitem__(self, key: int | slice) -> Step | list[Step]:
        count = len(self)
        if isinstance(key, slice):
            return [self._step(number) for number in range(count)[key]]
        if not -count <= key < count:
            raise PathError(
                f"there is no step {key}: this generation has made "
                + (f"{count} steps, 0 to {count - 1}." if count else "no step yet.")
            )
        return self._step(key % count)

    def __iter__(self) -> Iterator[Step]:
        # Not through `__getitem__`: its error is no `IndexError`.
        return map(self._step, range(len(self)))

    def _step(self, number: int) -> Step:
        return Step(number, self._generation, self._rows)

    def __repr__(self) -> str:
        count = len(self)
        head = f"{count} step{'' if count == 1 else 's'}"
        shown = range(count) if count <= SHOWN else [*range(SHOWN - 10), *range(count - 10, count)]
        table = [[str(number), *self._chosen(number), self._reads(number)] for number in shown]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([row[0].rjust(widths[0]), *map(str.ljust, row[1:], widths[1:])]).rstrip()
            for row in table
        ]
        if count > SHOWN:
            lines.insert(SHOWN - 10, "…")
        return "\n".join([head, *(f"  {line}" for line in lines)])

    def __reduce__(self) -> Any:
        return steps_of, ([step.record() for step in self],)

    def _chosen(self, number: int) -> list[str]:
        """What a step chose, one text a row; nothing lets the model go on for it."""
        generation = self._generation
        if not generation.knows_tokens:
            return []
        if not generation.knows(number):
            return ["…" if generation.is_running else ""] * generation.width(self._rows)
        chosen = generation.chosen(number, self._rows)
        return ["–" if ids is None else generation.show(ids, with_ids=True) for ids in chosen]

    def _reads(self, number: int) -> str:
        generation = self._generation
        if not generation.knows_tokens:
            return "the prompt" if generation.reads_prompt(number) else ""
        at = _if_known(lambda: generation.position(number, self._rows))
        if at is None:
            return ""
        if self._rows is None and generation.is_ragged:
            return "reads the prompts" if generation.reads_prompt(number) else ""
        if generation.reads_prompt(number):
            return f"reads the prompt, {at + 1} token{'' if at == 0 else 's'}"
        return f"reads position {at}"


# -- away from their generation --------------------------------------------------------------------


@dataclass(frozen=True)
class StepRecord:
    """What is known of one step, as plain data: what a copy of it needs, or the other end of a wire.

    Args:
        number: The step.
        is_prompt: Whether it read the prompt; None for the calls of a module in one forward.
        position: The position of the token that it read last; None if that is not known.
        ids: For each row the ids that it chose; None if that is not known.
        texts: Their texts; None without a tokenizer.
    """

    number: int
    is_prompt: bool | None = None
    position: int | None = None
    ids: list[list[int] | None] | None = None
    texts: list[str | None] | None = None


class Kept:
    """What is known of steps that have left their generation.

    Args:
        records: A record of each step.
    """

    is_running = is_ragged = False

    def __init__(self, records: Iterable[StepRecord]) -> None:
        self._records = {record.number: record for record in records}
        self._texts: dict[tuple[int, ...], str] = {}
        for record in self._records.values():
            for ids, text in zip(record.ids or (), record.texts or (), strict=False):
                if ids is not None and text is not None:
                    self._texts[tuple(ids)] = text

    def _record(self, number: int) -> StepRecord:
        return self._records.get(int(number)) or StepRecord(int(number))

    @property
    def knows_tokens(self) -> bool:
        """Whether the tokens of any step are known."""
        return any(record.ids is not None for record in self._records.values())

    def count(self, rows: Rows | None) -> int:
        """The number of steps."""
        return len(self._records)

    def width(self, rows: Rows | None) -> int:
        """The number of rows."""
        return max((len(record.ids or ()) for record in self._records.values()), default=1)

    def knows(self, number: int) -> bool:
        """Whether the tokens of a step are known."""
        return self._record(number).ids is not None

    def reads_prompt(self, number: int) -> bool:
        """Whether a step read the prompt."""
        return bool(self._record(number).is_prompt)

    def position(self, number: int, rows: Rows | None) -> int:
        """The position of the last token that a step read."""
        return self._need(self._record(number).position, number)

    def chosen(self, number: int, rows: Rows | None) -> list[list[int] | None]:
        """The ids that a step chose, one list a row."""
        return self._need(self._record(number).ids, number)

    def text(self, ids: list[int]) -> str:
        """The text of ids that a step chose."""
        return self._need(self._texts.get(tuple(ids)), 0)

    def show(self, ids: list[int], with_ids: bool = False) -> str:
        """Ids as a message or a list shows them."""
        return shown(ids, self._texts.get(tuple(ids)), with_ids)

    def _need(self, value: Any, number: int) -> Any:
        if value is None:
            raise InputError(
                f"this is a copy of step {int(number)}, made when that was not known. Copy steps after the "
                "generation, and of a model with a tokenizer."
            )
        return value


def shown(ids: list[int], text: str | None, with_ids: bool) -> str:
    """Ids as a message or a list shows them."""
    numbers = " ".join(map(str, ids))
    return numbers if text is None else f"{text!r}" + (f" ({numbers})" if with_ids else "")


def step_of(record: StepRecord) -> Step:
    """A step with what a record says of it."""
    return Step(record.number, None if record.is_prompt is None else Kept([record]))


def steps_of(records: list[StepRecord]) -> StepList:
    """A list of steps with what their records say of them."""
    return StepList(Kept(records))


def _if_known(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except InputError:
        return None
