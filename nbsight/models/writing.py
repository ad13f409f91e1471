"""Generation for people: `model.generate("…", 20)`, called for its value, and its tokens one by one.

The model's own `generate` runs, held open (core/holding.py): it is taken from the end of one pass to the
choice of its token and handed back in between. So kept edits act as ever, what has been written is there at
any time, and an interrupt or an error loses nothing of it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nbsight.core.generation import CHOICE
from nbsight.core.holding import HeldTracer, bare
from nbsight.errors import InputError, NbsightError, NbsightWarning
from nbsight.models.prompts import continuation_text, is_several, read_prompts
from nbsight.models.provenance import provenance
from nbsight.models.tokens import str_tokens
from nbsight.results.generation import Generated, GeneratedToken, Generations

if TYPE_CHECKING:
    from nbsight.models.language_model import LanguageModel

__all__ = ["ALTERNATIVES", "Stream"]

ALTERNATIVES = 5
"""Likeliest tokens that are kept of each step."""

#: Options under which a pass chooses several tokens at once.
_ASSISTED = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")


class _Row:
    """What one row has said so far.

    Args:
        model: Whose tokens they are.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.tokens: list[GeneratedToken] = []
        self.top_ids: list[list[int]] = []

    def add(self, step: int, token: int, text: str, logs: torch.Tensor, alternatives: int) -> GeneratedToken:
        """Take in a token that was chosen where these were the log-probabilities, float32, (d_vocab,)."""
        tokenizer = self._model.tokenizer
        top = logs.topk(min(alternatives, len(logs)))
        ids = top.indices.tolist()
        own = logs[token]
        self.top_ids.append(ids)
        self.tokens.append(
            GeneratedToken(
                step=step,
                id=token,
                token=str_tokens(tokenizer, [token])[0],
                text=text if tokenizer is not None else f"<{token}>",
                prob=float(own.exp()),
                log_prob=float(own),
                entropy=float(torch.special.entr(logs.exp()).sum()),
                rank=int((logs > own).sum()),
                top=tuple(zip(str_tokens(tokenizer, ids), top.values.exp().tolist(), strict=True)),
            )
        )
        return self.tokens[-1]


