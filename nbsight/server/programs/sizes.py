"""What an operation would take, asked before it is done.

Memory has a second, harder limit (`worker._memory`); these say what was wrong, on any platform, and
catch what that limit cannot: numbers whose computing never ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from nbsight.errors import RemoteError

__all__ = [
    "BITS",
    "CHECKS",
    "ITEMS",
    "OPERATOR_CHECKS",
    "SEQUENCE_CHECKS",
    "TORCH_CHECKS",
    "OverBudget",
    "check_items",
    "check_numel",
]

#: Bits of an integer, items of a list or characters of a text, elements of a tensor.
BITS = 2**16
ITEMS = 10_000_000
NUMEL = 2**28

#: Elements that become Python objects, each of some thirty bytes.
OBJECTS = 2_000_000


class OverBudget(RemoteError):
    """A program asked for more than a program may take."""

    code = "over_budget"


def check_items(count: float) -> None:
    """Refuse a list or text of so many items."""
    _check(count, ITEMS, "a list or text of {} items")


def check_numel(count: float) -> None:
    """Refuse a tensor of so many elements."""
    _check(count, NUMEL, "a tensor of {} elements")


def check_objects(count: float) -> None:
    """Refuse to make so many Python objects of a tensor."""
    _check(count, OBJECTS, "{} Python objects")


def check_bits(count: float) -> None:
    """Refuse an integer of so many bits."""
    _check(count, BITS, "an integer of {} bits")


def _check(count: float, most: int, what: str) -> None:
    if count > most:
        shown = f"{count:.1e}" if count > 10**12 else f"{int(count):,}"
        raise OverBudget(f"this would make {what.format(shown)}, and {most:,} are the most here.")


# -- operators -------------------------------------------------------------------------------------


def _is_int(value: Any) -> bool:
    return isinstance(value, int)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _power(a: Any, b: Any) -> None:
    if _is_int(a) and _is_int(b) and b > 0:
        check_bits(int(a).bit_length() * float(min(b, 10**12)))
    _broadcast(a, b)


def _multiply(a: Any, b: Any) -> None:
    if _is_int(a) and _is_int(b):
        check_bits(int(a).bit_length() + int(b).bit_length())
    for many, count in ((a, b), (b, a)):
        if isinstance(many, (str, bytes, list, tuple)) and _is_int(count):
            check_items(len(many) * float(min(max(count, 0), 10**15)))
    _broadcast(a, b)


def _shift(a: Any, b: Any) -> None:
    if _is_int(a) and _is_int(b):
        check_bits(int(a).bit_length() + float(min(max(b, 0), 10**12)))
    _broadcast(a, b)


def _add(a: Any, b: Any) -> None:
    if isinstance(a, (str, bytes, list, tuple)) and isinstance(b, (str, bytes, list, tuple)):
        check_items(len(a) + len(b))
    _broadcast(a, b)


def _remainder(a: Any, b: Any) -> None:
    if isinstance(a, (str, bytes)):
        raise OverBudget("`%` does not format text here; write an f-string.")
    _broadcast(a, b)


def _broadcast(a: Any, b: Any) -> None:
    if _is_tensor(a) and _is_tensor(b):
        try:
            shape = torch.broadcast_shapes(a.shape, b.shape)
        except RuntimeError:
            return  # torch says so itself
        check_numel(math.prod(shape))


def _matmul(a: Any, b: Any) -> None:
    if _is_tensor(a) and _is_tensor(b) and a.ndim and b.ndim:
        rows = a.numel() // max(a.shape[-1], 1)
        columns = b.shape[-1] if b.ndim > 1 else 1
        batches = math.prod(b.shape[:-2]) if b.ndim > 2 else 1
        check_numel(float(rows) * columns * (batches if a.ndim <= 2 else 1))


OPERATOR_CHECKS: dict[str, Callable[[Any, Any], None]] = {
    "Pow": _power,
    "Mult": _multiply,
    "LShift": _shift,
    "Add": _add,
    "Mod": _remainder,
    "MatMult": _matmul,
    **dict.fromkeys(("Sub", "Div", "FloorDiv", "BitOr", "BitXor", "BitAnd", "RShift"), _broadcast),
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


def _joined(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    tensors = kwargs.get("tensors", args[0] if args else ())
    check_numel(sum(float(tensor.numel()) for tensor in tensors if _is_tensor(tensor)))


def _two(check: Callable[[Any, Any], None]) -> Callable[[Sequence[Any], dict[str, Any]], None]:
    return lambda args, kwargs: check(*[*args, *kwargs.values(), None, None][:2])


def _listed(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    check_objects(args[0].numel())


def _items(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    for value in args:
        if _is_tensor(value) and value.ndim:
            check_objects(len(value))


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


def _digits(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    for value in (*args[1:], *kwargs.values()):
        if _is_int(value) and abs(value) > 1000:
            raise OverBudget("a number is rounded to at most 1,000 digits here.")


def _factorial(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    if any(_is_int(value) and abs(value) > 1000 for value in args):
        raise OverBudget("numbers above 1,000 are not taken by this function here.")


def _moved(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """`x.to(...)` takes a dtype, a tensor, or the CPU or the tensor's own device."""
    for value in (*args[1:], kwargs.get("device"), kwargs.get("other"), kwargs.get("dtype")):
        is_place = isinstance(value, (str, int, torch.device)) and not isinstance(value, bool)
        if is_place and torch.device(value) not in (torch.device("cpu"), args[0].device):
            raise OverBudget(f"a tensor here goes to the CPU or stays on {args[0].device}, not to {value!r}.")


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
    **dict.fromkeys(("cat", "concat", "stack", "hstack", "vstack"), _joined),
    **dict.fromkeys(("matmul", "mm", "bmm"), _two(_matmul)),
    **dict.fromkeys(("add", "sub", "mul", "div", "maximum", "minimum", "where", "lerp"), _two(_broadcast)),
    "tolist": _listed,
    "to": _moved,
}

#: The same for Python's own functions and those of `math`.
CHECKS: dict[str, Check] = {
    "round": _digits,
    **dict.fromkeys(
        (
            "list",
            "tuple",
            "set",
            "frozenset",
            "sorted",
            "enumerate",
            "zip",
            "sum",
            "any",
            "all",
            "max",
            "min",
        ),
        _items,
    ),
    "range": _range,
    "pow": _two(_power),
    **dict.fromkeys(("factorial", "comb", "perm"), _factorial),
}

#: The same for methods of texts, lists, dicts and sets, which come first.
SEQUENCE_CHECKS: dict[str, Check] = {
    "join": _join,
    "replace": _replace,
    **dict.fromkeys(("extend", "update"), _extended),
}
