"""Which tokens of a chat belong to whom.

A chat template is a program that writes one text, and nothing in that text says where a message begins. Two
things do: the messages' own words, looked for one after the other, and the text of the first messages alone,
which as a rule is how the whole text begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbsight.models.tokens import str_tokens

__all__ = ["ChatText", "RoleArrays", "chat_text"]

#: For each token the role, the number of the message (-1 for none), whether it is of the message's own words.
RoleArrays = tuple[NDArray[np.object_], NDArray[np.int64], NDArray[np.bool_]]


@dataclass(frozen=True)
class _Part:
    role: str
    message: int
    start: int
    stop: int
    #: The first character of the message's own words, and the one after the last.
    own: tuple[int, int]


class ChatText:
    """The text that a template made of a chat, and whose it is.

    Args:
        text: The text.
        parts: Its messages, in order; what lies between them is nobody's.
    """

    def __init__(self, text: str, parts: Sequence[_Part]) -> None:
        self.text = text
        self._parts = parts

    def roles(self, tokenizer: Any, ids: Sequence[int]) -> RoleArrays | None:
        """Whose each token is.

        Args:
            tokenizer: The one that made the ids.
            ids: What the chat became.

        Returns:
            None where the tokenizer does not tell which characters its tokens stand for.
        """
        starts = self._starts(tokenizer, list(ids))
        if starts is None:
            return None
        roles = np.full(len(ids), "", object)
        messages = np.full(len(ids), -1, np.int64)
        own = np.zeros(len(ids), bool)
        for part in self._parts:
            inside = (starts[:, 0] >= part.start) & (starts[:, 0] < part.stop)
            words = (starts[:, 0] < part.own[1]) & (starts[:, 1] > part.own[0])
            inside |= words  # a token may begin with the last character of the frame
            roles[inside], messages[inside] = part.role, part.message
            own |= words
        return roles, messages, own

    def _starts(self, tokenizer: Any, ids: list[int]) -> Any:
        """First character and the one after the last of each token."""
        if getattr(tokenizer, "is_fast", False):
            encoded = tokenizer(self.text, add_special_tokens=False, return_offsets_mapping=True)
            if list(encoded["input_ids"]) == ids:
                return np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)
        pieces = str_tokens(tokenizer, ids)
        if "".join(pieces) != self.text:
            return None
        ends = np.cumsum([len(piece) for piece in pieces])
        return np.stack([ends - [len(piece) for piece in pieces], ends], axis=1)


def chat_text(tokenizer: Any, chat: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> ChatText:
    """The text of a chat, with its messages found in it.

    Args:
        tokenizer: One with a chat template.
        chat: Messages with "role" and "content".
        options: What the template is told; `add_generation_prompt` among them.
    """
    text = _rendered(tokenizer, chat, options)
    quiet = {**options, "add_generation_prompt": False, "continue_final_message": False}
    ends = [_end_of_first(tokenizer, chat[:count], quiet, text) for count in range(1, len(chat) + 1)]
    parts, begin, after = [], 0, 0
    for number, message in enumerate(chat):
        own = _found(text, _words(message), after)
        after = own[1] if own[1] > own[0] else after
        end = ends[number]
        known = end is not None and end >= own[1]
        start, stop = (begin, end) if known else own
        assert stop is not None
        parts.append(_Part(str(message["role"]), number, start, stop, own))
        begin = stop
    if options.get("add_generation_prompt") and begin < len(text):
        parts.append(_Part("assistant", len(chat), begin, len(text), (len(text), len(text))))
    return ChatText(text, parts)


def _rendered(tokenizer: Any, chat: Sequence[Any], options: Mapping[str, Any]) -> str:
    return tokenizer.apply_chat_template(list(chat), tokenize=False, **options)


def _end_of_first(tokenizer: Any, first: Sequence[Any], options: Mapping[str, Any], text: str) -> int | None:
    """Where the first messages end in the whole text; None if that does not begin with them."""
    try:
        alone = _rendered(tokenizer, first, options)
    except Exception:  # a template is a program, and may refuse half a chat in its own way
        return None
    return len(alone) if text.startswith(alone) else None


def _words(message: Mapping[str, Any]) -> list[str]:
    content = message["content"]
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, (list, tuple)) else []
    return [str(part["text"]) for part in parts if isinstance(part, Mapping) and "text" in part]


def _found(text: str, words: list[str], after: int) -> tuple[int, int]:
    """Where a message's words stand, from some character on; nowhere if the template changed them."""
    places = []
    at = after
    for piece in words:
        core = piece.strip()  # templates often trim
        start = text.find(core, at) if core else -1
        if start >= 0:
            places.append((start, start + len(core)))
            at = start + len(core)
    return (places[0][0], places[-1][1]) if places else (after, after)
