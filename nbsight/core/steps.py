"""The steps of a generation: numbers that know their token.

`for step in tracer.iter[:]` gives them (loops.py) and `tracer.steps` lists them. A step is an `int`, so
it counts, compares and indexes like one. Which token a pass chose is known when the pass is over; asked
for earlier, in the body of the loop, it lets the model go on until then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from nbsight.errors import InputError, PathError

if TYPE_CHECKING:
    from nbsight.core.batching import Rows
    from nbsight.core.generation import Generation

__all__ = ["Step", "StepList", "Token"]

#: Lines of a list of steps that are shown.
SHOWN = 60


class Step(int):
    """The number of a pass of the model, counted from 0, with what the pass read and chose.

    In an invoke it knows the tokens of the invoke's own rows.
    """

    _generation: Generation | None
    _rows: Rows | None

    def __new__(cls, number: int, generation: Generation | None = None, rows: Rows | None = None) -> Step:
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

    def _known(self, what: str) -> Generation:
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

    def __reduce__(self) -> Any:
        return int, (int(self),)  # a copy is the number alone: a step belongs to its generation


class StepList(Sequence[Step]):
    """The steps that a generation has made so far. Print it to see their tokens."""

    def __init__(self, generation: Generation, rows: Rows | None = None) -> None:
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
        shown = range(count) if count <= SHOWN else [*range(SHOWN - 10), *range(count - 10, count)]
        lines, before = [f"{count} step{'' if count == 1 else 's'}"], -1
        for number in shown:
            if number != before + 1:
                lines.append("  …")
            lines.append(self._line(self._step(number)))
            before = number
        return "\n".join(lines)

    def _line(self, step: Step) -> str:
        generation = self._generation
        known = generation.knows(step)
        chosen = step._chosen() if known else []
        texts = ["–" if ids is None else generation.show(ids, with_ids=True) for ids in chosen] or ["…"]
        place = ""
        if generation.knows_tokens:
            at = step.position
            reads = f"the prompt, {at + 1} tokens" if step.is_prompt else f"position {at}"
            place = f"   reads {reads}"
        return f"  {int(step):>3}  {'  '.join(texts)}{place}" if known or place else f"  {int(step):>3}"


class Token:
    """A token that a generation has just chosen, as `on_token` gets it. Printed, it is its text.

    Attributes:
        step: The step that chose it.
        ids: Its id in each row; None where a row had ended.
        texts: What can be shown of each row now; put together they are the row's text. A character that
            takes several tokens comes with the last of them. None where a row had ended.
    """

    __slots__ = ("_has_texts", "ids", "step", "texts")

    def __init__(self, step: Step, ids: list[int | None], texts: list[str | None], has_texts: bool) -> None:
        self.step = step
        self.ids = ids
        self.texts = texts
        self._has_texts = has_texts

    @property
    def id(self) -> int | None:
        """The id, where there is one row."""
        return self.step._only(self.ids, "token.ids")

    @property
    def text(self) -> str:
        """The text, where there is one row; it may be empty."""
        if not self._has_texts:
            raise InputError("this model has no tokenizer, so a token has no text; `token.id` is its id.")
        return self.step._only(self.texts, "token.texts") or ""

    def __str__(self) -> str:
        parts = self.texts if self._has_texts else self.ids
        return " | ".join("" if part is None else str(part) for part in parts)

    def __repr__(self) -> str:
        shown = self.texts if self._has_texts else self.ids
        return f"Token(step {self.step}: {', '.join(map(repr, shown))})"
