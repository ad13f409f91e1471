"""What `LanguageModel` gains for people who want text: results and streams of `generate`, and steering."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from nbsight.core.capture import enters_a_block
from nbsight.core.tracer import Tracer
from nbsight.errors import InputError
from nbsight.models.steering import Steering
from nbsight.models.writing import ALTERNATIVES, Stream

__all__ = ["Generates"]


class Generates:
    """What a model gains for writing; mixed into `LanguageModel`."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate: text with probabilities, a block that looks inside, or the ids alone.

            result = model.generate("Once upon a time", 20)        # text, tokens, probabilities
            for token in model.generate("Once upon a time", 20, stream=True): ...
            with model.generate("Once upon a time", 20) as tracer: ...
            ids = model.generate("Once upon a time", max_new_tokens=20)

        The second argument, the number of tokens, is what asks for a result where there is no `with`;
        `stream=` and `alternatives=` do too. Without them, what transformers' `generate` returns is returned.

        Args:
            args: The prompt, and how many tokens to write at most. Without a prompt, the block holds
                `tracer.invoke(...)` blocks.
            kwargs: As for `trace`. `stream` (give the tokens one by one), `alternatives` (how many of the
                likeliest tokens to keep of each step, 5), `on_token` (called with each token as soon as it is
                chosen), `seed` (sampling as after `torch.manual_seed(seed)`, without touching the random
                numbers of the block). The rest goes to the model's own `generate`: `do_sample=True`,
                `temperature=0.7`, `stop_strings=...`.

        Returns:
            A tracer in a `with` statement; `Generated` for one prompt and `Generations` for several; a
            `Stream`; or what the model's own `generate` returns.

        Raises:
            InputError: the prompt or an option cannot be used.
        """
        is_block = enters_a_block(sys._getframe(1))
        args, kwargs, is_counted = _counted(args, kwargs)
        is_asked = is_counted or "stream" in kwargs or "alternatives" in kwargs
        is_stream, alternatives = kwargs.pop("stream", False), kwargs.pop("alternatives", None)
        if is_block and not is_stream and alternatives is not None:
            raise InputError(
                "`alternatives=` is for a result, and a block has none: read the logits in it. Leave it out, "
                "or write it without `with`."
            )
        if not is_stream and (is_block or not is_asked):
            tracer = Tracer(self, "generate", args, kwargs)  # type: ignore[arg-type]
            return tracer if is_block else tracer.run_through()
        if kwargs.get("max_new_tokens") is None:
            raise InputError(
                "how many tokens? Give the most that may be written beside the prompt: "
                f"`model.generate(prompt, 50{', stream=True' if is_stream else ''})`."
            )
        kept = ALTERNATIVES if alternatives is None else alternatives
        stream = Stream(self, args, kwargs, alternatives=kept)  # type: ignore[arg-type]
        return stream if is_stream else stream.finish()

    def steer(
        self,
        vector: Any,
        *,
        layer: int | Sequence[int],
        strength: float = 1.0,
        positions: Any = "all",
        name: str = "resid_post",
        inplace: bool = False,
    ) -> Steering:
        """Add a direction to the residual stream: `with model.steer(vector, layer=6, strength=4): ...`.

        Args:
            vector: The direction, (d_model,), or one for each layer, (layer, d_model).
            layer: A layer, or several; negative ones count from the end.
            strength: How many times the vector is added.
            positions: "all", "prompt", "generated", "last" (the last of the prompt and all that follow), or
                positions of the prompt, counted from its own first token: a number, a slice or a list.
            name: Where it is added: `resid_pre`, `resid_mid`, `resid_post`, `attn_out` or `mlp_out`.
            inplace: Whether it acts from now on, as a kept edit, until `remove()`.

        Returns:
            The steering: a context in which every run of the model is steered, and an entry of
            `model.edits` while it acts.

        Raises:
            InputError: the vector does not fit the model, or the model's dtype does not hold it.
            PathError: there is no such layer.
            UnknownArchitectureError: the standard names are not known for this model.

        Source: Turner et al., "Activation addition", 2023; Rimsky et al., "Steering Llama 2 via contrastive
            activation addition", 2023.
        """
        steering = Steering(self, vector, layer, strength, positions, name)  # type: ignore[arg-type]
        return steering.keep() if inplace else steering


def _counted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], bool]:
    """The arguments with the number of tokens under its name, and whether it stood beside the prompt."""
    if len(args) != 2 or isinstance(args[1], bool) or not isinstance(args[1], int):
        return args, kwargs, False
    if kwargs.get("max_new_tokens") is not None:
        raise InputError(
            f"the number of tokens was given twice: {args[1]} beside the prompt, and "
            f"`max_new_tokens={kwargs['max_new_tokens']}`. Give one of them."
        )
    return args[:1], {**kwargs, "max_new_tokens": args[1]}, True
