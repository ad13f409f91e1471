"""What a model's weights take: of a loaded one where each part is, of one that is not what it will be.

Before loading, shapes and buffers are those of the model made on the meta device, which is what will be
made; the dtype is the one that was asked for, or what the headers of the checkpoint's files say. Where there
is no such tree the files alone are counted.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import nn

from nbsight.core.room import bytes_of, free_bytes
from nbsight.display.numbers import bytes_text
from nbsight.errors import InputError, ModelLoadError, NotEnoughMemoryError
from nbsight.models.fetching import keeper_of
from nbsight.models.headers import SAFETENSORS_DTYPES, Headers, headers_of
from nbsight.models.loading import Loader
from nbsight.models.names import find_blocks
from nbsight.models.provenance import provenance
from nbsight.models.quantising import Quantised, quantised_by
from nbsight.results.sizes import MemoryEstimate, Placement

__all__ = ["check_room_for", "estimate_memory", "placement_of"]

# -- parts -----------------------------------------------------------------------------------------


def parts_of(module: nn.Module, blocks: tuple[str, ...]) -> dict[str, list[tuple[str, str, torch.Tensor]]]:
    """Parameters and buffers by part: each block, and the modules beside and around the lists of them.

    Args:
        module: The model.
        blocks: Paths of the lists of blocks.

    Returns:
        For each part triples of a module's path, the tensor's name in it, and the tensor; a tensor that two
        modules share is with the first.
    """
    found: dict[str, list[tuple[str, str, torch.Tensor]]] = {}
    seen: set[int] = set()
    is_away = any("_hf_hook" in vars(part) for part in module.modules())
    for path, part in module.named_modules():
        own = [*part._parameters.items(), *part._buffers.items()]
        for name, tensor in own:
            if (
                tensor is None
                or (key := _identity(module, part, name, tensor) if is_away else id(tensor)) in seen
            ):
                continue
            seen.add(key)
            found.setdefault(_part_of(path, blocks), []).append((path, name, tensor))
    return found


def _identity(root: nn.Module, module: nn.Module, name: str, tensor: torch.Tensor) -> int:
    """What two modules that share a tensor agree in; accelerate gives each an empty one of its own."""
    if tensor.device.type == "meta" and (kept := keeper_of(module, name, root)) is not None:
        hook, key = kept
        if _kept_at(hook.weights_map, key) == "cpu":
            return int(hook.weights_map[key].data_ptr())
    return id(tensor)


def _part_of(path: str, blocks: tuple[str, ...]) -> str:
    for prefix in blocks:
        if path.startswith(f"{prefix}."):
            return ".".join(path.split(".")[: prefix.count(".") + 2])
    above = max((prefix.count(".") for prefix in blocks), default=0)
    return ".".join(path.split(".")[: above + 1]) or "(itself)"


# -- loaded models ---------------------------------------------------------------------------------


def placement_of(model: Any) -> Placement:
    """Where each part of a model is.

    Args:
        model: A `LanguageModel`, loaded or not, or any wrapped module.
    """
    module: nn.Module = model._module
    is_loaded = getattr(model, "_dispatched", True)
    rows = []
    for part, tensors in parts_of(module, getattr(model, "_blocks", ())).items():
        places = [_place(module, module.get_submodule(path), name, tensor) for path, name, tensor in tensors]
        sizes = [bytes_of(tensor) for _, _, tensor in tensors]
        dtypes = Counter[str]()
        for (_, _, tensor), size in zip(tensors, sizes, strict=True):
            dtypes[str(tensor.dtype).removeprefix("torch.")] += size
        device = _commonest([device for device, _ in places], sizes)
        held = _commonest([held for _, held in places], sizes) if is_loaded else "not loaded"
        kinds = "+".join(kind for kind, size in dtypes.most_common() if size >= 0.01 * sum(sizes))
        numbers = sum(_numbers(tensor) for _, _, tensor in tensors if isinstance(tensor, nn.Parameter))
        rows.append((part, device if is_loaded else "-", held, kinds, numbers, sum(sizes)))
    names, devices, held_at, kinds_of, counts, sizes_of = zip(*rows, strict=True) if rows else [()] * 6
    return Placement(
        model=str(getattr(model, "_name", type(module).__name__)),
        parts=names,
        devices=devices,
        held=held_at,
        dtypes=kinds_of,
        parameters=np.array(counts, np.int64),
        bytes=np.array(sizes_of, np.int64),
        provenance=provenance(model) if hasattr(model, "_name") else {},
    )


def _place(root: nn.Module, module: nn.Module, name: str, tensor: torch.Tensor) -> tuple[str, str]:
    """Where a tensor's module computes, and where the tensor lies until then."""
    if tensor.device.type != "meta":
        return str(tensor.device), str(tensor.device)
    kept = keeper_of(module, name, root)
    if kept is None:
        return "meta", "meta"
    hook, key = kept
    return str(torch.device(hook.execution_device)), _kept_at(hook.weights_map, key)


