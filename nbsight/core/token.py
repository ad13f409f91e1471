"""A token that a generation has just chosen."""

from __future__ import annotations

from nbsight.core.steps import Step
from nbsight.errors import InputError

__all__ = ["Token"]


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
