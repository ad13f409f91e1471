"""One line after a cell that traced and saved: `1 forward · 6 tokens · 13 values · 0.2 MB`.

A cell says it once, however many traces it ran; a cell that saved nothing says nothing. The line is
made when the cell is over: during a trace three numbers are added up.
"""

from __future__ import annotations

import weakref
from html import escape
from typing import Any

from nbsight.display.numbers import bytes_text, plural

__all__ = ["Receipts"]

#: Values of one cell of which is remembered that they were saved; more are not counted.
MOST = 100_000


class Receipts:
    """Adds up what the traces of a cell did, and says it at the cell's end.

    Args:
        ip: The shell.
        is_on: Asked at the end of each cell that traced: whether to say anything.
    """

    def __init__(self, ip: Any, is_on: Any) -> None:
        self._ip = ip
        self._is_on = is_on
        self._clear()

    def _clear(self) -> None:
        self.forwards = 0
        self.prompts = 0
        self.tokens = 0
        self._values: list[Any] = []

    def note(self, tracer: Any) -> None:
        """A trace has ended well (a listener of `nbsight.core.alive.ended`)."""
        run = tracer.run
        if run is None or tracer.scan:
            return
        self.forwards += max(run.passes, 1) + bool(tracer.extra)
        self._count_input(tracer)
        if len(self._values) < MOST:
            # not the records: those know the model
            for value, record in tracer.saved:
                self._values += [weakref.ref(value)] if record is not None else _references(value)

    def _count_input(self, tracer: Any) -> None:
        prompts = [
            invoke.prepared for invoke in tracer.invokes if getattr(invoke, "prepared", None) is not None
        ]
        if not prompts:
            given = getattr(tracer.driver.tokens, "args", ())
            prompts = list(given[:1])
        for prompt in prompts:
            lengths = getattr(prompt, "lengths", ())
            self.prompts += len(lengths)
            self.tokens += sum(lengths)

    def say(self) -> str | None:
        """The line of the cell that is over, or None; what was added up is forgotten."""
        values = [value for value in (reference() for reference in self._values) if value is not None]
        forwards, prompts, tokens = self.forwards, self.prompts, self.tokens
        self._clear()
        if not values or not forwards:
            return None
        sizes = {}
        for value in values:
            sizes[id(value)] = value.numel() * value.element_size()
        parts = [plural(forwards, "forward")]
        if prompts > 1:
            parts.append(plural(prompts, "prompt"))
        if tokens:
            parts.append(plural(tokens, "token"))
        parts += [plural(len(sizes), "value"), bytes_text(sum(sizes.values()))]
        return " · ".join(parts)

    def after_cell(self, result: Any = None) -> None:
        """Show the line under the cell (a callback of IPython's `post_run_cell`)."""
        line = self.say()
        if line is None or not self._is_on():
            return
        if getattr(self._ip, "kernel", None) is None:
            print(line)
            return
        from IPython.display import display

        html = (
            '<div style="color: var(--jp-ui-font-color2, GrayText); '
            f'font-size: var(--jp-ui-font-size1, 90%)">{escape(line)}</div>'
        )
        display({"text/plain": line, "text/html": html}, raw=True)


def _references(value: Any) -> list[Any]:
    from nbsight.core.batching import tensors_in

    try:
        return [weakref.ref(tensor) for tensor in tensors_in(value)]
    except RecursionError:  # a container that holds itself
        return []
