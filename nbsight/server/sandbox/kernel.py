"""The kernel's own calls that Python has no names for: no new privileges, filters, Landlock, descriptors."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable

from nbsight.server.sandbox.syscalls import ARCHITECTURES, numbers

__all__ = ["install_filter", "landlock_version", "only_read", "set_no_new_privileges", "set_undumpable"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_NO_NEW_PRIVILEGES, _DUMPABLE = 38, 4
_FILTER, _ALL_THREADS = 1, 1
_VERSION = 1
_PATH = 1
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
#: What each version of Landlock can deny about files.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}


def _call(name: str, *args: object) -> int:
    number = numbers()[name]
    result = int(_libc.syscall(ctypes.c_long(number), *args))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def _control(option: int, value: int) -> None:
    if _libc.prctl(ctypes.c_int(option), *(ctypes.c_ulong(part) for part in (value, 0, 0, 0))) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def set_no_new_privileges() -> None:
    """Let no program that is started ever have more rights than this process."""
    _control(_NO_NEW_PRIVILEGES, 1)


def set_undumpable() -> None:
    """Let no other process look into this one."""
    _control(_DUMPABLE, 0)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_void_p))


def install_filter(program: bytes) -> None:
    """Put a filter on all threads of this process; it stays until its end.

    Raises:
        OSError: the kernel does not take it.
    """
    lines = ctypes.create_string_buffer(program, len(program))
    whole = _Program(len(program) // 8, ctypes.cast(lines, ctypes.c_void_p))
    stray = _call("seccomp", ctypes.c_uint(_FILTER), ctypes.c_uint(_ALL_THREADS), ctypes.byref(whole))
    if stray:
        raise OSError(f"thread {stray} could not be put under the filter")


def landlock_version() -> int:
    """The version of Landlock in this kernel; 0 where there is none."""
    if platform.machine() not in ARCHITECTURES:
        return 0
    try:
        return _call("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION))
    except OSError:
        return 0


def only_read(folders: Iterable[str]) -> None:
    """From here on, this process reads what is in these folders and touches no other file.

    Where the kernel can, it also takes away TCP, and signals and abstract sockets to outside.

    Raises:
        OSError: the kernel has no Landlock, or refuses.
    """
    version = landlock_version()
    rights = (1 << _FILE_RIGHTS.get(min(version, 5), 13)) - 1
    network = 3 if version >= 4 else 0
    scopes = 3 if version >= 6 else 0
    sizes = {0: "=Q", 1: "=QQ", 2: "=QQQ"}[(version >= 4) + (version >= 6)]
    wanted = struct.pack(sizes, *(rights, network, scopes)[: len(sizes) - 1])
    rules = _call("landlock_create_ruleset", wanted, ctypes.c_size_t(len(wanted)), ctypes.c_uint(0))
    try:
        for folder in folders:
            place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = struct.pack("=Qi", _READ_FILE | _READ_FOLDER, place)
                _call("landlock_add_rule", ctypes.c_int(rules), ctypes.c_int(_PATH), rule, ctypes.c_uint(0))
            finally:
                os.close(place)
        set_no_new_privileges()
        _call("landlock_restrict_self", ctypes.c_int(rules), ctypes.c_uint(0))
    finally:
        os.close(rules)
