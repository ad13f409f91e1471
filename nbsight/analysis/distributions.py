"""What a model's logits say at each position: log-probabilities, entropy, KL, perplexity.

The logits are those of any trace, or of a plain run when none are given. Rows that a batch padded are read
where their own tokens are. Everything is summed in float32, some positions at a time, so that half precision
and long prompts lose nothing and need little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from nbsight.display.numbers import plural
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.prompts import Said, is_several, read_prompts
from nbsight.models.provenance import provenance
from nbsight.results.scores import Divergence, Entropy, LogProbs, ScoreBatch

__all__ = ["divergence", "entropy", "kl", "log_probs", "perplexity"]

#: Positions whose distributions are in memory at a time.
_ROWS = 256

Rows = list[torch.Tensor]


class _Asked(NamedTuple):
    """The prompts that are meant, and for each the columns of its tokens in a batch of them."""

    prompts: list[Said]
    columns: list[torch.Tensor]
    width: int
    is_several: bool


def log_probs(model: LanguageModel, prompt: Any, logits: Any = None, **options: Any) -> Any:
    """The log-probability of each token given those before it.

    Args:
        model: A language model.
        prompt: Whatever `model.trace` takes; several prompts give one result each.
        logits: `model.output` or its logits in a trace of this prompt, (row, position, d_vocab); without them
            the model is run.
        options: Options of the tokenizer and of the chat template, as the trace was given.

    Returns:
        `LogProbs`: nats, float32, (position,); the first is NaN. Several prompts give a sequence of these.

    Raises:
        InputError: the logits are not of this prompt.
    """
    asked, rows = _rows(model, prompt, logits, options)

    def of(row: torch.Tensor, said: Said) -> torch.Tensor:
        ids = torch.tensor(said.ids[1:], device=row.device)
        first = torch.full((1,), torch.nan)
        parts = [
            logs.gather(1, some[:, None])[:, 0].cpu()
            for logs, some in zip(_logs(row[:-1]), ids.split(_ROWS), strict=True)
        ]
        return torch.cat([first, *parts])

    return _result(
        LogProbs, model, asked, [of(row, said) for row, said in zip(rows, asked.prompts, strict=True)]
    )


def entropy(model: LanguageModel, prompt: Any, logits: Any = None, **options: Any) -> Any:
    """The entropy of the next-token distribution at each position.

    Args:
        model: A language model.
        prompt: As for `log_probs`.
        logits: As for `log_probs`.
        options: As for `log_probs`.

    Returns:
        `Entropy`: nats, float32, (position,). Several prompts give a sequence of these.

    Raises:
        InputError: the logits are not of this prompt.
    """
    asked, rows = _rows(model, prompt, logits, options)
    found = [torch.cat([torch.special.entr(logs.exp()).sum(-1).cpu() for logs in _logs(row)]) for row in rows]
    return _result(Entropy, model, asked, found)


def kl(model: LanguageModel, prompt: Any, logits: Any, reference: Any = None, **options: Any) -> Any:
    """KL(reference ‖ prediction) of the next-token distributions at each position.

    Args:
        model: A language model.
        prompt: As for `log_probs`.
        logits: The prediction, as for `log_probs`: of a trace in which something was changed.
        reference: Logits of the same prompt to compare it with; by default the model is run as it is.
        options: As for `log_probs`.

    Returns:
        `Divergence`: nats, float32, (position,). Several prompts give a sequence of these.

    Raises:
        InputError: the logits are not of this prompt.
    """
    asked, rows = _rows(model, prompt, logits, options)
    _, others = _rows(model, prompt, reference, options)
    found = [
        torch.cat(
            [divergence(p, q.to(p.device)).cpu() for p, q in zip(_logs(other), _logs(row), strict=True)]
        )
        for row, other in zip(rows, others, strict=True)
    ]
    return _result(Divergence, model, asked, found)


def perplexity(model: LanguageModel, texts: Any, logits: Any = None, **options: Any) -> float:
    """The exponential of the mean negative log-probability of a token, over all tokens of all texts.

    A text's first token has nothing before it and does not count.

    Args:
        model: A language model.
        texts: One text or several, as for `log_probs`.
        logits: As for `log_probs`.
        options: As for `log_probs`.

    Raises:
        InputError: no text has a second token, or the logits are not of these texts.
    """
    found = log_probs(model, texts, logits, **options)
    values = np.concatenate([one.values[1:] for one in (found if isinstance(found, ScoreBatch) else [found])])
    if not len(values):
        raise InputError("a perplexity needs a text of at least two tokens: the first has nothing before it.")
    return float(np.exp(-values.astype(np.float64).mean()))


def _logs(row: torch.Tensor) -> Iterator[torch.Tensor]:
    """Log-probabilities in float32, some positions at a time; (position, d_vocab)."""
    return (part.float().log_softmax(-1) for part in row.split(_ROWS))


def divergence(reference: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """KL(reference ‖ prediction) of rows of log-probabilities, (row,); 0 · log 0 counts nothing."""
    shares = reference.exp()
    parts = torch.where(shares > 0, shares * (reference - prediction), 0.0)
    return parts.sum(-1).clamp_min(0)


# --- which logits ---------------------------------------------------------------------------------


def _rows(model: LanguageModel, prompt: Any, logits: Any, options: dict[str, Any]) -> tuple[_Asked, Rows]:
    """The prompts, and for each its logits, (position, d_vocab)."""
    asked = _asked(model, prompt, options)
    if logits is None:
        with model.trace(prompt, grad=False, **options):
            logits = model.output.logits
    found = getattr(logits, "logits", logits)
    if not isinstance(found, torch.Tensor) or found.ndim not in (2, 3):
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise InputError(
            f"logits have shape (row, position, d_vocab), as `model.output.logits` of a trace; these "
            f"are {shape}."
        )
    found = found.detach()
    found = found[None] if found.ndim == 2 else found
    lengths = [len(said.ids) for said in asked.prompts]
    if len(found) != len(lengths) or found.shape[1] != asked.width:
        shape, wanted = tuple(found.shape[:2]), (len(lengths), asked.width)
        raise InputError(
            f"the logits are {plural(shape[0], 'row')} of {plural(shape[1], 'position')}, and this prompt is "
            f"{plural(wanted[0], 'row')} of {wanted[1]}. Give all logits of a trace of this very prompt: "
            "`model.output.logits`, not cut."
        )
    return asked, [found[row, columns] for row, columns in enumerate(asked.columns)]


def _asked(model: LanguageModel, prompt: Any, options: dict[str, Any]) -> _Asked:
    prompts = read_prompts(model, (prompt,), options)
    prepared = model._prepare((prompt,), dict(options))
    call, _ = model._joined([prepared], "forward", torch.device("cpu"))
    ids, mask = call["input_ids"], call.get("attention_mask")
    columns = [
        torch.arange(ids.shape[1]) if mask is None else mask[row].bool().nonzero()[:, 0]
        for row in range(len(ids))
    ]
    return _Asked(prompts, columns, ids.shape[1], is_several(prompt, len(prompts)))


def _result(kind: Callable[..., Any], model: LanguageModel, asked: _Asked, found: Rows) -> Any:
    each = [
        kind(
            prompt=said.text,
            tokens=said.strings,
            ids=np.array(said.ids, np.int64),
            values=values.numpy(),
            model=str(model._name),
            provenance=provenance(model, [said.text]),
        )
        for said, values in zip(asked.prompts, found, strict=True)
    ]
    return ScoreBatch(each) if asked.is_several else each[0]