class Stream:
    """The tokens of a generation as the model chooses them.

        for token in model.generate("Once upon a time", 50, stream=True):
            print(token, end="")

    It can be left at any time; `result` is what there is. For several prompts each turn gives a list with
    one entry a row, None where a row has ended.

    Args:
        model: A language model.
        args: The prompt.
        kwargs: What `model.generate` was given.
        alternatives: How many of the likeliest tokens to keep of each step.
        keeps_logits: Whether to keep the logits of every step, in the model's dtype, on the CPU.
        forced: Ids that are taken in place of the model's choices, where there is one row.

    Raises:
        InputError: the prompt or an option cannot be used.
    """

    def __init__(
        self,
        model: LanguageModel,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        alternatives: int = ALTERNATIVES,
        keeps_logits: bool = False,
        forced: Sequence[int] = (),
    ) -> None:
        _check(model, kwargs, alternatives)
        self.model = model
        self._alternatives = alternatives
        self._options = dict(kwargs)
        self._count: int | None = kwargs.get("max_new_tokens")
        self._prompts = read_prompts(model, args, kwargs)
        self._is_several = is_several(args[0] if args else None, len(self._prompts))
        self._tracer = HeldTracer(model, "generate", args, dict(kwargs))
        generation: Any = self._tracer.generation
        self._generation = generation
        #: Rows that are returned of each prompt.
        self._copies: int = generation.copies
        self._rows = [_Row(model) for _ in range(len(self._prompts) * self._copies)]
        self._ending: str | None = None
        self._forced = forced
        #: For each step the logits, (row, d_vocab).
        self.logits: list[torch.Tensor] | None = [] if keeps_logits else None
        try:
            _check_kind(self._generation)
        except BaseException:
            self.close()
            raise

    # -- moving --------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        __tracebackhide__ = True  # IPython leaves this frame out
        if self._ending is not None:
            raise StopIteration
        tracer = self._tracer
        try:
            tracer.use()
            found = self._step()
        except KeyboardInterrupt:
            self._ending = "interrupted"
            self._tracer.release()
            raise
        except BaseException as error:
            self._ending = "unfinished"
            self._tracer.release()
            if isinstance(error, NbsightError):
                raise bare(error) from None
            raise
        if found is None:
            self._ending = "over"
            raise StopIteration
        return found[0] if len(found) == 1 else found

    def _step(self) -> list[GeneratedToken | None] | None:
        """Go on to the next choice of tokens; None at the end."""
        run = self._tracer.run
        assert run is not None
        if not self._go(run.root):
            return None
        logits = _logits(run.site.value if run.site is not None else None)
        if self.logits is not None:
            self.logits.append(logits.to("cpu", copy=True))
        logs = logits.float().log_softmax(-1)
        if not self._go(CHOICE):
            return None
        step = self._generation.last
        if self._forced and run.site is not None:
            run.site.value.fill_(self._forced[len(self._rows[0].tokens)])
        chosen = self._generation.chosen(step, None)
        found: list[GeneratedToken | None] = []
        for number, (row, ids) in enumerate(zip(self._rows, chosen, strict=True)):
            if ids is None:
                found.append(None)
                continue
            if len(ids) != 1:
                raise InputError(_several(step, len(ids)))
            text = self._generation.piece(number, ids[0])
            found.append(row.add(step, ids[0], text, logs[number], self._alternatives))
        return found

    def _go(self, place: Any) -> bool:
        """Go on to where this place is next; False at the end."""
        tracer = self._tracer
        run, key = tracer.run, (place, "output")
        assert run is not None
        if tracer.state != "open":
            return False
        with tracer.moving():
            if place is not CHOICE:
                run.open([place])
            run.want(key)
            try:
                while not run.ended:
                    run.advance()  # kept edits have stops of their own
                    if run.site is not None and (run.site.module, run.site.kind) == key:
                        return True
            finally:
                run.unwant(key)
        return False

    def finish(self) -> Any:
        """Let the model write to the end, and return all of it; an interrupt returns what there is."""
        __tracebackhide__ = True
        try:
            for _ in self:
                pass
        except KeyboardInterrupt:
            warnings.warn(
                f"interrupted after {self.count} tokens; the result holds them.", NbsightWarning, _level()
            )
        except Exception as error:
            error.result = self.result  # type: ignore[attr-defined]
            raise
        return self.result

    def close(self) -> None:
        """Stop here; `result` stays. Safe to call twice."""
        if self._ending is None:
            self._ending = "unfinished"
        self._tracer.release()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing() and "_ending" in self.__dict__:
            self._tracer.release()

    # -- what there is -------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether no more tokens come."""
        return self._ending is not None

    @property
    def count(self) -> int:
        """How many tokens the longest row has so far."""
        return max(len(row.tokens) for row in self._rows)

    @property
    def texts(self) -> tuple[str, ...]:
        """What each row has written so far."""
        said = ("".join(token.text for token in row.tokens) for row in self._rows)
        return tuple(said)

    @property
    def result(self) -> Any:
        """What there is so far: `Generated` for one prompt, `Generations` for several rows."""
        each = [self._result(number) for number in range(len(self._rows))]
        return each[0] if len(each) == 1 and not self._is_several else Generations(each)

    def _result(self, number: int) -> Generated:
        row, prompt = self._rows[number], self._prompts[number // self._copies]
        tokens = row.tokens
        wide = max((len(token.top) for token in tokens), default=0)
        words = np.empty((len(tokens), wide), object)
        for at, token in enumerate(tokens):
            words[at] = [text for text, _ in token.top]
        shape = (len(tokens), wide)
        ids = [token.id for token in tokens]
        return Generated(
            prompt=prompt.text,
            text=continuation_text(self.model.tokenizer, prompt.ids, ids),
            stop=self._stop(tokens),
            prompt_tokens=prompt.strings,
            prompt_ids=np.array(prompt.ids, np.int64),
            tokens=[token.token for token in tokens],
            ids=np.array(ids, np.int64),
            probs=np.array([token.prob for token in tokens], np.float32),
            log_probs=np.array([token.log_prob for token in tokens], np.float32),
            entropy=np.array([token.entropy for token in tokens], np.float32),
            ranks=np.array([token.rank for token in tokens], np.int64),
            top_ids=np.array(row.top_ids, np.int64).reshape(shape),
            top_tokens=words,
            top_probs=np.array([[p for _, p in token.top] for token in tokens], np.float32).reshape(shape),
            prompt_roles=prompt.roles,
            model=str(self.model._name),
            provenance=self._provenance([prompt.text]),
        )

    def _stop(self, tokens: Sequence[GeneratedToken]) -> str:
        if tokens and tokens[-1].id in self._generation.eos:
            return "end"
        if self._count is not None and len(tokens) >= self._count:
            return "length"
        if self._ending is None:
            return "unfinished"
        return "criterion" if self._ending == "over" else self._ending

    def _provenance(self, prompts: list[str]) -> dict[str, Any]:
        options = {
            name: value
            for name, value in self._options.items()
            if name != "seed" and isinstance(value, (str, int, float, bool, type(None)))
        }
        edits = [repr(edit) for edit in self.model._edits if edit.enabled]
        more = {"edits": edits} if edits else {}
        seed = self._options.get("seed")
        return provenance(self.model, prompts, seed=seed, generation=options, **more)

    def _ipython_display_(self) -> None:
        """The last line of a cell: write, and show it as it comes."""
        from nbsight.models.live import show_live

        show_live(self)

    def __repr__(self) -> str:
        if self._ending is None:
            return f"Stream: {self.count} tokens so far; `for token in stream: ...`, or `stream.finish()`"
        return repr(self.result)


def _logits(value: Any) -> torch.Tensor:
    """The logits of the next token in what a model's forward returned, (row, d_vocab)."""
    logits = getattr(value, "logits", None)
    if logits is None and isinstance(value, (tuple, list)):
        logits = value[0]
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"this model's passes return {type(value).__name__}, without logits.")
    return logits[:, -1]