def _kept_at(values: Any, name: str) -> str:
    """Whether accelerate keeps a weight in memory or on disk."""
    prefix = getattr(values, "prefix", "")
    loader = getattr(values, "dataset", values)
    in_memory = getattr(loader, "state_dict", None)
    in_memory = loader if in_memory is None else in_memory
    try:
        return "cpu" if f"{prefix}{name}" in in_memory else "disk"
    except TypeError:  # another kind of map
        return "disk"


def _commonest(places: list[str], sizes: list[int]) -> str:
    counted = Counter[str]()
    for place, size in zip(places, sizes, strict=True):
        counted[place] += max(size, 1)
    return counted.most_common(1)[0][0]


def _numbers(tensor: torch.Tensor) -> int:
    """How many numbers a weight stands for; one of bitsandbytes says its shape before packing."""
    state = getattr(tensor, "quant_state", None)
    return int(np.prod(state.shape)) if state is not None else tensor.numel()


# -- before loading --------------------------------------------------------------------------------


def estimate_memory(
    name: str | Any, *, dtype: Any = None, revision: str | None = None, **options: Any
) -> MemoryEstimate:
    """What a model's weights will take, from its configuration and the headers of its files.

    No weights are read, and of a model on the hub none are downloaded.

    Args:
        name: "nbsight/demo", a folder, a hub id, or a `LanguageModel`.
        dtype: The dtype to load it in; by default what transformers would take.
        revision: A branch, tag or commit of a hub id.
        options: As for `LanguageModel`: `quantization_config`, `config`, `trust_remote_code`, `cache_dir`, ….

    Returns:
        The bytes of parameters and buffers by part; printed, also whether they fit.

    Raises:
        ModelLoadError: the model's configuration cannot be had.
    """
    if not isinstance(name, str):
        return _of_model(name)
    dtype = options.pop("torch_dtype", None) if dtype is None else dtype
    own = {
        key: options.pop(key)
        for key in ("config", "trust_remote_code", "attn_implementation")
        if key in options
    }
    for where in ("device_map", "offload_folder", "max_memory"):
        options.pop(where, None)
    loader = Loader(name, dtype=dtype, revision=revision, options=options, **own)
    return _estimate(loader)


def _of_model(model: Any) -> MemoryEstimate:
    loader = getattr(model, "_loader", None)
    if loader is not None and not model._dispatched:
        return _estimate(loader)
    if not isinstance(getattr(model, "_module", None), nn.Module):
        raise InputError(
            f"estimate_memory takes a name, a folder or a model, and got {type(model).__name__}."
        )
    found = placement_of(model)
    kinds = Counter[str]()
    for kind, size in zip(found.dtypes, found.bytes, strict=True):
        kinds[kind] += int(size)
    return MemoryEstimate(
        model=found.model,
        dtype=kinds.most_common(1)[0][0] if kinds else "no dtype",
        source="the loaded weights themselves",
        parts=found.parts,
        parameters=found.parameters,
        bytes=found.bytes,
        free=_free(),
        provenance=found.provenance,
    )


def _stored_dtype(headers: Headers | None) -> torch.dtype | None:
    name = None if headers is None else headers.dtype
    return None if name is None else getattr(torch, name)


def _estimate(loader: Loader) -> MemoryEstimate:
    headers = headers_of(loader.source, loader.common)
    dtype = loader.dtype_of_weights(_stored_dtype(headers))
    quantised = quantised_by(loader)
    read = "the configuration" if headers is None else f"the configuration and {_files(headers)}"
    tree = loader.tree(dtype)
    if tree is None:
        return _from_headers(loader, headers)
    blocks = find_blocks(tree, loader.config)
    names, counts, sizes = [], [], []
    for part, tensors in parts_of(tree, blocks).items():
        names.append(part)
        counts.append(sum(t.numel() for _, _, t in tensors if isinstance(t, nn.Parameter)))
        sizes.append(sum(_bytes_as(quantised, tree, *row) for row in tensors))
    return MemoryEstimate(
        model=loader.name,
        dtype=quantised.title if quantised else str(dtype).removeprefix("torch."),
        source=read,
        parts=names,
        parameters=np.array(counts, np.int64),
        bytes=np.array(sizes, np.int64),
        free=_free(),
        provenance={"model": loader.name, "revision": getattr(loader.config, "_commit_hash", None)},
    )


