"""A block that was captured and will run elsewhere, with what it needs from the user's frame."""

from __future__ import annotations

from types import FrameType
from typing import Any

from nbsight.core.backend import Job, resolve
from nbsight.core.capture import Block, BodySkipped, block_at, lines_of, skip_body
from nbsight.core.mentions import GRADIENTS, topics
from nbsight.core.scope import frame_values, write_back
from nbsight.core.tracebacks import without_own
from nbsight.errors import CaptureError

__all__ = ["Captured", "need_block"]

#: The methods whose blocks may run elsewhere.
_OPENERS = frozenset({"trace", "generate", "session", "edit"})


def need_block(frame: FrameType, what: str) -> Block:
    """The block that `frame` enters.

    Raises:
        CaptureError: its text cannot be found.
    """
    block = block_at(frame, _OPENERS)
    if block is None:
        raise CaptureError(
            f"{what} needs the text of its block, and there is none for code from "
            f"{frame.f_code.co_filename!r}. Put the code into a cell or a file (under `%%time`, "
            "load the extension first: `%load_ext nbsight`)."
        )
    return block


class Captured:
    """The body of the `with` statement that `frame` is entering, taken out of it.

    Args:
        frame: The user's frame.
        what: What needs the text, for the message if there is none.
    """

    def __init__(self, frame: FrameType, what: str) -> None:
        self.frame = frame
        self.block = need_block(frame, what)
        values = frame_values(frame, self.block.loads)
        outer = frame.f_globals
        for name in self.block.loads:
            if name not in values and name in outer:
                values[name] = outer[name]
        self.values = values
        self._undo = skip_body(frame)

    def left(self, kind: type[BaseException] | None) -> bool:
        """Whether the body was left as planned; call it in `__exit__`."""
        self._undo()
        return kind is BodySkipped

    def send(
        self,
        remote: Any,
        model: Any,
        kind: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        handle: Any,
        *,
        grad: bool | None = None,
        finish: bool = False,
    ) -> None:
        """Run the block where `remote` says and bind its names in the user's frame.

        Args:
            grad: Whether to record gradients; None asks the code around the block.
            finish: Whether the run has to go to its end.
        """
        __tracebackhide__ = True  # IPython leaves this frame out
        target = self.block.target
        if target is not None:
            write_back(self.frame, {target: handle})
        frame = self.frame
        job = Job(
            model,
            kind,
            method,
            args,
            kwargs,
            self.block,
            self.values,
            target,
            grad=bool(topics(frame.f_code, frame.f_globals) & GRADIENTS) if grad is None else grad,
            finish=finish,
            lines=lines_of(frame),
            globals=frame.f_globals if frame.f_locals is frame.f_globals else None,
        )
        try:
            values = resolve(remote).run(job)
        except Exception as error:
            # What it came up during is how the block was kept from running here: no news to the user.
            error.__suppress_context__ = True
            error.__traceback__ = without_own(error.__traceback__)
            raise
        write_back(self.frame, values)
