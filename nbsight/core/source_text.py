"""A function's text with the names of its operations in the margin."""

from __future__ import annotations

from nbsight.core.source_rewrite import Listing, Named

__all__ = ["around", "listed"]


def listed(listing: Listing) -> str:
    """The text; the names of a line's operations stand at it and below it.

    Of a long docstring only the first lines are shown.
    """
    hidden = listing.docstring[3:-1]
    names: dict[int, list[str]] = {}
    for operation in listing.operations:
        names.setdefault(operation.line, []).append(operation.name)
    width = max((len(named.name) for named in listing.operations), default=0)
    last = listing.first_line + len(listing.lines) - 1
    digits = len(str(last))
    rows = []
    for number, text in enumerate(_dedented(listing.lines), listing.first_line):
        if number in hidden:
            if number == hidden[0]:
                rows.append(f"{'':{width}} │ {'⋮':>{digits}} │")
            continue
        first, *rest = names.get(number, [""])
        rows.append(f"{first:>{width}} │ {number:>{digits}} │ {text}".rstrip())
        rows += [f"{name:>{width}} │ {'':>{digits}} │" for name in rest]
    return "\n".join(rows)


def around(listing: Listing, operation: Named, margin: int = 4) -> str:
    """The lines around one operation, its own marked."""
    place = operation.line - listing.first_line
    start, end = max(0, place - margin), place + margin + 1
    digits = len(str(listing.first_line + len(listing.lines)))
    rows = []
    for number, text in enumerate(_dedented(listing.lines)[start:end], start):
        mark = "→" if number == place else " "
        rows.append(f"{mark} {listing.first_line + number:>{digits}} │ {text}".rstrip())
    return "\n".join(rows)


def _dedented(lines: tuple[str, ...]) -> list[str]:
    """The lines without the indentation of the first one (strings may hold shorter lines)."""
    indent = len(lines[0]) - len(lines[0].lstrip())
    return [line[indent:] if not line[:indent].strip() else line for line in lines]
