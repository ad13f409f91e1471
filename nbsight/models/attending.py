"""Attention on demand: where a layer computes scores and pattern, and what runs when they are asked for.

An attention implementation such as sdpa computes neither. The model's own eager function does, so a run that
is asked for them lets that function run in the same call, on the same queries, keys and values, with doors at
its operations (`nbsight.core.source`). What the loaded implementation returns is computed too:

- Where nothing was changed, the model goes on with exactly what the loaded implementation gave.
- Where scores or pattern were changed, or gradients are recorded, it goes on with what the eager function
  made of them.

Either way the two are compared, so a function that computes something else is found out, in every call.
"""

from __future__ import annotations

import inspect
import re
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from greenlet import getcurrent

from nbsight.core.batching import tensors_in
from nbsight.core.greenlets import Carrier
from nbsight.core.measuring import is_plain
from nbsight.core.quiet import quietly
from nbsight.core.sites import locate
from nbsight.core.source import Operation, Source, source_of
from nbsight.core.source_peel import Peeled, peel
from nbsight.core.source_resolve import resolve
from nbsight.core.source_rewrite import listing_of
from nbsight.errors import NbsightWarning, SourceNotAvailable
from nbsight.models.architectures import Architecture
from nbsight.models.limits import text_config
from nbsight.models.masks import additive, rows_that_see
from nbsight.models.plain_attention import plain_attention

__all__ = ["CHECK", "EAGER", "TOLERANCE", "Attending", "Log", "Switch"]

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""How far an attention function's result may be off another's, relative to its length.

