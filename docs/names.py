"""Writes the tables of docs/names.md and docs/attention.md: where the names are, and how far they are off.

    python -m docs.names

Every row is a tiny model with random weights, checked by `nbsight.verify` as any model is.
`tests/docs/test_names.py` and `test_attention_page.py` make the rows again and compare.
"""

from __future__ import annotations

import re
from pathlib import Path

from nbsight.models.language_model import LanguageModel
from nbsight.models.standard import verify
from nbsight.models.verifying_inside import CHECKED
from nbsight.results.verification import Verification
from tests.models.standard_cases import TIER_A, TIER_B, Case

PAGE = Path(__file__).with_name("names.md")
BEGIN, END = "<!-- table: python -m docs.names -->", "<!-- end of the table -->"
COLUMNS = ("embed", "attn_out", "resid_mid", "mlp_out", "z")

ATTENTION_PAGE = Path(__file__).with_name("attention.md")
INSIDE = ("q", "k", "v", "gate", "pre", "post", "router")


def main() -> None:
    for page, columns in ((PAGE, COLUMNS), (ATTENTION_PAGE, INSIDE)):
        text = page.read_text(encoding="utf-8")
        page.write_text(replaced(text, table(columns)), encoding="utf-8")


def replaced(text: str, rows: str) -> str:
    """The page with another table in it."""
    return re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}", f"{BEGIN}\n\n{rows}\n{END}", text, flags=re.DOTALL
    )


def table(columns: tuple[str, ...] = COLUMNS) -> str:
    """All rows.

    Args:
        columns: The names whose places are shown.
    """
    head = ["model", *(f"`{name}`" for name in columns), "largest error"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for case in (*TIER_A, *TIER_B):
        if case.architecture is not None:
            lines.append(row(case, columns))
    return "\n".join(lines) + "\n"


def row(case: Case, columns: tuple[str, ...] = COLUMNS) -> str:
    """One model's row."""
    found = verify(LanguageModel(case.make()))
    if not found.ok:
        raise SystemExit(f"{case}: {found!r}")
    cells = [_title(case), *(_place(found, name) for name in columns), _error(found, columns)]
    return f"| {' | '.join(cells)} |"


def _title(case: Case) -> str:
    return case.name + "".join(f", `{key}={value}`" for key, value in case.options.items())


def _place(found: Verification, name: str) -> str:
    line = found[name] if name in found.names else None  # only mixtures of experts have a router
    if line is None or not line.place:
        return "none"
    inside = re.sub(r"^model\.(.*\[i\]\.|(transformer|gpt_neox|model\.decoder|model)\.)?", "", line.place)
    return f"`{inside}`"


def _error(found: Verification, columns: tuple[str, ...]) -> str:
    """The largest error of these names, without the digits that differ from machine to machine."""
    names = [name for name in CHECKED if name in found.names] if columns is INSIDE else columns
    largest = max(error for name in names if (error := found[name].error) == error)
    if largest == 0:
        return "0"
    return "below 1e-6" if largest < 1e-6 else f"{largest:.0e}"


if __name__ == "__main__":
    main()
