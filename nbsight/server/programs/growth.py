"""What functions of torch's would make, found out before they make it.

Three kinds. What never gives more than it is given is let through. What works element by element gives as
much as its tensors have when they are broadcast. Everything else is done first on the meta device, where
tensors have shapes and no memory, and each operation in it is looked at: also what is only there in between.
A name that is on neither list is of the third kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nbsight.server.programs.limits import OverBudget, check_numel
from nbsight.server.programs.names import words

__all__ = ["POINTWISE", "SAME", "broadcast", "check_growth", "check_index", "measure"]

#: What gives no more than it is given: one tensor's elements changed, summed up, looked at otherwise.
SAME = frozenset(
    words(
        "abs absolute acos acosh all amax amin angle any argmax argmin argsort asin asinh atan atanh "
        "bitwise_not ceil clone conj cos cosh count_nonzero cpu cummax cummin cumprod cumsum deg2rad "
        "detach diagonal diff erf erfc exp exp2 expm1 fix flatten flip fliplr flipud floor frac "
        "isfinite isinf isnan isneginf isposinf isreal kthvalue log log10 log1p log2 log_softmax "
        "logcumsumexp logical_not logit logsumexp mean median mode moveaxis movedim msort nan_to_num "
        "nanmean nanmedian nansum narrow neg negative norm numel permute positive prod rad2deg ravel "
        "real reciprocal relu reshape roll rot90 round rsqrt select sgn sigmoid sign signbit sin sinc "
        "sinh softmax sort sqrt square squeeze std sum swapaxes swapdims t tan tanh topk trace "
        "transpose tril triu trunc unsqueeze var view_as_complex view_as_real std_mean var_mean "
        "backward bool contiguous dim double float half bfloat16 int item long requires_grad_ "
        "retain_grad save size stride tolist type_as view view_as is_contiguous is_floating_point "
        "is_complex nelement element_size ndimension neg_ abs_ exp_ log_ sqrt_ zero_ relu_ sigmoid_ "
        "tanh_ round_ floor_ ceil_ normal_ uniform_ bernoulli_ detach_ squeeze_ unsqueeze_ transpose_ "
        "tril_ triu_ to cumsum_ nan_to_num_ is_tensor is_grad_enabled manual_seed no_grad enable_grad "
        "device Size tensor as_tensor grad imag resolve_conj celu selu elu gelu glu hardtanh "
        "leaky_relu logsigmoid normalize relu6 silu softmin softplus softsign threshold mish fftshift "
        "ones_like zeros_like rand_like randn_like full_like unbind split chunk tensor_split"
    )
)

#: What works element by element, or looks at elements of tensors that are broadcast first.
POINTWISE = frozenset(
    words(
        "add addcmul addcdiv allclose atan2 bitwise_and bitwise_or bitwise_xor clamp clip copysign "
        "dist div divide eq equal float_power floor_divide fmod ge greater greater_equal gt heaviside "
        "hypot isclose le lerp less less_equal logaddexp logical_and logical_or logical_xor lt "
        "masked_fill masked_select maximum minimum mul multiply ne not_equal polar pow remainder sub "
        "subtract where xlogy add_ sub_ mul_ div_ pow_ clamp_ clip_ copy_ masked_fill_ masked_scatter "
        "masked_scatter_ lerp_ addcmul_ remainder_ fmod_ fill_ huber_loss kl_div l1_loss mse_loss "
        "smooth_l1_loss binary_cross_entropy binary_cross_entropy_with_logits expand_as max min"
    )
)

#: What the meta device cannot say because it depends on the numbers: never more than what is given, or looked
#: at in `sizes`.
_DATA = frozenset(
    words(
        "nonzero unique unique_consecutive isin lstsq eig eigvals matrix_rank bincount one_hot "
        "repeat_interleave"
    )
)

#: Elements below which nothing that is made of them can be too much, unless numbers are among the arguments.
_SMALL = 2**24


def broadcast(*tensors: Any) -> None:
    """Refuse tensors whose common shape is too large; others than tensors are left alone."""
    shapes = [tensor.shape for tensor in tensors if isinstance(tensor, torch.Tensor)]
    if len(shapes) < 2:
        return
    try:
        shape = torch.broadcast_shapes(*shapes)
    except RuntimeError:
        return  # torch says so itself
    check_numel(math.prod(shape))


def check_growth(
    name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    """Refuse a call of torch's that would make a tensor that is too large, on the way or at the end.

    Args:
        name: The function's.
        function: It; a method takes its tensor first.
        args: What it is to be given.
        kwargs: The same by name.
    """
    if name in SAME:
        return
    if name in POINTWISE:
        broadcast(*_flat([*args, *kwargs.values()]))
        return
    if _could_grow(args, kwargs):
        measure(name, function, args, kwargs)


def _could_grow(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    size, factor = 1.0, 1.0
    for value in _flat([*args, *kwargs.values()]):
        if isinstance(value, torch.Tensor):
            size += value.numel()
            if value.ndim == 0 and not value.is_floating_point() and not value.is_complex():
                return True  # a number in disguise: it may be a size
        elif isinstance(value, int):
            factor *= max(min(abs(value), 10**15), 1)
    operands = sum(isinstance(value, torch.Tensor) for value in _flat([*args, *kwargs.values()]))
    return bool(size ** max(operands, 2) * min(factor, 1e30) > _SMALL)


def measure(name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Do a call on the meta device, and refuse it if anything in it is too large."""
    shadows = [_shadow(value) for value in args]
    named = {key: _shadow(value) for key, value in kwargs.items() if key != "device"}
    if "device" in kwargs:
        named["device"] = "meta"
    try:
        with torch.no_grad(), _Meter():
            function(*shadows, **named)
    except OverBudget:
        raise
    except Exception as error:
        # Either the call itself is wrong, which torch says better when it is done, or it depends on the
        # numbers; then the most that it could make has to be bearable.
        text = str(error).lower()
        if "overflow" in text:
            raise OverBudget("this would make a tensor of more elements than can be counted.") from None
        said = isinstance(error, (RuntimeError, ValueError, TypeError, IndexError)) and "alloc" not in text
        unknown = isinstance(error, NotImplementedError) or "meta" in text or not said
        if unknown and name not in _DATA:
            check_numel(math.prod(map(_size, _flat([*shadows, *named.values()]))) ** 2)


