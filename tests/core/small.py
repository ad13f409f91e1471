"""Small models, and the plain hooks that the core is compared with."""

from __future__ import annotations

import dataclasses
import linecache
import textwrap
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

WIDTH = 6


def rows(count: int = 1, seed: int = 0) -> torch.Tensor:
    """An input of `count` rows that is the same for the same seed."""
    return torch.randn(count, 3, WIDTH, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """A residual block with two modules inside."""

    def __init__(self, width: int = WIDTH, lin: nn.Module | None = None) -> None:
        super().__init__()
        self.lin = nn.Linear(width, width) if lin is None else lin
        self.act = nn.Tanh()

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return x + scale * self.act(self.lin(x))


class Chain(nn.Module):
    """Blocks one after the other, and a head."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.h = nn.ModuleList([Block() for _ in range(depth)])
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.h:
            x = block(x)
        return self.head(x)


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@dataclasses.dataclass
class Record:
    hidden: torch.Tensor
    note: str = "kept"


class Mapping(OrderedDict):
    """A dictionary that can be read by attribute and is built from keywords, as in transformers."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Returns(nn.Module):
    """Returns what it computes in one of many forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.lin = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.lin(x)
        return {
            "tensor": lambda: y,
            "tuple": lambda: (y, None, x.sum()),
            "list": lambda: [y, y * 2],
            "dict": lambda: {"hidden": y, "count": 3},
            "nested": lambda: ((y, {"deep": [y - 1]}), "text"),
            "named": lambda: Pair(y, y + 1),
            "mapping": lambda: Mapping(hidden=y),
            "dataclass": lambda: Record(y),
            "none": lambda: None,
            "number": lambda: 7,
        }[self.form]()


FORMS = [
    "tensor", "tuple", "list", "dict", "nested", "named", "mapping", "dataclass", "none", "number",
]  # fmt: skip


def first_tensor(value: Any) -> torch.Tensor | None:
    """The first tensor in a value of any of the forms."""
    found: list[torch.Tensor] = []
    each_tensor(value, found.append)
    return found[0] if found else None


def each_tensor(value: Any, act: Callable[[torch.Tensor], Any]) -> None:
    """Call `act` with every tensor in a value of any of the forms."""
    if isinstance(value, torch.Tensor):
        act(value)
    elif isinstance(value, dict):
        for item in value.values():
            each_tensor(item, act)
    elif isinstance(value, (tuple, list)):
        for item in value:
            each_tensor(item, act)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            each_tensor(getattr(value, field.name), act)


class Formed(nn.Module):
    """A module that returns one of the forms, inside a model that can go on with each of them."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.part = Returns(form)
        self.tail = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = first_tensor(self.part(x))
        return self.tail(x if found is None else found)


class Keywords(nn.Module):
    """Calls a part by keywords, a part without any argument, and a part with both."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name = Block()
        self.constant = Constant()
        self.mixed = Block()

    def forward(self, x: torch.Tensor, *, shift: torch.Tensor) -> torch.Tensor:
        x = self.by_name(x=x, scale=0.5)
        return self.mixed(x + self.constant(), scale=2.0) + shift


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self) -> torch.Tensor:
        return self.weight * 3


class Repeats(nn.Module):
    """Calls one cell several times."""

    def __init__(self, times: int = 3) -> None:
        super().__init__()
        self.times = times
        self.cell = nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            x = self.cell(x)
        return self.last(x)


class Shared(nn.Module):
    """One linear layer that two blocks own."""

    def __init__(self) -> None:
        super().__init__()
        lin = nn.Linear(WIDTH, WIDTH)
        self.a = Block(lin=lin)
        self.b = Block(lin=lin)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


class Counter(nn.Module):
    """Generates: calls itself once for each new number and stops when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.a = Block()
        self.b = Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))

    @torch.no_grad()
    def generate(self, x: torch.Tensor, steps: int = 4, stop_after: int = 10**6) -> torch.Tensor:
        seen = [x]
        for step in range(steps):
            if step == stop_after:
                break
            seen.append(self(seen[-1]))
        return torch.stack(seen)


def build(kind: Callable[..., nn.Module], *args: Any, seed: int = 0) -> Any:
    """A model in eval mode whose weights are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(*args).eval()


def hooked(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    edit: dict[str, Callable[[Any], Any]] | None = None,
    edit_input: dict[str, Callable[[Any, Any], Any]] | None = None,
    method: str = "forward",
    grad: bool = False,
) -> dict[str, list[Any]]:
    """Run a model with plain torch hooks on all its modules.

    Args:
        edit: By path: called with a module's output; what it returns (unless None) replaces it.
        edit_input: The same with (args, kwargs) before the call.

    Returns:
        By "path.output" and "path.inputs", the values of each call; and "" for the result.
    """
    seen: dict[str, list[Any]] = {}
    handles = []
    for path, sub in module.named_modules(remove_duplicate=True):

        def before(_: nn.Module, given: Any, named: Any, path: str = path) -> Any:
            changed = (edit_input or {}).get(path, lambda *_: None)(given, named)
            seen.setdefault(f"{path}.inputs", []).append(changed or (given, named))
            return changed

        def after(_: nn.Module, given: Any, value: Any, path: str = path) -> Any:
            changed = (edit or {}).get(path, lambda _: None)(value)
            seen.setdefault(f"{path}.output", []).append(value if changed is None else changed)
            return changed

        handles.append(sub.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(sub.register_forward_hook(after))
    try:
        with torch.set_grad_enabled(grad):
            call = module if method == "forward" else getattr(module, method)
            seen[""] = [call(*args, **(kwargs or {}))]
    finally:
        for handle in handles:
            handle.remove()
    return seen


def same(left: Any, right: Any) -> bool:
    """Whether two values are made alike and hold the same bits."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if dataclasses.is_dataclass(left):
        return type(left) is type(right) and all(
            same(getattr(left, field.name), getattr(right, field.name)) for field in dataclasses.fields(left)
        )
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (tuple, list)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def close(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors agree to within what batching may change."""
    return left.shape == right.shape and torch.allclose(left, right, atol=1e-6, rtol=1e-5)


def has_gates(module: nn.Module) -> bool:
    """Whether any module still carries an instance `forward` or a hook."""
    return any(
        "forward" in sub.__dict__ or sub._forward_hooks or sub._forward_pre_hooks for sub in module.modules()
    )


_cells = iter(range(10**6))


def run_cell(source: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run text as a notebook runs a cell: `linecache` knows it, nothing is inherited from here."""
    source = textwrap.dedent(source)
    filename = f"<test cell {next(_cells)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec", dont_inherit=True), names)
    return names
