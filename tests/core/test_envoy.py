"""The tree of modules as the user sees it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbsight.core.envoy import Envoy
from nbsight.core.model import Model, wrap
from nbsight.errors import InputError, PathError
from tests.core.small import WIDTH, Block, Chain, Repeats, Shared, build, hooked, rows, same

X = rows(seed=1)


def test_children_are_found_by_attribute_index_and_name():
    net = build(Chain)
    model = wrap(net)
    assert model.h[1]._module is net.h[1]
    assert model.h[-1]._module is net.h[3]
    assert model["h"]["1"] is model.h[1] is model.get("h.1")
    assert [envoy._module for envoy in model.h[1:3]] == list(net.h[1:3])
    assert [envoy._module for envoy in model.h[::-2]] == [net.h[3], net.h[1]]
    assert len(model.h) == 4
    assert [envoy._module for envoy in model.h] == list(net.h)
    assert model.h[1].path == "model.h.1"
    assert model.h[1]._parent is model.h
    assert model.h[1]._root is model


def test_named_modules_are_torchs_own_in_the_same_order():
    for net in (build(Chain), build(Shared)):
        model = wrap(net)
        pairs = model.named_modules()
        assert [path for path, _ in pairs] == [path for path, _ in net.named_modules()]
        assert [envoy._module for _, envoy in pairs] == [module for _, module in net.named_modules()]
        assert model.modules() == [envoy for _, envoy in pairs]
        linear = model.modules(include_fn=lambda envoy: isinstance(envoy._module, nn.Linear))
        wanted = [module for module in net.modules() if isinstance(module, nn.Linear)]
        assert [envoy._module for envoy in linear] == wanted


def test_everything_else_comes_from_the_module():
    net = build(Chain)
    model = wrap(net)
    assert model.head.weight is net.head.weight
    assert model.head.in_features == WIDTH
    assert list(model.state_dict()) == list(net.state_dict())
    model.eval()
    assert model.head.training is False
    assert model.device == torch.device("cpu")


def test_submodules_are_listed_first():
    # `dir()` sorts; completion asks this.
    names = wrap(build(Chain)).__dir__()
    assert names[:2] == ["h", "head"]
    assert "output" in names
    assert not any(name.startswith("_") for name in names[:10])


def test_a_submodule_that_is_called_like_a_property_can_be_reached():
    class Old(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = nn.Linear(WIDTH, WIDTH)
            self.input = nn.Identity()

        def forward(self, x):
            return self.output(self.input(x))

    net = build(Old)
    model = wrap(net)
    with model.trace(X):
        first = model["input"].output
        second = model["output"].output
        final = model.output
    want = hooked(net, (X,))
    assert same([first, second, final], [want["input.output"][0], want["output.output"][0], want[""][0]])


def test_a_module_can_be_attached_and_used_inside_a_trace():
    net = build(Chain)
    model = wrap(net)
    model.probe = build(nn.Linear, WIDTH, 2)
    assert net.probe is model.probe._module
    with model.trace(X):
        score = model.probe(model.h[1].output)
    with torch.no_grad():
        assert same(score, net.probe(hooked(net, (X,))["h.1.output"][0]))


def test_setting_an_attribute_of_the_module_sets_it_there():
    net = build(Repeats)
    model = wrap(net)
    model.times = 1
    assert net.times == 1


def test_a_module_added_to_or_removed_from_a_list_is_followed():
    net = build(Chain)
    model = wrap(net)
    assert len(model.h) == 4
    net.h.append(build(Block, seed=7))
    assert len(model.h) == 5
    with model.trace(X):
        state = model.h[4].output
    assert same(state, hooked(net, (X,))["h.4.output"][0])
    del net.h[4]
    with pytest.raises(PathError, match="4 entries"):
        model.h[4]


def test_an_envoy_is_true_and_its_class_can_be_chosen():
    class Mine(Envoy):
        pass

    class Root(Model):
        def _envoy_class(self, path, module):
            return Mine if path.startswith("h.") else Envoy

    model = Root(build(lambda: nn.Sequential()))
    assert bool(model)
    assert len(model) == 0
    model = Root(build(Chain))
    assert type(model.h[0]) is Mine
    assert type(model.head) is Envoy


def test_a_subclass_decides_what_is_shown_and_accepted():
    class Doubled(Envoy):
        def _show(self, kind, value):
            return value * 2 if kind == "output" else value

        def _accept(self, kind, current, assigned):
            return assigned / 2 if kind == "output" else assigned

    class Root(Model):
        def _envoy_class(self, path, module):
            return Doubled if path == "h.1" else Envoy

    net = build(Chain)
    want = hooked(net, (X,), edit={"h.1": lambda value: (value * 2 + 1) / 2})
    model = Root(net)
    with model.trace(X):
        shown = model.h[1].output
        model.h[1].output = shown + 1
        final = model.output
    assert same(shown, hooked(net, (X,))["h.1.output"][0] * 2)
    assert same(final, want[""][0])


def test_pointing_at_an_equal_tree_keeps_the_envoys():
    one, two = build(Chain), build(Chain, seed=1)
    model = wrap(one)
    block = model.h[1]
    with model.trace(X):
        block.output
    model._point_at(two)
    assert model.h[1] is block
    assert block._module is two.h[1]
    with model.trace(X):
        state = block.output
    assert same(state, hooked(two, (X,))["h.1.output"][0])


def test_what_is_no_list_has_no_length_and_no_loop():
    model = wrap(build(Chain))
    with pytest.raises(TypeError, match="no length"):
        len(model.head)
    with pytest.raises(TypeError, match="looped over"):
        iter(model)


def test_wrap_refuses_what_is_no_module():
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        wrap("gpt2")


def test_a_dictionary_of_modules_is_read_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleDict({"a_b": Block(), "3": Block()})

        def forward(self, x):
            return self.parts["3"](self.parts["a_b"](x))

    net = build(Named)
    model = wrap(net)
    with model.trace(X):
        one = model.parts["a_b"].output
        two = model.parts["3"].output
    want = hooked(net, (X,))
    assert same([one, two], [want["parts.a_b.output"][0], want["parts.3.output"][0]])


def test_a_place_that_holds_none_is_not_a_submodule():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = Block()
            self.b = None
            self.register_module("c", None)

        def forward(self, x):
            return self.a(x)

    model = wrap(build(Sometimes))
    assert model.b is None
    assert model.c is None
    assert [path for path, _ in model.named_modules()] == ["", "a", "a.lin", "a.act"]
