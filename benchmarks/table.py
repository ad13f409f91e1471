"""Rows of figures beside their goals, as text."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HEADER", "Row", "line"]


@dataclass(frozen=True)
class Row:
    """One measure: what was found, what is wanted at most, and what nnsight needs on this machine."""

    name: str
    found: float
    goal: float | None = None
    stretch: float | None = None
    peer: float | None = None
    unit: str = "×"

    @property
    def verdict(self) -> str:
        """Whether the goal is met; empty where there is none."""
        if self.goal is None:
            return ""
        if self.stretch is not None and self.found <= self.stretch:
            return "stretch"
        return "met" if self.found <= self.goal else "MISSED"


HEADER = "| measure | nbsight | goal | stretch | nnsight | |\n|---|--:|--:|--:|--:|---|"


def line(row: Row) -> str:
    """One row of the table, in Markdown."""
    numbers = (_number(value, row.unit) for value in (row.found, row.goal, row.stretch, row.peer))
    return f"| {row.name} | {' | '.join(numbers)} | {row.verdict} |"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "×":
        return f"{value:.2f}"
    return f"{value:.0f} {unit}"
