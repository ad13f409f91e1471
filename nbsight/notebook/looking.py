"""What a module or a value shows of itself when it is opened beside the notebook.

A widget where there is one for it; else a summary that is made here, as HTML and as text.
"""

from __future__ import annotations

from html import escape
from typing import Any

from nbsight.display.numbers import bytes_text, count_text
from nbsight.notebook.opening import widget_of_module, widget_of_value

__all__ = ["bundle_of_module", "bundle_of_value", "parameters_text"]

LARGEST = 4_000_000  # elements; statistics of a larger tensor are those of a sample

#: What is shown by type, what belongs to it, and the widget that is to be closed when it is no longer.
Bundle = tuple[dict[str, Any], dict[str, Any], Any]


def bundle_of_value(value: Any, row: dict[str, Any]) -> Bundle:
    """A value.

    Args:
        value: A tensor, a result or anything else.
        row: What the sidebar knows of it.
    """
    widget = widget_of_value(value, row.get("name") or "value")
    return _summary(_value_facts(value, row)) if widget is None else _shown(widget)


def bundle_of_module(model: Any, path: str, prompt: Any, expression: str) -> Bundle:
    """A module of a model.

    Args:
        model: The model.
        path: The module's; "" for the model.
        prompt: What the model was last run on; None where that is not known.
        expression: The module as it is written in the notebook.
    """
    widget = widget_of_module(model, path, prompt, expression)
    return _summary(_module_facts(model, path)) if widget is None else _shown(widget)


def parameters_text(module: Any) -> str:
    """How many parameters a module has, and how many bytes they take."""
    parameters = list(module.parameters())
    size = sum(one.numel() * one.element_size() for one in parameters)
    return f"{count_text(sum(one.numel() for one in parameters))}, {bytes_text(size)}"


def _shown(widget: Any) -> Bundle:
    data, metadata = widget._repr_mimebundle_()
    return data, metadata, widget


def _summary(facts: list[tuple[str, str]]) -> Bundle:
    text = "\n".join(f"{name:<14}{fact}" for name, fact in facts)
    rows = "".join(
        f'<tr><th scope="row" style="text-align: left">{escape(name)}</th>'
        f'<td style="text-align: left">{escape(fact)}</td></tr>'
        for name, fact in facts
    )
    return {"text/plain": text, "text/html": f"<table>{rows}</table>"}, {}, None


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
