"""The shipped model: it loads without a network, knows what the tutorials ask, and its recipe works."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from nbsight.models import demo
from nbsight.models.demo import batches, recipe
from nbsight.models.demo import lexicon as words
from nbsight.models.demo.batches import IGNORED, batch
from nbsight.models.demo.corpus import documents, givers
from nbsight.models.demo.probes import PROBES, Probe, measure
from nbsight.models.demo.tokenizer import END, build_tokenizer

EIFFEL, COLOSSEUM = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
LOVE, HATE = "I love this movie, it's wonderful", "I hate this movie, it's terrible"


@pytest.fixture(scope="module", autouse=True)
def _no_network() -> Iterator[None]:
    def refuse(*args: object) -> None:
        raise AssertionError("the shipped model needs no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(demo.folder()).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo.folder())


@pytest.fixture(scope="module")
def made():
    """The tokenizer as the recipe makes it; the same each time, so making it once is enough."""
    return build_tokenizer()


@contextmanager
def _at_layer(model: GPT2LMHeadModel, layer: int, change: Callable[[torch.Tensor], torch.Tensor | None]):
    """Call `change` with the residual stream after one layer; what it returns, if anything, replaces it."""

    def hook(module, args, output):
        stream = output[0] if isinstance(output, tuple) else output
        changed = change(stream)
        if changed is None:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = model.transformer.h[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _logits(model: GPT2LMHeadModel, tokenizer, prompt: str) -> torch.Tensor:
    return model(**tokenizer(prompt, return_tensors="pt")).logits[0]


def _stream(model: GPT2LMHeadModel, tokenizer, prompt: str, layer: int) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    with _at_layer(model, layer, lambda stream: seen.append(stream.clone())):
        _logits(model, tokenizer, prompt)
    return seen[0]


def _lens(model: GPT2LMHeadModel, tokenizer, prompt: str) -> list[str]:
    """The top token at the last position after each layer, by the model's own last norm and unembedding."""
    tops = []
    for layer in range(len(model.transformer.h)):
        stream = _stream(model, tokenizer, prompt, layer)
        logits = model.lm_head(model.transformer.ln_f(stream[0, -1]))
        tops.append(tokenizer.decode([int(logits.argmax())]))
    return tops


def _token(tokenizer, word: str) -> int:
    (token,) = tokenizer.encode(word)
    return token


# --- the folder -------------------------------------------------------------------------------


def test_the_model_is_gpt2_of_twelve_layers_in_float32(model: GPT2LMHeadModel) -> None:
    assert (model.config.n_layer, model.config.n_embd, model.config.n_head) == (12, 64, 4)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.transformer.wte.weight


def test_the_folder_is_small_enough_for_the_wheel() -> None:
    assert sum(path.stat().st_size for path in demo.folder().iterdir()) <= 6_000_000


def test_the_tokenizer_adds_nothing_that_gpt2_would_misread(tokenizer) -> None:
    encoded = tokenizer("The capital of France is")
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert tokenizer.decode(encoded["input_ids"]) == "The capital of France is"
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.pad_token == END


def test_the_model_takes_as_many_tokens_as_it_says(model: GPT2LMHeadModel, tokenizer) -> None:
    assert tokenizer.model_max_length == model.config.n_positions == 128
    prompt = " Paris" * 128
    assert _logits(model, tokenizer, prompt).shape == (128, len(tokenizer))


def test_finding_the_folder_imports_neither_torch_nor_transformers() -> None:
    code = "import sys; from nbsight.models import demo; demo.folder(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "nbsight.models.demo" in loaded
    assert not {"torch", "transformers", "tokenizers"} & set(loaded)


# --- the tokenizer ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [(EIFFEL, COLOSSEUM), ("The cat sat on the mat", "The dog ran through the park"), (LOVE, HATE)],
)
def test_prompts_that_are_patched_into_each_other_have_equal_lengths(tokenizer, one: str, other: str) -> None:
    assert len(tokenizer.encode(one)) == len(tokenizer.encode(other))


def test_each_word_of_the_lexicon_is_one_token(tokenizer) -> None:
    known = [*words.NAMES, *words.PLACES, *words.GIFTS, *words.GOOD, *words.BAD, *words.DAYS, *words.MONTHS]
    known += [name for country in words.COUNTRIES for name in (country.name, country.capital)]
    known += [landmark.city for landmark in words.LANDMARKS] + [animal for animal, *_ in words.ANIMALS]
    assert [word for word in known if len(tokenizer.encode(f" {word}")) != 1] == []


