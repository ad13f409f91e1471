"""Blocks that run elsewhere: `with model.trace(prompt, remote=...)`.

`remote=True` sends a block to the server of `nbsight serve` or of NBSIGHT_HOST, `remote="http://..."` to
the server at that address. It becomes a job there, which survives this process: `jobs["3f97"]` finds it
from any other. `remote="ndif"` sends it to NDIF.

`remote="local"` sends the block through the whole codec, as bytes, and runs it in this process.
With it anybody can see, without a network, that a block travels; its numbers are those of a plain
trace, bit for bit.

What a block may use: numbers, text, bytes, lists, tuples, dicts, sets, tensors, arrays, modules of
the model, its tokenizer, torch, numpy and the like, and functions of your own whose source can be
found. Anything else is refused before it is sent, with the line that reads it.

What comes back, under the names that the block bound:

- tensors that were saved (`x.save()`, or a container of them by `nbsight.save(acts)`),
- numbers, text and containers of them, saved or not,
- changes of lists, dicts, sets, arrays and tensors that the block took along.

A tensor that was not saved does not come back. Its name is bound to a placeholder, so that what an
earlier run left there is not taken for a result; every use of the placeholder is a `RemoteError`
that says to write `.save()`. Graphs of gradients do not travel: a tensor that was computed from
others arrives as numbers. Local variables of a session are treated in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbsight.core.backend import Backend, register, register_servers
from nbsight.remote.local import LocalBackend

if TYPE_CHECKING:
    from nbsight.remote.addresses import connect
    from nbsight.remote.attached import jobs

__all__ = ["LocalBackend", "connect", "jobs"]


def _server(remote: Any) -> Backend:
    from nbsight.remote.server import ServerBackend  # requests takes a while to import

    return ServerBackend(remote)


def __getattr__(name: str) -> Any:
    if name == "connect":
        from nbsight.remote.addresses import connect

        return connect
    if name == "jobs":
        from nbsight.remote.attached import jobs

        return jobs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register("local", LocalBackend)
register("ndif", lambda: _server("ndif"))
register_servers(_server)
