"""What a module or a saved value shows of itself when it is opened from the sidebar.

A widget where one is registered for it; else a summary that is made here, as HTML and as text.
"""

from __future__ import annotations

import base64
from html import escape
from typing import Any

from nbsight.display.numbers import bytes_text, count_text

__all__ = ["bundle_of_module", "bundle_of_value", "parameters_text"]

LIVE = "application/vnd.jupyter.widget-view+json"
LARGEST = 4_000_000  # elements; statistics of a larger tensor are those of a sample

Bundle = tuple[dict[str, Any], dict[str, Any]]


def bundle_of_value(ip: Any, value: Any, row: dict[str, Any]) -> Bundle:
    """A saved tensor.

    Args:
        ip: The shell.
        value: The tensor.
        row: What the sidebar knows of it.
    """
    return _shown(ip, value) or _summary(_value_facts(value, row))


def bundle_of_module(ip: Any, model: Any, path: str) -> Bundle:
    """A module of a model."""
    return _shown(ip, model.get(path) if path else model) or _summary(_module_facts(model, path))


def parameters_text(module: Any) -> str:
    """How many parameters a module has, and how many bytes they take."""
    parameters = list(module.parameters())
    size = sum(one.numel() * one.element_size() for one in parameters)
    return f"{count_text(sum(one.numel() for one in parameters))}, {bytes_text(size)}"


def _shown(ip: Any, value: Any) -> Bundle | None:
    """The shell's own display, where that is a widget."""
    data, metadata = ip.display_formatter.format(value)
    if LIVE not in data:
        return None
    packed = {
        mime: base64.b64encode(part).decode() if isinstance(part, bytes) else part
        for mime, part in data.items()
    }
    return packed, metadata


def _summary(facts: list[tuple[str, str]]) -> Bundle:
    text = "\n".join(f"{name:<14}{fact}" for name, fact in facts)
    rows = "".join(
        f'<tr><th scope="row" style="text-align: left">{escape(name)}</th>'
        f'<td style="text-align: left">{escape(fact)}</td></tr>'
        for name, fact in facts
    )
    return {"text/plain": text, "text/html": f"<table>{rows}</table>"}, {}


def _value_facts(value: Any, row: dict[str, Any]) -> list[tuple[str, str]]:
    import torch

    if not isinstance(value, torch.Tensor):
        return [("name", str(row.get("name"))), ("type", type(value).__name__), ("value", repr(value)[:4000])]
    tensor = getattr(value, "_plain", value).detach()
    facts = [
        ("name", row.get("name") or "(no name)"),
        ("shape", str(tuple(tensor.shape))),
        ("dtype", str(tensor.dtype).removeprefix("torch.")),
        ("device", str(tensor.device)),
        ("size", bytes_text(tensor.numel() * tensor.element_size())),
        ("from", row.get("path") or "?"),
        ("saved at", f"{row.get('where', '')}: {row.get('text', '')}".strip(": ")),
    ]
    if tensor.numel() and (tensor.is_floating_point() or tensor.dtype in (torch.int32, torch.int64)):
        flat = tensor.reshape(-1)
        step = -(-flat.numel() // LARGEST)
        numbers = flat[::step].double()
        bad = int((~torch.isfinite(numbers)).sum())
        good = numbers[torch.isfinite(numbers)]
        if good.numel():
            facts += [
                ("mean ± std", f"{good.mean():.4g} ± {good.std(unbiased=False):.4g}"),
                ("min, max", f"{good.min():.4g}, {good.max():.4g}"),
            ]
        facts.append(("NaN or Inf", str(bad)))
        if step > 1:
            facts.append(("", f"numbers of every {step}th element"))
    return facts


def _module_facts(model: Any, path: str) -> list[tuple[str, str]]:
    from nbsight.notebook.shapes import meaning_of, shapes_of

    module = model._module.get_submodule(path)
    shapes = shapes_of(model, 5.0)
    facts = [
        ("module", path or "(the model)"),
        ("class", type(module).__name__),
        ("makes", meaning_of(model, path) or "?"),
        ("output", (shapes.outputs.get(path) if shapes is not None else "") or "not known"),
        ("parameters", parameters_text(module)),
    ]
    for name, one in list(module.named_parameters(recurse=False))[:12]:
        facts.append((name, f"{str(one.dtype).removeprefix('torch.')} {tuple(one.shape)}"))
    return facts
