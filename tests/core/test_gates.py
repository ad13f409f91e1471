"""Gates: unseen by everybody else, and gone when nobody needs them."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from nbsight.core.gates import close_gates, open_gates
from nbsight.core.model import wrap
from tests.core.small import Block, Chain, build, has_gates, hooked, rows, same

X = rows(seed=1)


def opened(module, spares):
    """The gate of one more user of a module."""
    gates = {}
    open_gates([module], spares, gates)
    return gates[module]


def test_a_gate_changes_nothing_for_a_plain_call():
    block = build(Block)
    want = block(X, scale=2.0)
    gate = opened(block, {})
    assert same(block(X, scale=2.0), want)
    assert inspect.signature(block.forward) == inspect.signature(Block(6).forward)
    close_gates([gate])
    assert "forward" not in block.__dict__


def test_gates_are_counted():
    block = build(Block)
    spares = {}
    gates = [opened(block, spares) for _ in range(3)]
    for gate in gates:
        assert "forward" in block.__dict__
        close_gates([gate])
    assert "forward" not in block.__dict__


def test_an_instance_forward_of_the_users_is_called_and_comes_back():
    net = build(Chain)
    calls = []

    def own(x):
        calls.append("own")
        return Block.forward(net.h[1], x) + 1

    net.h[1].forward = own
    want = hooked(net, (X,))
    calls.clear()
    model = wrap(net)
    for _ in range(2):
        with model.trace(X):
            hidden = model.h[1].output
            final = model.output
        assert same([hidden, final], [want["h.1.output"][0], want[""][0]])
        assert net.h[1].__dict__["forward"] is own
    assert calls == ["own", "own"]


def test_accelerates_hooks_work_and_come_back():
    hooks = pytest.importorskip("accelerate.hooks")

    class Doubling(hooks.ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            return tuple(arg * 2 for arg in args), kwargs

        def post_forward(self, module, output):
            return output + 1

    net = build(Chain)
    for layer in (1, 2):
        hooks.add_hook_to_module(net.h[layer], Doubling())
    put = net.h[1].__dict__["forward"]
    want = hooked(net, (X,))
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        inner = model.h[2].lin.input
        final = model.output
    assert same(
        [hidden, inner, final],
        [want["h.1.output"][0], want["h.2.lin.inputs"][0][0][0], want[""][0]],
    )
    assert net.h[1].__dict__["forward"] is put
    hooks.remove_hook_from_module(net.h[1])
    hooks.remove_hook_from_module(net.h[2])
    assert same(hooked(net, (X,))[""][0], hooked(build(Chain), (X,))[""][0])
    with model.trace(X):
        after = model.h[1].output
    assert same(after, hooked(net, (X,))["h.1.output"][0])


def test_an_offloaded_module_is_read_with_its_weights():
    accelerate = pytest.importorskip("accelerate")
    net = build(Chain)
    want = hooked(net, (X,))
    accelerate.cpu_offload(net)
    assert net.h[0].lin.weight.device.type == "meta"
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[2].lin.output
        model.h[3].output[:] = 0
        final = model.output
    assert same(hidden, want["h.2.lin.output"][0])
    assert same(final, hooked(build(Chain), (X,), edit={"h.3": lambda v: v * 0})[""][0])
    assert net.h[0].lin.weight.device.type == "meta"


def test_a_users_hooks_still_fire_around_a_gate():
    net = build(Chain)
    log = []
    net.h[1].register_forward_pre_hook(lambda module, given: log.append("before"))
    net.h[1].register_forward_hook(lambda module, given, value: log.append("after") or value * 2)
    with torch.no_grad():
        want = net(X)
    log.clear()
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].output
        assert log == ["before"]
        final = model.output
    assert log == ["before", "after"]
    assert same(final, want)
    assert same(hidden * 2, hooked(net, (X,))["h.2.inputs"][0][0][0])


def test_a_plain_call_of_the_model_inside_a_trace_is_not_seen_by_it():
    net = build(Chain)
    model = wrap(net)
    y = rows(seed=2)
    want = hooked(net, (y,))[""][0]
    with model.trace(X):
        one = model.h[0].output
        with torch.no_grad():
            other = net(y)
            direct = model(y)
        two = model.h[1].output
    assert same([other, direct], [want, want])
    seen = hooked(net, (X,))
    assert same([one, two], [seen["h.0.output"][0], seen["h.1.output"][0]])


def test_the_model_copies_and_pickles_after_a_trace():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        model.h[1].output
    want = hooked(net, (X,))[""][0]
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert not has_gates(other)
        assert same(hooked(other, (X,))[""][0], want)


def test_the_wrapped_model_copies_and_pickles_and_the_copy_stands_for_itself():
    model = wrap(build(Chain))
    with model.trace(X):
        model.h[1].output
    want = hooked(model._module, (X,), edit={"h.1": lambda value: value * 0})[""][0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._module is not model._module
        assert other.h[1]._module is other._module.h[1]
        with torch.no_grad():
            other._module.h[0].lin.weight.zero_()
        with other.trace(X):
            other.h[1].output[:] = 0
            final = other.output
        assert same(final, hooked(other._module, (X,), edit={"h.1": lambda v: v * 0})[""][0])
    with model.trace(X):
        model.h[1].output[:] = 0
        mine = model.output
    assert same(mine, want)


def test_a_parameter_update_between_traces_is_seen():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        before = model.h[1].output
    with torch.no_grad():
        net.h[0].lin.weight.add_(1)
    with model.trace(X):
        after = model.h[1].output
    assert not same(before, after)
    assert same(after, hooked(net, (X,))["h.1.output"][0])


def test_a_method_replaced_on_the_class_between_traces_is_used(monkeypatch):
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        model.h[1].output
    monkeypatch.setattr(Block, "forward", lambda self, x: x * 3)
    with model.trace(X):
        hidden = model.h[1].output
    assert same(hidden, X * 3 * 3)


def test_a_module_called_through_its_forward_is_reached():
    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return self.block.forward(x) * 2

    net = build(Direct)
    model = wrap(net)
    with model.trace(X):
        hidden = model.block.output
    with torch.no_grad():
        assert same(hidden, net.block(X))


def test_nothing_is_patched_but_save_on_tensors():
    script = textwrap.dedent(
        """
        import builtins, sys, threading, types
        import torch, linecache, warnings, contextlib
        from torch import nn

        def picture():
            places = [object, type, builtins, sys, threading, types.FunctionType,
                      torch, torch.Tensor, torch._C.TensorBase, torch.autograd, torch.autograd.Function,
                      torch.nn.Module, torch.nn.Linear, torch.nn.Parameter, torch.nn.modules.module,
                      torch.overrides, torch.utils._python_dispatch, torch._tensor, linecache,
                      contextlib, warnings]
            skip = {"last_value", "last_type", "last_traceback", "last_exc", "modules", "_", "cache",
                    "path_importer_cache", "_active", "_dangling", "onceregistry", "__warningregistry__",
                    "_registry", "__dict__"}
            return {(place.__name__, name): id(value) for place in places
                    for name, value in vars(place).items() if name not in skip}

        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            def forward(self, x):
                return self.b(self.a(x))

        net = Two()
        net(torch.ones(1, 2)).sum().backward()
        before = picture()
        import nbsight
        model = nbsight.wrap(net)
        with model.trace(torch.ones(1, 2)) as tracer:
            model.a.output.save()
            model.output.save()
        after = picture()
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        loaded = {key for key in changed if key[0] == "torch" and isinstance(
            getattr(torch, key[1], None), types.ModuleType)}
        print(sorted(changed - loaded))
        """
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[('Tensor', 'save')]"


def test_saved_attributes_do_not_appear_on_other_objects():
    assert not hasattr(object, "save")
    assert not hasattr([], "save")
    assert not hasattr(nn.Linear(1, 1), "save")
