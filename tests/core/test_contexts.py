"""A trace works wherever Python code runs."""

from __future__ import annotations

import io
import pdb
import subprocess
import sys
import textwrap

import pytest
import torch

from nbsight.core.model import wrap
from tests.core.small import Chain, build, close, has_gates, hooked, rows, run_cell, same

NET = build(Chain)
MODEL = wrap(NET)
ONE, TWO = rows(1, seed=1), rows(1, seed=2)
DONOR = hooked(NET, (ONE,))["h.1.output"][0]
PLAIN = hooked(NET, (TWO,))[""][0]
PATCHED = hooked(NET, (TWO,), edit={"h.1": lambda _: DONOR})[""][0]

PLAIN_TRACE = """
with model.trace(two) as tracer:
    model.h[1].output[:] = donor
    final = model.output.save()
"""

INVOKES = """
with model.trace() as tracer:
    with tracer.invoke(one):
        state = model.h[1].output
    with tracer.invoke(two):
        model.h[1].output[:] = state
        final = model.output.save()
"""


def names() -> dict:
    return {"model": MODEL, "one": ONE, "two": TWO, "donor": DONOR, "torch": torch}


def check(space: dict) -> None:
    assert close(space["final"], PATCHED)
    assert not has_gates(NET)


# -- exec, functions, scripts ----------------------------------------------------------------------


@pytest.mark.parametrize("source", [PLAIN_TRACE, INVOKES], ids=["plain", "invokes"])
def test_exec_of_text_that_nobody_can_find_again(source):
    space = names()
    exec(source, space)
    check(space)


@pytest.mark.parametrize("source", [PLAIN_TRACE, INVOKES], ids=["plain", "invokes"])
def test_exec_with_separate_locals(source):
    local: dict = {}
    exec(source, names(), local)
    check(local)


@pytest.mark.parametrize("source", [PLAIN_TRACE, INVOKES], ids=["plain", "invokes"])
def test_a_cell(source):
    check(run_cell(source, names()))


@pytest.mark.parametrize("source", [PLAIN_TRACE, INVOKES], ids=["plain", "invokes"])
def test_a_cell_with_separate_locals(source):
    import linecache

    local: dict = {}
    filename = "<separate locals>"
    linecache.cache[filename] = (1, None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), names(), local)
    check(local)


@pytest.mark.parametrize("source", [PLAIN_TRACE, INVOKES], ids=["plain", "invokes"])
@pytest.mark.parametrize("findable", [True, False])
def test_a_function_and_a_nested_function(source, findable):
    body = textwrap.indent(source + "return final\n", "    " * 2)
    text = f"def outer(model, one, two, donor):\n    def inner():\n{body}\n    return inner()\n"
    space: dict = {}
    if findable:
        run_cell(text, space)
    else:
        exec(text, space)
    assert close(space["outer"](MODEL, ONE, TWO, DONOR), PATCHED)


SCRIPT_HEAD = """
import sys, torch
import nbsight
from tests.core.small import Chain, build, close, has_gates, hooked, rows
net = build(Chain); model = nbsight.wrap(net)
one, two = rows(1, seed=1), rows(1, seed=2)
donor = hooked(net, (one,))["h.1.output"][0]
want = hooked(net, (two,), edit={"h.1": lambda _: donor})[""][0]
"""
SCRIPT_TAIL = """
assert close(final, want)
assert not has_gates(net)
print("right")
"""


