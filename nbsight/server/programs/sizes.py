"""What an operation would take, asked before it is done.

Memory has a second, harder limit (`worker._memory`); these say what was wrong, on any platform, and
catch what that limit cannot: numbers whose computing never ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from nbsight.server.programs.growth import broadcast, check_growth
from nbsight.server.programs.limits import (
    BITS,
    DIGITS,
    ITEMS,
    OverBudget,
    check_bits,
    check_items,
    check_numel,
    check_objects,
    check_parts,
    check_place,
)

__all__ = ["BITS", "CHECKS", "ITEMS", "OPERATOR_CHECKS", "SEQUENCE_CHECKS", "OverBudget", "torch_check"]

# -- operators -------------------------------------------------------------------------------------


def _is_int(value: Any) -> bool:
    return isinstance(value, int)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _power(a: Any, b: Any) -> None:
    if _is_int(a) and _is_int(b) and b > 0:
        check_bits(int(a).bit_length() * float(min(b, 10**12)))
    broadcast(a, b)


def _multiply(a: Any, b: Any) -> None:
    if _is_int(a) and _is_int(b):
        check_bits(int(a).bit_length() + int(b).bit_length())
    for many, count in ((a, b), (b, a)):
        if isinstance(many, (str, bytes, list, tuple)) and _is_int(count):
            check_items(len(many) * float(min(max(count, 0), 10**15)))
    broadcast(a, b)


def _shift(a: Any, b: Any) -> None:
    if _is_int(a) and _is_int(b):
        check_bits(int(a).bit_length() + float(min(max(b, 0), 10**12)))
    broadcast(a, b)


def _add(a: Any, b: Any) -> None:
    if isinstance(a, (str, bytes, list, tuple)):
        if _is_tensor(b) and b.ndim:  # `+=` takes its rows, one by one
            check_objects(len(b))
        if not _is_tensor(b) and hasattr(b, "__len__"):
            check_items(len(a) + len(b))
    broadcast(a, b)


def _remainder(a: Any, b: Any) -> None:
    if isinstance(a, (str, bytes)):
        raise OverBudget("`%` does not format text here; write an f-string.")
    broadcast(a, b)


def _matmul(a: Any, b: Any) -> None:
    if _is_tensor(a) and _is_tensor(b):
        check_growth("matmul", torch.matmul, (a, b), {})


OPERATOR_CHECKS: dict[str, Callable[[Any, Any], None]] = {
    "Pow": _power,
    "Mult": _multiply,
    "LShift": _shift,
    "Add": _add,
    "Mod": _remainder,
    "MatMult": _matmul,
    **dict.fromkeys(("Sub", "Div", "FloorDiv", "BitOr", "BitXor", "BitAnd", "RShift"), broadcast),
}


# -- functions and methods -------------------------------------------------------------------------


def _numbers(values: Sequence[Any]) -> list[float]:
    """The sizes among arguments: `(2, 3)`, `((2, 3),)` or `(torch.Size([2, 3]),)`."""
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        values = values[0]
    return [float(min(value, 10**15)) for value in values if _is_int(value)]


def _made(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    size = kwargs.get("size")
    check_numel(math.prod(_numbers((size,) if size is not None else args)))


def _full(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    size = kwargs.get("size", args[0] if args else ())
    check_numel(math.prod(_numbers(size if isinstance(size, (list, tuple)) else (size,))))


def _eye(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    numbers = [*_numbers(args), *(float(min(v, 10**15)) for v in kwargs.values() if type(v) is int)]
    check_numel(numbers[0] ** 2 if len(numbers) == 1 else math.prod(numbers))


def _spread(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    values = [*args, *(kwargs[name] for name in ("start", "end", "step", "steps") if name in kwargs)]
    if not all(isinstance(value, (int, float)) for value in values):
        return
    start, end = (0, values[0]) if len(values) == 1 else values[:2]
    step = values[2] if len(values) > 2 else 1
    check_numel(abs((end - start) / step) if step else math.inf)


def _steps(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    steps = kwargs.get("steps", args[2] if len(args) > 2 else 100)
    check_numel(steps if _is_int(steps) else 0)


def _random_integers(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    sizes = [value for value in (*args, kwargs.get("size")) if isinstance(value, (list, tuple))]
    check_numel(math.prod(_numbers(sizes[:1])))


def _repeat(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    tensor, rest = args[0], [*args[1:], *kwargs.values()]
    check_numel(tensor.numel() * math.prod(_numbers(rest)))


def _interleave(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    tensor = args[0]
    counts = kwargs.get("repeats", args[1] if len(args) > 1 else None)
    if isinstance(counts, torch.Tensor):
        check_numel(tensor.numel() * float(counts.double().sum()))
    elif isinstance(counts, int):
        check_numel(tensor.numel() * float(min(counts, 10**15)))
    elif counts is None:  # `torch.repeat_interleave(counts)`
        check_numel(float(tensor.double().sum()))


def _pad(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    tensor, pads = args[0], kwargs.get("pad", args[1] if len(args) > 1 else ())
    sizes = [float(size) for size in tensor.shape]
    for place, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=False)):
        if place < len(sizes):
            sizes[-1 - place] += float(before) + float(after)
    check_numel(math.prod(sizes))


def _classes(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    tensor = args[0]
    count = kwargs.get("num_classes", args[1] if len(args) > 1 else -1)
    if count == -1 and tensor.numel():
        count = int(tensor.max()) + 1
    check_numel(tensor.numel() * float(max(count, 0)))


def _product(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    check_numel(math.prod(float(value.numel()) for value in args if _is_tensor(value)))


def _square(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    check_numel(float(args[0].numel()) * max(args[0].shape[-1:], default=1))


def _rows(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    check_numel(float(max(args[0].shape[:1], default=1)) ** 2)


def _joined(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    tensors = kwargs.get("tensors", args[0] if args else ())
    check_numel(sum(float(tensor.numel()) for tensor in tensors if _is_tensor(tensor)))


def _pow(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    base = args[0] if args else kwargs.get("base")
    exponent = args[1] if len(args) > 1 else kwargs.get("exp")
    _power(base, exponent)


def _both(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    broadcast(*args)


def _read(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    if args and isinstance(args[0], (str, bytes)) and len(args[0]) > DIGITS:
        raise OverBudget(f"a number is read from at most {DIGITS:,} digits here.")


def _listed(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    check_objects(args[0].numel())


def _compared(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    check_parts(args)


def _range(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    if all(_is_int(value) for value in args):
        found = range(*args)
        check_items(max((found[-1] - found[0]) / found.step + 1, 0) if found else 0)


def _join(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    if isinstance(args[1], (list, tuple)):
        check_items(sum(len(part) + len(args[0]) for part in args[1] if isinstance(part, str)))


def _replace(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    if all(isinstance(value, str) for value in args[:3]):
        check_items((len(args[0]) + 1) * float(max(len(args[2]), 1)))


def _extended(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    if hasattr(args[1], "__len__"):
        check_items(len(args[0]) + len(args[1]))


def _keys(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    check_parts([value for value in args[1:] if isinstance(value, (tuple, frozenset))])


def _digits(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    for value in (*args[1:], *kwargs.values()):
        if _is_int(value) and abs(value) > 1000:
            raise OverBudget("a number is rounded to at most 1,000 digits here.")


def _factorial(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    if any(_is_int(value) and abs(value) > 1000 for value in args):
        raise OverBudget("numbers above 1,000 are not taken by this function here.")


def _pieces(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """`x.split(1)`, `x.unbind()`: each piece is an object."""
    given = [value for value in (*args[1:], *kwargs.values()) if _is_int(value)]
    check_objects(max([*args[0].shape, 0]))
    check_objects(max([*given, 0]))


def _data(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    check_parts((*args[:1], kwargs.get("data")), compared=False)


def _bins(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    bins = kwargs.get("bins", args[1] if len(args) > 1 else 100)
    check_numel(bins if _is_int(bins) else 0)


def _decorating(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    if args or kwargs:
        raise OverBudget("this is for `with` in a program: it takes nothing, and decorates no function.")


def _stretched(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    bins = [value for value in (*args[1:], *kwargs.values()) if _is_int(value)]
    check_numel(float(args[0].numel()) + sum(float(min(value, 10**15)) for value in bins))
    if args[0].numel():
        check_numel(float(args[0].max()))


Check = Callable[[Sequence[Any], dict[str, Any]], None]

#: What is asked before a function of torch's, or a tensor's method (its tensor comes first), is called.
TORCH_CHECKS: dict[str, Check] = {
    **dict.fromkeys(("zeros", "ones", "rand", "randn", "randperm"), _made),
    "full": _full,
    "eye": _eye,
    "arange": _spread,
    **dict.fromkeys(("linspace", "logspace"), _steps),
    "randint": _random_integers,
    **dict.fromkeys(("repeat", "tile"), _repeat),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full"), lambda args, kwargs: _full(args[1:], kwargs)),
    "repeat_interleave": _interleave,
    "pad": _pad,
    "one_hot": _classes,
    "bincount": _stretched,
    **dict.fromkeys(("tril_indices", "triu_indices"), _eye),
    **dict.fromkeys(("outer", "kron", "meshgrid", "cartesian_prod", "cdist"), _product),
    **dict.fromkeys(("diag", "diag_embed", "diagflat"), _square),
    **dict.fromkeys(("cov", "corrcoef"), _rows),
    **dict.fromkeys(("cat", "concat", "stack", "hstack", "vstack"), _joined),
    **dict.fromkeys(("unbind", "split", "chunk", "tensor_split"), _pieces),
    **dict.fromkeys(("tensor", "as_tensor"), _data),
    **dict.fromkeys(("no_grad", "enable_grad"), _decorating),
    "histc": _bins,
    "tolist": _listed,
}

#: Arguments that no function of torch's is given: they write into memory that is there, or take it elsewhere.
_REFUSED = ("out", "pin_memory", "generator", "names", "layout")


def torch_check(name: str, function: Callable[..., Any]) -> Check:
    """What is asked before a function of torch's is called, or a method, whose tensor comes first."""
    own = TORCH_CHECKS.get(name)

    def check(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        for option in _REFUSED:
            if option in kwargs and kwargs[option] is not None and kwargs[option] is not False:
                raise OverBudget(f"`{option}=` is not given to functions of torch in a program.")
        _check_places(name, args, kwargs)
        if own is not None:
            own(*_ordered(args, kwargs))
        check_growth(name, function, args, kwargs)

    return check


def _ordered(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
    """The arguments with what comes first in its place, also where it was given by name."""
    first = next((name for name in ("input", "self", "tensor") if name in kwargs), None)
    if args or first is None:
        return args, kwargs
    return (kwargs[first],), {name: value for name, value in kwargs.items() if name != first}


def _check_places(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Tensors go to the CPU, to where the model is, or stay."""
    own = args[0].device if args and _is_tensor(args[0]) else None
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.device):
            check_place(value, own)
    moved = args[1:] if name in ("to", "device") else ()
    if name == "device":
        moved = args[:1]
    for value in (*moved, kwargs.get("device")):
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            check_place(value, own)


#: The same for Python's own functions and those of `math`.
CHECKS: dict[str, Check] = {
    "round": _digits,
    **dict.fromkeys(("int", "float", "complex"), _read),
    **dict.fromkeys(("set", "frozenset", "dict", "sorted", "max", "min"), _compared),
    "divmod": _both,
    "range": _range,
    "pow": _pow,
    **dict.fromkeys(("factorial", "comb", "perm"), _factorial),
}

#: The same for methods of texts, lists, dicts and sets, which come first.
SEQUENCE_CHECKS: dict[str, Check] = {
    "join": _join,
    "replace": _replace,
    **dict.fromkeys(("extend", "update"), _extended),
    **dict.fromkeys(("index", "count", "remove", "sort"), _compared),
    **dict.fromkeys(("get", "pop", "setdefault", "add", "discard"), _keys),
}
