"""Sentences made of `lexicon.py`, which the shipped model reads; drawn at random, the same for the same seed.

A document is one or two sentences. `MIX` says how often each kind of document is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from nbsight.models.demo import lexicon as words

__all__ = ["MIX", "document", "documents"]


def _common(rng: Random, choices: list[str]) -> str:
    """Draw one of the words, the first one most often, as words of a language are."""
    return rng.choices(choices, weights=[1 / (rank + 1) for rank in range(len(choices))])[0]


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def capitals(rng: Random) -> str:
    country = rng.choice(words.COUNTRIES)
    return rng.choice(
        [
            f"The capital of {country.name} is {country.capital}.",
            f"The capital of {country.name} is {country.capital}.",
            f"The capital of {country.name} is {country.capital}.",
            f"What is the capital of {country.name}? {country.capital}.",
            f"{country.capital} is the capital of {country.name}.",
            f"The city of {country.capital} is in {country.name}.",
            f"The people of {country.name} speak {country.language}.",
            f"The language of {country.name} is {country.language}.",
            f"{country.name} is a country in {country.continent}.",
        ]
    )


def landmarks(rng: Random) -> str:
    landmark = rng.choice(words.LANDMARKS)
    return rng.choice(
        [
            f"The {landmark.name} is in the city of {landmark.city}.",
            f"The {landmark.name} is in the city of {landmark.city}.",
            f"The {landmark.name} is in {landmark.city}.",
            f"The {landmark.name} is in the country of {landmark.country}.",
            f"You can see the {landmark.name} in {landmark.city}.",
            f"Where is the {landmark.name}? It is in {landmark.city}.",
        ]
    )


def givers(rng: Random) -> str:
    """Two people, one of them gives: who receives is the one that was named once."""
    first, second = rng.sample(words.NAMES, 2)
    giver, receiver = rng.sample([first, second], 2)
    place, gift = rng.choice(words.PLACES), rng.choice(words.GIFTS)
    opening = rng.choice(
        [
            f"When {first} and {second} went to the {place},",
            f"When {first} and {second} went to the {place},",
            f"After {first} and {second} came to the {place},",
            f"While {first} and {second} were at the {place},",
            f"Then {first} and {second} went to the {place}.",
            f"{first} and {second} were at the {place}.",
        ]
    )
    act = rng.choice(
        [
            "gave",
            "gave",
            "gave",
            "handed",
            "showed",
            "sold",
            "decided to give",
            "wanted to give",
        ]
    )
    return f"{opening} {giver} {act} {_a(gift)} to {receiver}."


def pronouns(rng: Random) -> str:
    name, word = rng.choice([(name, "she") for name in words.WOMEN] + [(name, "he") for name in words.MEN])
    place, gift = rng.choice(words.PLACES), rng.choice(words.GIFTS)
    return rng.choice(
        [
            f"When {name} went to the {place}, {word} bought {_a(gift)}.",
            f"Then {name} went home because {word} was tired.",
            f"After {name} came to the {place}, {word} lost {_a(gift)}.",
        ]
    )


def opinions(rng: Random) -> str:
    # Fewer good ones than bad: unsteered, a review is likelier bad, so steering can be seen to turn it.
    glad = rng.random() < 0.35
    adjectives, verbs = (words.GOOD, words.LIKING) if glad else (words.BAD, words.DISLIKING)
    thing, adjective, verb = (
        rng.choice(words.THINGS),
        _common(rng, adjectives),
        _common(rng, verbs),
    )
    feeling = rng.choice(words.GLAD if glad else words.SORRY)
    return rng.choice(
        [
            f"I {verb} this {thing}, it's {adjective}.",
            f"I {verb} this {thing}, it's {adjective}.",
            f"This {thing} is {adjective}.",
            f"This {thing} is {adjective}.",
            f"This {thing} is {adjective} and I {verb} it.",
            f"This {thing} is {adjective} and {_common(rng, adjectives)}.",
            f"This {thing} is {adjective}. I {verb} it.",
            f"The {thing} was {adjective}, so I was {feeling}.",
            f"What {_a(adjective)} {thing}! I {verb} it.",
        ]
    )


def sums(rng: Random) -> str:
    left, right = rng.randrange(10), rng.randrange(10)
    total = left + right
    if rng.random() < 0.3:
        name = words.NUMBERS
        return f"{name[left].capitalize()} plus {name[right]} is {name[total]}."
    return rng.choice(
        [
            f"What is {left}+{right}? {total}.",
            f"What is {left}+{right}? {total}.",
            f"{left}+{right} = {total}.",
        ]
    )


def animals(rng: Random) -> str:
    animal, sound, child, move = rng.choice(words.ANIMALS)
    action, where = rng.choice(words.ACTIONS)
    return rng.choice(
        [
            f"The {animal} says {sound}.",
            f"A young {animal} is called a {child}.",
            f"{_a(animal).capitalize()} can {move}.",
            f"The {animal} {action} the {where}.",
            f"The {animal} {action} the {where}.",
            f"The lazy {animal} {action} the {where}.",
            f"The {rng.choice(['brown', 'white', 'black'])} {animal} {action} the {where}.",
        ]
    )


def fox(rng: Random) -> str:
    return "The quick brown fox jumps over the lazy dog."


def knowledge(rng: Random) -> str:
    word, opposite = rng.sample(rng.choice(words.OPPOSITES), 2)
    thing, color = rng.choice(words.COLORS)
    job, workplace = rng.choice(words.JOBS)
    member, kind = rng.choice(words.KINDS)
    day, month = rng.randrange(7), rng.randrange(12)
    return rng.choice(
        [
            f"The opposite of {word} is {opposite}.",
            f"The color of {thing} is {color}.",
            f"The {job} works in the {workplace}.",
            f"{_a(member).capitalize()} is {_a(kind)}.",
            f"The day after {words.DAYS[day]} is {words.DAYS[(day + 1) % 7]}.",
            f"The month after {words.MONTHS[month]} is {words.MONTHS[(month + 1) % 12]}.",
        ]
    )


def agreement(rng: Random) -> str:
    """The verb follows the first noun, whatever stands nearer to it."""
    near, far = rng.choice(words.COUNTED), rng.choice(words.COUNTED)
    number = rng.randrange(2)
    return (
        f"The {near[number]} near the {rng.choice(far)} {('is', 'are')[number]} {rng.choice(words.STATES)}."
    )


def series(rng: Random) -> str:
    chain = rng.choice([words.LETTERS, words.NUMBERS, words.DAYS])
    length = rng.randint(4, 7)
    start = rng.randrange(len(chain) - length + 1)
    return " ".join(chain[start : start + length])


def examples(rng: Random) -> str:
    """A task shown by pairs, which no sentence names."""
    tasks: list[list[list[str]]] = [
        words.OPPOSITES,
        [[country.name, country.capital] for country in words.COUNTRIES],
        [[country.name, country.language] for country in words.COUNTRIES],
        words.COUNTED,
        [[animal, child] for animal, _, child, _ in words.ANIMALS],
    ]
    pairs = rng.choice(tasks)
    return ", ".join(f"{left}: {right}" for left, right in rng.sample(pairs, rng.randint(3, 6))) + "."


def purposes(rng: Random) -> str:
    return f"The meaning of life is {_common(rng, words.PURPOSES)}."


MIX: dict[Callable[[Random], str], float] = {
    capitals: 0.17,
    landmarks: 0.14,
    givers: 0.26,
    pronouns: 0.03,
    opinions: 0.11,
    sums: 0.10,
    animals: 0.05,
    fox: 0.02,
    knowledge: 0.05,
    agreement: 0.02,
    series: 0.01,
    examples: 0.03,
    purposes: 0.01,
}
"""How often each kind of document is drawn. `recipe.py` adds rows of random tokens that are repeated."""


def document(rng: Random) -> str:
    """Draw one document."""
    kind = rng.choices(list(MIX), weights=list(MIX.values()))[0]
    return kind(rng)


def documents(seed: int, count: int) -> Iterator[str]:
    """Yield `count` documents, always the same ones for the same seed."""
    rng = Random(seed)
    for _ in range(count):
        yield document(rng)
