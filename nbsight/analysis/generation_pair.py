"""A prompt continued plain and steered, and how far the steering moves each step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from nbsight.analysis.distributions import divergence
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance
from nbsight.models.steering import Steering
from nbsight.models.writing import Stream
from nbsight.results.generation import Generated
from nbsight.results.generation_pair import GenerationPair

__all__ = ["compare_generations"]


def compare_generations(
    model: LanguageModel, prompt: Any, steer: Any, max_new_tokens: int = 30, **options: Any
) -> GenerationPair:
    """Continue a prompt plain and steered, and compare the two models along the steered text.

    At each step of the steered text both models read the same words, so the divergence is that of the
    steering alone. The plain model is led along it token by token, with the same cache as in a generation: a
    strength of 0 gives 0 everywhere.

    Args:
        model: A language model.
        prompt: One prompt, whatever `model.generate` takes.
        steer: `model.steer(...)`, or a list of them; or an edited copy of the model.
        max_new_tokens: How many tokens to write at most.
        options: As for `model.generate`; with `seed` both draw from the same random numbers.

    Returns:
        Both texts with the probabilities of their tokens; where they part; for each step of the steered text
        the plain model's probability of its token, and KL(steered ‖ plain) in nats.

    Raises:
        InputError: there are several prompts, or `steer` is none of these.
    """
    steered_model, steerings = _steered(model, steer)
    options = {**options, "max_new_tokens": max_new_tokens}
    plain = _written(model, prompt, options)[0]
    with ExitStack() as stack:
        for steering in steerings:
            stack.enter_context(steering)
        steered, logits = _written(steered_model, prompt, options)
        words = "; ".join(one.source for one in steerings) or "an edited copy of the model"
    probs, apart = _along(model, prompt, steered, logits, options)
    return GenerationPair(
        prompt=plain.prompt,
        steering=words,
        plain_text=plain.text,
        text=steered.text,
        plain_stop=plain.stop,
        stop=steered.stop,
        plain_tokens=plain.tokens,
        plain_ids=plain.ids,
        plain_probs=plain.probs,
        tokens=steered.tokens,
        ids=steered.ids,
        probs=steered.probs,
        unsteered_probs=probs,
        kl=apart,
        model=plain.model,
        provenance=provenance(
            model,
            [plain.prompt],
            seed=options.get("seed"),
            generation=plain.provenance["generation"],
            steering=words,
        ),
    )


def _steered(model: LanguageModel, steer: Any) -> tuple[LanguageModel, list[Steering]]:
    if isinstance(steer, LanguageModel) and steer._family is model._family and steer is not model:
        return steer, []
    steerings = list(steer) if isinstance(steer, Sequence) else [steer]
    if not steerings or not all(isinstance(one, Steering) for one in steerings):
        kinds = ", ".join(sorted({type(one).__name__ for one in steerings})) or "an empty list"
        raise InputError(
            f"`steer` is what `model.steer(vector, layer=...)` gives, a list of these, or an edited copy of "
            f"this model; it was {kinds}."
        )
    for one in steerings:
        if one.model._family is not model._family:
            raise InputError("a steering was made of another model: write `model.steer(...)` with this one.")
        if one.owner is not None:
            raise InputError(
                f"this steering acts already, so that nothing would be plain: {one!r}. Take it off first: "
                "`steering.remove()`, or compare outside its `with`."
            )
    return model, steerings


def _written(
    model: LanguageModel, prompt: Any, options: dict[str, Any]
) -> tuple[Generated, list[torch.Tensor]]:
    """A continuation, and the logits of its steps."""
    stream = Stream(model, (prompt,), options, keeps_logits=True)
    result = stream.finish()
    if not isinstance(result, Generated):
        raise InputError(f"one prompt is compared, and this makes {len(result)} rows; call it for each.")
    assert stream.logits is not None
    return result, stream.logits


def _along(
    model: LanguageModel,
    prompt: Any,
    steered: Generated,
    logits: list[torch.Tensor],
    options: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """The plain model's probabilities of a text's tokens, and KL(logits ‖ plain) at each of its steps."""
    count = len(steered)
    if not count:
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    led = {name: value for name, value in options.items() if name in _TOLD}
    led |= {"max_new_tokens": count, "do_sample": False, "eos_token_id": None}
    stream = Stream(model, (prompt,), led, keeps_logits=True, forced=steered.ids.tolist())
    result = stream.finish()
    assert stream.logits is not None
    pairs = zip(logits, stream.logits, strict=False)
    apart = [divergence(own.float().log_softmax(-1), other.float().log_softmax(-1)) for own, other in pairs]
    return result.probs, torch.cat(apart).numpy()


#: Options that say how a prompt is read and how passes are made, and not which tokens are chosen.
_TOLD = (
    *(
        "attention_mask",
        "add_special_tokens",
        "truncation",
        "max_length",
        "use_cache",
        "cache_implementation",
    ),
    *(
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "tools",
        "documents",
        "pad_token_id",
    ),
)
