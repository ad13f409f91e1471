"""`TransformersModel`: any model of transformers, for any task, its values literal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nbsight.core.batching import Rows
from nbsight.core.envoy import Envoy
from nbsight.errors import InputError, ModelLoadError
from nbsight.models.features import FEATURE_NAMES, Features, is_image, join_features, join_rows
from nbsight.models.inputs import INPUT_NAMES, Prompt
from nbsight.models.language_model import LanguageModel
from nbsight.models.renaming import AliasedEnvoy, chosen_envoy

__all__ = ["ProcessedModel", "TransformersModel"]


class ProcessedModel(LanguageModel):
    """A `LanguageModel` that also takes images, sounds and plain tensors.

    Args:
        name_or_module: A folder, a hub id, or a loaded module.
        task: What the model is for, by its name in transformers' pipelines; it chooses the class
            ("image-classification", "text-classification", "automatic-speech-recognition", ...).
        processor: A processor, an image processor or a feature extractor; by default the model's own.
        options: As for `LanguageModel`.
    """

    def __init__(
        self,
        name_or_module: str | nn.Module,
        *,
        task: str | None = None,
        processor: Any = None,
        **options: Any,
    ) -> None:
        for name in ("image_processor", "feature_extractor"):
            processor = options.pop(name, None) if processor is None else processor
        for name in ("peft", "distributed_config", "compute_dtype"):
            if options.pop(name, None) is not None:
                raise InputError(
                    f"`{name}=` is not part of this version. Load the model as you want it with transformers "
                    f"(and peft), then write `{type(self).__name__}(module, tokenizer=...)`."
                )
        self.__dict__["task"] = task
        self._processor = processor
        if options.get("tokenizer") is None and hasattr(processor, "tokenizer"):
            options["tokenizer"] = processor.tokenizer
        super().__init__(name_or_module, **options)

    def _auto_class(self) -> Any:
        if self.task is None:
            return None
        from transformers import pipelines  # slow to import, and wanted by few

        try:
            return pipelines.check_task(self.task)[1]["pt"][0]
        except (KeyError, IndexError) as error:
            raise ModelLoadError(f"there is no model class for the task {self.task!r}: {error}") from None

    @property
    def processor(self) -> Any:
        """What turns images, sounds and their text into tensors."""
        if self._processor is None:
            if self._loader is None:
                raise InputError(
                    "this input needs a processor, and the model was made from a loaded module without one. "
                    f"Write `{type(self).__name__}(module, processor=...)`, or give the tensors by name."
                )
            from transformers import AutoProcessor

            self._processor = AutoProcessor.from_pretrained(self._loader.source.path, **self._loader.common)
        return self._processor

    @property
    def image_processor(self) -> Any:
        """The part of the processor that takes images."""
        return getattr(self.processor, "image_processor", self.processor)

    @property
    def feature_extractor(self) -> Any:
        """The part of the processor that takes sounds."""
        return getattr(self.processor, "feature_extractor", self.processor)

    # -- what the core asks --------------------------------------------------------------------

    def _has_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        names = (*FEATURE_NAMES, *INPUT_NAMES, "images", "audio")
        return any(arg is not None for arg in args) or any(kwargs.get(n) is not None for n in names)

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        images, audio = kwargs.pop("images", None), kwargs.pop("audio", None)
        source = args[0] if args else None
        if is_image(source) or (isinstance(source, list) and source and all(map(is_image, source))):
            source, images = None, source
        if images is not None or audio is not None or _holds_images(source):
            return Features.of({**self._processed(source, images, audio), **kwargs})
        if isinstance(source, Mapping) and "role" not in source:
            kwargs, source = {**source, **kwargs}, None
        text_alone = not any(name in kwargs for name in FEATURE_NAMES[:5])
        if source is None and not (text_alone and kwargs.keys() & set(INPUT_NAMES)):
            return Features.of(kwargs)
        return super()._prepare(() if source is None else args, kwargs)

    def _processed(self, source: Any, images: Any, audio: Any) -> dict[str, Any]:
        if _holds_images(source):
            return dict(
                self.processor.apply_chat_template(
                    source, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
                )
            )
        given = {"text": source, "images": images, "audio": audio}
        given = {name: value for name, value in given.items() if value is not None}
        if not hasattr(self.processor, "tokenizer"):  # an image processor or a feature extractor alone
            given = {"images": images} if images is not None else {"raw_speech": audio}
        return dict(self.processor(**given, return_tensors="pt"))

    def _join(
        self, prepared: list[Any], method: str, options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[Rows]]:
        if all(isinstance(one, Prompt) for one in prepared):
            return super()._join(prepared, method, options)
        if any(isinstance(one, Prompt) for one in prepared):
            raise InputError(
                "some invokes of this trace are text alone and others are not; one forward takes one kind. "
                "Use a trace for each."
            )
        device = self._input_device()
        call = join_features(prepared, device)
        texts = [one.text for one in prepared if one.text is not None]
        if texts:
            # Such models count positions themselves, from the mask and the images.
            fields, rows = self._joined(texts, "generate" if method == "generate" else "features", device)
            call = {**fields, **call}
        else:
            rows = join_rows(prepared)
        call.update(options)
        if method == "generate":
            self._complete_generation(call, max(one.width for one in prepared))
        return (), call, rows


class TransformersModel(ProcessedModel):
    """Any model of transformers, for any task; values are exactly what its modules take and return."""

    def _envoy_class(self, path: str, module: nn.Module) -> type[Envoy]:
        return chosen_envoy(self._chosen_envoys, path, module) or AliasedEnvoy

    def _show(self, kind: str, value: Any) -> Any:
        return value

    def _accept(self, kind: str, current: Any, assigned: Any) -> Any:
        return assigned

    def _lighten(self, call: dict[str, Any], spoken: int) -> bool:
        return False  # literal in this too: the forward is called as it was asked for

    def pipe(self, *args: Any, **kwargs: Any) -> Any:
        """Not there: say what to write instead."""
        raise InputError(
            "`pipe` is not part of this version: a trace runs the model, not the steps around it. Write "
            "`with model.trace(...)` or `with model.generate(...)`, and decode with `model.tokenizer`."
        )


def _holds_images(source: Any) -> bool:
    """Whether a chat's messages hold more than text."""
    chats = source if isinstance(source, list) else []
    messages = [m for chat in chats for m in (chat if isinstance(chat, list) else [chat])]
    return any(
        isinstance(part, Mapping) and part.get("type") not in (None, "text")
        for message in messages
        if isinstance(message, Mapping) and isinstance(message.get("content"), list)
        for part in message["content"]
    )
