"""The shapes of a model's values, from one scan that is kept.

A scan runs the model on tensors that have shapes and no numbers, so it costs little and needs no
weights; it is made once per model, on the model's own worker, when somebody first asks.
"""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any

from nbsight.core.alive import models

__all__ = ["Shapes", "meaning_of", "shapes_of"]

#: Rows and positions of the prompt that is scanned. No axis of a model is eleven wide.
ROWS, POSITIONS = 2, 11

#: What comes out of the module that makes a value with a standard name.
MEANINGS = {
    "resid_post": "the residual stream after block {layer}",
    "attn_out": "what the attention of block {layer} adds to the stream",
    "resid_mid": "the stream between attention and MLP of block {layer}",
    "mlp_out": "what the MLP of block {layer} adds to the stream",
    "embed": "token embeddings",
    "pos_embed": "embeddings of positions",
    "logits": "logits over the vocabulary",
    "ln_final": "the stream, normalised for the unembedding",
    "unembed": "logits over the vocabulary",
}


class Shapes:
    """What a scan has found: by path, the text of each module's output.

    Attributes:
        outputs: `float32 (batch, position, d_model 64)`, by path.
        why: Why there is nothing, if the scan failed.
    """

    def __init__(self, outputs: dict[str, str], why: str = "") -> None:
        self.outputs = outputs
        self.why = why


_pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nbsight-scan")
_scans: weakref.WeakKeyDictionary[Any, Future[Shapes]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def shapes_of(model: Any, patience: float = 0.0) -> Shapes | None:
    """The shapes of a model; None while they are being found.

    Args:
        model: A root envoy.
        patience: How long to wait for them, in seconds.
    """
    with _lock:
        future = _scans.get(model)
        if future is None:
            reference = weakref.ref(model)
            future = _scans[model] = _pool.submit(_scan, reference)
    try:
        return future.result(patience)
    except NotYet:
        return None


def _scan(reference: weakref.ref[Any]) -> Shapes:
    model = reference()
    if model is None:
        return Shapes({}, "the model is gone")
    try:
        return Shapes(_outputs(model))
    except Exception as error:  # whatever a forward does without numbers: then nothing is known
        return Shapes({}, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def _outputs(model: Any) -> dict[str, str]:
    import torch

    if not hasattr(model, "_limits"):
        raise LookupError("what this model takes is not known; shapes are known for language models")
    # A copy without the kept edits, which are the user's code and not for us to run.
    bare = model._light_copy()
    models.discard(bare)
    bare._edits.clear()
    size = model._limits.vocabulary or 2
    ids = torch.arange(ROWS * POSITIONS).remainder(size).reshape(ROWS, POSITIONS)
    with torch.no_grad(), bare.scan(ids, finish=True) as tracer:
        cache = tracer.cache(device=None)
    given = ((), {"input_ids": ids})
    return {
        "" if path == "model" else path.removeprefix("model."): text
        for path, entry in cache.items()
        if entry.outputs and (text := _text(model, entry.outputs[0], given))
    }


def _text(model: Any, value: Any, given: Any) -> str:
    import torch

    if isinstance(value, (tuple, list)):
        value = next((item for item in value if isinstance(item, torch.Tensor)), None)
    if hasattr(value, "logits"):
        value = value.logits
    if not isinstance(value, torch.Tensor):
        return ""
    shape = tuple(value.shape)
    names = model._axis_names(shape, given) or ("",) * len(shape)
    axes = [
        name or "position" if name in ("batch", "position") or size == POSITIONS else f"{name} {size}".strip()
        for name, size in zip(names, shape, strict=True)
    ]
    return f"{str(value.dtype).removeprefix('torch.')} ({', '.join(axes)})"


def meaning_of(model: Any, path: str) -> str:
    """What comes out of a module, in a few words; empty where nothing is known.

    Args:
        model: A root envoy.
        path: The module's path.
    """
    try:
        layout = model.std.layout
    except Exception:  # an architecture that is not known, or no language model at all
        return ""
    known = _meanings.get(layout)
    if known is None:
        known = _meanings[layout] = _find_meanings(layout)
    return known.get(path, "")


_meanings: weakref.WeakKeyDictionary[Any, dict[str, str]] = weakref.WeakKeyDictionary()


def _find_meanings(layout: Any) -> dict[str, str]:
    found = {}
    for layer, places in enumerate(layout.of_layer):
        for name, place in places.items():
            if place.kind == "output" and name in MEANINGS:
                found[place.path] = MEANINGS[name].format(layer=layer)
    for name, place in layout.places.items():
        if place.kind == "output":
            found[place.path] = MEANINGS[name]
    for name in ("ln_final", "unembed"):
        if getattr(layout, name):
            found[getattr(layout, name)] = MEANINGS[name]
    return found