def run_python(arguments: list[str], text: str | None = None) -> str:
    result = subprocess.run(
        [sys.executable, *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


def whole(*parts: str) -> str:
    return "\n".join(
        [SCRIPT_HEAD, *(part + SCRIPT_TAIL for part in parts)],
    )


def test_a_script_file(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; sys.path.insert(0, '.')\n" + whole(PLAIN_TRACE, INVOKES))
    assert run_python([str(script)]).split() == ["right", "right"]


def test_stdin():
    assert run_python(["-"], whole(PLAIN_TRACE, INVOKES)).split() == ["right", "right"]


def test_python_dash_c_and_a_process_that_ends_with_traces_still_open_ends_quietly():
    text = whole(PLAIN_TRACE, INVOKES) + textwrap.dedent(
        """
        def held(x):
            with model.trace(x):
                yield model.h[0].output
        suspended = [held(one), held(two)]
        for one_held in suspended: next(one_held)
        import threading
        def work():
            with model.trace(two): model.h[1].output
        for _ in range(3):
            thread = threading.Thread(target=work); thread.start(); thread.join()
        print("done")
        """
    )
    assert run_python(["-c", text]).split() == ["right", "right", "done"]


# -- one line, try ---------------------------------------------------------------------------------


def test_a_block_of_one_line():
    space = run_cell("with model.trace(two): model.h[1].output[:] = donor; final = model.output", names())
    check(space)
    space = run_cell(
        """
        with model.trace() as tracer:
            with tracer.invoke(one): state = model.h[1].output
            with tracer.invoke(two): model.h[1].output[:] = state; final = model.output
        """,
        names(),
    )
    check(space)
    with MODEL.trace(TWO): MODEL.h[1].output[:] = DONOR; final = MODEL.output  # fmt: skip  # noqa: E701,E702
    assert same(final, PATCHED)


def test_a_block_that_begins_with_try():
    with MODEL.trace() as tracer:
        with tracer.invoke(ONE):
            try:
                state = MODEL.h[1].output
                1 / 0
            except ZeroDivisionError:
                caught = True
            finally:
                done = True
        with tracer.invoke(TWO):
            try:
                MODEL.h[1].output[:] = state
            finally:
                final = MODEL.output
    assert close(final, PATCHED)
    assert (caught, done) == (True, True)
    with MODEL.trace(TWO):
        try:
            MODEL.h[1].output[:] = DONOR
        finally:
            final = MODEL.output
    assert same(final, PATCHED)


@pytest.mark.parametrize(
    "first",
    ["for _ in range(2):\n pass", "while False:\n pass", "with torch.no_grad():\n pass", "def f(): pass",
     "class C: pass", "'a text'", "pass", "if 1:\n pass", "import math", "[i for i in range(2)]",
     "lambda: 0", "assert True", "x: int = 1", "global g", "...",
     "'''many\nlines'''", "(1,\n2)", "@staticmethod\ndef f(): pass"],
)  # fmt: skip
def test_a_block_may_begin_with_any_statement(first):
    source = "\n".join(
        [
            "with model.trace() as tracer:",
            "    with tracer.invoke(one):",
            textwrap.indent(first, " " * 8) if not first.startswith("'''") else " " * 8 + first,
            "        state = model.h[1].output",
            "    with tracer.invoke(two):",
            textwrap.indent(first, " " * 8) if not first.startswith("'''") else " " * 8 + first,
            "        model.h[1].output[:] = state",
            "        final = model.output",
            "",
        ]
    )
    space = names()
    import linecache

    filename = f"<first {first!r}>"
    linecache.cache[filename] = (1, None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), space)
    check(space)


@pytest.mark.parametrize(
    "layout",
    [
        ("with model.trace(\n) as tracer:\n with tracer.invoke(\n  one\n ):\n  state = model.h[1].output\n"
        " with tracer.invoke(two) as second:\n\n  # a remark\n  model.h[1].output[:] = (\nstate\n)\n"
        "# at the margin\n  final = model.output\n"),
        ("if True:\n\twith model.trace() as tracer:\n\t\twith tracer.invoke(one): state = model.h[1].output\n"
        "\t\twith tracer.invoke(two):\n\t\t\tmodel.h[1].output[:] = state\n\t\t\tfinal = model.output\n"),
        ("with model.trace() as tracer:\n with tracer.invoke(one): state = model.h[1].output # with this\n"
        " with_two = two\n with tracer.invoke(with_two): model.h[1].output[:] = state; final = model.output"),
        ("with (\n    model.trace() as tracer\n):\n    with (\n        tracer.invoke(one)\n    ):\n"
        "        state = model.h[1].output\n    with tracer.invoke(two):\n"
        "        model.h[1].output[:] = state\n        final = model.output\n"),
    ],
)  # fmt: skip
def test_the_body_is_found_however_it_is_laid_out(layout):
    check(run_cell(layout, names()))


def test_a_line_far_from_its_with_is_still_found():
    filler = "\n".join(f"        # remark {number}" for number in range(80))
    check(
        run_cell(
            "with model.trace() as tracer:\n    with tracer.invoke(one):\n"
            f"{filler}\n        state = model.h[1].output\n    with tracer.invoke(\n"
            + "\n".join(f"        # remark {number}" for number in range(60))
            + "\n        two\n    ):\n        model.h[1].output[:] = state\n        final = model.output\n",
            names(),
        )
    )


# -- IPython ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shell():
    interactive = pytest.importorskip("IPython.core.interactiveshell")
    before = sys.modules["__main__"], sys.displayhook, sys.excepthook
    made = interactive.InteractiveShell.instance(history_load_length=0)
    made.history_manager.enabled = False
    yield made
    interactive.InteractiveShell.clear_instance()
    sys.modules["__main__"], sys.displayhook, sys.excepthook = before


def run_in(shell, cell: str) -> None:
    shell.user_ns.update(names())
    shell.user_ns.pop("final", None)
    result = shell.run_cell(textwrap.dedent(cell), silent=False)
    result.raise_error()
    check(shell.user_ns)


@pytest.mark.parametrize("source", [PLAIN_TRACE, INVOKES], ids=["plain", "invokes"])
@pytest.mark.parametrize("magic", ["", "%%time\n", "%%capture\n"])
def test_a_notebook_cell_with_and_without_magics(shell, source, magic, capsys):
    run_in(shell, magic + source.lstrip())
    # and once more, with the names of the first time still there
    run_in(shell, magic + source.lstrip())


def test_a_notebook_cell_under_timeit(shell, capsys):
    shell.user_ns.update(names())
    shell.run_cell("%%timeit -n1 -r1\n" + INVOKES.lstrip().replace("final = ", "keep['final'] = ")
                   .replace("with model", "keep = model.__dict__.setdefault('_kept', {})\nwith model", 1)
                   ).raise_error()  # fmt: skip
    assert close(MODEL.__dict__.pop("_kept")["final"], PATCHED)


def test_a_notebook_cell_that_awaits_at_its_top(shell):
    run_in(shell, "import asyncio\nawait asyncio.sleep(0)\n" + PLAIN_TRACE + INVOKES)


def test_a_notebook_error_names_the_users_line_and_the_next_cell_works(shell, capsys):
    shell.user_ns.update(names())
    result = shell.run_cell("with model.trace(two):\n    wrong = torch.zeros(1, 7, 6)\n"
                            "    model.h[1].output[:] = wrong\n")  # fmt: skip
    assert isinstance(result.error_in_exec, ValueError)
    printed = capsys.readouterr().out
    assert "model.h[1].output[:] = wrong" in printed
    run_in(shell, PLAIN_TRACE)


def test_a_function_defined_in_one_cell_and_called_in_another(shell):
    shell.run_cell("def go(model, one, two):\n" + textwrap.indent(INVOKES, "    ") + "    return final")
    run_in(shell, "final = go(model, one, two)")


# -- debuggers and tracers -------------------------------------------------------------------------


def run_pdb(source: str, commands: list[str], findable: bool = True) -> tuple[dict, str]:
    space, out = names(), io.StringIO()
    debugger = pdb.Pdb(stdin=io.StringIO("\n".join(commands) + "\n"), stdout=out, nosigint=True)
    debugger.use_rawinput = False
    space["stop_here"] = lambda: debugger.set_trace(sys._getframe(1))
    try:
        (run_cell if findable else lambda text, where: exec(text, where))(source, space)
    finally:
        sys.settrace(None)
    return space, out.getvalue()


def test_a_debugger_in_a_plain_block_sees_values_and_goes_on():
    space, shown = run_pdb(
        PLAIN_TRACE.replace("    final", "    stop_here()\n    final"),
        ["p tuple(model.h[1].output.shape)", "p tracer is not None", "n", "c"],
    )
    check(space)
    assert "(1, 3, 6)" in shown
    assert "True" in shown


def test_a_debugger_in_an_invokes_body_sees_values_and_goes_on():
    space, shown = run_pdb(
        INVOKES.replace("        final", "        stop_here()\n        final"),
        ["p tuple(state.shape)", "p tuple(model.h[1].output.shape)", "n", "n", "c"],
    )
    check(space)
    assert shown.count("(1, 3, 6)") == 2


def test_breakpoint_in_a_block_calls_the_hook_on_the_users_line(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "breakpointhook", lambda: seen.append(sys._getframe(1).f_lineno))
    with MODEL.trace() as tracer:
        with tracer.invoke(ONE):
            breakpoint()
            here = sys._getframe().f_lineno
        with tracer.invoke(TWO):
            pass
    assert seen == [here - 1]


def test_the_trace_function_that_was_there_is_there_again_and_saw_the_body():
    before = sys.gettrace()
    lines = []

    def watch(frame, event, argument):
        if frame.f_code.co_filename.startswith("<test cell"):
            lines.append((event, frame.f_lineno))
            return watch
        return None

    sys.settrace(watch)
    try:
        space = run_cell(INVOKES.lstrip(), names())
        still = sys.gettrace()
    finally:
        sys.settrace(before)
    assert still is watch
    check(space)
    seen = {line for event, line in lines if event == "line"}
    # Lines 1 to 6 of the cell, the bodies among them, are reported as they run.
    assert {1, 2, 4, 3, 5, 6} <= seen


def test_code_under_coverage_is_measured_and_works(tmp_path):
    coverage = pytest.importorskip("coverage")
    script = tmp_path / "measured.py"
    script.write_text(INVOKES)
    measure = coverage.Coverage(data_file=None, include=[str(script)], concurrency="greenlet")
    space = names()
    measure.start()
    try:
        exec(compile(INVOKES, str(script), "exec"), space)
    finally:
        measure.stop()
    check(space)
    _, _, _, missing, _ = measure.analysis2(str(script))
    assert missing == []


def test_without_a_trace_function_there_is_none_afterwards():
    before, local = sys.gettrace(), sys._getframe().f_trace
    sys.settrace(None)
    try:
        check(run_cell(INVOKES, names()))
        during = sys.gettrace()
        frame_trace = sys._getframe().f_trace
    finally:
        sys.settrace(before)
    assert during is None
    assert frame_trace is local


def test_a_profiler_goes_on_profiling():
    import cProfile

    profile = cProfile.Profile()
    space = names()
    try:
        profile.enable()
    except ValueError:
        pytest.skip("another profiler is active")
    try:
        run_cell(INVOKES, space)
    finally:
        profile.disable()
    check(space)
    assert any("run_cell" in str(entry.code) for entry in profile.getstats())
