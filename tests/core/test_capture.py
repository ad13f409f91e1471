"""Finding, leaving and running a body; needs no torch."""

from __future__ import annotations

import dis
import gc
import linecache
import sys
import textwrap
import types

import pytest

from nbsight.core.capture import BodySkipped, block_at, finders, skip_body
from nbsight.core.scope import Names, frame_values, write_back
from nbsight.errors import CaptureError


class Later:
    """Captures its body, and runs it when told to."""

    def __enter__(self):
        self.frame = sys._getframe(1)
        self.block = block_at(self.frame)
        if self.block is not None:
            self.values = frame_values(self.frame, self.block.loads)
            self.undo = skip_body(self.frame)
        return self

    def __exit__(self, kind, error, trace):
        if self.block is None:
            return False
        self.undo()
        if self.block.target is not None:
            # The body is left before the name after `as` is bound.
            write_back(self.frame, {self.block.target: self})
        return kind is BodySkipped

    def run(self):
        names = Names(self.values, self.frame.f_globals)
        exec(self.block.code, names, names)
        bound = {name: names[name] for name in self.block.stores if name in names}
        write_back(self.frame, bound)


def test_a_body_is_left_and_can_be_run_later():
    log = []
    with Later() as later:
        log.append("body")
        result = 41 + 1
    log.append("after")
    later.run()
    assert log == ["after", "body"]
    assert result == 42
    assert later.block.source == "log.append('body')\nresult = 41 + 1"
    assert later.block.target == "later"
    assert {"log"} <= later.block.loads
    assert {"result"} <= later.block.stores


def test_the_code_has_the_users_file_and_line():
    with Later() as later:
        line = sys._getframe().f_lineno
    here = sys._getframe().f_lineno
    later.run()
    assert line == here - 1
    assert later.block.code.co_filename == __file__


def test_an_error_in_a_body_points_at_the_users_line():
    with Later() as later:
        1 / 0
    line = sys._getframe().f_lineno - 1
    with pytest.raises(ZeroDivisionError) as caught:
        later.run()
    assert caught.traceback[-1].lineno + 1 == line
    assert str(caught.traceback[-1].path) == __file__


def test_a_body_run_twice_binds_twice():
    values = iter([1, 2])
    with Later() as later:
        got = next(values)
    later.run()
    assert got == 1
    later.run()
    assert got == 2


def test_withs_nested_on_neighbouring_lines_are_told_apart():
    with Later() as outer:
        with Later() as inner:
            deep = 1
        flat = 2
    with pytest.raises(UnboundLocalError):
        inner
    assert "flat" in outer.block.stores


def test_cells_whose_code_compares_equal_are_told_apart():
    def run(text, name):
        source = textwrap.dedent(text)
        linecache.cache[name] = (1, None, source.splitlines(keepends=True), name)
        space = {"Later": Later}
        exec(compile(source, name, "exec"), space)
        space["later"].run()
        return space["value"]

    assert run("with Later() as later:\n    value = 1\n", "<cell a>") == 1
    assert run("with Later() as later:\n    value = 2\n", "<cell b>") == 2
    # the same file name with another text, as when a cell is edited
    assert run("with Later() as later:\n    value = 3\n", "<cell b>") == 3
    assert run("\nwith Later() as later:\n    value = 4\n", "<cell b>") == 4


def test_text_that_cannot_be_found_gives_none_and_the_body_runs_in_place():
    space = {"Later": Later}
    exec("with Later() as later:\n    value = 5\n", space)
    assert space["later"].block is None
    assert space["value"] == 5


def test_a_finder_is_asked_when_nobody_else_knows_the_text():
    source = "with Later() as later:\n    value = 6\n"
    asked = []

    def finder(frame):
        asked.append(frame.f_code.co_filename)
        return source.splitlines(keepends=True)

    finders.append(finder)
    try:
        space = {"Later": Later}
        exec(compile(source, "<hidden>", "exec"), space)
    finally:
        finders.remove(finder)
    assert asked == ["<hidden>"]
    assert "value" not in space
    space["later"].run()
    assert space["value"] == 6


def test_blocks_are_forgotten_with_their_code():
    from nbsight.core import capture

    gc.collect()
    before = len(capture._known)
    for number in range(20):
        name = f"<forgotten {number}>"
        source = f"with Later() as later:\n    value = {number}\n"
        linecache.cache[name] = (1, None, source.splitlines(keepends=True), name)
        space = {"Later": Later}
        exec(compile(source, name, "exec"), space)
        space.clear()
        linecache.cache.pop(name)
    gc.collect()
    assert len(capture._known) <= before


def cell(text, name):
    linecache.cache[name] = (1, None, text.splitlines(keepends=True), name)
    space = {"Later": Later, "there": 1}
    exec(compile(text, name, "exec"), space)
    return space


