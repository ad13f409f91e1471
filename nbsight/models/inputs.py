"""One invoke's input, in whatever form the user wrote it, as rows of token ids.

A string, a list of strings, ids (lists, arrays, tensors), what a tokenizer returned, `input_ids=` and
`inputs_embeds=`, chat messages: `read_prompt` turns each into a `Prompt`. Nothing is padded here, because how
depends on what else shares the forward (`joining.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nbsight.errors import InputError
from nbsight.models.limits import Limits
from nbsight.models.tokens import Encoder

__all__ = [
    "INPUT_NAMES",
    "Prompt",
    "chat_options",
    "chats_in",
    "has_input",
    "read_prompt",
    "refuse_tokenizer_options",
]

INPUT_NAMES = ("input_ids", "inputs_embeds", "encoder_outputs")
"""Keyword arguments that are an input by themselves."""

ROW_FIELDS = (
    "attention_mask",
    "decoder_attention_mask",
    "decoder_input_ids",
    "decoder_inputs_embeds",
    "global_attention_mask",
    "labels",
    "mm_token_type_ids",
    "position_ids",
    "special_tokens_mask",
    "token_type_ids",
)
"""Keyword arguments that have one row for each prompt."""

TOKENIZER_OPTIONS = ("add_special_tokens", "text_pair", "truncation", "truncation_side", "stride")
CHAT_OPTIONS = ("add_generation_prompt", "chat_template", "continue_final_message", "tools", "documents")

FORMS = (
    "a string, a list of strings, token ids (list, array or tensor), what the tokenizer returns, "
    "chat messages, `input_ids=` or `inputs_embeds=`"
)


@dataclass(frozen=True)
class Prompt:
    """The rows of one invoke.

    Args:
        fields: For each field a tensor (row, position, ...) or, when the rows have different lengths, a list
            of one tensor a row.
        lengths: The number of positions of each row.
        options: Keyword arguments for the model that are not rows, such as `use_cache`.
        tokenized: Whether the ids were made here, so that fields the model does not know can be left out.
    """

    fields: dict[str, torch.Tensor | list[torch.Tensor]]
    lengths: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    tokenized: bool = False

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self.lengths)

    @property
    def width(self) -> int:
        """The length of the longest row."""
        return max(self.lengths)

    @property
    def is_bare(self) -> bool:
        """Whether it is rows of ids of one length, and nothing else."""
        fields = self.fields
        return len(fields) == 1 and type(fields.get("input_ids")) is torch.Tensor and not self.options

    @property
    def is_ragged(self) -> bool:
        """Whether the rows have different lengths."""
        return len(set(self.lengths)) > 1


def has_input(args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """Whether these arguments of a trace hold an input (otherwise invokes follow)."""
    if args and args[0] is not None:
        return True
    return any(arg is not None for arg in args) or any(kwargs.get(n) is not None for n in INPUT_NAMES)


def refuse_tokenizer_options(options: Mapping[str, Any]) -> None:
    """Raise InputError if options of a whole call hold what belongs to each prompt."""
    for name in (*TOKENIZER_OPTIONS, *CHAT_OPTIONS):
        if name in options:
            raise InputError(
                f"`{name}` is about how a prompt is tokenized. Give it where the prompt is: "
                f"`tracer.invoke(prompt, {name}=...)`."
            )


def read_prompt(args: tuple, kwargs: dict[str, Any], encoder: Encoder, limits: Limits) -> Prompt:
    """Read one invoke's arguments.

    Args:
        args: The input; at most one.
        kwargs: Fields of the input, options of the tokenizer, and options for the model.
        encoder: Turns text into ids.
        limits: What the model can take.

    Raises:
        InputError: the input is empty, too long, of an unknown kind, or has unknown ids.
    """
    if len(args) == 1 and not kwargs and type(args[0]) is str:
        return _read_text(args[0], encoder, limits)
    if len(args) == 1 and not kwargs and type(args[0]) is torch.Tensor and _is_batch(args[0]):
        return _read_ids(args[0], limits)
    if len(args) > 1:
        raise InputError(
            f"a trace takes one input and got {len(args)}. Write a list, `model.trace([a, b])`, or one "
            "`with tracer.invoke(...)` block for each."
        )
    kwargs = dict(kwargs)
    source = args[0] if args else None
    given = {name: kwargs.pop(name) for name in (*INPUT_NAMES, *ROW_FIELDS) if name in kwargs}
    given = {name: value for name, value in given.items() if value is not None}
    if source is not None and given.keys() & set(INPUT_NAMES):
        raise InputError(
            f"the input was given twice: as {type(source).__name__} and as "
            f"`{next(iter(given.keys() & set(INPUT_NAMES)))}=`. Give one of them."
        )
    fields, tokenized = _read(source, given, kwargs, encoder)
    prompt = _as_rows(fields, kwargs, tokenized)
    _check(prompt, limits)
    return prompt


def _read_text(text: str, encoder: Encoder, limits: Limits) -> Prompt:
    """One text and nothing else: what most traces are given, so it takes the short way."""
    encoded = encoder.encode(text, {})
    ids = encoded["input_ids"]
    fields: dict[str, Any] = {name: torch.tensor([values]) for name, values in encoded.items()}
    prompt = Prompt(fields, (len(ids),), {}, tokenized=True)
    if not ids or (limits.vocabulary is not None and max(ids) >= limits.vocabulary):
        _check(prompt, limits)  # raises
    limits.check_length(len(ids))
    return prompt


def _is_batch(ids: torch.Tensor) -> bool:
    return ids.dtype is torch.int64 and ids.ndim == 2 and ids.numel() > 0


def _read_ids(ids: torch.Tensor, limits: Limits) -> Prompt:
    """Rows of ids and nothing else: the short way."""
    rows, width = ids.shape
    limits.check_length(width)
    limits.check_ids(ids)
    return Prompt({"input_ids": ids}, (width,) * rows)


def _read(
    source: Any, given: dict[str, Any], kwargs: dict[str, Any], encoder: Encoder
) -> tuple[dict[str, Any], bool]:
    """The fields of the input, and whether they were tokenized here; takes its options from `kwargs`."""
    if source is None:
        return given, False
    if isinstance(source, Mapping) and "role" not in source:
        return {**_from_mapping(source), **given}, False
    texts, chats = _texts(source), chats_in(source)
    if texts is not None:
        encoded = [encoder.encode(text, options) for text, options in _with_options(texts, kwargs)]
    elif chats is not None:
        options = {name: kwargs.pop(name) for name in CHAT_OPTIONS if name in kwargs}
        encoded = [_encode_chat(encoder, chat, options) for chat in chats]
    else:
        return {"input_ids": _ids(source), **given}, False
    return {**{name: [row[name] for row in encoded] for name in encoded[0]}, **given}, True


# --- text and chats -------------------------------------------------------------------------------


def _texts(source: Any) -> list[str] | None:
    if isinstance(source, str):
        return [source]
    if isinstance(source, (np.ndarray, torch.Tensor)) or not isinstance(source, (list, tuple)):
        return None
    return list(source) if source and all(isinstance(text, str) for text in source) else None


def _with_options(texts: list[str], kwargs: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each text with the tokenizer's options that `kwargs` held for it."""
    options = {name: kwargs.pop(name) for name in TOKENIZER_OPTIONS if name in kwargs}
    kwargs.pop("padding", None)  # rows are padded where they meet
    kwargs.pop("return_tensors", None)
    if options.get("truncation") and "max_length" in kwargs:  # without `truncation` it is generate's
        options["max_length"] = kwargs.pop("max_length")
    pairs = options.pop("text_pair", None)
    if pairs is None:
        return [(text, options) for text in texts]
    pairs = [pairs] if isinstance(pairs, str) else list(pairs)
    if len(pairs) != len(texts):
        raise InputError(f"`text_pair` has {len(pairs)} texts for {len(texts)} prompts; give one for each.")
    return [(text, {**options, "text_pair": pair}) for text, pair in zip(texts, pairs, strict=True)]