# --- what cannot be served ------------------------------------------------------------------------


def _check(model: LanguageModel, kwargs: Mapping[str, Any], alternatives: int) -> None:
    count = kwargs.get("max_new_tokens")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise InputError(f"the number of tokens is an integer of at least 1; it was {count!r}.")
    if isinstance(alternatives, bool) or not isinstance(alternatives, int) or alternatives < 1:
        raise InputError(
            f"`alternatives` is how many tokens to keep a step, at least 1; it was {alternatives!r}."
        )
    if kwargs.get("remote"):
        raise InputError(
            "called for its value, `model.generate(prompt, n)` writes here. For a remote model write\n"
            "    with model.generate(prompt, max_new_tokens=n, remote=...) as tracer:\n"
            "        ids = tracer.result.save()"
        )
    for name in _ASSISTED:
        if kwargs.get(name) is not None:
            raise InputError(f"`{name}` lets a pass choose several tokens. {_INSTEAD}")


_INSTEAD = (
    "Probabilities are known where each pass chooses one. Leave it out, or write "
    "`model.generate(prompt, max_new_tokens=n, ...)`, which returns what the model's own `generate` does."
)


def _several(step: int, count: int) -> str:
    return f"step {step} chose {count} tokens at once. {_INSTEAD}"


def _check_kind(generation: Any) -> None:
    if generation.is_search:
        raise InputError(f"the tokens of a beam search are known at its end. {_INSTEAD}")
    if not generation.knows_tokens:
        raise InputError(generation._unknown(0))


def _level() -> int:
    """How far up the user's line is, for a warning."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("nbsight."):
        level, frame = level + 1, frame.f_back
    return level
