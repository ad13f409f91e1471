"""What the sidebar shows of a kernel, as values that JSON knows.

Nothing is computed by a model here and nothing is kept: every section is read off what there is
when somebody looks. `torch` is not imported for it; where it is not loaded there is nothing to show.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from nbsight.notebook.keys import Keys
from nbsight.notebook.names import Found, Survey, survey

__all__ = ["cell_of", "expression_of", "models", "named_models", "runs", "saved", "sections"]

MOST_SAVED = 400


def sections(ip: Any, keys: Keys) -> dict[str, Any]:
    """The whole state: models, saved, edits, runs and memory (jobs are told of one by one)."""
    from nbsight.notebook.memory import memory

    known = survey(ip.user_ns)
    named = named_models(ip, known)
    return {
        "models": models(named, keys),
        "saved": saved(ip, keys, known),
        "edits": edits(ip, named, keys),
        "runs": runs(named, keys, known),
        "memory": memory(ip, named, known),
    }


# -- models ------------------------------------------------------------------------------------


def named_models(ip: Any, known: Survey | None = None) -> list[tuple[str | None, Any]]:
    """Every model that is alive, with what the user calls it (None: nothing that can be written).

    Args:
        ip: The shell.
        known: What the user's names hold, if that has been looked up.
    """
    alive = sys.modules.get("nbsight.core.alive")
    if alive is None:
        return []
    there = {id(model): model for model in list(alive.models)}
    if not there:
        return []
    names = {key: found.written for key, found in _shortest(ip, known, there).items()}
    # named ones first, in the order in which they were named; a model nobody can name may be in use
    ordered = [there[key] for key in names] + [model for key, model in there.items() if key not in names]
    return [(names.get(id(model)), model) for model in ordered]


def _shortest(ip: Any, known: Survey | None, there: dict[int, Any]) -> dict[int, Found]:
    """By identity, the shortest way to write each of these things, where there is one."""
    known = survey(ip.user_ns) if known is None else known
    shortest: dict[int, Found] = {}
    for held in known.values():
        for found in held:
            key = id(found.value)
            if key in there and found.can_be_written:
                other = shortest.get(key)
                if other is None or len(found.written) < len(other.written):
                    shortest[key] = found
    return shortest


def models(named: list[tuple[str | None, Any]], keys: Keys) -> list[dict[str, Any]]:
    """One card for each."""
    return [_card(name, model, keys) for name, model in named]


def _card(name: str | None, model: Any, keys: Keys) -> dict[str, Any]:
    from nbsight.core.displays import name_of

    module = model._module
    tensors = list(module.parameters()) + list(module.buffers())
    parameters = list(module.parameters())
    dtypes = _most(str(one.dtype).removeprefix("torch.") for one in parameters)
    return {
        "id": keys.of("model", model),
        "expression": name,
        "label": name_of(model),
        "class": type(module).__name__,
        "kind": type(model).__name__,
        "parameters": sum(one.numel() for one in parameters),
        "bytes": sum(one.numel() * one.element_size() for one in tensors),
        "dtype": dtypes[0] if dtypes else "",
        "devices": _most(str(one.device) for one in parameters),
        "loaded": bool(getattr(model, "dispatched", True)),
        "sizes": _sizes(model),
        "verified": _verified(model),
        "edits": len(model._edits),
        "copyOf": None if model._family is model else keys.of("model", model._family),
    }


def _most(texts: Iterator[str]) -> list[str]:
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    return sorted(counts, key=lambda text: -counts[text])


def _sizes(model: Any) -> dict[str, int]:
    """`n_layers` and the like, as far as the configuration says."""
    config = getattr(model._module, "config", None)
    text = getattr(config, "get_text_config", lambda: config)()
    asked = {
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "d_model": "hidden_size",
        "d_vocab": "vocab_size",
    }
    found = {name: getattr(text, key, None) for name, key in asked.items()}
    return {name: value for name, value in found.items() if isinstance(value, int)}


def _verified(model: Any) -> dict[str, Any] | None:
    """What the check of the standard names has found; None if it has not been made."""
    verifying = sys.modules.get("nbsight.models.verifying")
    known = None if verifying is None else verifying._known.get(model._module)
    result = None if known is None else known.result
    if result is None:
        return None
    return {"ok": bool(result.ok), "text": result.summary}


def expression_of(name: str, path: str) -> str:
    """A module as it is written: `model.transformer.h[0].attn`."""
    from nbsight.core.source import as_code

    return name + as_code(path).removeprefix("model") if path else name


# -- saved values ------------------------------------------------------------------------------


def saved(ip: Any, keys: Keys, known: Survey | None = None) -> list[dict[str, Any]]:
    """The tensors that carry a save mark and are still there, the newest first."""
    saving = sys.modules.get("nbsight.core.saving")
    if saving is None:
        return []
    records = [(record, record()) for record in saving.newest_saved(MOST_SAVED)]
    there = {id(value): (record, value) for record, value in records if value is not None}
    if not there:
        return []
    places = _shortest(ip, known, there)
    rows = []
    for key, (record, value) in there.items():
        where = places.get(key)
        rows.append(
            {
                "id": keys.of("value", value),
                "name": None if where is None else where.written,
                "freeable": where is not None and _is_free(ip.user_ns.get(where.name), where.way),
                "shape": list(value.shape),
                "dtype": str(value.dtype).removeprefix("torch."),
                "device": str(value.device),
                "bytes": value.numel() * value.element_size(),
                "path": record.path,
                **cell_of(ip, record.line),
            }
        )
    return rows


def _is_free(holder: Any, way: tuple[str, ...]) -> bool:
    """Whether a value can be deleted without what it is a part of."""
    return not way or (isinstance(holder, dict) and len(way) == 1)


def cell_of(ip: Any, line: Any) -> dict[str, Any]:
    """Where a line of the user's stands: `In [4], line 2`, or a file and a line."""
    from nbsight.core.sites import locate, show_text

    if line is None:
        return {"cell": None, "line": None, "where": "", "text": ""}
    filename, number = locate(line)
    text = show_text(filename, number).partition(": ")[2]
    cell = getattr(ip.compile, "_filename_map", {}).get(filename)
    if cell is None and "ipykernel" not in filename and not filename.startswith("<"):
        where = f"{filename.rpartition('/')[2]}, line {number}"
    else:
        where = f"In [{cell}], line {number}" if cell is not None else f"line {number}"
    return {"cell": cell, "line": number, "where": where, "text": text}


