"""A worker process: holds one model, runs jobs one after the other, ends with its server.

    python -m nbsight.server.worker DESCRIPTOR

It is told what to do by lines of JSON (`channel.py`). Requests and results are files: it reads the
one and writes the other, whole or not at all.
"""

from __future__ import annotations

import gc
import importlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import torch

from nbsight.errors import NbsightError, RemoteError
from nbsight.server.channel import Channel
from nbsight.server.output import sent_output
from nbsight.server.passes import counted_passes
from nbsight.server.programs.execute import answer_program
from nbsight.server.sandbox.execute import answer_sandboxed
from nbsight.server.sandbox.host import BlockFailed
from nbsight.server.sandbox.jail import SHARED, Jail
from nbsight.wire.api import ErrorRecord
from nbsight.wire.execute import answer
from nbsight.wire.failures import record_of
from nbsight.wire.jobs import fingerprint, tree_lines
from nbsight.wire.messages import JobHeader, frame, unframe, unpack
from nbsight.wire.source import stay_away

__all__ = ["JobStopped", "Worker", "main"]

#: Seconds between two signs of life.
_BEAT = 1.0

_HOME = "nbsight.models."
_KINDS = {
    f"{_HOME}language_model:LanguageModel",
    f"{_HOME}transformers_model:TransformersModel",
    f"{_HOME}vision_language_model:VisionLanguageModel",
    f"{_HOME}diffusion_model:DiffusionModel",
}


class JobStopped(KeyboardInterrupt):
    """The job is to end now; like an interrupt, no `except Exception` of a block stops it."""


class Worker:
    """The process's one object."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.running: str | None = None
        self.stopping: str | None = None
        self.roots: dict[str, Any] = {}
        self.tier = "local"
        self.is_spoilt = False
        #: Where blocks of the tier `sandbox` run, by the class of the envoy that they were written for.
        self.jails: dict[str, Jail] = {}

    # -- beside the jobs -----------------------------------------------------------------------

    def listen(self) -> None:
        """Take what the server says; without a server there is nobody to work for."""
        main = threading.main_thread().ident
        assert main is not None
        try:
            for message in self.channel.lines():
                if message["do"] == "stop":
                    self.stopping = message["job"]
                    signal.pthread_kill(main, signal.SIGUSR1)
                else:
                    self.tasks.put(message)
        finally:  # also where a job has left no memory for this thread: nobody would hear the server
            os._exit(0)

    def beat(self) -> None:
        """Say now and then that the process lives."""
        with suppress(OSError):
            while True:
                with suppress(MemoryError):  # the job's limit holds for this thread too
                    self.channel.send("beat")
                time.sleep(_BEAT)

    def stop(self, signum: int, where: FrameType | None) -> None:
        """The signal's handler: it runs between two steps of the job, in its thread."""
        if self.running is not None and self.stopping == self.running:
            self.stopping = None
            raise JobStopped

    # -- jobs ----------------------------------------------------------------------------------

    def work(self) -> None:
        """Do what the server says, until it is gone."""
        while True:
            message = self.tasks.get()
            if message["do"] == "load":
                self.load(message)
            else:
                self.run(message)

    def load(self, message: dict[str, Any]) -> None:
        """Open the model and load its weights."""
        self.tier = message["tier"]
        try:
            root = _open(message["model"], message["kind"], message["options"])
            if self.tier == "sandbox":
                self.jails[message["kind"]] = Jail(root, message["kind"])
        except Exception as error:  # whatever it is, the server has to say why there is no model
            self.channel.send("unloadable", why=str(error) or type(error).__name__)
            os._exit(1)
        self.roots[message["kind"]] = root
        dtype = next((str(p.dtype) for p in root._module.parameters()), "torch.float32")
        self.channel.send(
            "ready",
            tree=fingerprint(root._module),
            dtype=dtype.removeprefix("torch."),
            lines=tree_lines(root._module)[:5000],
            torch=str(torch.__version__),
        )

    def root_of(self, kind: str) -> Any:
        """The model under an envoy of the class that the block was written for."""
        if kind not in self.roots:
            if kind not in _KINDS:
                raise RemoteError(
                    f"blocks for a {kind!r} are not run here; there is {', '.join(sorted(_KINDS))}."
                )
            first = next(iter(self.roots.values()))
            module, _, name = kind.partition(":")
            made = getattr(importlib.import_module(module), name)
            self.roots[kind] = made(first._module, tokenizer=first.tokenizer)
        return self.roots[kind]

    def run(self, message: dict[str, Any]) -> None:
        """Run one job and say how it went."""
        job = message["job"]

        def say(what: str, **more: Any) -> None:
            self.channel.send(what, job=job, **more)

        try:
            try:
                self.running = job
                with _memory(self._most_memory(message["memory"])), sent_output(say):
                    files = Path(message["request"]), Path(message["result"])
                    size = self._answer(*files, message, say)
            finally:
                self.running = None  # from here on nobody stops us
            say("done", bytes=size)
        except JobStopped:
            say("stopped")
        except BaseException as error:  # of whatever kind: the job ends, the worker goes on
            say("failed", error=msgspec.to_builtins(_record(error)))
        if self.is_spoilt:  # nobody else may get these weights: the server starts a fresh worker
            os._exit(0)
        self._clean()

    def _most_memory(self, given: int) -> int:
        """What the job may take here; what it shares with a process of its own comes on top."""
        return given + 2 * SHARED if given and self.tier == "sandbox" else given

    def _answer(self, request: Path, result: Path, limits: dict[str, Any], say: Callable[..., None]) -> int:
        most = limits["most"]
        header, blob = unframe(request.read_bytes())
        head = unpack(header, JobHeader)
        root = self.root_of(head.model.kind)
        with counted_passes(root._module, head, say):
            if self.tier == "program":
                with self._unchanged(root):
                    reply, numbers = answer_program(head, blob, root)
            elif self.tier == "sandbox":
                with self._unchanged(root):
                    reply, numbers = answer_sandboxed(
                        self._jail(head.model.kind),
                        root,
                        (header, blob),
                        say,
                        most=most,
                        memory=limits["memory"],
                        seconds=limits.get("seconds", 0),
                    )
            else:
                reply, numbers = answer(header, blob, root)
        size = len(reply) + len(numbers)
        if size > most:
            raise _TooLarge(
                f"the result has {size:,} bytes, and {most:,} are the most that this server sends. Save "
                "less: a mean, one position, or half precision (`.half()`)."
            )
        partial = result.with_name(f"{result.name}.partial")
        try:
            partial.write_bytes(frame(reply, numbers))
        except OSError as error:  # a full disk; half a result would keep it so
            partial.unlink(missing_ok=True)
            raise _NoSpace(f"the server's disk has no room for a result of {size:,} bytes.") from error
        os.replace(partial, result)
        return result.stat().st_size

    def _jail(self, kind: str) -> Jail:
        if kind not in self.jails:
            self.jails[kind] = Jail(self.root_of(kind), kind)
        return self.jails[kind]

    @contextmanager
    def _unchanged(self, root: Any) -> Iterator[None]:
        """See whether a program changes a weight, as it might through a value that shares memory with one."""
        weights = [*root._module.parameters(), *root._module.buffers()]
        before = [weight._version for weight in weights]
        try:
            yield
        finally:
            self.is_spoilt = before != [weight._version for weight in weights]

    def _clean(self) -> None:
        """Leave nothing of a job behind."""
        for module in {id(root._module): root._module for root in self.roots.values()}.values():
            parts = list(module.modules())
            for part in parts:
                for parameter in part._parameters.values():
                    if parameter is not None and parameter.grad is not None:
                        parameter.grad = None
            if any(part.training for part in parts):
                module.eval()
        if self.tier != "local":
            torch.seed()  # what one owner has seeded tells him nothing of the next one's samples
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        gc.collect(1)


