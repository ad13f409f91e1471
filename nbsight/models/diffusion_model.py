"""`DiffusionModel`: a pipeline of the diffusers library, its models as envoys.

nbsight does not depend on diffusers. A pipeline that is loaded already needs nothing more; loading one by
name needs the library.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

import torch
from torch import nn

from nbsight.core.batching import Rows
from nbsight.core.capture import enters_a_block
from nbsight.core.tracer import Tracer
from nbsight.errors import InputError, ModelLoadError
from nbsight.models.wrapped import NNsight

__all__ = ["DiffusionModel"]

INPUTS = ("prompt", "prompt_embeds", "image", "batch_size", "class_labels")

DENOISERS = ("unet", "transformer", "prior", "decoder")
"""What pipelines call the model that is run once a step."""


class _Pipeline(nn.Module):
    """A pipeline as a module: its models are the children, calling it runs the whole pipeline."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        self.pipeline = pipeline
        for name, part in pipeline.components.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.pipeline(*args, **kwargs)

    generate = forward


class DiffusionModel(NNsight):
    """A diffusion pipeline whose models can be read and changed while it draws.

        model = DiffusionModel("stabilityai/sd-turbo")
        with model.generate("a cat", num_inference_steps=4, seed=0) as tracer:
            for step in tracer.iter[:]:
                noise = model.unet.output[0]
            image = tracer.result.images[0]

    A trace does one step of denoising unless told otherwise; the steps of `generate` are the calls of the
    UNet (or transformer). With classifier-free guidance, the UNet works on twice the rows (first those
    without the prompt).

    Args:
        name_or_pipeline: A hub id or folder (needs diffusers), or a loaded pipeline.
        automodel: The pipeline's class; by default `diffusers.DiffusionPipeline`.
        rename: Other names for modules.
        envoys: Classes for the envoys of some modules.
        load_kwargs: What `from_pretrained` takes.

    Raises:
        ModelLoadError: diffusers is not installed, or the pipeline cannot be had.
    """

    def __init__(
        self,
        name_or_pipeline: Any,
        *,
        automodel: Any = None,
        rename: Any = None,
        envoys: Any = None,
        dispatch: bool = True,
        **load_kwargs: Any,
    ) -> None:
        pipeline = name_or_pipeline
        if isinstance(pipeline, str):
            pipeline = _load(pipeline, automodel, load_kwargs)
        if not callable(pipeline) or not isinstance(getattr(pipeline, "components", None), dict):
            raise InputError(
                f"DiffusionModel takes a name or a diffusers pipeline and got {type(pipeline).__name__}; for "
                "a UNet alone write `nbsight.wrap(unet)`."
            )
        module = _Pipeline(pipeline)
        module.train(False)
        super().__init__(module, rename=rename, envoys=envoys)

    @property
    def tokenizer(self) -> Any:
        """The pipeline's tokenizer, or None."""
        return self._module.pipeline.components.get("tokenizer")

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Draw: `with model.generate(prompt, num_inference_steps=20) as tracer: ...`.

        Without `num_inference_steps` it takes as many steps as the pipeline does by itself. Without a `with`
        statement it runs at once and returns what the pipeline returns.
        """
        tracer = Tracer(self, "generate", args, kwargs)
        return tracer if enters_a_block(sys._getframe(1)) else tracer.run_through()

    # -- what the core asks --------------------------------------------------------------------

    def _stepping(self, method: str) -> nn.Module:
        parts = self._module._modules
        found = next((parts[name] for name in DENOISERS if name in parts), None)
        return self._module if found is None or method == "forward" else found

    def _has_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return bool(args) or any(kwargs.get(name) is not None for name in INPUTS)

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) > 1:
            raise InputError(f"a trace takes one prompt, or a list of them, and got {len(args)} arguments.")
        return args, kwargs

    def _join(
        self, prepared: list[Any], method: str, options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[Rows]]:
        args, kwargs = prepared[0]
        if len(prepared) > 1:
            args = (self._prompts(prepared, options),)
        call: dict[str, Any] = {**kwargs, **options}
        if method == "forward":
            call.setdefault("num_inference_steps", 1)
        seed = call.pop("seed", None)
        if seed is not None:
            call["generator"] = torch.Generator().manual_seed(seed)
        rows, each = [], call.get("num_images_per_prompt", 1)
        sizes = [len(a[0]) * each if a and isinstance(a[0], list) else each for a, _ in prepared]
        for place, size in enumerate(sizes):
            rows.append(Rows(sum(sizes[:place]), size, sum(sizes)))
        return args, call, rows

    def _prompts(self, prepared: list[Any], options: dict[str, Any]) -> list[str]:
        """The prompts of several invokes, for one run of the pipeline."""
        if any(kwargs or not args for args, kwargs in prepared):
            raise InputError(
                "several invokes of a pipeline differ in their prompts alone; give everything else to "
                "`model.generate(...)` itself."
            )
        parameter = inspect.signature(type(self._module.pipeline).__call__).parameters.get("guidance_scale")
        if parameter is not None and options.get("guidance_scale", parameter.default) > 1:
            raise InputError(
                "with classifier-free guidance the UNet works on twice the rows, and invokes cannot tell "
                "whose they are. Give `guidance_scale=1`, or use a trace for each prompt."
            )
        lists = [args[0] if isinstance(args[0], list) else [args[0]] for args, _ in prepared]
        return [prompt for prompts in lists for prompt in prompts]


def _load(name: str, automodel: Any, kwargs: dict[str, Any]) -> Any:
    if automodel is None:
        try:
            # An optional dependency, so nothing here may need it at import.
            automodel = importlib.import_module("diffusers").DiffusionPipeline
        except ImportError as error:
            raise ModelLoadError(
                f"to load the pipeline {name!r} by name, the diffusers library is needed ({error}): "
                "`pip install nbsight[diffusion]`. A pipeline that is loaded already can be given instead."
            ) from None
    try:
        return automodel.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"the pipeline {name!r} cannot be loaded: {error}") from error
