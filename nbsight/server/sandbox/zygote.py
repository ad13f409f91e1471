"""The process from which runners are forked: behind the walls, with everything imported and no block ever.

    python -I -c ... DESCRIPTOR

It reads how to make the model from the worker, makes it without weights, and then answers each request
with a fork. A request brings three descriptors: the runner's line and the two memories.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Setup", "main"]


class Setup(msgspec.Struct, frozen=True):
    """How to begin.

    Args:
        folder: Where the configuration and the tokenizer lie.
        kind: The class of the envoy, "module:class".
        dtype: Of the weights; a configuration may not say.
        attention: The implementation that the worker's model has.
        user: Who to turn into; 0 stays.
        folders: What runners may read.
    """

    folder: str
    kind: str
    dtype: str
    attention: str
    user: int
    folders: list[str]


def main(descriptor: int) -> None:
    """The process."""
    line = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that ended runners need nobody to take note
    setup = msgspec.json.decode(line.recv(2**20), type=Setup)
    if setup.user:
        os.setgroups([])
        os.setresgid(setup.user, setup.user, setup.user)
        os.setresuid(setup.user, setup.user, setup.user)
    from nbsight.server.sandbox import runner
    from nbsight.wire.jobs import fingerprint
    from nbsight.wire.source import stay_away

    stay_away()
    root = _model(setup)
    line.send(fingerprint(root._module).encode())
    while True:
        data, descriptors, _, _ = socket.recv_fds(line, 4096, 3)
        if not data:
            return
        limits = msgspec.json.decode(data, type=runner.Limits)
        process = os.fork()
        if process == 0:
            line.detach()
            runner.run(root, descriptors, limits, setup.folders)
        for taken in descriptors:
            os.close(taken)
        handle = os.pidfd_open(process)
        socket.send_fds(line, [b"forked"], [handle])
        os.close(handle)


def _model(setup: Setup) -> Any:
    import importlib

    import torch

    from nbsight.server.sandbox.ghost import take_weights

    torch.set_num_threads(1)
    # Torch looks at the processor once, in files that runners cannot read, and takes its kernels by that.
    torch.backends.cpu.get_cpu_capability()
    torch.ones(4, 4) @ torch.ones(4, 4)
    module, _, name = setup.kind.partition(":")
    options: dict[str, Any] = {"dtype": setup.dtype} if setup.dtype else {}
    if setup.attention:
        options["attn_implementation"] = setup.attention
    files = {path.name for path in Path(setup.folder).iterdir()}
    if not any(name.startswith(("tokenizer", "vocab", "spiece")) for name in files):
        options["tokenizer"] = None
    root = getattr(importlib.import_module(module), name)(setup.folder, **options)
    take_weights(root._module)
    root.__dict__["_dispatched"] = True
    return root