class _Meter(TorchDispatchMode):
    """Looks at what every operation makes."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first call would bring in all of torch's compiler, within a job's memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if any(argument.name == "device" for argument in func._schema.arguments):
            kwargs["device"] = torch.device("meta")
        made = func(*args, **kwargs)
        for value in _flat([made]):
            if isinstance(value, torch.Tensor):
                check_numel(value.numel())
        return made


def _size(value: Any) -> float:
    if isinstance(value, torch.Tensor):
        return float(max(value.numel(), 1))
    return float(min(max(abs(value), 1), 10**15)) if isinstance(value, int) else 1.0


def _flat(values: Any, deep: int = 0) -> Iterator[Any]:
    """Values, and those in lists and tuples among them."""
    for value in values:
        if isinstance(value, (list, tuple)) and deep < 3:
            yield from _flat(value, deep + 1)
        else:
            yield value


def _shadow(value: Any) -> Any:
    """A value with tensors of the same shape and no memory in place of its tensors."""
    if isinstance(value, torch.Tensor):
        plain = getattr(value, "_plain", value)
        if plain.ndim == 0 and not plain.is_floating_point() and not plain.is_complex():
            return plain.detach().item()
        return torch.empty_strided(plain.shape, plain.stride(), dtype=plain.dtype, device="meta")
    if type(value) in (list, tuple):
        return type(value)(_shadow(item) for item in value)
    return value


def check_index(tensor: Any, key: Any, value: Any = None) -> None:
    """Refuse `tensor[key]` that repeats so much of a tensor that it would be too large."""
    keys = key if isinstance(key, tuple) else (key,)
    if not any(isinstance(part, (torch.Tensor, list)) for part in keys):
        if value is not None:
            broadcast(value)
        return
    shadows: list[Any] = []
    for part in keys:
        if isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8) and part.ndim:
            shadows += _shadow(list(part.nonzero(as_tuple=True)))
        else:
            shadows.append(_shadow(part))
    measure("getitem", lambda base: base[tuple(shadows)], [tensor], {})
