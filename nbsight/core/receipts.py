"""Receipts: what is known of each edit of a run, as plain numbers and text.

`tracer.edits` lists them, in the block and after it. A receipt holds no tensor, so keeping a tracer
keeps no memory of the model's.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Receipt", "Receipts"]


@dataclass(frozen=True)
class Receipt:
    """One edit.

    Args:
        path: The module, as in `transformer.h.3`.
        kind: "output" or "input".
        how: "assigned", "in place", or "skipped" for `.skip(value)`.
        visit: Which call of the module in this run, counted from 0.
        step: In a generation, the step, counted from 0; None elsewhere.
        line: The number of the line that edited or, in place, that asked for the value.
        text: That line.
        before: Dtype and shape of what was there.
        after: Dtype and shape of what replaced it.
        changed: The fraction of elements that changed, 0 to 1; None where that was not measured.
        norm: The Euclidean norm of the difference.
        norm_before: The norm of what was there.
        notes: The warnings that it gave.
    """

    path: str
    kind: str
    how: str
    visit: int
    step: int | None
    line: int
    text: str
    before: str
    after: str
    changed: float | None = None
    norm: float | None = None
    norm_before: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The place as it is written in a trace."""
        return f"{self.path}.{self.kind}"

    @property
    def relative(self) -> float | None:
        """The norm of the change over the norm of what was there."""
        if self.norm is None or not self.norm_before:
            return None
        return self.norm / self.norm_before

    def __repr__(self) -> str:
        parts = [f"{self.place} {self.how}"]
        if self.step is not None:
            parts[0] += f" in step {self.step}"
        if self.changed is not None:
            parts.append(f"{_percent(self.changed)} of the elements, norm {_number(self.norm)}")
        if self.relative is not None:
            parts[-1] += f" ({_number(self.relative)} of what was there)"
        parts.append(f"line {self.line}: {self.text}" if self.text else f"line {self.line}")
        return "; ".join(parts)


class Receipts(tuple[Receipt, ...]):
    """The edits of a trace in the order in which they were made; prints as a table."""

    def __repr__(self) -> str:
        if not self:
            return "no edits"
        rows: list[tuple[str, ...]] = [("place", "how", "value", "changed", "norm", "relative", "line")]
        rows += [_row(receipt) for receipt in self]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.rjust(width) if 3 <= column <= 5 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        for receipt, index in zip(reversed(self), range(len(lines) - 1, 0, -1), strict=True):
            lines[index + 1 : index + 1] = [f"    {note}" for note in receipt.notes]
        return "\n".join(lines)


def _row(receipt: Receipt) -> tuple[str, ...]:
    step = "" if receipt.step is None else f" (step {receipt.step})"
    call = "" if not receipt.visit or receipt.step is not None else f" (call {receipt.visit})"
    value = receipt.before
    if receipt.after not in (receipt.before, ""):
        value += f" -> {receipt.after}"
    return (
        receipt.place + step + call,
        receipt.how,
        _shorten(value, 44),
        "–" if receipt.changed is None else _percent(receipt.changed),
        _number(receipt.norm),
        _number(receipt.relative),
        f"{receipt.line}: {_shorten(receipt.text, 60)}" if receipt.text else str(receipt.line),
    )


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _percent(fraction: float) -> str:
    """A fraction for people; never `100%` or `0%` unless it is all or nothing."""
    if fraction in (0.0, 1.0):
        return f"{fraction:.0%}"
    return f"{min(max(fraction, 0.001), 0.999):.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
