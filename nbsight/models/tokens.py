"""Text and token ids: encoding with a small memo, decoding token by token, and comparing two prompts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from nbsight.errors import InputError

__all__ = [
    "MEMO_SIZE",
    "Encoder",
    "describe_lengths",
    "single_token",
    "str_tokens",
    "token_text",
]

MEMO_SIZE = 256

Encoded = dict[str, list[int]]


class Encoder:
    """Turns one text at a time into ids; the last few texts are remembered.

    Args:
        tokenizer: A Hugging Face tokenizer, or None for a model without one.
        problem: Why there is none, for the message.
    """

    def __init__(self, tokenizer: Any, problem: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.problem = problem
        self._memo: OrderedDict[tuple, Encoded] = OrderedDict()
        self._direct = _may_ask_backend(tokenizer)

    def encode(self, text: str, options: dict[str, Any]) -> Encoded:
        """What `tokenizer(text, **options)` gives, as lists.

        Args:
            text: One prompt.
            options: Keyword arguments of the tokenizer, such as `add_special_tokens`.

        Raises:
            InputError: there is no tokenizer.
        """
        if self.tokenizer is None:
            reason = f" ({self.problem})" if self.problem else ""
            raise InputError(
                f"the prompt is text, and this model has no tokenizer{reason}. Give token ids, such as "
                "`model.trace([464, 3139])`, or a tokenizer: `LanguageModel(name, tokenizer=...)`."
            )
        if options:
            return self._ask(text, options)
        key = (text, *_settings(self.tokenizer))
        found = self._memo.get(key)
        if found is None:
            found = self._ask_backend(text) if self._direct else self._ask(text, {})
            self._memo[key] = found
            if len(self._memo) > MEMO_SIZE:
                self._memo.popitem(last=False)
        return found

    def _ask(self, text: str, options: dict[str, Any]) -> Encoded:
        encoded = self.tokenizer(text, **options)
        # Overflowing tokens come as more rows; one text is one row here.
        return {
            name: list(values) for name, values in encoded.items() if name != "overflow_to_sample_mapping"
        }

    def _ask_backend(self, text: str) -> Encoded:
        backend = self.tokenizer.backend_tokenizer
        left_over = backend.truncation is not None or backend.padding is not None
        if left_over or backend.encode_special_tokens != self.tokenizer.split_special_tokens:
            return self._ask(text, {})  # an earlier call left these so; the tokenizer knows how to undo it
        encoding = backend.encode(text, add_special_tokens=True)
        ids = encoding.ids
        fields: Encoded = {"input_ids": ids}
        for name in self.tokenizer.model_input_names:
            if name == "attention_mask":
                fields[name] = encoding.attention_mask
            elif name == "token_type_ids":
                fields[name] = encoding.type_ids
        return fields


def _may_ask_backend(tokenizer: Any) -> bool:
    """Whether the Rust tokenizer alone gives the ids, a quarter of the time of the Python around it."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return False
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return False
    # A class with its own way of encoding is asked in its own way.
    for name in ("__call__", "_encode_plus", "_batch_encode_plus", "_call_one"):
        if getattr(type(tokenizer), name, None) is not getattr(PreTrainedTokenizerFast, name, None):
            return False
    return set(tokenizer.model_input_names) <= {"input_ids", "attention_mask", "token_type_ids"}


def _settings(tokenizer: Any) -> tuple:
    """What may change between two calls and changes the ids."""
    return (
        len(tokenizer),
        getattr(tokenizer, "add_bos_token", None),
        getattr(tokenizer, "add_eos_token", None),
        getattr(tokenizer, "split_special_tokens", None),
        getattr(tokenizer, "src_lang", None),
    )


# --- reading tokens -------------------------------------------------------------------------------


def token_text(tokenizer: Any, token: int) -> str:
    """The text of one token, its leading blank included.

    Args:
        tokenizer: A Hugging Face tokenizer.
        token: A token id.
    """
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    piece = tokenizer.convert_ids_to_tokens(int(token))
    # SentencePiece drops the blank at the start of a text, and each token is a text of its own here.
    if isinstance(piece, str) and piece.startswith("\u2581") and not text.startswith(" "):
        return " " + text
    return text


def str_tokens(tokenizer: Any, ids: Sequence[int] | torch.Tensor) -> list[str]:
    """The text of each token of one prompt; `<id>` for each where there is no tokenizer."""
    if isinstance(ids, torch.Tensor):
        ids = ids.tolist()
    if tokenizer is None:
        return [f"<{token}>" for token in ids]
    return [token_text(tokenizer, token) for token in ids]


def single_token(tokenizer: Any, text: str) -> int:
    """The id of a text that is one token.

    Raises:
        InputError: it is none or several; the message shows them.
    """
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) == 1:
        return ids[0]
    pieces = ", ".join(repr(piece) for piece in str_tokens(tokenizer, ids)) or "nothing"
    hint = ""
    blank = " " + text
    if text and text[0] != " " and len(tokenizer.encode(blank, add_special_tokens=False)) == 1:
        hint = f" With a leading blank it is one: write {blank!r}."
    raise InputError(f"{text!r} is {len(ids)} tokens, not one: {pieces}.{hint}")


def describe_lengths(
    tokenizer: Any,
    current: Sequence[int],
    donor: Sequence[int],
    names: tuple[str, str] = ("this prompt", "the value's"),
) -> str:
    """Two lines with the tokens of two prompts, for a patch whose shapes do not agree.

    Args:
        tokenizer: A Hugging Face tokenizer; None shows the ids.
        current: Ids of the prompt that is being run.
        donor: Ids of the prompt that the value came from.
        names: What the two are called.
    """
    digits = len(str(max(len(current), len(donor))))
    lines = []
    for name, ids in zip(names, (current, donor), strict=True):
        shown = [repr(text) for text in str_tokens(tokenizer, ids)] if tokenizer else [str(i) for i in ids]
        if len(shown) > 40:
            shown = [*shown[:24], "…", *shown[-12:]]
        lines.append(f"{name}, {len(ids):>{digits}} tokens: {' '.join(shown)}")
    return "\n".join(lines)