Models rotate and take the softmax in float32 even where the rest is float64."""

#: Marks of a run: every layer goes on with the eager result; a difference is expected and needs no warning.
EAGER, CHECK = "eager attention", "check of attention"

_SDPA = "scaled_dot_product_attention"
_DROPOUT = ("dropout", "attention_dropout", "dropout_p")
_PRODUCT = re.compile(r"(matmul|bmm|einsum)_\d+$")


@dataclass(frozen=True)
class Switch:
    """One call of a layer's attention in which the eager function ran as well.

    Args:
        layer: The layer.
        implementation: What the model was loaded with.
        difference: How far the eager function's result was off the loaded one's: length of the difference
            over length of the result, the largest over positions; with no edits of scores and pattern. NaN
            where the two could not be compared: something was changed, or dropout drew different numbers.
        is_used: Whether the model went on with the eager function's result.
    """

    layer: int
    implementation: str
    difference: float
    is_used: bool


class Attending:
    """Where the attention of one layer is computed.

    Args:
        envoy: The module in whose forward it is.
        architecture: What the model is taken to be.
        layer: The number of the layer.
        log: Gets a line for every call in which the eager function ran as well.

    Raises:
        SourceNotAvailable: the text of the forward cannot be had, or says nothing that is known.
    """

    def __init__(self, envoy: Any, architecture: Architecture, layer: int, log: Log) -> None:
        self.envoy = envoy
        self.source = source_of(envoy, inspect.currentframe())  # type: ignore[arg-type]
        config = text_config(envoy._root._module.config)
        self.call = self._find_call(architecture.attends(config))
        self.eager: Source = self.source
        if self.call is not None:
            self.eager = _Eager(self.call, envoy, self._find_eager(self.call), layer, log)
        self.scores = self._place(architecture.scores(config)) or (self._softmax(), "input")
        self.pattern = self._place(architecture.pattern(config)) or (self._product(self._softmax()), "input")

    @property
    def sources(self) -> list[Source]:
        """What a run needs to stop at any of the places."""
        return [self.source, *([self.eager] if self.eager is not self.source else [])]

    def argument(self, name: str) -> tuple[int, str]:
        """The number of an argument of the call that attends: "query", "key" or "value"."""
        if self.call is None:
            raise SourceNotAvailable("no single call gets queries, keys and values")
        names = list(inspect.signature(self.eager._peeled.function).parameters)
        if self.eager._peeled.instance is not None:
            names = names[1:]
        return names.index(name), name

    def _find_call(self, names: tuple[str, ...]) -> Operation | None:
        """The call that attends; None where the forward itself computes the pattern."""
        calls = [operation for operation in self.source if operation._named.callee is not None]
        found = [call for call in calls if call.name in names or call.name.rpartition("_")[0] in names]
        if names and not found:  # attention with sdpa written out in it
            found = [call for call in calls if _SDPA in call.name]
        if found:
            return found[-1]
        if any("softmax" in call.name for call in calls):
            return None
        raise SourceNotAvailable(
            f"the forward of {type(self.envoy._module).__name__} has no call named {' or '.join(names)}"
        )

    def _find_eager(self, call: Operation) -> Peeled:
        if _SDPA in call.name:
            return peel(plain_attention)
        known = self.source._peeled.function.__globals__.get("eager_attention_forward")
        if isinstance(known, FunctionType):
            return peel(known)
        assert call._named.callee is not None
        found = resolve(call._named.callee, self.source._peeled)  # a method, whatever was loaded
        if not found:
            raise SourceNotAvailable(f"what {call.name} calls is known only while the model runs")
        return peel(found[0])

    def _place(self, text: str | None) -> tuple[Operation, str] | None:
        if text is None:
            return None
        name, _, kind = text.rpartition(".")
        if name not in self.eager:
            raise SourceNotAvailable(f"{self.eager._path} has no operation {name}")
        return self.eager[name], kind

    def _softmax(self) -> Operation:
        found = [op for op in self.eager if "softmax" in op.name and op._named.callee is not None]
        if len(found) != 1:
            raise SourceNotAvailable(
                f"{self.eager._path} calls {len(found)} functions named softmax, not one"
            )
        return found[0]

    def _product(self, softmax: Operation) -> Operation:
        operations = list(self.eager)
        for operation in operations[operations.index(softmax) + 1 :]:
            if _PRODUCT.search(operation.name) and operation._named.callee is not None:
                return operation
        raise SourceNotAvailable(f"{self.eager._path} multiplies nothing after the softmax by a call")


class Log:
    """The calls of one run in which the eager function ran as well."""

    def __init__(self) -> None:
        self._run: Any = None
        self._lines: list[Switch] = []

    def add(self, run: Any, line: Switch) -> None:
        if self._run is None or self._run() is not run:
            self._run, self._lines = weakref.ref(run), []
        self._lines.append(line)

    def clear(self) -> None:
        self._run, self._lines = None, []

    @property
    def lines(self) -> tuple[Switch, ...]:
        return tuple(self._lines)


class _Eager(Source):
    """The eager attention function, in the place of whatever a layer calls."""

    def __init__(self, call: Operation, envoy: Any, peeled: Peeled, layer: int, log: Log) -> None:
        super().__init__(call, envoy, listing_of(peeled.function), peeled)
        self._layer = layer
        self._log = log
        self._own = set(self._operations)
        self._signature = inspect.signature(peeled.function)

    def stand_in(self, called: Callable[..., Any]) -> Callable[..., Any]:
        """What a run calls instead of `called`."""
        current = getcurrent()
        run = current.model_run if type(current) is Carrier else None
        if run is None or not (EAGER in run.marks or self._is_wanted(run)):
            return called
        try:
            is_eager = peel(called).function.__code__ is self._listing.original
        except SourceNotAvailable:  # not written in Python
            is_eager = False
        if is_eager:
            return super().stand_in(called)
        return lambda *args, **kwargs: self._both(run, called, args, kwargs)

    def _is_wanted(self, run: Any) -> bool:
        """Whether anybody waits for anything in here; otherwise the layer stays as it is."""
        watched = run.watchers.values() if run.watchers else ()
        return any(
            operation in wanted
            for wanted in (run.wanted["input"], run.wanted["output"], *watched)
            for operation in self._own
        )

    def _both(self, run: Any, called: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        loaded = called(*args, **kwargs)
        bound = self._signature.bind(*args, **kwargs)
        given = {**bound.arguments, **bound.arguments.get("kwargs", {})}
        module = self._envoy._module
        mask = additive(given, module)
        if "attention_mask" in self._signature.parameters:
            bound.arguments["attention_mask"] = mask
        changes = _Changes(self)
        function = self._listing.with_doors(self._peeled.function, changes.call, changes.put)
        eager = function(*bound.args, **bound.kwargs)
        one, other = _mixed(loaded), _mixed(eager)
        is_used = changes.found or other.requires_grad or EAGER in run.marks
        is_random = module.training and any(given.get(name) for name in _DROPOUT)
        difference = float("nan")
        if not changes.found and not is_random and is_plain(other):
            difference = _distance(one, other, rows_that_see(mask))
            if difference > TOLERANCE.get(one.dtype, 1e-5) and CHECK not in run.marks:
                self._say(run, difference)
        implementation = str(getattr(self._envoy._root._module.config, "_attn_implementation", None))
        self._log.add(run, Switch(self._layer, implementation, difference, is_used))
        if not is_used:
            return loaded
        return eager if isinstance(loaded, torch.Tensor) else (eager[0], *loaded[1:])

    def _say(self, run: Any, difference: float) -> None:
        last = None if run.owner is None else run.owner.driver.last
        filename, number = (__file__, 1) if last is None else locate(last[2])
        warnings.warn_explicit(
            f"the pattern of layer {self._layer} is that of the model's eager attention, and what the model "
            f"was loaded with computes something else there: their results are {difference:.1e} apart. To "
            'read what runs, load the model with `attn_implementation="eager"`.',
            NbsightWarning,
            filename,
            number,
        )


class _Changes:
    """The doors of one call: those of the run, and whether anything was changed behind them."""

    def __init__(self, source: _Eager) -> None:
        self.found = False
        self._operations = source._operations

    def call(self, number: int, called: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        run = getcurrent().model_run
        before = _Mark((args, kwargs))
        after: list[_Mark] = []

        def inside(*args: Any, **kwargs: Any) -> Any:
            self.found = self.found or before.differs((args, kwargs))
            value = called(*args, **kwargs)
            after.append(_Mark(value))
            return value

        value = run.pass_through(self._operations[number], inside, args, kwargs)
        self.found = self.found or not after or after[0].differs(value)  # not called: it was skipped
        return value

    def put(self, number: int, value: Any) -> Any:
        run = getcurrent().model_run
        before = _Mark(value)
        value = run.pass_through(self._operations[number], lambda same: same, (value,), {})
        self.found = self.found or before.differs(value)
        return value


class _Mark:
    """What tells whether the tensors of a value are still the same ones, unchanged."""

    def __init__(self, value: Any) -> None:
        self._tensors = [(tensor, _state(tensor)) for tensor in tensors_in(value)]

    def differs(self, value: Any) -> bool:
        now = tensors_in(value)
        if len(now) != len(self._tensors):
            return True
        for tensor, (was, state) in zip(now, self._tensors, strict=True):
            if isinstance(state, torch.Tensor):  # its changes are not counted
                is_same = torch.equal(tensor, state)
            elif tensor is was:
                is_same = tensor._version == state[-1]
            else:  # a detached one has the same memory, and the same count
                is_same = _state(tensor) == state
            if not is_same:
                return True
        return False


def _state(tensor: torch.Tensor) -> Any:
    if tensor.is_inference():
        return tensor.clone()
    place = tensor.data_ptr() if is_plain(tensor) else id(tensor)
    return place, tensor.shape, tensor.stride(), tensor._version


def _mixed(result: Any) -> torch.Tensor:
    """The heads' results in what an attention function returns, (batch, position, head, d_head)."""
    return result.transpose(1, 2) if isinstance(result, torch.Tensor) else result[0]


def _distance(one: torch.Tensor, other: torch.Tensor, sees: torch.Tensor | None) -> float:
    """How far two results (batch, position, head, d_head) are apart, over positions that see anything."""
    with quietly():
        wanted, got = one.detach().flatten(2).double(), other.detach().flatten(2).double()
        tiny = torch.finfo(torch.float64).tiny
        apart = (got - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp_min(tiny)
        if sees is not None:
            apart = apart[sees.expand(apart.shape)]
        return float(apart.max()) if apart.numel() else 0.0
