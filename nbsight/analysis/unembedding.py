"""From the residual stream to the vocabulary, as the model itself does it after its last block.

What stands between the last block and the logits is found by watching one short forward: the
modules that are called after the last block and before the unembedding (a norm, in some models a
projection), then the unembedding, then what the configuration says is done to its result. The
finding counts only if it gives the model's own logits.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nbsight.errors import UnknownArchitectureError
from nbsight.models.language_model import LanguageModel
from nbsight.models.limits import text_config

__all__ = ["TOLERANCE", "Best", "Unembedding", "hidden_state", "last_blocks", "unembedding_of"]

#: Logits held at a time, 2 MB; more is no faster, except where starting a kernel costs more than its work.
_CELLS = 2**19
_CELLS_OFF_CPU = 2**23
#: Multiples of it are multiplied a seventh faster than other widths.
_EVEN = 256
_ROWS = 1024

#: How far what was found another way may be from the model's own: logits relative to the largest, a sum of
#: parts relative to the length of the whole.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

Scale = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Unembedding:
    """The way from the residual stream to the logits.

    Args:
        chain: The modules before the unembedding, usually one norm.
        head: The unembedding.
        after: What is done to its result; None for nothing.
    """

    chain: tuple[nn.Module, ...]
    head: nn.Module
    after: Scale | None = None

    @property
    def first(self) -> nn.Module:
        """The module that reads the residual stream."""
        return self.chain[0] if self.chain else self.head

    def logits(self, resid: torch.Tensor) -> torch.Tensor:
        """Logits of residual vectors, (row, d_vocab).

        Args:
            resid: Rows of the residual stream, (row, d_model), not normalised.
        """
        return self._finished(self.head(self.normed(resid)))

    def normed(self, resid: torch.Tensor) -> torch.Tensor:
        """What the unembedding reads, (row, d_embed)."""
        rows = resid[None]
        for module in self.chain:
            rows = module(rows.to(_device(module, rows.device)))
        return rows[0]

    def top(self, resid: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest tokens of residual vectors, without holding all logits at once.

        Args:
            resid: Rows of the residual stream, (row, d_model), not normalised.
            top_k: How many; at most the size of the vocabulary.

        Returns:
            Probabilities over the whole vocabulary, float32, and ids, both (row, rank), likeliest first.
        """
        parts = [self._top(rows, top_k) for rows in resid.split(_ROWS)]
        return torch.cat([probs for probs, _ in parts]), torch.cat([ids for _, ids in parts])

    def _top(self, resid: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        best, whole = Best(top_k), None
        for part in self.parts(self.normed(resid)):
            best.add(part)
            total = part.logsumexp(-1)
            whole = total if whole is None else torch.logaddexp(whole, total)
        assert whole is not None
        return (best.values - whole[:, None]).exp().cpu(), best.ids.cpu()

    @property
    def _matrix(self) -> torch.Tensor | None:
        """The unembedding's weight, unless it is something else or brought in when it is called."""
        is_plain = type(self.head) is nn.Linear and not hasattr(self.head, "_hf_hook")
        return self.head.weight if is_plain else None

    def logits_of(self, rows: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
        """The logits of some tokens, float32, (row, token).

        Args:
            rows: What the unembedding reads, (row, d_embed).
            tokens: Ids.
        """
        weight = self._matrix
        if weight is None:
            every = self._finished(self.head(rows.to(_device(self.head, rows.device)))).float()
            return every[:, list(tokens)]
        chosen = torch.tensor(list(tokens), dtype=torch.long, device=weight.device)
        bias: torch.Tensor | None = self.head.bias
        some = nn.functional.linear(
            rows.to(weight.device), weight[chosen], None if bias is None else bias[chosen]
        )
        return self._finished(some).float()

    def parts(self, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """The logits in float32, (row, token), some of the vocabulary at a time.

        Args:
            rows: What the unembedding reads, (row, d_embed).
        """
        weight = self._matrix
        if weight is None:
            yield self._finished(self.head(rows.to(_device(self.head, rows.device)))).float()
            return
        bias: torch.Tensor | None = self.head.bias
        rows = rows.to(weight.device)
        cells = _CELLS if weight.device.type == "cpu" else _CELLS_OFF_CPU
        size = max(1, cells // len(rows))
        size -= size % _EVEN if size > _EVEN else 0
        for start in range(0, len(weight), size):
            part = slice(start, start + size)
            yield self._finished(
                nn.functional.linear(rows, weight[part], None if bias is None else bias[part])
            ).float()

    def _finished(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.after is None else self.after(logits)


class Best:
    """The largest logits of every row, of as much of the vocabulary as has been seen.

    Args:
        top_k: How many; at most the size of the vocabulary.
    """

    values: torch.Tensor
    ids: torch.Tensor

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k
        self.seen = 0

    def add(self, part: torch.Tensor) -> None:
        """Take the next part of the vocabulary, logits of shape (row, token)."""
        values, ids = part.topk(min(self.top_k, part.shape[-1]))
        ids = ids + self.seen
        if self.seen:
            both, both_ids = torch.cat([self.values, values], -1), torch.cat([self.ids, ids], -1)
            values, places = both.topk(min(self.top_k, both.shape[-1]))
            ids = both_ids.gather(-1, places)
        self.values, self.ids = values, ids
        self.seen += part.shape[-1]


def last_blocks(model: LanguageModel) -> Any:
    """The envoy of the list of blocks that the logits are made from.

    Raises:
        UnknownArchitectureError: no list of blocks was found.
    """
    if not model._blocks:
        raise UnknownArchitectureError(
            f"{type(model._module).__name__} has no list of blocks that its configuration counts, so there "
            "are no layers to read. Read the modules that you mean in a trace: `model.trace(prompt)`."
        )
    return model.get(model._blocks[-1])


_known: weakref.WeakKeyDictionary[nn.Module, Unembedding] = weakref.WeakKeyDictionary()


def unembedding_of(model: LanguageModel, ids: torch.Tensor) -> Unembedding:
    """How this model turns the stream after its last block into logits; found once per model.

    Args:
        model: The model.
        ids: Some token ids, (1, position), on which the finding is checked.

    Raises:
        UnknownArchitectureError: what was found does not give the model's own logits.
    """
    module = model._model
    found = _known.get(module)
    # A user may have put another module in its place since.
    if found is None or not {found.head, *found.chain} <= set(module.modules()):
        found = _known[module] = _find(model, module, ids[:, :8])
    return found


def _find(model: LanguageModel, module: nn.Module, ids: torch.Tensor) -> Unembedding:
    try:
        head = module.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        head = None
    if head is None:
        raise UnknownArchitectureError(
            f"{type(module).__name__} names no output embedding, so its layers cannot be read as tokens. The "
            "logit lens needs a model with a language-modelling head (AutoModelForCausalLM)."
        )
    block = last_blocks(model)[-1]
    with _Watch(module, block._module, head) as seen, model.trace(ids, grad=False):
        resid = hidden_state(block.output)
        logits = model.output.logits
    with torch.no_grad():
        for after in _candidates(getattr(module, "config", None)):
            found = Unembedding(tuple(seen.chain), head, after)
            if seen.head_was_called and _agree(found, resid[0], logits[0]):
                return found
    names = " → ".join(model._path_of(part) for part in (*seen.chain, head))
    raise UnknownArchitectureError(
        f"{type(module).__name__} does something between its last block and its logits that is not known: "
        f"`{names}`, the modules found there, do not give the model's own logits. Read the layers in a "
        "trace and apply what the model does to them."
    )


def hidden_state(output: Any) -> torch.Tensor:
    """The hidden state of a block's output, (batch, position, d_model); a copy."""
    # A copy, because what comes after the block may write into it.
    return (output if type(output) is torch.Tensor else output[0]).clone()


class _Watch:
    """Notes which modules are called between the last block and the unembedding."""

    def __init__(self, root: nn.Module, block: nn.Module, head: nn.Module) -> None:
        self.chain: list[nn.Module] = []
        self.head_was_called = False
        self._root, self._block, self._head = root, block, head
        self._after_block = False
        self._inside: nn.Module | None = None
        # Another thread may run the same model meanwhile.
        self._thread = threading.get_ident()
        self._hooks: list[Any] = []

    def __enter__(self) -> _Watch:
        for module in self._root.modules():
            self._hooks.append(module.register_forward_pre_hook(self._begins))
            self._hooks.append(module.register_forward_hook(self._ends))
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begins(self, module: nn.Module, _: Any) -> None:
        if threading.get_ident() != self._thread or not self._after_block or self._inside is not None:
            return
        self.head_was_called |= module is self._head
        if not self.head_was_called:
            self.chain.append(module)
            self._inside = module

    def _ends(self, module: nn.Module, _: Any, output: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        if module is self._block:
            self._after_block = True
        elif module is self._inside:
            self._inside = None


def _candidates(config: Any) -> list[Scale | None]:
    """What models do to the result of their unembedding, as far as the configuration tells."""
    found: list[Scale | None] = []
    text = text_config(config)
    cap = getattr(text, "final_logit_softcapping", None)
    if cap:
        found.append(lambda logits: torch.tanh(logits / cap) * cap)
    for name in ("logit_scale", "lm_head_multiplier"):
        factor = getattr(text, name, None)
        if isinstance(factor, (int, float)):
            found.append(lambda logits, factor=factor: logits * factor)  # type: ignore[misc]
    divisor = getattr(text, "logits_scaling", None)
    if divisor:
        found.append(lambda logits: logits / divisor)
    # Last: where logits are small a cap is hard to see, and the configuration knows of it.
    return [*found, None]


def _agree(found: Unembedding, resid: torch.Tensor, logits: torch.Tensor) -> bool:
    try:
        own = found.logits(resid).to(logits.device)
    except (RuntimeError, TypeError, ValueError):  # the modules do not follow each other
        return False
    if own.shape != logits.shape:
        return False
    distance = (own.float() - logits.float()).abs().max()
    return bool(distance <= TOLERANCE.get(resid.dtype, 1e-4) * logits.float().abs().max())


def _device(module: nn.Module, otherwise: torch.device) -> torch.device:
    for tensor in module.parameters():
        return otherwise if tensor.is_meta else tensor.device
    return otherwise
