"""Failing torch operations inside our greenlets are Python errors and nothing worse."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import textwrap
import threading

import pytest
from greenlet import getcurrent

from nbsight.core.greenlets import Carrier, borrow, give_back, main_greenlet

#: Frames that torch's C++ errors collect (64, and one more for itself).
TORCH_FRAMES = 65


def in_carrier(act):
    """Run `act` in a carrier and return what it returned."""
    home, result = getcurrent(), []

    def task():
        result.append(act())
        return home

    carrier = borrow(task)
    carrier.switch()
    give_back(carrier)
    return result[0]


# -- the pool --------------------------------------------------------------------------------------


def test_a_carrier_is_used_again():
    one = in_carrier(getcurrent)
    two = in_carrier(getcurrent)
    assert one is two
    assert isinstance(one, Carrier)
    assert one is not getcurrent()


def test_carriers_in_use_at_the_same_time_are_different():
    assert in_carrier(lambda: (getcurrent(), in_carrier(getcurrent))).__len__() == 2
    outer, inner = in_carrier(lambda: (getcurrent(), in_carrier(getcurrent)))
    assert outer is not inner


def test_each_thread_has_carriers_of_its_own():
    mine = in_carrier(getcurrent)
    theirs = []
    thread = threading.Thread(target=lambda: theirs.append(in_carrier(lambda: id(getcurrent()))))
    thread.start()
    thread.join()
    assert theirs[0] != id(mine)


def test_the_main_greenlet_is_found_from_inside():
    assert in_carrier(main_greenlet) is main_greenlet() is getcurrent()


def test_context_variables_are_those_of_the_code_that_started_the_task():
    from contextvars import ContextVar

    variable = ContextVar("variable", default="unset")
    assert in_carrier(variable.get) == "unset"
    variable.set("mine")
    assert in_carrier(variable.get) == "mine"

    def change():
        variable.set("theirs")

    in_carrier(change)
    assert variable.get() == "mine"


def test_a_recursion_without_end_is_a_recursion_error():
    def deeper():
        return deeper()

    def act():
        with pytest.raises(RecursionError):
            deeper()
        return "survived"

    assert in_carrier(act) == "survived"


# -- how far away the base of the stack is ---------------------------------------------------------


class _Information(ctypes.Structure):
    _fields_ = [
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


def libraries_on_stack(limit: int) -> list[str]:
    """The libraries of the C frames below this one, nearest first, as glibc's backtrace sees them."""
    libc = ctypes.CDLL(None)
    frames = (ctypes.c_void_p * limit)()
    count = libc.backtrace(frames, limit)
    names = []
    for frame in frames[:count]:
        information = _Information()
        known = libc.dladdr(ctypes.c_void_p(frame), ctypes.byref(information))
        names.append(information.file.decode() if known and information.file else "?")
    return names


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="backtrace() is glibc's")
def test_an_unwinder_that_looks_at_65_frames_never_reaches_the_base_of_a_carrier():
    def act():
        names = libraries_on_stack(TORCH_FRAMES)
        # Frames of ctypes and of the foreign function interface are above the task's own.
        own = sum("ctypes" in name or "libffi" in name for name in names)
        # Only as far as our own base: beyond it lies what must not be looked at.
        for limit in range(TORCH_FRAMES, 600):
            names = libraries_on_stack(limit)
            if any("_greenlet" in name for name in names):
                return limit - own
        return 600 - own

    distance = in_carrier(act)
    assert distance > TORCH_FRAMES, f"the base is {distance} C frames away"


# -- three hundred errors of every kind ------------------------------------------------------------