def _bytes_as(
    quantised: Quantised | None, tree: nn.Module, path: str, name: str, tensor: torch.Tensor
) -> int:
    if quantised is None or not quantised.takes(tree, path, name):
        return bytes_of(tensor)
    return quantised.bytes_of(tensor)


def _from_headers(loader: Loader, headers: Headers | None) -> MemoryEstimate:
    """Of a model that cannot be made without weights: the files' own sizes."""
    if headers is None:
        raise ModelLoadError(
            f"the size of the model {loader.name!r} is not known before it is loaded: it cannot be made "
            "without weights, and there are no safetensors files to be read."
        )
    sizes: dict[str, int] = {}
    counts: dict[str, int] = {}
    wanted = loader.dtype_of_weights(_stored_dtype(headers))
    for key, size in headers.bytes.items():
        part = re.sub(r"(\.\d+)\..*", r"\1", key)
        part = part if re.search(r"\.\d+$", part) else key.rpartition(".")[0] or key
        count = int(np.prod(headers.shapes[key]))
        size = count * wanted.itemsize if headers.kinds[key] in SAFETENSORS_DTYPES else size
        sizes[part] = sizes.get(part, 0) + size
        counts[part] = counts.get(part, 0) + count
    return MemoryEstimate(
        model=loader.name,
        dtype=str(wanted).removeprefix("torch."),
        source=_files(headers),
        parts=list(sizes),
        parameters=np.array(list(counts.values()), np.int64),
        bytes=np.array(list(sizes.values()), np.int64),
        free=_free(),
        provenance={"model": loader.name},
    )


def _files(headers: Headers) -> str:
    first = headers.files[0]
    return (
        f"the header of {first}" if len(headers.files) == 1 else f"the headers of {len(headers.files)} files"
    )


def _free() -> dict[str, int]:
    places = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        places.append(torch.device("mps"))
    return {str(place): free_bytes(place) for place in (*places, torch.device("cpu"))}


def check_room_for(loader: Loader, tree: nn.Module) -> None:
    """Look whether a model fits before it is loaded.

    Args:
        loader: What will load it.
        tree: The model on the meta device.

    Raises:
        NotEnoughMemoryError: its weights are larger than what is free where they are to go.
    """
    place = loader.options.get("device_map")
    if place is not None and not isinstance(place, (str, torch.device, int)):
        return  # a map by hand: its writer counted
    if place in ("auto", "balanced", "balanced_low_0", "sequential") or loader.options.get(
        "quantization_config"
    ):
        return  # accelerate counts itself, and leaves what does not fit on disk
    if getattr(loader.config, "quantization_config", None):
        return
    device = torch.device("cpu" if place is None else f"cuda:{place}" if isinstance(place, int) else place)
    if device.type not in ("cpu", "cuda", "mps"):
        return
    tensors = [tensor for part in parts_of(tree, ()).values() for _, _, tensor in part]
    wanted, free = sum(map(bytes_of, tensors)), free_bytes(device)
    if wanted <= free:
        return
    dtype = str(next(tree.parameters()).dtype).removeprefix("torch.")
    ways = ['keep a part elsewhere (`device_map="auto", offload_folder="offload"`)']
    if dtype == "float32":
        ways.insert(0, f"load half the bytes (`dtype=torch.bfloat16`: {bytes_text(wanted / 2)})")
    else:
        ways.insert(0, "load fewer bits (`quantization_config=BitsAndBytesConfig(load_in_4bit=True)`)")
    raise NotEnoughMemoryError(
        f"the weights of {loader.name!r} need {bytes_text(wanted)} in {dtype}, and {bytes_text(free)} are "
        f"free on {device}. You can {', or '.join(ways)}. `nbsight.estimate_memory({loader.name!r})` shows "
        "the parts; to try all the same, write `LanguageModel(..., check_memory=False)`."
    )
