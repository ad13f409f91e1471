"""What a block may not do behind walls. It fails if any line of it is allowed.

Each attempt is Python that ends without an error only if it got what it wanted. Calls of the kernel are
made directly, and count as allowed unless the refusal is that of the filter: an error that the kernel
gives for its arguments would mean that the call was reached.
"""

from __future__ import annotations

import platform
import textwrap
import time

import pytest
import torch

from nbsight.errors import RemoteError
from nbsight.models.language_model import LanguageModel
from nbsight.server.sandbox.syscalls import numbers

PROMPT = "The capital of France is"

#: Set in the environment of the server and of its workers (conftest.py).
SECRET = "a-secret-of-the-server"

PYTHON = {
    "read the passwords": "open('/etc/passwd').read()",
    "read the shadow file": "open('/etc/shadow').read()",
    "list the root": "import os; os.listdir('/')",
    "list the homes": "import os; os.listdir('/root') and os.listdir('/home')",
    "list the temporary folder": "import os; os.listdir('/tmp')",
    "list the processes": "import os; os.listdir('/proc')",
    "read its own environment": "open('/proc/self/environ').read()",
    "read the first process' environment": "open('/proc/1/environ').read()",
    "read its own memory map": "open('/proc/self/maps').read()",
    "read its own memory": "open('/proc/self/mem', 'rb').read(1)",
    "list its descriptors": "import os; os.listdir('/proc/self/fd')",
    "read what the kernel says": "open('/proc/kallsyms').read()",
    "read devices": "import os; os.listdir('/sys/class/net')",
    "list devices": "import os; os.listdir('/dev')",
    "write to the shared memory of others": "open('/dev/shm/x', 'w').write('x')",
    "ask the cloud for keys": "import urllib.request as u; u.urlopen('http://169.254.169.254/', timeout=2)",
    "find a secret in the environment": "import os; assert os.environ",
    "write to the temporary folder": "open('/tmp/x', 'w').write('x')",
    "make a temporary file": "import tempfile; tempfile.NamedTemporaryFile()",
    "write beside Python": "import sys; open(sys.prefix + '/x', 'w').write('x')",
    "write where nbsight lies": "import nbsight; open(nbsight.__file__ + '.x', 'w').write('x')",
    "append to torch": "import torch; open(torch.__file__, 'a').write('x')",
    "make a folder": "import os; os.mkdir('/tmp/d')",
    "remove a file": "import torch, os; os.unlink(torch.__file__)",
    "rename a file": "import torch, os; os.rename(torch.__file__, '/tmp/x')",
    "change a mode": "import torch, os; os.chmod(torch.__file__, 0o777)",
    "link a file": "import os; os.symlink('/etc/passwd', '/tmp/l')",
    "open a socket": "import socket; socket.socket()",
    "open a local socket": "import socket; socket.socket(socket.AF_UNIX)",
    "make a pair of sockets": "import socket; socket.socketpair()",
    "look up a name": "import socket; socket.getaddrinfo('example.com', 80)",
    "run a shell": "import os; assert os.system('true') == 0",
    "run a program": "import subprocess; subprocess.run(['/bin/true'], check=True)",
    "become a program": "import os; os.execv('/bin/true', ['true'])",
    "spawn a program": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "fork": "import os; os.fork()",
    "fork a terminal": "import os; os.forkpty()",
    "start a process": "import multiprocessing as m; m.get_context('fork').Process(target=print).start()",
    "send a signal to the first process": "import os; os.kill(1, 0)",
    "send a signal to its parent": "import os; os.kill(os.getppid(), 9)",
    "send a signal to all": "import os; os.kill(-1, 9)",
    "send itself a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "raise its limits": "import resource as r; r.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))",
    "raise its limits a little": "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (65, 65))",
    "look into the worker by way of its descriptors": "import os; [os.fstat(n) for n in range(6, 64)]",
    "write to memory that it may only read": "import mmap; mmap.mmap(4, 4096)",
    "make the shared memory smaller": "import os; os.ftruncate(5, 0)",
    "make the shared memory larger": "import os; os.ftruncate(5, 2**40)",
    "take a seal away": "import fcntl; fcntl.fcntl(5, 1033, 0)",
    "read weights from the ghost": (
        "import gc, torch\n"
        "found = [o for o in gc.get_objects() if isinstance(o, torch.nn.Parameter)]\n"
        "assert found and any(not p.is_meta and p.untyped_storage().nbytes() > 1 for p in found)"
    ),
    "use a GPU": "import torch; torch.zeros(1, device='cuda')",
    "load a pickle from a file": "import torch; torch.load('/tmp/model.bin')",
    "fetch code": "import torch; torch.hub.load('pytorch/vision', 'resnet18')",
    "compile C": "import torch.utils.cpp_extension as c; c.load_inline('x', ['int f(){return 1;}'])",
}

CALLS = {
    "ptrace": (101, 117), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "bpf": (321, 280), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "perf_event_open": (298, 241), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "kill": (62, 129), "tgkill": (234, 131), "tkill": (200, 130),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "socket": (41, 198), "connect": (42, 203),
    "execveat": (322, 281), "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104),
    "reboot": (169, 142), "swapon": (167, 224), "setuid": (105, 146), "setresuid": (117, 147),
    "setgroups": (116, 159), "capset": (126, 91), "personality": (135, 92), "shmget": (29, 194),
    "mq_open": (240, 180), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444), "quotactl": (179, 60), "acct": (163, 89), "syslog": (103, 116),
    "sethostname": (170, 161), "clock_settime": (227, 112), "setsid": (112, 157), "vmsplice": (316, 75),
    "splice": (275, 76), "openat2": (437, 437), "clone3": (435, 435), "fsopen": (430, 430),
    "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442), "modify_ldt": (154, None),
    "ioperm": (173, None), "iopl": (172, None), "fork": (57, None), "vfork": (58, None),
}  # fmt: skip

