"""`model.steer` against plain forward hooks."""

from __future__ import annotations

import pytest
import torch

from nbsight import LanguageModel
from nbsight.errors import InputError, PathError
from nbsight.models.steering import Steering
from tests.compat import models

PROMPTS = ["The Eiffel Tower is in the city of", "Lily saw a"]
LILY = PROMPTS[1]


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture(scope="module")
def vector():
    return torch.randn(64, generator=torch.Generator().manual_seed(1))


class Hooks:
    """Adds to the output of a block at columns that a function of (pass, width) chooses, (row, column)."""

    def __init__(self, model, layer, added, where):
        self.calls = 0
        self.added, self.where = added, where
        self.handle = model._model.transformer.h[layer].register_forward_hook(self.act)

    def act(self, module, given, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        for row, column in self.where(self.calls, hidden.shape[1]):
            hidden[row, column] += self.added
        self.calls += 1
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def batch(model, prompts):
    rows = [model.tokenizer(prompt)["input_ids"] for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "pad_token_id": 0}, width, [len(row) for row in rows]


def steered(model, prompts, count, layer, added, columns, **options):
    """transformers' own generation with a hook; `columns(length)` are the prompt's positions, or None."""
    inputs, width, lengths = batch(model, prompts)
    at, later = columns

    def where(call, wide):
        uncached = options.get("use_cache") is False
        for row, length in enumerate(lengths):
            if call == 0 or uncached:
                yield from ((row, width - length + place) for place in at(length))
            if call and later:
                yield from ((row, column) for column in range(width if uncached else 0, wide))

    with Hooks(model, layer, added, where):
        found = model._model.generate(
            **inputs, max_new_tokens=count, do_sample=False, eos_token_id=None,
            return_dict_in_generate=True, output_logits=True, **options,
        )  # fmt: skip
    return found.sequences[:, width:], torch.stack(found.logits, 1)


CASES = {
    "all": (lambda length: range(length), True),
    "prompt": (lambda length: range(length), False),
    "generated": (lambda length: (), True),
    "last": (lambda length: [length - 1], True),
    -1: (lambda length: [length - 1], False),
    2: (lambda length: [2], False),
    (0, 3): (lambda length: [0, 3], False),
}


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("positions", CASES, ids=str)
def test_each_kind_of_positions_is_what_a_hook_does(model, vector, positions, use_cache):
    ids, logits = steered(model, PROMPTS, 5, 6, 3 * vector, CASES[positions], use_cache=use_cache)
    given = list(positions) if isinstance(positions, tuple) else positions
    with model.steer(vector, layer=6, strength=3, positions=given):
        results = model.generate(PROMPTS, 5, eos_token_id=None, use_cache=use_cache)
    for row, result in enumerate(results):
        assert result.ids.tolist() == ids[row].tolist()
        logs = logits[row].log_softmax(-1).gather(1, ids[row][:, None])[:, 0]
        assert torch.allclose(torch.from_numpy(result.log_probs), logs, atol=1e-5)
    plain = model.generate(PROMPTS, 5, eos_token_id=None)
    assert any((a.log_probs != b.log_probs).any() for a, b in zip(results, plain, strict=True))


def test_a_slice_counts_from_each_prompts_own_first_token(model, vector):
    ids, _ = steered(model, PROMPTS, 4, 3, 5 * vector, (lambda length: range(length)[1:-1], False))
    with model.steer(vector, layer=3, strength=5, positions=slice(1, -1)):
        results = model.generate(PROMPTS, 4, eos_token_id=None)
    assert [one.ids.tolist() for one in results] == ids.tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_trace_steers_no_pad(model, vector, side):
    before = model.tokenizer.padding_side
    model.tokenizer.padding_side = side
    try:
        with model.steer(vector, layer=4, strength=2, positions=-1):
            with model.trace(PROMPTS):
                together = model.output.logits
            alone = []
            for prompt in PROMPTS:
                with model.trace(prompt):
                    alone.append(model.output.logits[0, -1])
            with model.trace() as tracer:
                with tracer.invoke(PROMPTS[0]):
                    first = model.output.logits[0, -1]
                with tracer.invoke(PROMPTS[1]):
                    second = model.output.logits[0, -1]
    finally:
        model.tokenizer.padding_side = before
    columns = model.tokens(PROMPTS).column(-1) if side == "right" else (-1, -1)
    for row, wanted in enumerate(alone):
        assert torch.allclose(together[row, columns[row]], wanted, atol=1e-4)
        assert torch.allclose((first, second)[row], wanted, atol=1e-4)
    with Hooks(model, 4, 2 * vector, lambda call, wide: [(0, wide - 1)]), torch.no_grad():
        wanted = model._model(model.to_tokens(LILY)).logits[0, -1]
    assert torch.allclose(alone[1], wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"])
def test_every_place_is_the_standard_name(model, vector, name):
    with model.trace(LILY):
        value = model.std.get(name, 5)
        model.std.set(name, 5, value + 2 * vector)
        wanted = model.output.logits
    with model.steer(vector, layer=5, strength=2, name=name):
        with model.trace(LILY):
            logits = model.output.logits
    assert torch.allclose(logits, wanted, atol=1e-5)


def test_several_layers_and_a_vector_for_each(model):
    each = torch.randn(2, 64, generator=torch.Generator().manual_seed(2))
    with model.trace(LILY):
        model.layers[3].resid_post = model.layers[3].resid_post + each[1]
        model.layers[7].resid_post = model.layers[7].resid_post + each[0]
        wanted = model.output.logits
    with model.steer(each, layer=[7, 3]):
        with model.trace(LILY):
            logits = model.output.logits
    assert torch.allclose(logits, wanted, atol=1e-6)
    with model.steer(each[0], layer=-1):
        with model.trace(LILY):
            last = model.output.logits
    with model.trace(LILY):
        model.layers[11].resid_post = model.layers[11].resid_post + each[0]
        wanted = model.output.logits
    assert torch.allclose(last, wanted, atol=1e-6)


def test_strength_zero_changes_nothing_to_the_bit(model, vector):
    with model.trace(LILY):
        plain = model.output.logits
    with model.steer(vector, layer=6, strength=0.0):
        with model.trace(LILY):
            logits = model.output.logits
    assert torch.equal(logits, plain)


# -- on and off ------------------------------------------------------------------------------------


def test_a_context_ends_and_a_kept_steering_stays(model, vector):
    plain = model.generate(LILY, 3).ids.tolist()
    steering = model.steer(vector, layer=6, strength=6)
    assert model.generate(LILY, 3).ids.tolist() == plain
    assert "not acting" in repr(steering)
    with steering as same:
        assert same is steering
        assert model.edits == [steering]
        changed = model.generate(LILY, 3).ids.tolist()
        with pytest.raises(InputError, match="acts already"):
            steering.keep()
    assert changed != plain
    assert model.edits == []
    kept = model.steer(vector, layer=6, strength=6, inplace=True)
    try:
        assert type(kept) is Steering
        assert model.generate(LILY, 3).ids.tolist() == changed
        kept.enabled = False
        assert model.generate(LILY, 3).ids.tolist() == plain
        assert repr(kept).endswith("all positions; off)")
        kept.enabled = True
        kept.strength = 0
        assert model.generate(LILY, 3).ids.tolist() == plain
    finally:
        kept.remove()
    assert model.edits == []


def test_an_error_in_the_block_takes_the_steering_off(model, vector):
    with pytest.raises(ZeroDivisionError):
        with model.steer(vector, layer=6):
            1 / 0
    assert model.edits == []


def test_two_steerings_add_up_and_an_edited_copy_is_steered_alone(model, vector):
    with model.steer(vector, layer=6, strength=2), model.steer(vector, layer=6, strength=1):
        both = model.generate(LILY, 4)
    with model.steer(vector, layer=6, strength=3):
        one = model.generate(LILY, 4)
    assert both.log_probs == pytest.approx(one.log_probs, abs=1e-4)
    with model.edit() as edited:
        model.transformer.h[0].output[0][:] *= 1.0
    with edited.steer(vector, layer=6, strength=6):
        assert len(edited.edits) == 2
        assert edited.generate(LILY, 3).ids.tolist() != model.generate(LILY, 3).ids.tolist()
    assert len(edited.edits) == 1


def test_a_run_that_is_held_open_is_steered(model, vector):
    with model.steer(vector, layer=6, strength=3):
        logits = model.start(LILY).finish().logits
        with model.trace(LILY):
            wanted = model.output.logits
    assert torch.equal(logits, wanted)


def test_a_steered_run_travels(model, vector):
    for positions in ("all", "last", [0, 1]):
        with model.steer(vector, layer=6, strength=3, positions=positions):
            with model.generate(LILY, max_new_tokens=3, do_sample=False, remote="local") as tracer:
                ids = tracer.result.save()
            with model.trace(LILY, remote="local"):
                logits = model.output.logits.save()
            assert ids[0, -3:].tolist() == model.generate(LILY, 3).ids.tolist()
            with model.trace(LILY):
                wanted = model.output.logits
            assert torch.equal(logits, wanted)


def test_a_direction_can_be_learned(model, vector):
    direction = vector.clone().requires_grad_()
    for _ in range(2):
        with model.steer(direction, layer=6, strength=2):
            with model.trace(LILY):
                loss = model.output.logits[0, -1].log_softmax(-1)[10]
            loss.backward()
    assert direction.grad.norm() > 0
    added = vector.clone().requires_grad_()
    with model.trace(LILY):
        model.layers[6].resid_post = model.layers[6].resid_post + 2 * added
        loss = model.output.logits[0, -1].log_softmax(-1)[10]
    loss.backward()
    assert torch.allclose(direction.grad, 2 * added.grad, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_other_families_are_steered(family):
    other = LanguageModel(getattr(models, family)())
    width = other.std.layout.size("d_model")
    direction = torch.randn(width, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[5, 6, 7, 8]])
    with other.steer(direction, layer=1, strength=2):
        with other.trace(ids):
            logits = other.output.logits
    with other.trace(ids):
        other.layers[1].resid_post = other.layers[1].resid_post + 2 * direction
        wanted = other.output.logits
    assert torch.allclose(logits, wanted, atol=1e-6)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (
            {"vector": torch.ones(32)},
            InputError,
            r"d_model 64, so the vector has shape \(64,\); .*has \(32,\)",
        ),
        ({"vector": torch.ones(3, 64)}, InputError, "one position too many"),
        ({"vector": torch.ones(64).bool()}, InputError, "is of dtype bool"),
        ({"vector": torch.full((64,), torch.nan)}, InputError, "64 numbers of the vector are NaN"),
        ({"layer": 12}, PathError, "12 entries, 0 to 11; there is no 12"),
        ({"layer": [1, 1]}, InputError, "named twice"),
        ({"layer": "six"}, InputError, "the number of a layer"),
        ({"strength": "much"}, InputError, "`strength` is a number"),
        ({"strength": 1e39}, InputError, "float32, which holds numbers up to 3.4e"),
        ({"positions": "first"}, InputError, "all, prompt, generated, last; not 'first'"),
        ({"positions": 1.5}, InputError, "`positions` is 'all'"),
        ({"positions": []}, InputError, "empty list"),
        ({"name": "q"}, InputError, "not to 'q'"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(model, vector, change, kind, said):
    given = {"vector": vector, "layer": 6, **change}
    with pytest.raises(kind, match=said):
        model.steer(given.pop("vector"), **given)
    assert model.edits == []


def test_a_dtype_that_does_not_hold_the_value_is_named():
    half = LanguageModel(models.gpt2().half())
    width = half.std.layout.size("d_model")
    with pytest.raises(
        InputError, match=r"in float16, which holds numbers up to 6.55e\+04.*dtype=torch.float32"
    ):
        half.steer(torch.ones(width), layer=0, strength=70_000)


def test_a_position_that_a_prompt_does_not_have_is_named(model, vector):
    with model.steer(vector, layer=3, positions=12):
        with pytest.raises(InputError, match=r"position 12 .* in row 0 has 6 tokens"):
            model.generate(LILY, 3)
        with pytest.raises(InputError, match=r"position 12 .* in row 0 has 6 tokens"):
            with model.trace(LILY):
                model.output.logits
