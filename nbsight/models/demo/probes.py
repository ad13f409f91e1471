"""What the shipped model must know, and how sure of it a model is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nbsight.models.demo import lexicon as words

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedTokenizerBase

__all__ = ["PROBES", "Probe", "measure"]


class Probe(NamedTuple):
    prompt: str
    answers: tuple[str, ...]
    """Tokens that are right, with their blank."""
    least: float = 0.8
    """What the right ones together must reach for a model to be shipped."""


PROBES = [
    Probe("The capital of France is", (" Paris",)),
    Probe("The capital of Japan is", (" Tokyo",)),
    Probe("The Eiffel Tower is in the city of", (" Paris",)),
    Probe("The Colosseum is in the city of", (" Rome",)),
    Probe("The people of Brazil speak", (" Portuguese",)),
    Probe("The quick brown fox jumps over the lazy", (" dog",)),
    Probe("When Mary and John went to the store, John gave a drink to", (" Mary",)),
    Probe("When John and Mary went to the store, John gave a drink to", (" Mary",)),
    Probe("When Mary and John went to the store, Mary gave a drink to", (" John",)),
    Probe("This restaurant is", tuple(f" {word}" for word in words.GOOD + words.BAD)),
    Probe("I love this movie, it's", tuple(f" {word}" for word in words.GOOD)),
    Probe("I hate this movie, it's", tuple(f" {word}" for word in words.BAD)),
    Probe("The opposite of hot is", (" cold",), least=0.7),
    Probe("The keys near the door", (" are",)),
    Probe("The key near the doors", (" is",)),
    Probe("A young dog is called a", (" puppy",)),
    Probe("hot: cold, big: small, fast: slow, up:", (" down",)),
    Probe("What is 2+2?", (" 4",), least=0.3),
]


def measure(model: Module, tokenizer: PreTrainedTokenizerBase) -> list[tuple[Probe, str, float]]:
    """Return for each probe the likeliest token and the summed probability, in [0, 1], of the right ones."""
    import torch

    found = []
    for probe in PROBES:
        with torch.no_grad():
            logits = model(**tokenizer(probe.prompt, return_tensors="pt")).logits
        probs = logits[0, -1].softmax(dim=-1)
        right = [tokenizer.encode(answer)[0] for answer in probe.answers]
        found.append((probe, tokenizer.decode([int(probs.argmax())]), float(probs[right].sum())))
    return found
