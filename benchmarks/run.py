#!/usr/bin/env python3
"""What nbsight costs beside a raw forward, hooks by hand and (where installed) nnsight and TransformerLens.

    python benchmarks/run.py             everything, some minutes
    python benchmarks/run.py --quick     fewer rounds, the small model only
    python benchmarks/run.py reading fixed      only these; see `--help`

Figures are medians of CPU time on one core, paired and shuffled in one run (`measure.py`); goals are
those of the project's second milestone. They hold on a machine that is otherwise idle; on a busy one
the ratios of small figures wander by a tenth or two.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: children inherit it too
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks import collecting, fixed, lens, processes, remote, sweeps, traces
from benchmarks.subjects import nnsight, subject
from benchmarks.table import HEADER, Row, line


def sections(quick: bool) -> dict[str, Callable[[], Iterable[Row]]]:
    """The parts of the table by name."""
    many, some, few = (40, 12, 3) if quick else (200, 40, 7)
    tiny = subject(64)

    def large(what: str) -> list[Row]:
        if quick:
            return []
        big = subject(768)
        if what == "reading":
            return traces.reading(big, "d=768", few * 2)
        return traces.gradients(big, "d=768", few, 0.45, 0.37)

    def patching() -> Iterator[Row]:
        yield from sweeps.patching(tiny, "tiny", few * 2, 9, 0.07, None)
        yield from sweeps.by_sites(tiny, "tiny", few * 2)
        if not quick:
            big = subject(768)
            yield from sweeps.patching(big, "d=768", 5, 9, 0.15, 0.45)
            yield from sweeps.patching(big, "d=768", 5, 32, None, 0.35)
            yield from sweeps.by_sites(big, "d=768", 5)

    return {
        "reading": lambda: traces.reading(tiny, "tiny", many) + large("reading"),
        "layers": lambda: traces.many_layers(some),
        "fixed": lambda: fixed.repeated(some * 2) + fixed.first_run(many * 2),
        "sweeping": lambda: traces.sweeping(tiny, some),
        "patching": patching,
        "lens": lambda: [] if quick else lens.lens(9, processes.lens_peaks()),
        "collecting": lambda: [] if quick else collecting.collecting(few),
        "generating": lambda: traces.generating(tiny, some),
        "gradients": lambda: traces.gradients(tiny, "tiny", some, 0.70, 0.60) + large("gradients"),
        "memory": lambda: processes.memory(quick),
        "threads": processes.threads,
        "remote": lambda: remote.remote(few * 10),
        "importing": lambda: processes.importing(few),
    }


def main() -> int:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, the small model only")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a goal is missed")
    asked = parser.parse_known_args()[0].quick
    parts = sections(asked)
    parser.add_argument("section", nargs="*", help=f"which: {', '.join(parts)}")
    options = parser.parse_args()
    unknown = set(options.section) - parts.keys()
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    peer = f"nnsight {nnsight.__version__}" if nnsight is not None else "nnsight is not installed"
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {peer}\n", flush=True)
    rows: list[Row] = []
    print(HEADER, flush=True)
    for name in options.section or parts:
        for row in parts[name]():
            print(line(row), flush=True)
            rows.append(row)
    missed = [row.name for row in rows if row.verdict == "MISSED"]
    print(f"\n{len(missed)} of {sum(row.goal is not None for row in rows)} goals missed")
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
