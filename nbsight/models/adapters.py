"""LoRA and other adapters of peft: put in when the weights are loaded, and refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import hf_hub_download
from torch import nn

from nbsight.errors import ModelLoadError
from nbsight.models.headers import header_of

__all__ = ["check_adapter", "put_in"]

FILES = ("adapter_config.json", "adapter_model.safetensors")


def check_adapter(name: str, module: nn.Module, model: str) -> None:
    """Compare an adapter's tensors with the modules that it is for; reads its headers only.

    Args:
        name: A folder or a hub id.
        module: The model, with or without weights.
        model: What the model is called.

    Raises:
        ModelLoadError: there is no such adapter, or it is for another model.
    """
    config, weights = (_file(name, file) for file in FILES)
    if config is None:
        raise ModelLoadError(
            f"there is no adapter at {name!r}: no {FILES[0]}. Give the folder that peft's "
            "`model.save_pretrained(folder)` wrote, or a hub id."
        )
    base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    for key, (_, shape, _) in (header_of(weights) if weights is not None else {}).items():
        path, _, side = key.removeprefix("base_model.model.").rpartition(".lora_")
        if not path or side[:1] not in ("A", "B") or len(shape) != 2:
            continue  # other kinds of adapters are peft's to check
        said = _misfit(module, path, side[0], shape)
        if said:
            raise ModelLoadError(
                f"the adapter {name!r} does not fit the model {model!r}: {said}. "
                + (
                    f"It was made for {base!r}: load that, or"
                    if base
                    else "Load the model it was made for, or"
                )
                + " give an adapter of this one."
            )


def _misfit(module: nn.Module, path: str, side: str, shape: tuple[int, ...]) -> str | None:
    """Why one matrix of an adapter does not fit; None if it does."""
    try:
        target = module.get_submodule(path)
    except AttributeError:
        return f"it is for `{path}`, which this model does not have"
    taken, given = _widths(target)
    if side == "A" and taken is not None and shape[1] != taken:
        return f"its `{path}` takes vectors of {shape[1]}, and the one of this model of {taken}"
    if side == "B" and given is not None and shape[0] != given:
        return f"its `{path}` gives vectors of {shape[0]}, and the one of this model of {given}"
    return None


def _widths(module: nn.Module) -> tuple[int | None, int | None]:
    """What a linear map takes and gives; None for other modules."""
    if type(module).__name__ == "Conv1D":
        return int(module.nx), int(module.nf)
    if isinstance(module, nn.Linear):  # quantised ones too, whose matrix has another shape
        return module.in_features, module.out_features
    return None, None


def put_in(module: nn.Module, name: str, model: str) -> None:
    """Put an adapter into a loaded model, by transformers and peft.

    Raises:
        ModelLoadError: peft is missing, or it cannot use the adapter.
    """
    try:
        module.load_adapter(name)
    except ImportError as error:
        raise ModelLoadError(
            f"to load the adapter {name!r} peft is needed ({error}): `pip install peft`."
        ) from None
    except (AttributeError, KeyError, OSError, RuntimeError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelLoadError(f"the adapter {name!r} cannot be put into {model!r}: {first}") from error


def _file(name: str, file: str) -> Path | None:
    """A file of an adapter, in a folder or on the hub; None if there is none."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    try:
        return Path(hf_hub_download(name, file))
    except Exception:  # the hub's errors depend on the release of its library: it is not to be had
        return None
