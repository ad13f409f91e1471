"""A recipe as the cell that does what it does: the same operations on the same values, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbsight.analysis.recipe_steps import SITES, Add, Mean, Patch, Scale, Site, Steer, Step, Zero

__all__ = ["recipe_code"]

_INDENT = "    "


def recipe_code(steps: Sequence[Step], prompt: Any, *, model: str, vectors: str | None) -> str:
    """A cell whose `logits` are those of the recipe's run, to the last bit.

    Args:
        steps: In the order in which they are done: what comes later in the forward comes later.
        prompt: Text or ids.
        model: The name of the model.
        vectors: The file of the vectors; None if there are none.
    """
    steers = [step for step in steps if isinstance(step, Steer)]
    sites = [step for step in steps if not isinstance(step, Steer)]
    lines = ["import torch", "from safetensors.torch import load_file"] if vectors else ["import torch"]
    lines += ["", f"prompt = {prompt!r}"]
    lines += [f"vectors = load_file({vectors!r})"] if vectors else []
    for number, step in enumerate(sites):
        lines += _before(number, step, model)
    indent = ""
    for steer in steers:
        lines.append(
            f"{indent}with {model}.steer(vectors[{steer.vector!r}], layer={steer.layers!r}, "
            f"strength={steer.strength!r}, positions={steer.positions!r}, name={steer.site!r}):"
        )
        indent += _INDENT
    lines.append(f"{indent}with {model}.trace(prompt, grad=False):")
    indent += _INDENT
    for number, step in enumerate(sites):
        place = _place(model, step)
        lines.append(f"{indent}value = {place}.clone()")
        lines.append(f"{indent}{_change(number, step)}")
        lines.append(f"{indent}{place} = value")
    lines.append(f"{indent}logits = {model}.output.logits.clone().save()")
    return "\n".join(lines)


def _before(number: int, step: Site, model: str) -> list[str]:
    """What has to be read in other runs first."""
    place = _place(model, step)
    if isinstance(step, Patch):
        return [
            f"with {model}.trace({step.prompt!r}, grad=False):",
            f"{_INDENT}donor_{number} = {place}.clone().save()",
        ]
    if isinstance(step, Mean):
        return [
            "rows = []",
            f"for text in {step.prompts!r}:",
            f"{_INDENT}with {model}.trace(text, grad=False):",
            f"{_INDENT * 2}row = {place}[0].float().clone().save()",
            f"{_INDENT}rows.append(row)",
            f"mean_{number} = torch.cat(rows).mean(0)",
        ]
    return []


def _change(number: int, step: Site) -> str:
    at = f"value[{_text(step.index)}]"
    if isinstance(step, Zero):
        return f"{at} = 0"
    if isinstance(step, Scale):
        return f"{at} = {at} * {step.factor!r}"
    if isinstance(step, Add):
        return f"{at} = {at} + ({step.strength!r} * vectors[{step.vector!r}]).to(value)"
    if isinstance(step, Mean):
        return f"{at} = mean_{number}{'' if step.heads is None else f'[{step.heads!r}]'}.to(value)"
    assert isinstance(step, Patch)
    return f"{at} = donor_{number}[{_text(step.donor_index)}].to(value)"


def _place(model: str, step: Site) -> str:
    return f"{model}.std.layers[{step.layer}].{SITES[step.site]}"


def _text(index: tuple[Any, ...]) -> str:
    return ", ".join(":" if isinstance(part, slice) else repr(part) for part in index)