def chats_in(source: Any) -> list[list[Any]] | None:
    """The chats in an input, each a list of messages; None if it is none."""
    if isinstance(source, Mapping):
        return [[source]]
    if not isinstance(source, (list, tuple)) or not source:
        return None
    if all(isinstance(message, Mapping) for message in source):
        return [list(source)]
    if all(isinstance(c, (list, tuple)) and c and isinstance(c[0], Mapping) for c in source):
        return [list(chat) for chat in source]
    return None


def _encode_chat(encoder: Encoder, chat: list[Any], options: dict[str, Any]) -> dict[str, list[int]]:
    for message in chat:
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise InputError(
                f"a chat message is a dict with 'role' and 'content'; this one is {message!r}. Write "
                '`[{"role": "user", "content": "..."}]`.'
            )
    tokenizer = encoder.tokenizer
    if tokenizer is None:
        encoder.encode("", {})  # raises, and says what to write
    if getattr(tokenizer, "chat_template", None) is None and "chat_template" not in options:
        raise InputError(
            "the input is chat messages, and this model's tokenizer has no chat template: it was not trained "
            "on chats. Write the prompt as text, or set `model.tokenizer.chat_template`."
        )
    encoded = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True, **chat_options(options))
    return {name: list(row) for name, row in encoded.items()}


