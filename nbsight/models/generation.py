"""The generations of Hugging Face models: which tokens they chose, and which rows they chose them in.

transformers asks its stopping criteria after each choice. One of ours among them never stops anything;
it tells the `Generation` of the core what the ids are by now.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from sys import _getframe
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nbsight.core.batching import Rows
from nbsight.core.callee import is_compiled
from nbsight.core.generation import CHOICE, Generation, Mark
from nbsight.core.sites import describe
from nbsight.core.steps import Step, shown
from nbsight.core.token import Token
from nbsight.errors import EditError, InputError
from nbsight.models.tokens import str_tokens, token_text

if TYPE_CHECKING:
    from nbsight.models.language_model import LanguageModel

__all__ = ["Generator", "TokenGeneration", "generating_part"]

#: A character of UTF-8 has at most this many bytes, and so at most as many tokens.
LONGEST_CHARACTER = 4


class TokenGeneration(Generation):
    """A generation of a language model.

    Args:
        model: The model.
        kwargs: The arguments of `model.generate(...)`; `on_token` and `seed` are taken out of them.
    """

    def __init__(self, model: LanguageModel, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.on_token = kwargs.pop("on_token", None)
        self.seed = kwargs.pop("seed", None)
        if self.on_token is not None and not callable(self.on_token):
            raise InputError(
                f"`on_token` is a function that is called with each token, such as print; it was "
                f"{type(self.on_token).__name__}."
            )
        self._tokenizer = model.tokenizer
        self._watched = False
        self._settled = False
        self.eos: list[int] = []
        #: Rows of a pass, and rows that are returned, for each row that was given.
        self.copies = self._kept = 1
        #: The column of the ids where the first new one is; None where only the first choice shows it.
        self._begin: int | None = None
        #: Positions that come before the ids, because they were given as embeddings.
        self._unseen = 0
        self._width: int | None = None
        self._pending: dict[int, list[int]] = {}

    # -- the life of a run ---------------------------------------------------------------------

    def begin(self, tracer: Any, kwargs: dict[str, Any], rows: list[Rows]) -> list[Rows]:
        """Take a place among the stopping criteria, and see what the arguments mean for the rows."""
        super().begin(tracer, kwargs, rows)
        module = generating_part(tracer.root._module)
        setting = _settings(module, kwargs)
        eos = setting("eos_token_id")
        self.eos = [] if eos is None else torch.as_tensor(eos).flatten().tolist()
        beams, self._kept = setting("num_beams") or 1, setting("num_return_sequences") or 1
        self.copies, self.is_search = max(beams, self._kept), beams > 1
        self._begin, self._unseen = _prompt_width(module, kwargs)
        self._width, self._settled, self._pending = self._begin, False, {}
        self._watched = _takes_criteria(module) and setting("cache_implementation") != "paged"
        if self._watched:
            given = kwargs.get("stopping_criteria") or []
            kwargs["stopping_criteria"] = [
                *(given if isinstance(given, (list, tuple)) else [given]),
                self._told,
            ]
        if self.on_token is not None:
            self._check_streaming()
        self.is_ragged = any(part.left_pad != rows[0].left_pad for part in rows)
        return [_copied(part, self.copies) for part in rows]

    def _check_streaming(self) -> None:
        if not self._watched:
            raise InputError(f"`on_token` cannot be served: {self._unknown(0)}")
        if self.is_search:
            raise InputError(
                "`on_token` was given to a beam search, whose tokens are known at its end. Leave it out, or "
                "write `num_beams=1`."
            )

    def _told(self, ids: torch.Tensor, scores: Any = None, **_: Any) -> torch.Tensor | bool:
        """The criterion: takes note. It asks a row to stop where a block wrote the token that ends one."""
        assert self.run is not None
        if self.run.passes - 1 <= self.last:
            return False  # before transformers 5, assisted generation asks about its guesses as well
        width, before = ids.shape[1], self._width
        start = width - 1 if before is None or before >= width else before
        if self._begin is None:
            self._begin = start
        self._width = width
        return self._ends(ids[:, -1]) if self.note(ids, start) else False

    def _ends(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.isin(ids, torch.tensor(self.eos, dtype=ids.dtype, device=ids.device))

    def _settle(self) -> None:
        run = self.run
        if self._settled or run is None or not run.finished or self.first is None:
            return
        self._settled = True
        result = _sequences(run.result)
        if result is None:
            return
        width = result.shape[1]
        if self.is_search:
            assert self._begin is not None
            self._ids, columns = result, range(self._begin, width)
            steps = range(self.first, self.last + 1)
            pairs = zip(steps, columns, strict=False)
            self._marks = {at: Mark(None, self._begin, column, column + 1) for at, column in pairs}
        elif self._ids is not None and len(result) == len(self._ids):
            # A step that transformers took back is none.
            marks = self._marks.items()
            self._marks = {at: mark for at, mark in marks if mark.end <= width or mark.ids is not None}

    # -- what is asked of it -------------------------------------------------------------------

    @property
    def knows_tokens(self) -> bool:
        """Whether the criterion could be put in place."""
        return self._watched

    def had_ended(self, ids: torch.Tensor, begin: int, column: int) -> list[bool]:
        """For each row, whether it chose a token that ends it before a column."""
        if not self.eos or column <= begin:
            return [False] * len(ids)
        return self._ends(ids[:, begin:column]).any(1).tolist()

    def position(self, number: int, rows: Rows | None) -> int:
        """The position of the last token that a pass reads, counted from the prompt's own first."""
        begin = 1 if self._begin is None else self._begin  # a decoder begins with one token
        if self.reads_prompt(number):
            width = begin
        elif self.is_search:
            width = begin + number - (self.first or 0)
        else:
            before = next(at for at in range(int(number) - 1, -1, -1) if at in self._marks)
            width = self._marks[before].end
        return self._unseen + width - 1 - (rows.left_pad if rows is not None else 0)

    def text(self, ids: list[int]) -> str:
        """The text of ids, each token as it is alone."""
        if self._tokenizer is None:
            raise InputError(
                "this model has no tokenizer, so a token has no text; `step.token_id` is its id."
            )
        return "".join(str_tokens(self._tokenizer, ids))

    def show(self, ids: list[int], with_ids: bool = False) -> str:
        """Ids as a message or a list shows them."""
        return shown(ids, None if self._tokenizer is None else self.text(ids), with_ids)

    # -- tokens one by one ---------------------------------------------------------------------

    def tell(self, number: int, column: int) -> None:
        """Call `on_token` with a token of each row."""
        assert self._ids is not None
        assert self.on_token is not None
        ended = self.had_ended(self._ids, self._marks[number].begin, column)
        column_ids = self._ids[:, column].tolist()
        ids = [None if over else token for token, over in zip(column_ids, ended, strict=True)]
        texts = [None if token is None else self.piece(row, token) for row, token in enumerate(ids)]
        self.on_token(Token(Step(number, self), ids, texts, self._tokenizer is not None))

    def piece(self, row: int, token: int) -> str:
        """What can be shown of a row after one more token."""
        if self._tokenizer is None:
            return ""
        pending = self._pending.setdefault(row, [])
        pending.append(token)
        if len(pending) == 1:
            text = token_text(self._tokenizer, token)
        else:
            text = self._tokenizer.decode(pending, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and len(pending) < LONGEST_CHARACTER:
            return ""
        pending.clear()
        return text

    # -- results -------------------------------------------------------------------------------

    def _own_result(self, rows: Rows, result: Any) -> Any:
        """One invoke's part of what the call returned, its ids as if they had been generated alone."""
        sequences = _sequences(result)
        part = rows.narrow(result)
        if sequences is None or len(sequences) * self.copies != rows.total * self._kept:
            return part
        own = self._own_sequences(_copied(rows, self._kept, self.copies), sequences)
        if sequences is result:
            return own
        return type(result)(**{**{name: part[name] for name in part}, "sequences": own})

    def _own_sequences(self, rows: Rows, sequences: torch.Tensor) -> torch.Tensor:
        own = sequences[rows.start : rows.start + rows.size]
        begin = sequences.shape[1] if self._begin is None else self._begin
        end = max(self._end(row, begin) for row in own)
        return own[:, 0 if self._unseen else rows.left_pad : end]

    def _end(self, row: torch.Tensor, begin: int) -> int:
        """The column after the last that belongs to a row; pads follow."""
        eos = self._ends(row[begin:]).nonzero()
        return begin + int(eos[0]) + 1 if len(eos) else len(row)


# --- what the arguments mean ----------------------------------------------------------------------


def _settings(module: nn.Module, kwargs: dict[str, Any]) -> Callable[[str], Any]:
    """Finds a setting where transformers finds it: the call, its configuration, the model's own."""
    homes = (kwargs.get("generation_config"), getattr(module, "generation_config", None))

    def setting(name: str) -> Any:
        if name in kwargs:  # None too: `eos_token_id=None` is never ended
            return kwargs[name]
        found = (getattr(home, name, None) for home in homes)
        return next((value for value in found if value is not None), None)

    return setting


def _prompt_width(module: nn.Module, kwargs: dict[str, Any]) -> tuple[int | None, int]:
    """The column of the first new id, and how many positions of the prompt have no id."""
    if getattr(getattr(module, "config", None), "is_encoder_decoder", False):
        given = kwargs.get("decoder_input_ids")
        return (None if given is None else given.shape[1]), 0
    embeds, ids = kwargs.get("inputs_embeds"), kwargs.get("input_ids")
    if ids is not None:
        return ids.shape[1], 0
    return (None, 0) if embeds is None else (0, embeds.shape[1])


def generating_part(module: nn.Module) -> nn.Module:
    """The module whose forward is a step of `module.generate`: of a shell the model inside."""
    if is_compiled(module):
        module = module._modules["_orig_mod"]
    inner = getattr(module, "get_base_model", None)
    return inner() if callable(inner) else module


def _takes_criteria(module: nn.Module) -> bool:
    generate = getattr(module, "generate", None)
    return generate is not None and "stopping_criteria" in inspect.signature(generate).parameters


def _copied(rows: Rows, copies: int, of: int = 1) -> Rows:
    """Rows of a batch in which transformers puts several copies of each row (where it put `of`)."""
    if copies == of:
        return rows
    start, size, total = (number // of * copies for number in (rows.start, rows.size, rows.total))
    return replace(rows, start=start, size=size, total=total)


def _sequences(result: Any) -> torch.Tensor | None:
    """The ids in what `generate` returned."""
    if not isinstance(result, torch.Tensor):
        result = getattr(result, "sequences", None)
    return result if isinstance(result, torch.Tensor) and result.ndim == 2 else None


# --- nnsight's names for the same -----------------------------------------------------------------


class Generator:
    """What nnsight calls `model.generator`: what a generation returns, and its tokens one by one."""

    def __init__(self, root: LanguageModel) -> None:
        self._root = root

    @property
    def output(self) -> Any:
        """The same as `tracer.result`."""
        return self._root._tracer("generator.output", _getframe(1)).result

    @property
    def streamer(self) -> Streamer:
        """The place where a pass chooses its token."""
        return Streamer(self._root)


class Streamer:
    """The place where a pass chooses its token. It stands in a run as a module does."""

    _path = CHOICE._path
    _module = CHOICE
    _is_module = False
    _is_literal = True
    _parent = None

    def __init__(self, root: LanguageModel) -> None:
        self._root = root

    @property
    def output(self) -> torch.Tensor:
        """The ids that this pass chose, shape (row,); assign others and the model goes on with them.

        Writing the id that ends a text ends the row; a row that the model has just ended stays ended.
        """
        frame = _getframe(1)
        return self._tracer(frame).read(self, "output", frame)

    @output.setter
    def output(self, value: Any) -> None:
        frame = _getframe(1)
        self._tracer(frame).write(self, "output", value, frame)

    def _tracer(self, frame: FrameType) -> Any:
        tracer = self._root._tracer(f"{self._path}.output", frame)
        generation = tracer.generation
        if generation is None or not generation.knows_tokens or generation.is_search:
            raise InputError(
                f"`{self._path}.output` is the token that a step of `model.generate(...)` chooses; there is "
                "none in `trace`, in a beam search, or where the model has its own way to generate."
            )
        return tracer

    def _gates(self) -> list[nn.Module]:
        return []

    def _show(self, kind: str, value: Any) -> Any:
        return value

    def _accept(self, kind: str, current: torch.Tensor, assigned: Any) -> torch.Tensor:
        ids = torch.as_tensor(assigned, device=current.device)
        if ids.is_floating_point() or ids.ndim > current.ndim:
            raise EditError(
                f"the tokens of a step are ids, one integer for each of {len(current)} rows; what was "
                f"written is {describe(assigned)}."
            )
        return ids.to(current.dtype).expand(current.shape).clone()