def shown(code, opcodes, nested=False):
    names = set()
    for step in dis.get_instructions(code):
        if step.opname in opcodes and (not nested or step.opname != "STORE_NAME"):
            names.add(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= shown(constant, opcodes, nested=True)
    return names


def test_a_body_reads_and_binds_the_names_that_its_instructions_show():
    many = "".join(f"    n{number} = m{number}.a{number}\n" for number in range(300))
    text = (
        "with Later() as later:\n"
        "    def inner(x):\n        global g\n        g = there\n        return [x + o for o in (y, z)]\n"
        "    class Inner(there):\n        own = len(later)\n"
        + many
        + "    del n7\n    n0 += 1\n    import os.path as paths\n"
    )
    with pytest.raises(NameError):  # it is there to be looked at
        cell(text, "<many names>")["later"].run()
    block = cell(text, "<many names again>")["later"].block
    loading = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_NAME"}
    assert block.loads == shown(block.code, loading)
    assert {"m299", "y", "there", "len", "n7"} <= block.loads
    assert not {"a299", "n8", "own", "x"} & block.loads
    assert block.stores == shown(block.code, {"STORE_NAME", "STORE_GLOBAL", "DELETE_NAME"}) - {"own"}
    assert {"inner", "Inner", "g", "n7", "n299", "paths"} <= block.stores


@pytest.mark.parametrize("above", [0, 1, 5000])
@pytest.mark.parametrize("head", ["", "if there:\n    ", "try:\n  pass\nfinally:\n  "])
def test_a_body_has_its_own_lines_wherever_it_stands(above, head):
    indent = len(head) - len(head.rstrip(" "))
    text = "\n" * above + head + "with Later() as later:\n" + " " * indent + "  1 / 0\n"
    later = cell(text, f"<deep {above} {indent} {len(head)}>")["later"]
    with pytest.raises(ZeroDivisionError) as caught:
        later.run()
    assert caught.traceback[-1].lineno + 1 == text.count("\n")
    assert later.block.line == text.count("\n") - 1
    assert later.block.source == "1 / 0"


@pytest.mark.parametrize("flag", ["annotations"])
def test_future_imports_hold_in_a_body(flag):
    name = "<future>"
    source = f"from __future__ import {flag}\nwith Later() as later:\n    def f(x: Nowhere): pass\n"
    linecache.cache[name] = (1, None, source.splitlines(keepends=True), name)
    space = {"Later": Later}
    exec(compile(source, name, "exec", dont_inherit=True), space)
    space["later"].run()
    assert space["f"].__annotations__ == {"x": "Nowhere"}


@pytest.mark.parametrize("statement", ["return 1", "yield 1", "await x", "break", "continue"])
def test_what_cannot_wait_is_refused(statement):
    keyword = "async def" if "await" in statement else "def"
    source = f"{keyword} go():\n    for _ in range(1):\n        with Later():\n            {statement}\n"
    name = f"<refused {statement}>"
    linecache.cache[name] = (1, None, source.splitlines(keepends=True), name)
    space = {"Later": Later}
    exec(compile(source, name, "exec"), space)
    with pytest.raises(CaptureError, match="line 4"):
        made = space["go"]()
        if "await" in statement:
            made.send(None)
        elif "yield" in statement:
            next(made)


def test_names_are_written_into_every_kind_of_frame():
    def function():
        kept = cell = None

        def closure():
            return cell

        with Later() as later:
            kept, cell, new = 1, 2, 3
        later.run()
        return kept, cell, closure(), new

    def generator():
        with Later() as later:
            kept = 4
        later.run()
        yield kept

    class Body:
        with Later() as later:
            kept = 5
        later.run()

    assert function() == (1, 2, 2, 3)
    assert next(generator()) == 4
    assert Body.kept == 5


def test_other_variables_of_the_frame_keep_their_values():
    one, two = 1, 2

    def look():
        return two

    with Later() as later:
        kept = 3
    one, two = 10, 20
    later.run()
    assert (one, two, look(), kept) == (10, 20, 20, 3)


def test_a_global_declaration_is_respected():
    def go():
        global _from_capture
        with Later() as later:
            _from_capture = 7
        later.run()

    globals().pop("_from_capture", None)
    go()
    assert globals()["_from_capture"] == 7


def test_the_trace_function_is_put_back():
    calls = []

    def watch(frame, event, argument):
        calls.append(event)
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        with Later() as later:
            value = 1
        now = sys.gettrace()
    finally:
        sys.settrace(before)
    assert now is watch
    assert "value" not in dir()
    later.run()
    assert value == 1


def test_skipping_two_thousand_bodies_leaves_the_trace_function_as_it_was():
    before = sys.gettrace(), sys._getframe().f_trace
    for _ in range(2000):
        with Later():
            1 / 0
    assert (sys.gettrace(), sys._getframe().f_trace) == before


class Private:
    def __init__(self):
        self.__factor = 3

    def direct(self):
        with Later() as later:
            value = self.__factor
        later.run()
        return value

    def nested(self):
        def inner():
            with Later() as later:
                value = self.__factor
            later.run()
            return value

        return inner()


class _Underscored(Private):
    def __init__(self):
        super().__init__()
        self.__factor = 4

    def direct(self):
        with Later() as later:
            self.__factor = value = self.__factor + 1
        later.run()
        return value, self.__factor


def test_private_names_of_a_class_mean_what_they_mean_there():
    assert Private().direct() == 3
    assert _Underscored().direct() == (5, 5)


def test_private_names_are_found_from_a_function_inside_a_method():
    assert Private().nested() == 3