class _TooLarge(RemoteError):
    """A result over the limit."""


class _NoSpace(RemoteError):
    """A result that the disk does not take."""


def _record(error: BaseException) -> ErrorRecord:
    text = str(error)
    if isinstance(error, BlockFailed):
        return error.record
    if isinstance(error, _TooLarge):
        return record_of(error, "result_too_large")
    if isinstance(error, _NoSpace):
        return record_of(error, "no_space")
    is_memory = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "allocate memory" in text
    if is_memory:
        return record_of(error, "memory_limit", "The job took more memory than it may.")
    if isinstance(error, RemoteError) and error.__traceback__ is not None:
        return record_of(error, "refused" if not _reached_block(error) else "block_failed")
    return record_of(error, "block_failed")


def _reached_block(error: BaseException) -> bool:
    return bool(record_of(error).frames)


@contextmanager
def _memory(most: int) -> Iterator[None]:
    """Let what runs inside take `most` more bytes than the process has now; 0 sets no limit."""
    if not most or sys.platform != "linux":  # elsewhere the address space cannot be limited
        yield
        return
    import resource

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _open(name: str, kind: str, options: dict[str, Any]) -> Any:
    if kind not in _KINDS:
        raise NbsightError(f"models of class {kind!r} are not served")
    module, _, cls = kind.partition(":")
    root = getattr(importlib.import_module(module), cls)(name, dispatch=True, **options)
    root._load()
    return root


def main() -> None:
    """The process."""
    stay_away()
    worker = Worker(Channel(int(sys.argv[1])))
    signal.signal(signal.SIGUSR1, worker.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=worker.listen, daemon=True).start()
    threading.Thread(target=worker.beat, daemon=True).start()
    worker.work()


if __name__ == "__main__":
    main()
