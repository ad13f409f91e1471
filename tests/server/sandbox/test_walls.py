"""The parts that the walls are made of, each by itself."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import struct

import pytest

from nbsight.server.sandbox import filters, report, walls
from nbsight.server.sandbox import missing as missing_here
from nbsight.server.sandbox.memory import NoRoom, Space, make_region, open_region
from nbsight.server.sandbox.syscalls import ARCHITECTURES, numbers


def test_the_numbers_of_calls_are_those_of_libseccomp():
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp is not installed; it is the second way of knowing the numbers")
    look_up = library.seccomp_syscall_resolve_name_arch
    look_up.argtypes, look_up.restype = [ctypes.c_uint32, ctypes.c_char_p], ctypes.c_int
    for machine, (mark, _) in ARCHITECTURES.items():
        for name, number in numbers(machine).items():
            assert look_up(mark, name.encode()) == number, (machine, name)


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize("make", [filters.wide_filter, filters.narrow_filter])
def test_a_filter_allows_no_more_than_its_lists(machine, make):
    """By running it: a small machine of ours for the kernel's words, on every number."""
    program = make(machine)
    narrow = make is filters.narrow_filter
    known = {number: name for name, number in numbers(machine).items()}
    allowed = {known.get(number) for number in range(1024) if _run(program, machine, number) == 0x7FFF0000}
    assert None not in allowed
    forbidden = {"execve", "fork", "vfork", "sendmsg", "recvmsg", "setuid", "seccomp", "unlink", "ioctl"}
    assert not allowed & {"clone3", "openat2"}
    assert not (allowed & forbidden if narrow else set())
    assert {"read", "write", "mmap", "futex", "exit_group"} <= allowed


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_a_file_is_opened_for_reading_and_a_thread_is_no_process(machine):
    program, call = filters.narrow_filter(machine), numbers(machine)
    yes = 0x7FFF0000
    assert _run(program, machine, call["openat"], 0, 0, os.O_RDONLY | os.O_CLOEXEC) == yes
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND, 0x410000, os.O_PATH):
        assert _run(program, machine, call["openat"], 0, 0, flags) != yes
    assert _run(program, machine, call["clone"], 0x3D0F00) == yes  # what the C library makes a thread with
    assert _run(program, machine, call["clone"], 0x01200011) != yes  # and a process
    wide = filters.wide_filter(machine)
    assert _run(wide, machine, call["clone"], 0x01200011) == yes
    for space in (0x00020000, 0x10000000, 0x20000000, 0x40000000, 0x08000000, 0x04000000, 0x02000000):
        assert _run(wide, machine, call["clone"], space | 17) != yes


def test_another_machines_calls_end_the_process():
    program = filters.narrow_filter("x86_64")
    assert _run(program, "aarch64", 0) == 0x80000000
    assert _run(program, "x86_64", 0x40000000) == 0x80000000


def _run(program: bytes, machine: str, number: int, *arguments: int) -> int:
    """What the kernel would say of a call."""
    lines = list(struct.iter_unpack("=HBBI", program))
    given = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, ARCHITECTURES[machine][0], 0, *given)
    word, at = 0, 0
    while True:
        code, yes, no, value = lines[at]
        at += 1
        if code == 0x20:
            word = struct.unpack_from("=I", data, value)[0]
        elif code == 0x54:
            word &= value
        elif code == 0x15:
            at += yes if word == value else no
        elif code == 0x35:
            at += yes if word >= value else no
        else:
            return value


def test_memory_keeps_its_size_and_the_runners_end_is_for_reading():
    region = make_region(2**16, writable=False)
    other = os.dup(region.descriptor)
    region.view[:3] = b"abc"
    theirs = open_region(other, writable=False)
    assert bytes(theirs.view[:3]) == b"abc"
    for attempt in (lambda: os.ftruncate(other, 1), lambda: os.ftruncate(other, 2**17)):
        with pytest.raises(PermissionError):
            attempt()
    with pytest.raises(PermissionError):
        mmap.mmap(other, 2**16)
    with pytest.raises(PermissionError):
        os.write(other, b"x")
    theirs.close()
    region.close()


def test_parts_of_memory_do_not_overlap_and_come_back():
    space = Space(1024)
    places = [space.take(100) for _ in range(8)]
    assert sorted(set(places)) == places
    assert all(after - before >= 100 for before, after in itertools.pairwise(places))
    assert all(place % 64 == 0 for place in places)
    with pytest.raises(NoRoom, match="do not fit"):
        space.take(100)
    space.free([places[3]])
    assert space.take(90) == places[3]


def test_the_report_names_every_mechanism_and_why():
    found = report()
    names = [mechanism.name for mechanism in found]
    assert names == ["system", "bubblewrap", "landlock", "seccomp", "shared memory", "user"]
    assert all(mechanism.why for mechanism in found)
    assert missing_here() == [mechanism for mechanism in found if not mechanism.ok]


def test_without_bubblewrap_the_report_says_so(monkeypatch):
    monkeypatch.setattr(walls.shutil, "which", lambda name: None)
    assert [mechanism.name for mechanism in missing_here()] == ["bubblewrap"]
    assert "not installed" in missing_here()[0].why


def test_the_process_inside_gets_no_environment_but_what_is_listed(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "secret")
    given = walls.environment()
    assert given["OMP_NUM_THREADS"] == "3"
    assert "secret" not in "".join(given.values())
