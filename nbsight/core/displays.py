"""What a tracer, a cache and their like print: what they are, what is in them, at most a screen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from nbsight.core.sites import describe, show_line

if TYPE_CHECKING:
    from nbsight.core.cache import Cache, Entry
    from nbsight.core.tracer import Tracer

__all__ = ["cache_text", "call_text", "entry_text", "name_of", "tracer_text"]

#: Lines that a display may have, and characters of a prompt that it shows.
_LINES, _WIDTH = 24, 60

#: A number that is a part of a path by itself, as in `h.0.attn`, and not that of `ln_1`.
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def name_of(root: Any) -> str:
    """What a model is called: the name that it was loaded by, or its class."""
    return getattr(root, "_name", "") or type(root._module).__name__


def call_text(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The arguments of a trace or an invoke on one line."""
    parts = [_short(value) for value in args]
    parts += [f"{name}={_short(value)}" for name, value in kwargs.items()]
    return ", ".join(parts[:6]) + (", …" if len(parts) > 6 else "")


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return describe(value)
    if isinstance(value, (str, int, float, bool)) or value is None:
        text = repr(value)
    elif isinstance(value, (list, tuple)) and value and all(isinstance(item, (str, int)) for item in value):
        text = repr(list(value[:8])) + (f" … ({len(value)})" if len(value) > 8 else "")
    else:
        text = describe(value)
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"


# -- tracers -----------------------------------------------------------------------------------


def tracer_text(tracer: Tracer) -> str:
    """What the trace runs on, how far it has come, and what was changed in it."""
    what = "scan" if tracer.scan else {"forward": "trace", "generate": "generation"}.get(tracer.method)
    given = call_text(tracer.args, tracer.kwargs)
    title = f"{what or f'trace of `{tracer.method}`'} of {name_of(tracer.root)}" + (
        f": {given}" if given else ""
    )
    return "\n".join([title, f"  {_state(tracer)}", *_changes(tracer)])


def _state(tracer: Tracer) -> str:
    run = tracer.run
    if tracer._captured is not None:
        return f"sent to remote={tracer.remote!r}"
    if not tracer.done:
        if tracer.frame is None:
            verb = "scan" if tracer.scan else {"generate": "generate"}.get(tracer.method, "trace")
            return f"not running: it runs as a block, `with model.{verb}(...) as tracer:`"
        saved = f"; {len(tracer.saved)} saved so far" if tracer.saved else ""
        if run is None:
            return f"collects invokes, {len(tracer.invokes)} so far"
        if run.site is None:
            return ("before its first module" if not run.ended else "at its end") + saved
        return f"stands at {run.name(run.site.module)}.{run.site.kind}{saved}"
    if run is None:
        return "over; nothing was run"
    if run.failure is not None:
        return f"over: the model failed, {run.failure.splitlines()[0]}"
    if run.finished:
        return "over; the model ran to its end"
    last = tracer.driver.last
    place = "" if last is None else f", after {last[0]._path}.{last[1]}"
    return f"over; the model was stopped where nobody needed more{place}"


def _changes(tracer: Tracer) -> list[str]:
    if tracer.run is None or not tracer.run.edits:
        return []
    edits = tracer.run.edits
    lines = ["  edits:"]
    for edit in edits[:6]:
        line = f"   {show_line(edit.line)}" if edit.line else ""
        lines.append(f"    {edit.path}.{edit.kind}: {edit.before} -> {edit.after}{line}")
    if len(edits) > 6:
        lines.append(f"    … and {len(edits) - 6} more")
    return lines


# -- caches ------------------------------------------------------------------------------------


def entry_text(entry: Entry) -> str:
    """What was kept of one module."""
    parts = []
    outputs = list(map(describe, entry.outputs))
    inputs = [call_text(*given) for given in entry.all_inputs]
    for name, values in (("output", outputs), ("inputs", inputs)):
        if values:
            kinds = list(dict.fromkeys(values))
            times = f"{len(values)} × " if len(values) > 1 else ""
            parts.append(f"{name} {times}{kinds[0]}" + (" …" if len(kinds) > 1 else ""))
    return ", ".join(parts) or "nothing"


def cache_text(cache: Cache) -> str:
    """The modules of a cache, those that are alike on one line."""
    items = cache.items()
    place = f" at model.{cache._prefix}" if cache._prefix else ""
    if not items:
        return f"Cache{place}: nothing yet; it fills while the model runs"
    groups: dict[tuple[str, str], list[list[int]]] = {}
    for path, entry in items:
        numbers = [int(number) for number in _NUMBER.findall(path)]
        groups.setdefault((_NUMBER.sub("#", path), entry_text(entry)), []).append(numbers)
    names = [_folded(pattern, numbers) for (pattern, _), numbers in groups.items()]
    wide = max(map(len, names))
    lines = [f"  {name:<{wide}}  {text}" for name, (_, text) in zip(names, groups, strict=True)]
    more = [f"  … and {len(lines) - _LINES} more lines"] if len(lines) > _LINES else []
    title = f"Cache{place} of {len(items)} module{'s' if len(items) != 1 else ''}"
    return "\n".join([title, *lines[:_LINES], *more])


def _folded(pattern: str, numbers: list[list[int]]) -> str:
    """`h.#.attn` with its numbers: `h.[0-11].attn`."""
    parts = pattern.split("#")
    text = parts[0]
    count = 1
    for place, part in enumerate(parts[1:]):
        known = sorted({row[place] for row in numbers})
        count *= len(known)
        text += _ranges(known) + part
    return text if count == len(numbers) else f"{text} ({len(numbers)})"


def _ranges(known: list[int]) -> str:
    if len(known) == 1:
        return str(known[0])
    if known == list(range(known[0], known[-1] + 1)):
        return f"[{known[0]}-{known[-1]}]"
    shown = ",".join(map(str, known[:6]))
    return f"[{shown}{',…' if len(known) > 6 else ''}]"