#: What the filter says: not permitted, denied, no such call, no such operation.
REFUSALS = {1, 13, 38, 25}


@pytest.fixture
def attempt(in_sandbox, model: LanguageModel):
    """Runs Python there; returns what came of it."""

    def run(code: str) -> str:
        code = textwrap.dedent(code)
        try:
            with model.trace(PROMPT, remote=True):
                try:
                    exec(code, {})
                    outcome = "ALLOWED"
                except BaseException as error:
                    outcome = f"{type(error).__name__}: {error}"[:200]
        except RemoteError as error:  # the whole process has ended
            return f"ended: {error}"
        return outcome

    return run


@pytest.mark.parametrize("name", PYTHON)
def test_python_does_not_get_out(attempt, name):
    assert not attempt(PYTHON[name]).startswith("ALLOWED")


def _raw(number: int) -> str:
    return f"""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    result = libc.syscall({number}, 0, 0, 0, 0, 0, 0)
    code = ctypes.get_errno()
    if result == -1 and code in {REFUSALS!r}:
        raise PermissionError(code)
    """


def _column() -> int:
    return 0 if platform.machine() == "x86_64" else 1


@pytest.mark.parametrize("name", [name for name, found in CALLS.items() if found[_column()] is not None])
def test_the_kernel_is_not_reached(attempt, name):
    assert not attempt(_raw(CALLS[name][_column()])).startswith("ALLOWED")


def test_no_call_is_reached_that_is_not_on_the_list(in_sandbox, model):
    # The kernel lets 335 and 336 (returns of probes) past any filter; they end who calls them by hand.
    known = {*numbers().values(), 335, 336}
    with model.trace(PROMPT, remote=True):
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        reached = []
        for number in range(600):
            if number not in known:
                ctypes.set_errno(0)
                if libc.syscall(number, -1, -1, -1, -1, -1, -1) != -1 or ctypes.get_errno() != 1:
                    reached.append((number, ctypes.get_errno()))
    assert reached == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86_64 has a second table of calls")
def test_the_other_table_of_calls_ends_the_process(attempt):
    assert attempt(_raw(0x40000000 + 39)).startswith("ended")


def test_a_process_cannot_be_cloned_whatever_the_flags(attempt):
    number = numbers()["clone"]
    for flags in (17, 0x10000000 | 17, 0x00000100 | 17, 0x7E020000 | 17):
        code = _raw(number).replace(f"{number}, 0,", f"{number}, {flags},")
        assert not attempt(code).startswith("ALLOWED"), hex(flags)


def test_the_environment_of_the_server_is_nowhere(in_sandbox, model):
    """Nor in the memory of the process: its own objects, and what it was started with."""
    with model.trace(PROMPT, remote=True):
        import gc
        import os

        environment = dict(os.environ)
        words = [word for item in gc.get_objects() if type(item) is dict for word in item.values()]
        found = sum(type(word) is str and "a-secret" + "-of-the-server" in word for word in words)
        del words
    assert environment == {}
    assert found == 0


def test_nothing_is_left_for_the_next_job(in_sandbox, model):
    for number in range(2):
        with model.trace(PROMPT, remote=True):
            import builtins

            there = getattr(builtins, "left_behind", None)
            builtins.left_behind = number
            torch.left_behind = number
        assert there is None


def test_threads_run_out_before_the_machine_does(attempt):
    code = """
    import threading, time
    stop = threading.Event()
    for _ in range(20_000):
        threading.Thread(target=stop.wait, daemon=True).start()
    """
    assert not attempt(code).startswith("ALLOWED")


def test_threads_are_there_for_who_needs_a_few(attempt):
    code = """
    import threading
    threads = [threading.Thread(target=lambda: None) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    """
    assert attempt(code) == "ALLOWED"


@pytest.mark.parametrize("code", ["torch.zeros(10**12)", "bytearray(10**11)", "'a' * 10**12", "[0] * 10**11"])
def test_memory_runs_out_for_the_block_alone(in_sandbox, model, code):
    with pytest.raises((MemoryError, RuntimeError, RemoteError)):
        with model.trace(PROMPT, remote=True):
            kept = eval(code, {"torch": torch})
    with model.trace(PROMPT, remote=True):
        after = model.output[0, -1].argmax().save()
    assert after.ndim == 0


def test_memory_that_grows_bit_by_bit_runs_out_too(in_sandbox, model):
    with pytest.raises((MemoryError, RuntimeError, RemoteError)) as info:
        with model.trace(PROMPT, remote=True):
            kept = []
            while True:
                kept.append(torch.ones(10_000_000))
    assert getattr(info.value, "code", "memory_limit") == "memory_limit"


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "10 ** 10 ** 8",
        "import time; time.sleep(1000)",
        "import re; re.match('(a*)*b', 'a' * 99)",
    ],
)
def test_the_host_ends_what_does_not_end(in_sandbox, model, code):
    begun = time.monotonic()
    with pytest.raises(RemoteError) as info:
        with model.trace(PROMPT, remote=True, timeout=2):
            exec(code)
    assert info.value.code == "time_limit"
    assert time.monotonic() - begun < 9


def test_what_a_block_swallows_does_not_keep_it_alive(in_sandbox, model):
    with pytest.raises(RemoteError) as info:
        with model.trace(PROMPT, remote=True, timeout=2):
            import signal

            for number in range(1, 32):
                if number not in (9, 19):
                    signal.signal(number, signal.SIG_IGN)
            while True:
                try:
                    while True:
                        pass
                except BaseException:
                    pass
    assert info.value.code == "time_limit"
