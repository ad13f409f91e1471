"""`%load_ext nbsight` in an IPython shell, without a browser."""

from __future__ import annotations

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from nbsight.notebook.extension import load_ipython_extension, unload_ipython_extension
from tests.widgets.shared_lens import shared_lens

WIDGET = "application/vnd.jupyter.widget-view+json"


class Node:
    """Has what completion asks of an envoy, and a property that must not be read."""

    def __init__(self, **children):
        self._children = children

    def _children_names(self):
        return list(self._children)

    def __getattr__(self, name):
        try:
            return self.__dict__["_children"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key):
        return list(self._children.values())[key]

    def __dir__(self):
        return [*self._children, "output", "input", "trace", "_hidden"]

    @property
    def output(self):
        raise AssertionError("completion read a value of the model")


@pytest.fixture
def shell():
    shell = InteractiveShell()
    block = Node(mlp=Node(c_proj=Node(), act=Node()), attn=Node(), ln_1=Node())
    shell.user_ns["model"] = Node(
        transformer=Node(h=Node(**{"0": block, "1": block}), wte=Node()), lm_head=Node()
    )
    load_ipython_extension(shell)
    yield shell
    unload_ipython_extension(shell)


def completions(shell, text):
    with provisionalcompleter():
        return [found.text for found in shell.Completer.completions(text, len(text))]


def test_children_come_first_and_in_the_order_of_the_model(shell):
    assert completions(shell, "model.")[:5] == ["transformer", "lm_head", "input", "output", "trace"]
    assert completions(shell, "model.transformer.h[0].")[:3] == ["mlp", "attn", "ln_1"]


def test_what_is_typed_narrows_the_list(shell):
    assert completions(shell, "x = model.transformer.h[-1].mlp.c") == ["c_proj"]
    assert completions(shell, "model.tr") == ["transformer", "trace"]
    assert completions(shell, "model._h") == ["_hidden"]


def test_children_whose_names_are_numbers_are_not_offered_after_a_dot(shell):
    assert "0" not in completions(shell, "model.transformer.h.")


def test_an_index_that_is_not_there_offers_nothing(shell):
    assert "mlp" not in completions(shell, "model.transformer.h[7].")


def test_other_objects_are_completed_as_ever(shell):
    shell.user_ns["text"] = "abc"
    assert "upper" in completions(shell, "text.up")


def test_a_lens_is_shown_as_a_widget(shell):
    data, _ = shell.display_formatter.format(shared_lens())
    assert WIDGET in data
    assert "Lens of" in data["text/plain"]


def test_unloading_puts_everything_back(shell):
    shell.display_formatter.format(shared_lens())
    unload_ipython_extension(shell)
    data, _ = shell.display_formatter.format(shared_lens())
    assert list(data) == ["text/plain", "text/html"]
    assert completions(shell, "model.")[0] != "transformer"


def test_loading_twice_adds_once(shell):
    count = len(shell.Completer.custom_matchers)
    load_ipython_extension(shell)
    assert len(shell.Completer.custom_matchers) == count


def test_the_package_can_be_loaded_by_name(shell):
    unload_ipython_extension(shell)
    shell.run_line_magic("load_ext", "nbsight")
    assert completions(shell, "model.")[0] == "transformer"


def test_a_figure_made_without_pyplot_shows_itself(shell):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().plot([1, 2])
    load_ipython_extension(shell)
    data, _ = shell.display_formatter.format(figure)
    assert data["image/png"].startswith(b"\x89PNG")
    unload_ipython_extension(shell)
    assert "image/png" not in shell.display_formatter.format(figure)[0]
