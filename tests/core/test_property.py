"""Random programs on random models do what an interpreter made of plain hooks says.

A program is a list of operations in the order of the forward: read, edit in place, assign, edit or
assign an input, skip. The same program is interpreted twice, once by a trace and once by hooks.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nbsight.core.model import wrap
from tests.core.small import Mapping, Record, close, each_tensor, first_tensor, has_gates, same

WIDTH = 4


class Leaf(nn.Module):
    """A linear map whose value comes in one of several forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.lin = nn.Linear(WIDTH, WIDTH)
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        y = torch.tanh(self.lin(x))
        if self.form == "tuple":
            return y, x.mean(-1)
        if self.form == "dict":
            return {"hidden": y, "note": "text"}
        if self.form == "mapping":
            return Mapping(hidden=y)
        if self.form == "dataclass":
            return Record(y)
        return y


class Node(nn.Module):
    """Calls its parts one after the other, some of them twice, with or without a residual."""

    def __init__(self, parts: list[nn.Module], repeats: list[int], residual: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.repeats = repeats
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for part, times in zip(self.parts, self.repeats, strict=True):
            for _ in range(times):
                found = first_tensor(part(y))
                y = y if found is None else found
        return x + y if self.residual else y


FORMS = st.sampled_from(["tensor", "tensor", "tuple", "dict", "mapping", "dataclass"])


def trees(depth: int) -> st.SearchStrategy[Any]:
    """Descriptions of modules: a form, "linear", or (parts, repeats, residual, plain sequence)."""
    leaf = st.one_of(FORMS, st.just("linear"))
    if depth == 0:
        return leaf
    inner = st.tuples(
        st.lists(trees(depth - 1), min_size=1, max_size=3),
        st.booleans(),
        st.booleans(),
    )
    return st.one_of(leaf, inner, inner)


def make(tree: Any) -> nn.Module:
    if tree == "linear":
        return nn.Linear(WIDTH, WIDTH)
    if isinstance(tree, str):
        return Leaf(tree)
    parts, residual, sequence = tree
    made = [make(part) for part in parts]
    if sequence and all(part == "linear" for part in parts):
        return nn.Sequential(*made)
    return Node(made, [1] * len(made), residual)


@dataclasses.dataclass(frozen=True)
class Operation:
    path: str
    kind: str  # "output" or "input"
    action: str
    number: float


ACTIONS = {
    "output": ["read", "read", "in place", "row in place", "assign", "noise"],
    "input": ["read", "in place", "assign", "skip"],
}


def places(net: nn.Module, x: torch.Tensor) -> list[tuple[str, str]]:
    """All places of a forward in the order in which it meets them."""
    met: list[tuple[str, str]] = []
    handles = []
    for path, module in net.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, path=path: met.append((path, "input"))))
        handles.append(module.register_forward_hook(lambda *_, path=path: met.append((path, "output"))))
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return met


def program(draw: Any, net: nn.Module, x: torch.Tensor, alone: bool) -> list[Operation]:
    """A random program; one that does not run alone keeps to what batching can promise.

    One invoke cannot skip a module for all. And an input edited in place is often the residual's
    own memory; when another invoke has assigned its rows, the batch was copied and is not.
    """
    operations: list[Operation] = []
    skipped: str | None = None
    for path, kind in places(net, x):
        if skipped is not None and (path.startswith(skipped + ".") or path == skipped):
            if path != skipped:
                continue
            skipped = None  # its output can be read again
        if draw(st.integers(0, 2)):
            continue
        for _ in range(draw(st.integers(1, 2))):
            action = draw(st.sampled_from(ACTIONS[kind]))
            if action == "skip" and (not alone or not path):
                action = "read"
            if action == "in place" and kind == "input" and not alone:
                action = "assign"
            operations.append(Operation(path, kind, action, draw(st.sampled_from([-2.0, 0.0, 0.5, 3.0]))))
            if action == "skip":
                skipped = path
                break
    return operations


