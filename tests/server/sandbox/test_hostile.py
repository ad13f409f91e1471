"""A runner that lies: whatever it says, the worker ends the conversation with an error of ours.

The host is driven over its real socket and memories by a thread that plays the runner; nothing here
needs walls. What counts is that nothing but the three expected ends comes out, soon, and that the model
is as it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbsight.errors import RemoteError
from nbsight.models.language_model import LanguageModel
from nbsight.server.programs.surface import check_options
from nbsight.server.sandbox.host import BlockFailed, Host
from nbsight.server.sandbox.memory import make_region, open_region
from nbsight.server.sandbox.messages import LONGEST, LineEnded, WireError, read_frame, write_frame
from nbsight.server.sandbox.values import Reader

SIZE = 2**22
JOB = (b"{}", b"numbers")

Player = Callable[["Runner"], None]


class Runner:
    """What plays the runner."""

    def __init__(self, line: socket.socket, memory: Any) -> None:
        self.line, self.memory = line, memory

    def say(self, **words: Any) -> None:
        write_frame(self.line.fileno(), json.dumps(words).encode())

    def raw(self, data: bytes) -> None:
        self.line.sendall(data)

    def hear(self) -> dict[str, Any]:
        return json.loads(read_frame(self.line.fileno()))

    def ask(self, **words: Any) -> dict[str, Any]:
        self.say(**words)
        return self.hear()

    def ids(self, at: int = 0) -> dict[str, Any]:
        """Five tokens in the memory, and what is said of them."""
        self.memory.view[at : at + 40] = struct.pack("<5q", 1, 2, 3, 4, 5)
        return {"n": [at, "int64", [1, 5], [0, 1]]}

    def call(self, number: int = 1, **more: Any) -> dict[str, Any]:
        given = {"t": [{"t": []}, {"d": [["input_ids", self.ids()]]}]}
        return self.ask(do="call", id=number, **{"given": given, **more})


def play(model: LanguageModel, player: Player, most: int = 2**20) -> Any:
    """Let a player speak with a host; returns what came of it."""
    ours, theirs = socket.socketpair()
    regions = make_region(SIZE, writable=False), make_region(SIZE, writable=True)
    there = open_region(os.dup(regions[1].descriptor), writable=True)
    said: list[Any] = []

    def speak() -> None:
        try:
            player(Runner(theirs, there))
        except (LineEnded, OSError):
            pass
        finally:
            theirs.close()

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    host = Host(
        model._module,
        ours.fileno(),
        *regions,
        JOB,
        lambda what, **more: said.append(more),
        most,
        check_options,
    )
    try:
        return host.serve()
    except (WireError, LineEnded, BlockFailed, RemoteError) as error:
        return error
    finally:
        ours.close()
        thread.join(20)
        assert not thread.is_alive()
        for region in (*regions, there):
            region.close()


@pytest.fixture
def as_before(local_model: LanguageModel):
    """The model, which must be the same afterwards: its weights, its gates, what it computes."""
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    module = local_model._module
    versions = [weight._version for weight in module.parameters()]
    with torch.no_grad():
        before = module(ids).logits
    yield local_model
    assert versions == [weight._version for weight in module.parameters()]
    assert not any("forward" in part.__dict__ for part in module.modules())
    assert not torch.is_inference_mode_enabled()
    with torch.no_grad():
        assert torch.equal(module(ids).logits, before)


def _tensor(*code: Any) -> dict[str, Any]:
    return {"t": [{"t": [{"n": list(code)}]}, {"d": []}]}


HUGE = 2**62

WRONG_VALUES = {
    "before the memory": [-8, "int64", [1], [0]],
    "beyond the memory": [SIZE, "int64", [1], [0]],
    "reaching beyond it": [SIZE - 8, "int64", [2], [0]],
    "not on an element": [4, "int64", [1], [0]],
    "larger than anything": [0, "float32", [2**40, 2**40], [0, 1]],
    "of a size that overflows": [0, "float32", [2**47] * 4, [0, 1, 2, 3]],
    "of a negative size": [0, "float32", [-1], [0]],
    "of a size that is a text": [0, "float32", ["1"], [0]],
    "of a size that is a truth": [0, "float32", [True], [0]],
    "of a size that is no whole number": [0, "float32", [1.5], [0]],
    "of too many axes": [0, "float32", [1] * 40, list(range(40))],
    "of an unknown dtype": [0, "object", [1], [0]],
    "of a dtype that is another name of torch's": [0, "load", [1], [0]],
    "of a dtype that is a list": [0, ["float32"], [1], [0]],
    "without an order": [0, "float32", [1, 2], [0]],
    "with an order that repeats": [0, "float32", [1, 2], [0, 0]],
    "with an order beyond its axes": [0, "float32", [1, 2], [0, 2]],
    "with an order of truths": [0, "float32", [1, 2], [False, True]],
    "without a shape": [0, "float32"],
    "of nothing": [],
    "at no place": [None, "float32", [1], [0]],
    "empty and far away": [HUGE, "float32", [0], [0]],
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_a_tensor_that_is_not_what_it_says_ends_the_job(as_before, name):
    found = play(as_before, lambda runner: runner.call(given=_tensor(*WRONG_VALUES[name])))
    assert isinstance(found, WireError)


WRONG_CODES = {
    "no value": {},
    "an unknown mark": {"x": 1},
    "a bare list": [1, 2],
    "no arguments": {"l": []},
    "one argument too many": {"t": [{"t": []}, {"d": []}, {"d": []}]},
    "names that are numbers": {"t": [{"t": []}, {"d": [[1, 2]]}]},
    "names that are lists": {"t": [{"t": []}, {"d": [[[1], 2]]}]},
    "pairs that are none": {"t": [{"t": []}, {"d": [[1]]}]},
    "a dictionary of a text": {"t": [{"t": []}, {"d": "ab"}]},
    "what was not sent": {"t": [{"t": [{"k": 0}]}, {"d": []}]},
    "what was not sent, from the end": {"t": [{"t": [{"k": -1}]}, {"d": []}]},
    "a change of what was not sent": {"t": [{"t": [{"w": 0, "n": [0, "int64", [1], [0]]}]}, {"d": []}]},
    "a thing that was not shown": {"t": [{"t": [{"h": 0}]}, {"d": []}]},
    "a thing by a text": {"t": [{"t": [{"h": "0"}]}, {"d": []}]},
    "an output that was not shown": {"t": [{"t": [{"m": "os:system", "f": []}]}, {"d": []}]},
    "an output by a list": {"t": [{"t": [{"m": ["os"], "f": []}]}, {"d": []}]},
    "a dtype that is none": {"t": [{"t": [{"y": "nn"}]}, {"d": []}]},
    "a number that is none": {"t": [{"t": [{"i": "zz"}]}, {"d": []}]},
    "a number by a list": {"t": [{"t": [{"i": [1]}]}, {"d": []}]},
    "a float that is none": {"t": [{"t": [{"f": "x"}]}, {"d": []}]},
    "a size of texts": {"t": [{"t": [{"z": ["a"]}]}, {"d": []}]},
    "a slice of four": {"t": [{"t": [{"s": [1, 2, 3, 4]}]}, {"d": []}]},
}


@pytest.mark.parametrize("name", WRONG_CODES)
def test_a_value_that_is_not_well_formed_ends_the_job(as_before, name):
    assert isinstance(play(as_before, lambda runner: runner.call(given=WRONG_CODES[name])), WireError)


def _deep(runner: Runner) -> None:
    runner.call(given=json.loads('{"l":[' * 300 + "]}" * 300))


def _very_deep(runner: Runner) -> None:
    data = b'{"do":"call","id":1,"given":' + b'{"l":[' * 200_000 + b"]}" * 200_000 + b"}"
    write_frame(runner.line.fileno(), data)
    runner.hear()


def _wide(runner: Runner) -> None:
    runner.call(given={"l": [{"t": []}] * 300_000})


def _amplified(runner: Runner) -> None:
    runner.call(given={"t": [{"t": [{"n": [0, "uint8", [SIZE], [0]]}] * 1000}, {"d": []}]})


def _unasked_go(runner: Runner) -> None:
    runner.ask(do="go", id=1, value=None)


def _twice(runner: Runner) -> None:
    runner.call(after=[3], gated=[0, 1, 2, 3])
    runner.call(after=[3], gated=[0, 1, 2, 3])


def _many(runner: Runner) -> None:
    for number in range(1000):
        runner.call(number, after=[2], gated=[0, 1, 2])


def _dropped_twice(runner: Runner) -> None:
    runner.call(after=[2], gated=[0, 1, 2])
    runner.ask(do="drop", id=1)
    runner.ask(do="drop", id=1)


def _after_the_end(runner: Runner) -> None:
    runner.call()
    runner.ask(do="go", id=1, value=None)


def _skip_what_was_run(runner: Runner) -> None:
    runner.call(after=[2], gated=[0, 1, 2])
    runner.ask(do="go", id=1, value=None, skip=True)


def _wrong_arguments_back(runner: Runner) -> None:
    runner.call(before=[2], gated=[0, 1, 2])
    runner.ask(do="go", id=1, value=7)


def _another_shape_in_place(runner: Runner) -> None:
    runner.call(after=[2], gated=[0, 1, 2])
    runner.ask(do="go", id=1, value={"w": 0, "n": [0, "float32", [1], [0]]})


def _job_twice(runner: Runner) -> None:
    runner.ask(do="ready")
    runner.ask(do="ready")


def _result_without_header(runner: Runner) -> None:
    runner.say(do="done", header=1)
    runner.hear()


def _header_longer_than_the_result(runner: Runner) -> None:
    runner.ask(do="part", size=10)
    runner.say(do="done", header=11)


def _tokens_of_another_model(runner: Runner) -> None:
    given = {"t": [{"t": []}, {"d": [["input_ids", runner.ids()], ["max_new_tokens", 3]]}]}
    runner.ask(do="call", id=1, method="generate", given=given, chooses=True)
    runner.memory.view[:48] = struct.pack("<6q", *[10**12] * 6)
    runner.ask(do="go", id=1, value={"t": [{"w": 0, "n": [0, "int64", [1, 6], [0, 1]]}, False]})


def _stops_of_another_shape(runner: Runner) -> None:
    given = {"t": [{"t": []}, {"d": [["input_ids", runner.ids()], ["max_new_tokens", 3]]}]}
    runner.ask(do="call", id=1, method="generate", given=given, chooses=True)
    runner.ask(do="go", id=1, value={"t": [{"k": 0}, {"n": [0, "bool", [7], [0]]}]})


WRONG_WORDS: dict[str, Player] = {
    "deep": _deep,
    "deeper than the stack": _very_deep,
    "wide": _wide,
    "the same bytes a thousand times": _amplified,
    "to go on without a call": _unasked_go,
    "one number for two calls": _twice,
    "a thousand calls": _many,
    "to drop a call twice": _dropped_twice,
    "to go on after the end": _after_the_end,
    "to skip what was run": _skip_what_was_run,
    "a number in the place of arguments": _wrong_arguments_back,
    "a change in place of another shape": _another_shape_in_place,
    "the job twice": _job_twice,
    "a result without a header": _result_without_header,
    "a header longer than the result": _header_longer_than_the_result,
    "tokens that there are not": _tokens_of_another_model,
    "stops of another shape": _stops_of_another_shape,
    "a module that there is not": lambda runner: runner.call(module=10**6),
    "a module before the first": lambda runner: runner.call(module=-1),
    "stops at modules that there are not": lambda runner: runner.call(gated=[10**6]),
    "a method that is not on the list": lambda runner: runner.call(method="save_pretrained"),
    "generate of a layer": lambda runner: runner.call(method="generate", module=3),
    "random numbers from nowhere": lambda runner: runner.call(random=SIZE),
    "random numbers that are none": lambda runner: runner.call(random=0),
    "a part of no size": lambda runner: runner.ask(do="part", size=0),
    "a part larger than the memory": lambda runner: runner.ask(do="part", size=SIZE + 1),
    "a part of a negative size": lambda runner: runner.ask(do="part", size=-1),
    "an unknown word": lambda runner: runner.ask(do="exec", code="1"),
    "a word with more than it has": lambda runner: runner.ask(do="ready", more=1),
    "a word with less than it has": lambda runner: runner.ask(do="drop"),
    "a number for a text": lambda runner: runner.ask(do="log", stream="out", text=1),
    "a stream that is none": lambda runner: runner.ask(do="log", stream="disk", text="x"),
    "an error that is none": lambda runner: runner.ask(do="failed", error={"code": 1}),
    "a number that no machine has": lambda runner: runner.ask(do="drop", id=10**40),
    "no JSON": lambda runner: (write_frame(runner.line.fileno(), b"\x80\x04pickle"), runner.hear()),
    "broken characters": lambda runner: (write_frame(runner.line.fileno(), b'{"do":"\xff"}'), runner.hear()),
    "an empty message": lambda runner: (write_frame(runner.line.fileno(), b""), runner.hear()),
    "a length of four gigabytes": lambda runner: (runner.raw(b"\xff" * 4), runner.hear()),
    "a length over the limit": lambda runner: (runner.raw(struct.pack("<I", LONGEST + 1)), runner.hear()),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_WORDS)
def test_what_may_not_be_said_ends_the_job(as_before, name):
    begun = time.monotonic()
    found = play(as_before, WRONG_WORDS[name])
    assert isinstance(found, (WireError, RemoteError)), found
    assert time.monotonic() - begun < 20


ENDS: dict[str, Player] = {
    "dies at once": lambda runner: None,
    "dies within a length": lambda runner: runner.raw(b"\x05\x00"),
    "dies within a message": lambda runner: runner.raw(struct.pack("<I", 100) + b"{"),
    "dies while the model is held": lambda runner: runner.call(after=[2], gated=[0, 1, 2]) and None,
    "dies without hearing": lambda runner: runner.say(do="ready"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_runner_that_dies_ends_the_job(as_before, name):
    assert isinstance(play(as_before, ENDS[name]), LineEnded)


def test_a_flood_of_output_is_dammed(as_before):
    def flood(runner: Runner) -> None:
        word = json.dumps({"do": "log", "stream": "out", "text": "x"}).encode()
        many = (struct.pack("<I", len(word)) + word) * 1000
        while True:
            runner.raw(many)

    found = play(as_before, flood)
    assert isinstance(found, BlockFailed)
    assert "printed more than" in found.record.message


def test_a_result_that_grows_for_ever_is_cut(as_before):
    def grow(runner: Runner) -> None:
        while True:
            runner.ask(do="part", size=SIZE)

    found = play(as_before, grow, most=2**23)
    assert isinstance(found, BlockFailed)
    assert found.record.code == "result_too_large"


def test_an_error_says_only_what_a_block_may_say(as_before):
    error = {
        "code": "time_limit",
        "message": "x" * 10**6,
        "kind": "SystemExit",
        "args": [{"a": 1}],
        "frames": [{"filename": "f" * 10**5, "line": 1, "name": "n"}] * 10,
        "retryable": True,
    }
    found = play(as_before, lambda runner: runner.say(do="failed", error=error))
    assert isinstance(found, BlockFailed)
    record = found.record
    assert (record.code, record.args, record.frames, record.retryable) == ("block_failed", None, [], False)
    assert len(record.message) <= 20_000


def test_a_weight_is_not_written_through_a_value_that_shares_its_memory(as_before):
    class Showing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Identity()
            self.table = torch.nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(self.table) + x

    module = Showing()

    class Root:
        _module = module

    def write(runner: Runner) -> None:
        runner.memory.view[:12] = struct.pack("<3f", 7, 7, 7)
        runner.ask(do="call", id=1, given=_tensor(0, "float32", [3], [0]), gated=[0, 1], after=[1])
        answer = runner.ask(do="go", id=1, value={"w": 0, "n": [0, "float32", [3], [0]]})
        assert answer["event"]["kind"] == "returned"

    play(Root(), write)  # type: ignore[arg-type]
    assert torch.equal(module.table, torch.ones(3))


def test_an_honest_runner_is_answered(as_before):
    heard: list[Any] = []

    def honest(runner: Runner) -> None:
        heard.append(runner.ask(do="ready")["job"])
        answer = runner.call(gated=[0, 1, 2], after=[2])
        heard.append(answer["event"]["kind"])
        heard.append(runner.ask(do="go", id=1, value={"k": 0})["event"]["kind"])
        runner.memory.view[:60] = b'{"protocol":1,"names":{},"tensors":[]}'.ljust(60)
        runner.ask(do="part", size=60)
        runner.say(do="done", header=38)

    found = play(as_before, honest)
    assert heard == [{"size": 9, "left": 0, "header": 2}, "leave", "returned"]
    assert found == (b'{"protocol":1,"names":{},"tensors":[]}', b" " * 22)


# -- fuzzing ---------------------------------------------------------------------------------------

_numbers = st.integers(-2, 2**63) | st.sampled_from([0, 1, 2, 4, 8, 64, 2**40, 2**48, SIZE]) | st.booleans()
_dtypes = st.sampled_from(["float32", "int64", "bool", "bfloat16", "complex64", "object", "", "load"])
_leaves = st.none() | st.booleans() | _numbers | st.floats() | st.text(max_size=5)
_tensors = st.tuples(
    _numbers, _dtypes, st.lists(_numbers, max_size=4), st.lists(st.integers(-1, 4), max_size=4)
)


def _codes(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.lists(inner, max_size=4)
    pairs = st.lists(st.lists(inner, max_size=3), max_size=3)
    shape = items | inner
    marked = [st.fixed_dictionaries({mark: shape}) for mark in "ltszikwhyvdn"]
    marked += [
        st.fixed_dictionaries({"w": inner, "n": shape}),
        st.fixed_dictionaries({"m": inner, "f": pairs}),
    ]
    tensors = _tensors.map(lambda code: {"n": list(code)})
    return st.one_of(*marked, tensors, pairs.map(lambda found: {"d": found}), items)


@given(st.recursive(_leaves, _codes, max_leaves=30))
@settings(deadline=None)
def test_the_reader_of_values_gives_a_value_or_one_kind_of_error(code):
    memory = torch.arange(4096, dtype=torch.int32).view(torch.uint8).clone()
    sent = [torch.zeros(3)]

    def refuse(*_: Any) -> Any:
        raise WireError("none")

    reader = Reader(memory, 2**16, refuse, refuse, known=sent, overwrite=lambda there, new: there.copy_(new))
    with contextlib.suppress(WireError):
        reader.read(code)


@given(
    st.recursive(_leaves, _codes, max_leaves=10),
    st.sampled_from(["forward", "generate"]),
    st.integers(-1, 99),
)
@settings(deadline=None, max_examples=60)
def test_no_call_of_a_strangers_breaks_the_host(local_model, given_, method, module):
    def speak(runner: Runner) -> None:
        try:
            word = json.dumps({"do": "call", "id": 1, "given": given_, "method": method, "module": module})
        except ValueError:
            return
        write_frame(runner.line.fileno(), word.encode())
        runner.hear()

    assert isinstance(play(local_model, speak), (WireError, LineEnded, RemoteError))


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_no_bytes_break_the_host(local_model, data):
    found = play(local_model, lambda runner: runner.raw(data))
    assert isinstance(found, (WireError, LineEnded, BlockFailed))
