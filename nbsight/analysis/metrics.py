"""Metrics: what one number says about a model's prediction.

A metric takes logits of shape (row, d_vocab) at the position that is read, and gives one number for
each row. Any such function can stand in for one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel

__all__ = [
    "Answers",
    "Metric",
    "as_metric",
    "kl_divergence",
    "log_probability",
    "logit_difference",
    "metric_of",
    "notes_on",
    "probability",
]

Token = str | int
Answers = tuple[Token, Token]


@dataclass(frozen=True)
class Metric:
    """A number of a prediction.

    Args:
        name: What it is, for titles and tables.
        unit: What it is measured in, for axes.
        of: Logits (row, d_vocab) to numbers (row,).
        rises: Whether it is higher the better the right answer does; False where nobody knows.
        kind: Its name without the tokens that it is about, for tables of several prompts.
    """

    name: str
    unit: str
    of: Callable[[torch.Tensor], Any]
    rises: bool = False
    kind: str = ""

    def __call__(self, logits: torch.Tensor) -> Any:
        """The numbers of logits, (row, d_vocab) to (row,)."""
        return self.of(logits)

    def numbers(self, logits: torch.Tensor) -> NDArray[np.float64]:
        """The same as an array.

        Args:
            logits: (row, d_vocab).

        Raises:
            InputError: they are not one number for each row.
        """
        found = self.of(logits)
        if isinstance(found, torch.Tensor):
            found = found.detach().cpu().double().numpy()
        try:
            numbers = np.asarray(found, np.float64)
        except (TypeError, ValueError):  # words, lists of several lengths
            said = f"a {type(found).__name__}"
        else:
            if numbers.shape == (len(logits),):
                return numbers
            said = "None" if found is None else f"shape {numbers.shape}"
        raise InputError(
            f"a metric turns logits of shape {tuple(logits.shape)} (row, d_vocab) into one number for each "
            f"row, shape ({len(logits)},); `{self.name}` gave {said}."
        )


def logit_difference(model: LanguageModel, answer: Token, wrong: Token) -> Metric:
    """How far the logit of one token lies above that of another.

    Args:
        model: Whose tokens they are.
        answer: The right one, text of one token or an id.
        wrong: The other.

    Raises:
        InputError: a text is not one token.
    """
    right, left = _token(model, answer), _token(model, wrong)
    if right == left:
        raise InputError(f"the two tokens are the same, {answer!r}; their logits differ by 0 everywhere.")
    names = f"{_name(model, right)} − {_name(model, left)}"
    return Metric(
        f"logit difference {names}",
        "logit difference",
        lambda logits: logits[:, right] - logits[:, left],
        rises=True,
        kind="logit difference",
    )


def probability(model: LanguageModel, answer: Token) -> Metric:
    """The probability of one token, in float32.

    Args:
        model: Whose token it is.
        answer: Text of one token, or an id.

    Raises:
        InputError: the text is not one token.
    """
    token = _token(model, answer)
    return Metric(
        f"probability of {_name(model, token)}",
        "probability",
        lambda logits: logits.float().softmax(-1)[:, token],
        rises=True,
        kind="probability of the answer",
    )


def log_probability(model: LanguageModel, answer: Token) -> Metric:
    """The logarithm of one token's probability, in nats.

    Args:
        model: Whose token it is.
        answer: Text of one token, or an id.

    Raises:
        InputError: the text is not one token.
    """
    token = _token(model, answer)
    return Metric(
        f"log-probability of {_name(model, token)}",
        "nats",
        lambda logits: logits.float().log_softmax(-1)[:, token],
        rises=True,
        kind="log-probability of the answer",
    )


def kl_divergence(reference: torch.Tensor) -> Metric:
    """How far a prediction is from another: KL(reference ‖ prediction), in nats.

    Args:
        reference: The logits of the other prediction, (d_vocab,) or (1, d_vocab).
    """
    if reference.ndim not in (1, 2) or (reference.ndim == 2 and len(reference) != 1):
        raise InputError(
            f"the reference of a KL divergence is one prediction, logits of shape (d_vocab,); this one has "
            f"shape {tuple(reference.shape)}. Write `logits[0, -1]`."
        )
    target = reference.detach().reshape(-1).float().log_softmax(-1)

    def of(logits: torch.Tensor) -> torch.Tensor:
        predicted = logits.float().log_softmax(-1)
        own = target.to(predicted.device)
        return (own.exp() * (own - predicted)).sum(-1)

    return Metric("KL divergence from the reference", "nats", of)


def notes_on(model: LanguageModel, answers: Answers | None) -> list[str]:
    """What a reader must know of answers that may not be the tokens that were meant.

    Args:
        model: Whose tokens they are.
        answers: The right one and the other one.
    """
    notes = []
    for answer in answers or ():
        if not isinstance(answer, str) or answer[:1].isspace():
            continue
        try:
            with_blank = model.to_single_token(" " + answer)
        except InputError:  # then only the one without can be meant
            continue
        if with_blank != model.to_single_token(answer):
            notes.append(
                f"{answer!r} and {' ' + answer!r} are two tokens, and the first was measured; after a word "
                "the second one follows."
            )
    return notes


def as_metric(metric: Any) -> Metric:
    """A metric as it is, or one made of a function.

    Raises:
        InputError: it is neither.
    """
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        name = getattr(metric, "__name__", type(metric).__name__)
        return Metric("metric" if name == "<lambda>" else name.replace("_", " "), "metric", metric)
    raise InputError(
        f"a metric is a function of logits (row, d_vocab); this is a {type(metric).__name__}. Write "
        "`logit_difference(model, answer, wrong)`, or a function that gives one number for each row."
    )


def metric_of(model: LanguageModel, metric: Any, answers: Answers | None, clean: torch.Tensor) -> Metric:
    """The metric that an analysis was asked for.

    Args:
        model: The model.
        metric: A metric, a function, or "logit_difference", "probability" or "kl"; None means the first.
        answers: The right answer and the other one.
        clean: The prompt that is answered rightly, (1, position): the reference of "kl".

    Raises:
        InputError: there is no such metric, or it needs answers.
    """
    if metric == "kl":
        with model.trace(clean, grad=False):
            reference = model.output.logits[0, -1]
        return kl_divergence(reference)
    if metric is not None and not isinstance(metric, str):
        return as_metric(metric)
    if metric not in (None, "logit_difference", "probability"):
        raise InputError(
            f'there is no metric {metric!r}; there are "logit_difference", "probability" and "kl", and any '
            "function of logits (row, d_vocab)."
        )
    if answers is None:
        raise InputError(
            'nothing says what to measure. Write `answers=(" Paris", " Rome")`, the right answer and the '
            "other one, or `metric=` a function of logits (row, d_vocab)."
        )
    if metric == "probability":
        return probability(model, answers[0])
    return logit_difference(model, *answers)


def _token(model: LanguageModel, token: Token) -> int:
    if isinstance(token, str):
        return model.to_single_token(token)
    size = model._limits.vocabulary
    if token < 0 or (size is not None and token >= size):
        raise InputError(f"there is no token {token}; the vocabulary has ids 0 to {(size or 1) - 1}.")
    return int(token)


def _name(model: LanguageModel, token: int) -> str:
    return repr(model.to_string(token)) if model.tokenizer is not None else f"<{token}>"