# -- edits and runs ----------------------------------------------------------------------------


def edits(ip: Any, named: list[tuple[str | None, Any]], keys: Keys) -> list[dict[str, Any]]:
    """The kept edits of all models; an edit that a light copy shares is listed once."""
    rows: dict[int, dict[str, Any]] = {}
    for name, model in named:
        for edit in model._edits:
            row = rows.get(id(edit))
            if row is not None:
                row["models"].append(name)
                continue
            cell = getattr(ip.compile, "_filename_map", {}).get(edit.block.filename)
            number = edit.block.line
            rows[id(edit)] = {
                "id": keys.of("edit", edit),
                "models": [name],
                "enabled": bool(edit.enabled),
                "text": edit.source,
                "where": f"line {number}" if cell is None else f"In [{cell}], line {number}",
                "cell": cell,
            }
    return list(rows.values())


def runs(named: list[tuple[str | None, Any]], keys: Keys, known: Survey) -> list[dict[str, Any]]:
    """The runs that are held open."""
    alive = sys.modules.get("nbsight.core.alive")
    open_ = [] if alive is None else [tracer for tracer in list(alive.runs) if tracer.state == "open"]
    if not open_:
        return []
    from nbsight.core.displays import call_text, name_of
    from nbsight.core.paused import PausedRun

    users = {
        id(found.value._tracer): found.written
        for held in known.values()
        for found in held
        if isinstance(found.value, PausedRun)
    }
    names = {id(model): name for name, model in named}
    rows = []
    for tracer in open_:
        site = tracer.run.site if tracer.run is not None else None
        blocks = tracer.trail.blocks
        done = sum(tracer.trail.has_passed(block, "output") for block in blocks)
        rows.append(
            {
                "id": keys.of("run", tracer),
                "name": users.get(id(tracer)),
                "model": names.get(id(tracer.root)) or name_of(tracer.root),
                "given": call_text(tracer.args, {}),
                "place": tracer.place(),
                "progress": tracer.trail.progress(site).partition("] ")[2],
                "done": min(done + (site is not None), len(blocks)),
                "total": len(blocks),
            }
        )
    return rows
