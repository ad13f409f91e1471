"""Two seccomp filters, made as the kernel reads them: everything that is not on a list is refused.

The wide one holds from the start, when Python itself has yet to begin. The narrow one is put on top of
it after all is imported, before a block is read: no programs, no processes, no sockets, no signals to
others, files for reading only. A filter is never taken off again.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable

from nbsight.server.sandbox.syscalls import ARCHITECTURES, numbers

__all__ = ["narrow_filter", "wide_filter"]

# Of the kernel's classic BPF: load a word, compare, mask, return.
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16

_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE = 0x00050000

#: Of `open`: for writing, making, emptying, appending, unnamed files and bare paths.
_NOT_FOR_READING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0x200000 | 0x400000

_THREAD = 0x00010000
_NAMESPACES = 0x7E020080  # new user, pid, net, mount, ipc, uts, cgroup and time namespaces

_ALWAYS = """
read write readv writev pread64 close fstat stat lstat newfstatat statx lseek mmap mprotect munmap mremap
brk madvise rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack poll ppoll select pselect6 access
faccessat faccessat2 readlink readlinkat getcwd getdents64 sched_yield sched_getaffinity sched_getparam
sched_getscheduler sched_get_priority_max sched_get_priority_min getpid gettid getppid getuid geteuid
getgid getegid getpgrp getresuid getresgid clock_gettime clock_getres clock_nanosleep nanosleep
gettimeofday time times getrusage getrlimit sysinfo uname getrandom futex set_robust_list rseq
set_tid_address arch_prctl exit exit_group membarrier restart_syscall get_mempolicy getcpu fadvise64
"""

_TO_START = """
open openat ioctl fcntl execve wait4 waitid sendmsg recvmsg sendto recvfrom seccomp prctl prlimit64
landlock_create_ruleset landlock_add_rule landlock_restrict_self setresuid setresgid setgroups setuid
setgid pidfd_open capget capset setrlimit dup2 dup3 pipe2 chdir eventfd2 umask sched_setaffinity
getpgid getsid getgroups fork vfork pwrite64 getsockname getsockopt
unlink unlinkat mkdir mkdirat rmdir
"""

_Line = tuple[int, int, int, int]


def wide_filter(machine: str = "") -> bytes:
    """The filter for the start: no mounts, namespaces, tracing, modules, keys, rings or sockets."""
    known = numbers(machine)
    lines = _allowed(known, [*_ALWAYS.split(), *_TO_START.split()])
    lines += _when(known, "clone", _without_bits(0, _NAMESPACES))
    return _program(machine, lines + _unsupported(known))


def narrow_filter(machine: str = "") -> bytes:
    """The filter for blocks."""
    known = numbers(machine)
    lines = _allowed(known, _ALWAYS.split())
    # A thread, and no process.
    lines += _when(known, "clone", [*_argument(0), (_AND, 0, 0, _THREAD), (_EQUAL, 0, 1, _THREAD), _yes()])
    for name, place in (("open", 1), ("openat", 2)):
        lines += _when(known, name, _without_bits(place, _NOT_FOR_READING), errno.EACCES)
    lines += _when(known, "ioctl", [], errno.ENOTTY)
    # The name of a thread; the flags of a descriptor; the limits that are there.
    lines += _when(known, "prctl", _one_of(0, (15,)))
    lines += _when(known, "fcntl", _one_of(1, (1, 2, 3)))
    lines += _when(known, "prlimit64", [*_argument(0), (_EQUAL, 0, 5, 0), *_is_null(2)])
    return _program(machine, lines + _unsupported(known))


def _unsupported(known: dict[str, int]) -> list[_Line]:
    """Calls whose arguments a filter cannot see; the C library takes the older ones then."""
    return [line for name in ("clone3", "openat2") for line in _when(known, name, [], errno.ENOSYS)]


def _allowed(known: dict[str, int], names: Iterable[str]) -> list[_Line]:
    lines: list[_Line] = []
    for name in names:
        if name in known:
            lines += [(_EQUAL, 0, 1, known[name]), _yes()]
    return lines


def _when(known: dict[str, int], name: str, then: list[_Line], error: int = errno.EPERM) -> list[_Line]:
    """What is done about one call: `then` may allow it, otherwise it is refused."""
    if name not in known:
        return []
    body = [*then, (_RETURN, 0, 0, _REFUSE | error)]
    return [(_EQUAL, 0, len(body), known[name]), *body]


def _argument(place: int, high: int = 0) -> list[_Line]:
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * place + 4 * high)]


def _without_bits(place: int, bits: int) -> list[_Line]:
    return [*_argument(place), (_AND, 0, 0, bits), (_EQUAL, 0, 1, 0), _yes()]


def _one_of(place: int, values: Iterable[int]) -> list[_Line]:
    lines = _argument(place)
    for value in values:
        lines += [(_EQUAL, 0, 1, value), _yes()]
    return lines


def _is_null(place: int) -> list[_Line]:
    high = [*_argument(place, 1), (_EQUAL, 0, 1, 0), _yes()]
    return [*_argument(place), (_EQUAL, 0, len(high), 0), *high]


def _yes() -> _Line:
    return (_RETURN, 0, 0, _ALLOW)


def _program(machine: str, lines: list[_Line]) -> bytes:
    mark = ARCHITECTURES[machine or platform.machine()][0]
    head: list[_Line] = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, mark),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, 0x40000000),  # x86_64's other table of calls
        (_RETURN, 0, 0, _KILL),
    ]
    whole = [*head, *lines, (_RETURN, 0, 0, _REFUSE | errno.EPERM)]
    return b"".join(struct.pack("=HBBI", *line) for line in whole)
