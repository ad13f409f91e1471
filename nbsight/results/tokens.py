"""The tokens of a prompt: their exact text, and positions found by number, slice or string."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbsight.display import html
from nbsight.display.text import shorten, visible
from nbsight.errors import InputError
from nbsight.results.base import Result, coordinate, variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Token", "TokenBatch", "Tokens", "found_in"]

WIDTH = 100
"""Characters in a line of a table."""

SHOWN = 40
"""Prompts on show."""

Where = int | slice | str | Sequence[Any]


@dataclass(frozen=True)
class Token:
    """One token.

    Args:
        position: Its place, counted from the prompt's own first token.
        id: Its id.
        text: Its exact text, a leading blank included.
        start: The first character of the prompt's text that it stands for.
        end: The character after its last.
    """

    position: int
    id: int
    text: str
    start: int
    end: int

    def __repr__(self) -> str:
        return f"Token({self.position}: {visible(self.text)}, id {self.id})"


@dataclass(frozen=True, eq=False, repr=False)
class Tokens(Result):
    """The tokens of one prompt.

    A position is a number (negative ones count from the end), a slice, or a string of the text: then
    the tokens that hold any of its characters are meant. Blanks at the ends of a string do not count.

    Args:
        text: The text that the offsets count in; where ids were given, the tokens' own texts in a row.
        has_bos: Whether the first is the tokenizer's token for the beginning of a text: position 0 then.
        strings: Their exact texts, leading blanks included.
        ids: Their ids.
        start: For each the first character in `text` that it stands for.
        end: For each the character after its last.
        special: Whether each is one of the tokenizer's special tokens.
        roles: For a chat whose message each belongs to, "" for none; None for what is no chat.
        messages: The number of that message, -1 for none.
        is_content: Whether it is of the message's own words, and not what the chat template put around them.
    """

    title = "tokens"

    text: str
    has_bos: bool
    strings: Sequence[str] = coordinate("position", name="token")
    ids: NDArray[np.int64] = variable("position", name="id")
    start: NDArray[np.int64] = variable("position", unit="character")
    end: NDArray[np.int64] = variable("position", unit="character")
    special: NDArray[np.bool_] = variable("position")
    roles: NDArray[np.object_] | None = variable("position", name="role", default=None)
    messages: NDArray[np.int64] | None = variable("position", name="message", default=None)
    is_content: NDArray[np.bool_] | None = variable("position", name="content", default=None)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """First character of each token and the one after its last, (position, 2)."""
        return np.stack([self.start, self.end], axis=1)

    def __len__(self) -> int:
        return len(self.strings)

    def __getitem__(self, position: int) -> Token:
        place = self._numbered(position)
        return Token(
            place,
            int(self.ids[place]),
            self.strings[place],
            int(self.start[place]),
            int(self.end[place]),
        )

    def __iter__(self) -> Iterator[Token]:
        return (self[position] for position in range(len(self)))

    # -- positions -----------------------------------------------------------------------------

    def position(self, where: int | str, *, which: str = "last", occurrence: int | None = None) -> int:
        """One position.

        Args:
            where: A number, or a string of the text.
            which: For a string of several tokens, whether the "last" or the "first" is meant.
            occurrence: Which one, if the string occurs several times, counted from 0.

        Raises:
            InputError: there is no such position, or the string occurs never or several times.
        """
        if which not in ("first", "last"):
            raise InputError(f'`which` is "first" or "last", not {which!r}.')
        if not isinstance(where, str):
            return self._numbered(where)
        found = self._found(where, occurrence)
        return found[0] if which == "first" else found[-1]

    def positions(self, where: Where, *, occurrence: int | None = None) -> tuple[int, ...]:
        """All positions that are meant.

        Args:
            where: A number, a slice, a string of the text (all its tokens), or a list of these.
            occurrence: As for `position`.

        Raises:
            InputError: as for `position`, or nothing is meant.
        """
        if isinstance(where, str):
            return self._found(where, occurrence)
        if isinstance(where, slice):
            found = tuple(range(len(self))[where])
            if not found:
                raise InputError(
                    f"{where} selects none of the {len(self)} positions of {_quoted(self.text)}."
                )
            return found
        if isinstance(where, (list, tuple, np.ndarray, range)):
            return tuple(place for one in where for place in self.positions(one, occurrence=occurrence))
        return (self._numbered(where),)

    def span(self, text: str, *, occurrence: int | None = None) -> slice:
        """The positions of a string as a slice, `hidden[:, tokens.span("Eiffel Tower")]`.

        Raises:
            InputError: as for `position`.
        """
        found = self._found(text, occurrence)
        return slice(found[0], found[-1] + 1)

    def occurrences(self, text: str) -> tuple[tuple[int, ...], ...]:
        """The positions of each occurrence of a string, in order."""
        core = text.strip() or text
        if not core:
            return ()
        found, at = [], self.text.find(core)
        while at >= 0:
            inside = (self.start < at + len(core)) & (self.end > at)
            if inside.any():
                found.append(tuple(int(place) for place in np.flatnonzero(inside)))
            at = self.text.find(core, at + 1)
        return tuple(found)

    def of_role(self, role: str, *, message: int | None = None, frame: bool = False) -> tuple[int, ...]:
        """The positions of what somebody said in a chat: `hidden[:, tokens.of_role("user")]`.

        Args:
            role: "system", "user", "assistant", or what else the messages have.
            message: Only of this message, counted from 0 over the whole chat.
            frame: Whether what the chat template puts around the words counts, too.

        Raises:
            InputError: this is no chat, or nobody of that role said anything.
        """
        if self.roles is None or self.messages is None or self.is_content is None:
            raise InputError(
                f"{_quoted(self.text)} has no roles: the input was not chat messages, or the tokenizer does "
                'not tell where its tokens stand. Write `model.tokens([{"role": "user", "content": "..."}])`.'
            )
        chosen = self.roles == role
        if message is not None:
            chosen &= self.messages == message
        if not frame:
            chosen &= self.is_content
        if not chosen.any():
            said = ", ".join(
                f"{number}: {self.roles[np.flatnonzero(self.messages == number)[0]]}"
                for number in sorted(set(self.messages.tolist()) - {-1})
            )
            which = "" if message is None else f" in message {message}"
            raise InputError(f"{role!r} says nothing{which} here; the messages are {said}.")
        return tuple(int(place) for place in np.flatnonzero(chosen))

    def _numbered(self, position: Any) -> int:
        try:
            index = operator.index(position)
        except TypeError:
            raise InputError(
                f"a position is a number, a slice or a string of the text, not {type(position).__name__}."
            ) from None
        if not -len(self) <= index < len(self):
            raise InputError(
                f"{_quoted(self.text)} has {len(self)} tokens, 0 to {len(self) - 1}; there is no {index}. "
                "For the last one write -1."
            )
        return index % len(self)

    def _found(self, text: str, occurrence: int | None) -> tuple[int, ...]:
        found = self.occurrences(text)
        if not found:
            raise InputError(self._never(text))
        if occurrence is not None:
            if not -len(found) <= occurrence < len(found):
                raise InputError(
                    f"{text!r} occurs {_times(len(found))} in {_quoted(self.text)}; there is no occurrence "
                    f"{occurrence}.\n{self._listed(found)}"
                )
            return found[occurrence]
        if len(found) > 1:
            raise InputError(
                f"{text!r} occurs {_times(len(found))} in {_quoted(self.text)}:\n{self._listed(found)}\n"
                "Write more of the text around the one that is meant, or `occurrence=0` "
                f"(to {len(found) - 1})."
            )
        return found[0]

    def _listed(self, found: Sequence[tuple[int, ...]]) -> str:
        lines = []
        for number, places in enumerate(found[:12]):
            near = "".join(self.strings[max(places[0] - 2, 0) : places[-1] + 3])
            where = f"position {places[0]}" + (f" to {places[-1]}" if len(places) > 1 else "")
            lines.append(f"  {number}: {where}, in …{visible(near)}…")
        return "\n".join(lines + (["  …"] if len(found) > 12 else []))

    def _never(self, text: str) -> str:
        message = f"{text!r} does not occur in {_quoted(self.text)}."
        if text.strip().lower() in self.text.lower() and text.strip():
            at = self.text.lower().find(text.strip().lower())
            message += f" Written {self.text[at : at + len(text.strip())]!r} it does."
        return f"{message}\nIts tokens are {_row(self.strings)}"

    # -- as text -------------------------------------------------------------------------------

    def __repr__(self) -> str:
        cells, lines = self._cells(), []
        while cells:
            taken, used = 0, 2
            while taken < len(cells) and (used := used + max(map(len, cells[taken])) + 2) <= WIDTH:
                taken += 1
            taken = max(taken, 1)
            widths = [max(map(len, cell)) for cell in cells[:taken]]
            for label, line in zip(("", "", "id"), zip(*cells[:taken], strict=True), strict=True):
                shown = "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True))
                lines.append(f"{label:<2}  {shown}".rstrip())
            cells = cells[taken:]
        return "\n".join([self._head, *lines])

    @property
    def _head(self) -> str:
        bos = f"begins with BOS {self.strings[0]}" if self.has_bos else "no BOS"
        return f"{len(self)} tokens of {_quoted(self.text)}, {bos}"

    def _cells(self) -> list[tuple[str, str, str]]:
        """Of each token what is on show: position, text, id."""
        return [
            (str(place), visible(text), str(index))
            for place, (text, index) in enumerate(zip(self.strings, self.ids, strict=True))
        ]

    def _html(self) -> Sequence[str]:
        cells = self._cells()
        rows = [(label, *line) for label, line in zip(("", "", "id"), zip(*cells, strict=True), strict=False)]
        return html.heading(self._head), html.table((), rows, left=range(1, len(cells) + 1))

    def plot(self) -> Figure:
        """The tokens as a strip, each as wide as its text, its position above and its id below."""
        from nbsight.display.strips import strip

        return strip(self._cells(), self.special, title=self._head)


class TokenBatch(Sequence[Tokens]):
    """The tokens of several prompts.

    Args:
        prompts: The tokens of each.
        side: "left" or "right": where shorter prompts are padded when all are one input.
    """

    def __init__(self, prompts: Sequence[Tokens], side: str) -> None:
        self._prompts = tuple(prompts)
        self.side = side

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, row: Any) -> Any:
        return self._prompts[row]

    def position(self, where: int | str, **options: Any) -> tuple[int, ...]:
        """`Tokens.position` for every prompt, each counted from its own first token."""
        return tuple(self._each(lambda one: one.position(where, **options)))

    def positions(self, where: Where, **options: Any) -> tuple[tuple[int, ...], ...]:
        """`Tokens.positions` for every prompt."""
        return tuple(self._each(lambda one: one.positions(where, **options)))

    def column(self, where: int | str, **options: Any) -> tuple[int, ...]:
        """Where these positions are in `model.trace([a, b])`, which pads all prompts to one length.

        In a `tracer.invoke(prompt)` positions count from the prompt's own first token: there use `position`.
        """
        longest = max(len(one) for one in self._prompts)
        places = self.position(where, **options)
        if self.side == "right":
            return places
        return tuple(place + longest - len(one) for place, one in zip(places, self._prompts, strict=True))

    def _each(self, ask: Any) -> Iterator[Any]:
        for row, one in enumerate(self._prompts):
            try:
                yield ask(one)
            except InputError as error:
                raise InputError(f"prompt {row}: {error}") from None

    def __repr__(self) -> str:
        lines = [f"{row:>2}: {length:>3}  {text}" for row, length, text in self._rows()]
        return "\n".join([self._head, *lines, *self._left_out()])

    def _repr_html_(self) -> str:
        grid = html.table((), [(f"{row}:", *rest) for row, *rest in self._rows()], left=(2,))
        return html.document(html.heading(self._head), grid, html.lines(self._left_out()))

    @property
    def _head(self) -> str:
        bos = {one.has_bos for one in self._prompts}
        said = "some begin with BOS" if len(bos) > 1 else "all begin with BOS" if True in bos else "no BOS"
        return f"tokens of {len(self)} prompts, {said}"

    def _rows(self) -> list[tuple[str, str, str]]:
        """Of each prompt its number, how many tokens it has, and its tokens."""
        shown = self._prompts[:SHOWN]
        return [(str(row), str(len(one)), _row(one.strings)) for row, one in enumerate(shown)]

    def _left_out(self) -> list[str]:
        return [f"… and {len(self) - SHOWN} more"] if len(self) > SHOWN else []


def found_in(where: Where, *prompts: Tokens) -> tuple[int, ...]:
    """The positions that are meant in prompts that line up one by one.

    Args:
        where: As for `Tokens.positions`. A string is looked for in the first prompt, then in the next: of
            "The Eiffel Tower is" and "The Colosseum is" either name says where they differ.
        prompts: The tokens of each, of one length.

    Raises:
        InputError: as for `Tokens.positions`, about the first prompt if a string is in none.
    """
    if isinstance(where, (list, tuple)):
        return tuple(dict.fromkeys(place for one in where for place in found_in(one, *prompts)))
    if isinstance(where, str):
        holding = next((one for one in prompts if one.occurrences(where)), prompts[0])
        return holding.positions(where)
    return prompts[0].positions(where)


def _row(strings: Sequence[str]) -> str:
    return shorten(" ".join(visible(text) for text in strings), WIDTH)


def _quoted(text: str) -> str:
    return repr(shorten(text, 60))


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count} times"
