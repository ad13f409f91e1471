"""The prompts of a generation as its result shows them: texts, tokens, and for chats whose each token is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nbsight.models.chats import chat_text
from nbsight.models.inputs import chat_options, chats_in
from nbsight.models.tokens import str_tokens

if TYPE_CHECKING:
    from nbsight.models.language_model import LanguageModel

__all__ = ["Said", "continuation_text", "is_several", "read_prompts"]


@dataclass(frozen=True)
class Said:
    """One prompt.

    Args:
        text: Its text.
        strings: Its tokens as text.
        ids: Their ids; none where the prompt is embeddings.
        roles: For a chat whose message each token belongs to; None for what is no chat.
    """

    text: str
    strings: Sequence[str]
    ids: list[int]
    roles: Any = None


def read_prompts(model: LanguageModel, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Said]:
    """The prompts of a call, each with its tokens, pads left out.

    Args:
        model: The model that is called.
        args: The prompt, whatever `model.generate` takes.
        kwargs: The other arguments; those of the tokenizer and of the chat template matter here.
    """
    source = args[0] if args else None
    prepared = model._prepare(args, dict(kwargs))
    rows = prepared.fields.get("input_ids")
    if rows is None:  # embeddings: positions without tokens
        return [Said("", (), []) for _ in range(prepared.size)]
    masks = prepared.fields.get("attention_mask")
    texts: Any = [source] if isinstance(source, str) else source
    are_texts = isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts)
    found = []
    for number, row in enumerate(rows):
        ids = [int(token) for token in (row if masks is None else row[masks[number].bool()])]
        strings = str_tokens(model.tokenizer, ids)
        found.append(Said(texts[number] if are_texts else "".join(strings), strings, ids))
    chats = chats_in(source)
    if chats is None or getattr(model.tokenizer, "chat_template", None) is None:
        return found
    wholes = [chat_text(model.tokenizer, chat, chat_options(kwargs)) for chat in chats]
    known = [whole.roles(model.tokenizer, said.ids) for whole, said in zip(wholes, found, strict=True)]
    return [
        replace(said, text=whole.text, roles=None if roles is None else roles[0])
        for said, whole, roles in zip(found, wholes, known, strict=True)
    ]


def is_several(source: Any, rows: int) -> bool:
    """Whether an input stands for several prompts: a list of one is one of several, too."""
    if rows > 1 or not isinstance(source, (list, tuple)) or not source:
        return rows > 1
    return isinstance(source[0], (str, list, tuple))


def continuation_text(tokenizer: Any, prompt: list[int], ids: list[int]) -> str:
    """The text of a continuation as it stands after its prompt, without special tokens.

    Args:
        tokenizer: A Hugging Face tokenizer, or None.
        prompt: The prompt's ids.
        ids: Those of the continuation.
    """
    if tokenizer is None:
        return "".join(str_tokens(None, ids))
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before, whole = tokenizer.decode(prompt, **plain), tokenizer.decode([*prompt, *ids], **plain)
    if whole.startswith(before):  # SentencePiece drops the first blank of a text that begins here
        return whole[len(before) :]
    return tokenizer.decode(ids, **plain)
