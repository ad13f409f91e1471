"""The tokens of prompts as a result: what `model.tokens(prompt)` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from nbsight.models.chats import chat_text
from nbsight.models.inputs import chat_options, chats_in
from nbsight.models.provenance import provenance
from nbsight.models.tokens import str_tokens
from nbsight.results.tokens import TokenBatch, Tokens

__all__ = ["tokens_of", "tokens_of_ids"]

EMPTY: Mapping[str, Any] = MappingProxyType({})


def tokens_of(model: Any, prompt: Any, options: dict[str, Any]) -> Tokens | TokenBatch:
    """The tokens that a trace of `prompt` runs on.

    Args:
        model: A language model.
        prompt: Whatever `trace` takes.
        options: Options of the tokenizer, such as `add_special_tokens`.
    """
    prepared = model._prepare((prompt,), dict(options))
    rows = prepared.fields["input_ids"]
    tokenizer = model.tokenizer
    chats = chats_in(prompt)
    if chats is not None:
        told = chat_options(options)
        found = [_tokens_of_chat(model, ids, chat, told) for ids, chat in zip(rows, chats, strict=True)]
    else:
        texts = _texts(prompt, len(rows))
        found = [tokens_of_ids(model, ids, text, options) for ids, text in zip(rows, texts, strict=True)]
    is_one = len(found) == 1 and not _is_list(prompt) and (chats is None or not _is_list_of_chats(prompt))
    return found[0] if is_one else TokenBatch(found, getattr(tokenizer, "padding_side", "right"))


def _is_list_of_chats(prompt: Any) -> bool:
    return isinstance(prompt, (list, tuple)) and not isinstance(prompt[0], Mapping)


def _tokens_of_chat(model: Any, ids: Any, chat: list[Any], told: dict[str, Any]) -> Tokens:
    """The tokens of one chat, with whose each is."""
    whole = chat_text(model.tokenizer, chat, told)
    numbers = [int(one) for one in ids]
    tokens = tokens_of_ids(model, numbers, whole.text, {"add_special_tokens": False})
    known = whole.roles(model.tokenizer, numbers)
    if known is None:
        return tokens
    roles, messages, own = known
    return replace(tokens, roles=roles, messages=messages, is_content=own)


def _is_list(prompt: Any) -> bool:
    return isinstance(prompt, (list, tuple)) and bool(prompt) and isinstance(prompt[0], str)


def _texts(prompt: Any, count: int) -> Sequence[str | None]:
    """The text of each row, where the prompt is text."""
    if isinstance(prompt, str):
        return [prompt]
    return list(prompt) if _is_list(prompt) else [None] * count


def tokens_of_ids(
    model: Any, ids: Sequence[int], text: str | None = None, options: Mapping[str, Any] = EMPTY
) -> Tokens:
    """The tokens of one prompt whose ids are known.

    Args:
        model: A language model.
        ids: Of one prompt.
        text: What they were made from; without it the tokens' own texts in a row count as that.
        options: What the tokenizer was told then.
    """
    ids = [int(one) for one in ids]
    tokenizer = model.tokenizer
    strings = str_tokens(tokenizer, ids)
    offsets = None if text is None else _offsets(tokenizer, ids, text, options)
    if text is None or offsets is None:
        # The tokens' own texts in a row: for ids and chats, and for tokenizers that do not tell.
        text = "".join(strings)
        ends = np.cumsum([len(one) for one in strings])
        offsets = np.stack([ends - [len(one) for one in strings], ends], axis=1)
    special = set(getattr(tokenizer, "all_special_ids", ()))
    bos = getattr(tokenizer, "bos_token_id", None)
    return Tokens(
        text=text,
        strings=strings,
        ids=np.array(ids, np.int64),
        start=offsets[:, 0],
        end=offsets[:, 1],
        special=np.array([index in special for index in ids], bool),
        has_bos=bool(ids) and bos is not None and ids[0] == bos,
        provenance=provenance(model, [text], tokenizer=type(tokenizer).__name__),
    )


def _offsets(tokenizer: Any, ids: list[int], text: str, options: Mapping[str, Any]) -> Any:
    """Which characters each token stands for; None if the tokenizer does not say."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    encoded = tokenizer(text, return_offsets_mapping=True, **options)
    if list(encoded["input_ids"]) != ids:
        return None
    return np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)
