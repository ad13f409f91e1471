"""Blocks that run elsewhere: `with model.trace(prompt, remote=...)`.

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

from nbsight.core.backend import register
from nbsight.remote.local import LocalBackend

__all__ = ["LocalBackend"]

register("local", LocalBackend)