ERRORS = """
import random, sys, torch
from torch import nn
import nbsight

class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.at = None
    def forward(self, x):
        x = self.a(x)
        if self.at == "model": fail()
        x = self.b(x)
        return self.c(x)

KINDS = [
    lambda: torch.ones(2, 3) @ torch.ones(4, 5),
    lambda: torch.ones(2).view(7),
    lambda: torch.ones(2, 3) + torch.ones(5),
    lambda: torch.cat([torch.ones(1, 2), torch.ones(3, 4)]),
    lambda: torch.ones(3)[torch.tensor([9])],
    lambda: torch.zeros(2, dtype=torch.int64).softmax(0),
    lambda: nn.functional.linear(torch.ones(2, 3), torch.ones(4, 4)),
    lambda: torch.ones(2).backward(),
    lambda: torch.embedding(torch.ones(2, 2), torch.tensor([7])),
    lambda: torch.linalg.inv(torch.zeros(2, 2)),
]
pick = random.Random(0)
def fail(): pick.choice(KINDS)()

net = Failing().eval(); model = nbsight.wrap(net); other = nbsight.wrap(Failing().eval())
x = torch.ones(1, 4); caught = 0

def inline_model():
    net.at = "model"
    try:
        with model.trace(x):
            model.a.output
            model.c.output
    finally: net.at = None

def inline_block():
    with model.trace(x):
        model.a.output
        fail()

def edit_breaks_model():
    with model.trace(x):
        model.a.output = torch.ones(3, 7)
        model.c.output

def worker():
    with model.trace() as tracer:
        with tracer.invoke(x):
            model.a.output
            fail()
        with tracer.invoke(x):
            model.c.output

def worker_in_function():
    def deep(n):
        if n: return deep(n - 1)
        model.b.output
        fail()
    with model.trace() as tracer:
        with tracer.invoke(x): model.a.output
        with tracer.invoke(x): deep(20)

def model_under_workers():
    net.at = "model"
    try:
        with model.trace() as tracer:
            with tracer.invoke(x): model.a.output
            with tracer.invoke(x): model.c.output
    finally: net.at = None

def nested():
    with other.trace(x):
        other.a.output
        with model.trace(x):
            model.b.output
            fail()

def nested_model():
    net.at = "model"
    try:
        with other.trace(x):
            other.b.output
            with model.trace(x): model.output
    finally: net.at = None

def nested_in_worker():
    with other.trace() as tracer:
        with tracer.invoke(x):
            other.a.output
            with model.trace() as inner:
                with inner.invoke(x):
                    model.a.output
                    fail()
                with inner.invoke(x): model.b.output
        with tracer.invoke(x): other.b.output

def generator():
    def held():
        with model.trace(x):
            yield model.a.output
            fail()
    for _ in held(): pass

def swallowed_in_model():
    class Catching(nn.Module):
        def __init__(self):
            super().__init__(); self.a = nn.Identity()
        def forward(self, x):
            try: fail()
            except Exception: pass
            x = self.a(x)
            fail()
    w = nbsight.wrap(Catching())
    with w.trace(x):
        w.a.output
        w.output
"""
MODES = [
    "inline_model", "inline_block", "edit_breaks_model", "worker", "worker_in_function",
    "model_under_workers", "nested", "nested_model", "nested_in_worker", "generator",
    "swallowed_in_model",
]  # fmt: skip


def errors_in_subprocess(program: str) -> str:
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", ERRORS + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (result.returncode, result.stderr[-3000:])
    return result.stdout


def test_three_hundred_failing_operations_in_every_mode_are_python_errors():
    out = errors_in_subprocess(
        f"""
        for name in {MODES!r}:
            caught = 0
            for _ in range(300):
                try: globals()[name]()
                except Exception as error:
                    assert "forward" not in net.__dict__, name
                    caught += 1
            print(name, caught)
        with model.trace(x): again = model.output
        assert torch.equal(again, net(x))
        """
    )
    assert dict(line.split() for line in out.splitlines()) == dict.fromkeys(MODES, "300")


def test_failing_operations_in_other_threads_and_deep_stacks_are_python_errors():
    out = errors_in_subprocess(
        f"""
        import threading
        total = []
        def work(depth):
            if depth: return work(depth - 1)
            caught = 0
            for turn in range(100):
                try: globals()[{MODES!r}[turn % {len(MODES)}]]()
                except Exception: caught += 1
            total.append(caught)
        for depth in (0, 300):
            work(depth)
            thread = threading.Thread(target=work, args=(depth,)); thread.start(); thread.join()
        print(total)
        """
    )
    assert out.strip() == "[100, 100, 100, 100]"
