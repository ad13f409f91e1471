"""The model with eager attention in every layer, measured against the model as it was loaded."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbsight.models.attending import EAGER
from nbsight.models.provenance import provenance
from nbsight.results.attention import AttentionDifference

__all__ = ["attention_difference"]


def attention_difference(model: Any, prompt: Any) -> AttentionDifference:
    """Run a prompt as the model was loaded and with eager attention in every layer, and compare.

    This is the most that edits of scores and patterns can bring in beside what they mean; reads bring in
    nothing.

    Args:
        model: A `LanguageModel` whose architecture is known.
        prompt: Text or token ids of one prompt.

    Raises:
        PathError: a layer has no pattern; the message says why.
        UnknownArchitectureError: the architecture is not known, or the check of its patterns failed.
    """
    std = model.std
    for layer in range(model.n_layers):
        std.place("pattern", layer)
    with model.trace(prompt, grad=False):
        loaded = model.logits.clone()
    std.forget_switches()
    with model.trace(prompt, grad=False) as tracer:
        tracer.run.marks = (EAGER,)
        for layer in range(model.n_layers):
            tracer.run.open(std.place("pattern", layer).envoy(model)._gates())
        eager = model.logits.clone()
    by_layer = {switch.layer: switch.difference for switch in std.switches}
    one, other = loaded[0].double(), eager[0].double()
    shift = (one.softmax(-1) - other.softmax(-1)).abs().sum(-1) / 2
    is_text = isinstance(prompt, str)
    tokens = model.tokens(prompt).strings if is_text else [str(number) for number in range(len(one))]
    return AttentionDifference(
        implementation=str(getattr(model._module.config, "_attn_implementation", None)),
        layers=range(model.n_layers),
        tokens=tokens,
        attention=np.array([by_layer.get(layer, 0.0) for layer in range(model.n_layers)]),
        logits=(one - other).abs().amax(-1).cpu().numpy(),
        shift=shift.cpu().numpy(),
        provenance=provenance(model, [prompt] if is_text else ()),
    )