def chat_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a chat template is told: of these options its own, and that the answer comes next."""
    own = {name: options[name] for name in CHAT_OPTIONS if name in options}
    return {"add_generation_prompt": not own.get("continue_final_message", False), **own}


# --- ids ------------------------------------------------------------------------------------------


def _ids(source: Any) -> Any:
    """Ids as a tensor (row, position) or as a list of rows."""
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return _id_tensor(source)
    if isinstance(source, (list, tuple)):
        if not source:
            raise InputError(f"the input is an empty list. Give {FORMS}.")
        if all(_is_id(item) for item in source):
            return torch.tensor([[int(item) for item in source]])
        if all(isinstance(row, (list, tuple, np.ndarray, torch.Tensor)) for row in source):
            return [_one_row(row) for row in source]
        kinds = sorted({type(item).__name__ for item in source})
        raise InputError(f"the input is a list that mixes or holds {', '.join(kinds)}. Give {FORMS}.")
    raise InputError(f"the input is a {type(source).__name__}. Give {FORMS}.")


def _is_id(item: Any) -> bool:
    if isinstance(item, bool):
        return False
    if isinstance(item, torch.Tensor):
        return item.ndim == 0 and not item.is_floating_point()
    return isinstance(item, (int, np.integer))


def _one_row(row: Any) -> torch.Tensor:
    if isinstance(row, (list, tuple)) and not all(_is_id(item) for item in row):
        kinds = sorted({type(item).__name__ for item in row})
        raise InputError(f"a row of token ids holds {', '.join(kinds)}. Give {FORMS}.")
    ids = (
        torch.tensor([int(item) for item in row], dtype=torch.long) if isinstance(row, (list, tuple)) else row
    )
    rows = _id_tensor(ids)
    if rows.shape[0] != 1:
        raise InputError(
            f"one of the listed inputs has shape {tuple(ids.shape)}; each must be one row of ids."
        )
    return rows[0]


def _id_tensor(source: Any) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(source)) if isinstance(source, np.ndarray) else source
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool:
        hint = " For embeddings write `inputs_embeds=...`." if tensor.is_floating_point() else ""
        raise InputError(f"token ids are integers; the input is of dtype {tensor.dtype}.{hint}")
    if tensor.ndim not in (1, 2):
        raise InputError(
            f"token ids have shape (position,) or (row, position); the input's is {tuple(tensor.shape)}."
        )
    rows = tensor[None] if tensor.ndim == 1 else tensor
    return rows if rows.dtype in (torch.int64, torch.int32) else rows.long()


def _from_mapping(source: Mapping) -> dict[str, Any]:
    fields = {str(name): value for name, value in source.items() if value is not None}
    if not fields.keys() & set(INPUT_NAMES):
        raise InputError(
            f"the input is a {type(source).__name__} with {', '.join(fields) or 'nothing in it'}; it needs "
            "`input_ids` or `inputs_embeds`."
        )
    return fields


# --- rows -----------------------------------------------------------------------------------------


def _as_rows(fields: dict[str, Any], options: dict[str, Any], tokenized: bool) -> Prompt:
    """Make every field a tensor or a list of rows; what has no rows is an option for the model."""
    main = next((name for name in ("input_ids", "inputs_embeds") if name in fields), None)
    if main is None:
        if "encoder_outputs" in fields:
            return _from_encoder_outputs(fields, options)
        raise InputError(f"there is no input among {', '.join(fields) or 'the arguments'}. Give {FORMS}.")
    rows = fields[main]
    if main == "input_ids":
        rows = _stacked(_ids(rows))
    elif not isinstance(rows, torch.Tensor) or rows.ndim not in (2, 3) or not rows.is_floating_point():
        raise InputError("`inputs_embeds` is a float tensor of shape (row, position, d_model).")
    elif rows.ndim == 2:
        rows = rows[None]
    lengths = tuple(len(row) for row in rows)
    found: dict[str, Any] = {main: rows}
    left = dict(options)
    for name, value in fields.items():
        if name == main:
            continue
        if name in ROW_FIELDS or (_is_rows(value, len(lengths)) and name != "past_key_values"):
            found[name] = _field(name, value, len(lengths))
        else:
            left[name] = value
    return Prompt(found, lengths, left, tokenized)


def _from_encoder_outputs(fields: dict[str, Any], options: dict[str, Any]) -> Prompt:
    outputs = fields["encoder_outputs"]
    states = outputs[0]
    lengths = (states.shape[1],) * states.shape[0]
    row_fields = {n: _field(n, v, len(lengths)) for n, v in fields.items() if n in ROW_FIELDS}
    return Prompt(row_fields, lengths, {**options, "encoder_outputs": outputs})


def _is_rows(value: Any, size: int) -> bool:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.ndim > 0 and len(value) == size
    return isinstance(value, list) and len(value) == size and isinstance(value[0], (list, torch.Tensor))


def _field(name: str, value: Any, size: int) -> Any:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, (list, tuple)):
        flat = size == 1 and bool(value) and not isinstance(value[0], (list, tuple, torch.Tensor, np.ndarray))
        value = _stacked([torch.as_tensor(row) for row in ([value] if flat else value)])
    if isinstance(value, torch.Tensor) and value.ndim == 1 and size == 1 and name != "labels":
        value = value[None]
    if len(value) != size:
        raise InputError(f"`{name}` has {len(value)} rows and the input has {size}.")
    return value


def _stacked(rows: Any) -> Any:
    """Rows of one length as a tensor; the tensor that was given, as it is."""
    if isinstance(rows, torch.Tensor) or len({tuple(row.shape) for row in rows}) > 1:
        return rows
    return torch.stack(rows)


def _check(prompt: Prompt, limits: Limits) -> None:
    if prompt.size == 0 or min(prompt.lengths) == 0:
        which = f"row {prompt.lengths.index(0)} of the input" if prompt.size > 1 else "the prompt"
        raise InputError(
            f"{which} is empty: it has no tokens. Give at least one, for example "
            "`model.tokenizer.bos_token` or `model.tokenizer.eos_token`."
        )
    limits.check_length(prompt.width)
    ids = prompt.fields.get("input_ids")
    if ids is not None:
        for row in [ids] if isinstance(ids, torch.Tensor) else ids:
            limits.check_ids(row)