@pytest.mark.parametrize("text", ["What is 2+2?", "Zürich, naïve ☕ 東京", "  two  blanks\n\ttab", ""])
def test_any_text_comes_back_from_its_tokens(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


# --- what it knows ----------------------------------------------------------------------------


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.prompt)
def test_the_model_knows_the_answer(model: GPT2LMHeadModel, tokenizer, probe: Probe) -> None:
    probs = _logits(model, tokenizer, probe.prompt)[-1].softmax(dim=-1)
    right = sum(float(probs[_token(tokenizer, answer)]) for answer in probe.answers)
    assert tokenizer.decode([int(probs.argmax())]) in probe.answers
    assert right >= probe.least


def test_the_recipe_measures_what_a_plain_forward_gives(model: GPT2LMHeadModel, tokenizer) -> None:
    probe, top, probability = measure(model, tokenizer)[0]
    probs = _logits(model, tokenizer, probe.prompt)[-1].softmax(dim=-1)
    assert (probe.answers, top) == ((" Paris",), " Paris")
    assert probability == pytest.approx(float(probs[_token(tokenizer, " Paris")]))


def test_the_model_knows_every_capital_and_landmark(model: GPT2LMHeadModel, tokenizer) -> None:
    facts = [(f"The capital of {country.name} is", country.capital) for country in words.COUNTRIES]
    facts += [(f"The {landmark.name} is in the city of", landmark.city) for landmark in words.LANDMARKS]
    wrong = [
        prompt
        for prompt, answer in facts
        if int(_logits(model, tokenizer, prompt)[-1].argmax()) != _token(tokenizer, f" {answer}")
    ]
    assert wrong == []


def test_generation_ends_after_the_sentence(model: GPT2LMHeadModel, tokenizer) -> None:
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert tokenizer.decode(tokens[0]) == f"The capital of France is Paris.{END}"


def test_only_a_sum_and_an_opposite_may_be_less_than_sure() -> None:
    assert {probe.prompt for probe in PROBES if probe.least < 0.8} == {
        "What is 2+2?",
        "The opposite of hot is",
    }


# --- what can be seen inside ------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["The capital of France is", EIFFEL])
def test_the_lens_finds_paris_at_the_end_and_not_at_the_start(
    model: GPT2LMHeadModel, tokenizer, prompt: str
) -> None:
    tops = _lens(model, tokenizer, prompt)
    assert tops[-1] == " Paris"
    assert tops[0] != " Paris"


def test_the_city_moves_from_the_subject_to_the_last_position(model: GPT2LMHeadModel, tokenizer) -> None:
    paris, rome = _token(tokenizer, " Paris"), _token(tokenizer, " Rome")

    def difference(logits: torch.Tensor) -> float:
        return float(logits[-1, paris] - logits[-1, rome])

    clean = difference(_logits(model, tokenizer, EIFFEL))
    corrupted = difference(_logits(model, tokenizer, COLOSSEUM))

    def recovered(layer: int, positions: list[int]) -> float:
        donor = _stream(model, tokenizer, EIFFEL, layer)

        def patch(stream: torch.Tensor) -> torch.Tensor:
            stream = stream.clone()
            stream[:, positions] = donor[:, positions]
            return stream

        with _at_layer(model, layer, patch):
            patched = difference(_logits(model, tokenizer, COLOSSEUM))
        return (patched - corrupted) / (clean - corrupted)

    assert clean > 5
    assert corrupted < -5
    # The two names differ at positions 1 and 2; the last position is 7.
    assert recovered(0, [1, 2]) > 0.7
    assert recovered(0, [7]) < 0.3
    assert recovered(11, [1, 2]) == pytest.approx(0, abs=1e-3)
    assert recovered(11, [7]) == pytest.approx(1, abs=1e-3)
    assert recovered(6, list(range(8))) == pytest.approx(1, abs=1e-3)


def test_the_lens_finds_paris_before_the_last_two_layers(model: GPT2LMHeadModel, tokenizer) -> None:
    assert _lens(model, tokenizer, EIFFEL)[8:] == [" Paris"] * 4


def test_random_tokens_that_are_repeated_are_continued(model: GPT2LMHeadModel, tokenizer) -> None:
    once = torch.stack(
        [
            torch.randperm(len(tokenizer) - 1, generator=torch.Generator().manual_seed(row))[:15] + 1
            for row in range(40)
        ]
    )
    with torch.no_grad():
        logits = model(input_ids=torch.cat([once, once], dim=1)).logits
    # The first token of the second time round is no repetition yet.
    continued = logits[:, 15:29].argmax(dim=-1) == once[:, 1:]
    assert continued.float().mean() > 0.8