def changed(value: Any, change: Any) -> Any:
    """A new value of the same form with other tensors."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Record):
        return dataclasses.replace(value, hidden=change(value.hidden))
    if isinstance(value, dict):
        return type(value)((key, changed(item, change)) for key, item in value.items())
    if isinstance(value, tuple):
        return tuple(changed(item, change) for item in value)
    return value


def kept(value: Any) -> Any:
    """A value as it is now: what shares its memory in one interpreter may not in another."""
    return changed(value, torch.clone)


def act(operation: Operation, value: Any) -> Any:
    """Do to a value what the operation says; returns what replaces it, or None."""
    number = operation.number
    if operation.action == "in place":
        each_tensor(value, lambda tensor: tensor.mul_(number).add_(1))
    elif operation.action == "row in place":
        each_tensor(value, lambda tensor: tensor[..., -1:].fill_(number))
    elif operation.action == "assign":
        return changed(value, lambda tensor: tensor * number - 1)
    elif operation.action == "noise":
        return changed(value, lambda tensor: torch.sin(tensor + number))
    return None


def skip_value(operation: Operation, given: torch.Tensor) -> torch.Tensor:
    return torch.cos(given) + operation.number


def by_hooks(net: nn.Module, x: torch.Tensor, operations: list[Operation]) -> tuple[Any, list[Any]]:
    """The final value and everything read, by hooks (a skip is a hook that replaces the output)."""
    seen: list[Any] = [None] * len(operations)
    handles: list[Any] = []
    skipped: dict[str, Any] = {}
    numbered: dict[tuple[str, str], list[tuple[int, Operation]]] = {}
    for number, operation in enumerate(operations):
        numbered.setdefault((operation.path, operation.kind), []).append((number, operation))
    for path, module in net.named_modules():

        def before(_: Any, given: Any, path: str = path) -> Any:
            first = given[0]
            for number, operation in numbered.get((path, "input"), ()):
                if operation.action == "skip":
                    skipped[path] = skip_value(operation, first)
                    continue
                new = act(operation, first)
                first = first if new is None else new
                seen[number] = kept(first)
            return (first, *given[1:])

        def after(_: Any, given: Any, value: Any, path: str = path) -> Any:
            value = skipped.get(path, value)
            for number, operation in numbered.get((path, "output"), ()):
                new = act(operation, value)
                value = value if new is None else new
                seen[number] = kept(value)
            return value

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        with torch.no_grad():
            final = net(x)
    finally:
        for handle in handles:
            handle.remove()
    return final, seen


def run(model: Any, operations: list[Operation], seen: list[Any]) -> Any:
    """The same by a trace; call it inside one."""
    for operation in operations:
        envoy = model._at(operation.path)
        if operation.kind == "output":
            new = act(operation, envoy.output)
            if new is not None:
                envoy.output = new
            seen.append(kept(envoy.output))
        elif operation.action == "skip":
            envoy.skip(skip_value(operation, envoy.input))
            seen.append(None)
        else:
            new = act(operation, envoy.input)
            if new is not None:
                envoy.input = new
            seen.append(kept(envoy.input))
    return model.output


def prepared(tree: Any, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Node([make(tree), nn.Linear(WIDTH, WIDTH)], [1, 1], False).eval()


def numbers(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 3, WIDTH, generator=torch.Generator().manual_seed(seed))


@given(tree=trees(2), seed=st.integers(0, 5), rows=st.integers(1, 2), data=st.data())
def test_a_random_program_does_what_hooks_do_bit_for_bit(tree, seed, rows, data):
    net = prepared(tree, seed)
    operations = program(data.draw, net, numbers(rows, seed), alone=True)
    want, wanted = by_hooks(net, numbers(rows, seed), operations)
    model, seen = wrap(net), []
    with model.trace(numbers(rows, seed)):
        final = run(model, operations, seen)
    assert same(final, want)
    assert len(seen) == len(wanted)
    for operation, left, right in zip(operations, seen, wanted, strict=True):
        assert same(left, right), operation
    assert not has_gates(net)


@given(
    tree=trees(2),
    seed=st.integers(0, 5),
    heights=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    data=st.data(),
)
def test_random_programs_in_several_invokes_are_separate_runs(tree, seed, heights, data):
    net = prepared(tree, seed)
    programs = [
        program(data.draw, net, numbers(height, number), alone=False) for number, height in enumerate(heights)
    ]
    want = [by_hooks(net, numbers(height, number), programs[number]) for number, height in enumerate(heights)]
    model = wrap(net)
    finals: list[Any] = []
    reads: list[list[Any]] = [[] for _ in heights]
    with model.trace() as tracer:
        for number, height in enumerate(heights):
            with tracer.invoke(numbers(height, number)):
                finals.append((number, run(model, programs[number], reads[number])))
    assert sorted(number for number, _ in finals) == list(range(len(heights)))
    for number, final in finals:
        assert close(final, want[number][0])
        for operation, left, right in zip(programs[number], reads[number], want[number][1], strict=True):
            assert type(left) is type(right), operation
            one, other = first_tensor(left), first_tensor(right)
            assert close(one, other), operation
    assert not has_gates(net)


@given(tree=trees(1), seed=st.integers(0, 5), data=st.data())
def test_a_random_donor_is_passed_between_invokes(tree, seed, data):
    """Read at one place in one invoke, written at a later or the same place in the other."""
    net = prepared(tree, seed)
    x, y = numbers(1, 1), numbers(1, 2)
    outputs = [path for path, kind in places(net, x) if kind == "output"]
    taken = data.draw(st.integers(0, len(outputs) - 1))
    put = data.draw(st.integers(taken, len(outputs) - 1))
    swap = data.draw(st.booleans())
    taken_value: list[Any] = []
    hook = net.get_submodule(outputs[taken]).register_forward_hook(
        lambda module, given, value: taken_value.append(kept(value))
    )
    with torch.no_grad():
        net(x)
    hook.remove()
    donor = first_tensor(taken_value[0])

    def replace(module: Any, given: Any, value: Any) -> None:
        first_tensor(value).copy_(donor)

    hook = net.get_submodule(outputs[put]).register_forward_hook(replace)
    with torch.no_grad():
        want = net(y)
    hook.remove()
    model = wrap(net)
    if swap:
        with model.trace() as tracer:
            with tracer.invoke(y):
                first_tensor(model._at(outputs[put]).output).copy_(theirs)  # noqa: F821
                final = model.output
            with tracer.invoke(x):
                theirs = first_tensor(model._at(outputs[taken]).output).clone()
    else:
        with model.trace() as tracer:
            with tracer.invoke(x):
                mine = first_tensor(model._at(outputs[taken]).output).clone()
            with tracer.invoke(y):
                value = first_tensor(model._at(outputs[put]).output)
                value.copy_(mine)
                final = model.output
    assert close(final, want)


class Stepper(nn.Module):
    """Generates by calling itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.inner(x))

    @torch.no_grad()
    def generate(self, x: torch.Tensor, steps: int = 3) -> torch.Tensor:
        made = []
        for _ in range(steps):
            x = self(x)
            made.append(x)
        return torch.stack(made)


@given(tree=trees(1), seed=st.integers(0, 5), steps=st.integers(1, 4), data=st.data())
def test_a_random_program_in_each_step_does_what_hooks_do(tree, seed, steps, data):
    net = Stepper(prepared(tree, seed)).eval()
    x = numbers(1, seed)
    met = [(path, kind) for path, kind in places(net, x) if kind == "output" and path]
    programs = []
    for _ in range(steps):
        programs.append(
            [
                Operation(path, kind, data.draw(st.sampled_from(ACTIONS["output"])), 0.5)
                for path, kind in met
                if not data.draw(st.integers(0, 2))
            ]
        )
    step = [-1]
    wanted: list[list[Any]] = [[] for _ in range(steps)]
    handles = [net.register_forward_pre_hook(lambda *_: step.__setitem__(0, step[0] + 1))]
    for path, _ in met:

        def after(module: Any, given: Any, value: Any, path: str = path) -> Any:
            for operation in programs[step[0]]:
                if operation.path == path:
                    new = act(operation, value)
                    value = value if new is None else new
                    wanted[step[0]].append(kept(value))
            return value

        handles.append(net.get_submodule(path).register_forward_hook(after))
    want = net.generate(x, steps)
    for handle in handles:
        handle.remove()
    model = wrap(net)
    seen: list[list[Any]] = []
    with model.generate(x, steps=steps) as tracer:
        for number in tracer.iter[:]:
            seen.append([])
            for operation in programs[number]:
                envoy = model._at(operation.path)
                new = act(operation, envoy.output)
                if new is not None:
                    envoy.output = new
                seen[-1].append(kept(envoy.output))
        result = tracer.result
    assert same(result, want)
    assert same(seen, wanted)