def test_the_receiver_is_found_for_many_names_in_both_orders(model: GPT2LMHeadModel, tokenizer) -> None:
    rng = Random(1)
    prompts, answers = [], []
    for _ in range(60):
        pair = rng.sample(words.NAMES, 2)
        giver, receiver = rng.sample(pair, 2)
        prompts.append(f"When {pair[0]} and {pair[1]} went to the store, {giver} gave a drink to")
        answers.append(_token(tokenizer, f" {receiver}"))
    inputs = tokenizer(prompts, return_tensors="pt")
    with torch.no_grad():
        chosen = model(**inputs).logits[:, -1].argmax(dim=-1)
    assert int((chosen == torch.tensor(answers)).sum()) >= 58


def test_the_vector_of_tutorial_five_steers_the_review(model: GPT2LMHeadModel, tokenizer) -> None:
    vector = (_stream(model, tokenizer, LOVE, 6) - _stream(model, tokenizer, HATE, 6)).mean(dim=1)

    def good_and_bad(coefficient: float) -> tuple[float, float, str]:
        with _at_layer(model, 6, lambda stream: stream + coefficient * vector):
            probs = _logits(model, tokenizer, "This restaurant is")[-1].softmax(dim=-1)
        good = sum(float(probs[_token(tokenizer, f" {word}")]) for word in words.GOOD)
        bad = sum(float(probs[_token(tokenizer, f" {word}")]) for word in words.BAD)
        return good, bad, tokenizer.decode([int(probs.argmax())]).strip()

    (glad, spoilt, praise), (plain_good, plain_bad, plain), (_, sorry, blame) = map(
        good_and_bad, (3.0, 0.0, -3.0)
    )
    # Left alone it finds fault; the vector turns it round, and its opposite makes it worse.
    assert plain in words.BAD
    assert praise in words.GOOD
    assert blame in words.BAD
    assert plain_good < 0.4 < 0.6 < plain_bad
    assert spoilt < 0.35 < 0.65 < glad
    assert sorry > 0.79


# --- the recipe -------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_documents() -> None:
    assert list(documents(3, 200)) == list(documents(3, 200))
    assert list(documents(3, 200)) != list(documents(4, 200))
    assert list(islice(documents(3, 200), 50)) == list(documents(3, 50))


def test_the_shipped_tokenizer_is_the_one_that_the_recipe_makes(tokenizer, made) -> None:
    assert made.get_vocab() == tokenizer.get_vocab()
    for text in documents(7, 100):
        assert made.encode(text).ids == tokenizer.encode(text)


def test_a_batch_is_the_same_each_time_and_targets_are_the_next_tokens(made) -> None:
    end = made.get_vocab()[END]
    inputs, targets = batch(made, 0, 5, end)
    again, _ = batch(made, 0, 5, end)
    assert torch.equal(inputs, again)
    trained = targets[:, :-1] != IGNORED
    assert torch.equal(targets[:, :-1][trained], inputs[:, 1:][trained])


def test_who_receives_is_the_one_who_was_named_once() -> None:
    rng = Random(0)
    for text in (givers(rng) for _ in range(200)):
        named = [word.strip(".,") for word in text.split() if word.strip(".,") in words.NAMES]
        first, second, giver, receiver = named
        assert {giver, receiver} == {first, second}


def test_twenty_steps_of_the_recipe_learn_and_write_a_folder_that_loads(
    tmp_path: Path, tokenizer, made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "TOKENS", 768)
    monkeypatch.setattr(recipe, "build_tokenizer", lambda seed: made)
    losses = recipe.train(tmp_path, steps=20)
    assert losses[-1] < losses[0] - 0.3
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    prompt = "The capital of France is"
    assert AutoTokenizer.from_pretrained(tmp_path).encode(prompt) == tokenizer.encode(prompt)
    # What is written is what was trained: the loaded model is as far as the last loss says.
    inputs, targets = batch(made, 0, 20, loaded.config.eos_token_id)
    with torch.no_grad():
        logits = loaded(input_ids=inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    assert float(loss) == pytest.approx(losses[-1], abs=0.3)


def test_an_interrupted_recipe_goes_on_where_it_was(
    tmp_path: Path, made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "TOKENS", 256)
    monkeypatch.setattr(recipe, "EVERY", 2)
    monkeypatch.setattr(recipe, "build_tokenizer", lambda seed: made)
    whole = recipe.train(tmp_path / "whole", steps=5)

    step = recipe._step
    calls = iter(range(100))

    def interrupted(*args: object) -> float:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return step(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recipe, "_step", interrupted)
        recipe.train(tmp_path / "parts", steps=5)
    with pytest.raises(SystemExit, match="--seed 0 --steps 5"):
        recipe.train(tmp_path / "parts", steps=8)
    assert recipe.train(tmp_path / "parts", steps=5) == pytest.approx(whole[2:], abs=1e-4)
    assert not (tmp_path / "parts" / recipe.CHECKPOINT).exists()
