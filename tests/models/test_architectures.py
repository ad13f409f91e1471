"""On every architecture a block's output reads alike, and batching changes no numbers."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from nbsight.models.language_model import LanguageModel
from nbsight.models.names import find_blocks
from tests.models.architectures import AVAILABLE, LAYERS, TABLE, WIDTH, make

SHORT, LONG = [5, 17, 3], [7, 8, 9, 10, 11, 12, 13]


@lru_cache(maxsize=2)
def model_of(architecture):
    return make(architecture)


@pytest.fixture(params=AVAILABLE, ids=str)
def case(request):
    module = model_of(request.param)
    return module, LanguageModel(module), request.param.blocks


def hooked(module, blocks: str, ids: list[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states and logits by plain forward hooks."""
    found, handles = [], []
    for block in module.get_submodule(blocks):
        handles.append(
            block.register_forward_hook(
                lambda _, __, out: found.append(
                    (out if isinstance(out, torch.Tensor) else out[0]).detach().clone()
                )
            )
        )
    with torch.no_grad():
        logits = module(torch.tensor([ids])).logits
    for handle in handles:
        handle.remove()
    return found, logits


def test_most_of_the_table_exists_in_this_release():
    assert len(AVAILABLE) >= 20
    assert {a.name for a in TABLE} >= {a.name for a in AVAILABLE}


def test_the_blocks_are_found_by_structure(case):
    module, _, blocks = case
    assert find_blocks(module, module.config) == (blocks,)


def test_zero_is_the_hidden_state_bit_for_bit(case):
    module, model, blocks = case
    wanted, logits = hooked(module, blocks, LONG)
    with model.trace(LONG):
        hidden = [block.output[0].save() for block in model.get(blocks)]
        out = model.output.save()
    assert len(hidden) == LAYERS
    for got, want in zip(hidden, wanted, strict=True):
        assert got.shape == (1, len(LONG), WIDTH)
        assert type(got) is torch.Tensor
        assert torch.equal(got, want)
    assert torch.equal(out.logits, logits)
    assert torch.equal(out[0, -1], logits[0, -1])


def test_assignment_and_in_place_edits_equal_a_hand_written_hook(case):
    module, model, blocks = case
    first = module.get_submodule(blocks)[0]

    def double(_, __, out):
        return out * 2 if isinstance(out, torch.Tensor) else (out[0] * 2, *out[1:])

    handle = first.register_forward_hook(double)
    with torch.no_grad():
        wanted = module(torch.tensor([LONG])).logits
    handle.remove()
    with model.trace(LONG):
        model.get(blocks)[0].output[0][:] *= 2
        in_place = model.output.save()
    with model.trace(LONG):
        model.get(blocks)[0].output = model.get(blocks)[0].output * 2
        assigned = model.output.save()
    with model.trace(LONG):
        model.get(blocks)[0].output = (model.get(blocks)[0].output[0] * 2,)
        as_tuple = model.output.save()
    for out in (in_place, assigned, as_tuple):
        assert torch.equal(out.logits, wanted)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_prompt_has_the_numbers_it_has_alone(case, side):
    module, model, blocks = case
    model.tokenizer = Ids(side)
    with model.trace() as tracer:
        with tracer.invoke(SHORT):
            short = model.get(blocks)[-1].output[0].save()
            short_out = model.output.save()
        with tracer.invoke(LONG):
            long = model.get(blocks)[-1].output[0].save()
            long_out = model.output.save()
    for ids, hidden, out in ((SHORT, short, short_out), (LONG, long, long_out)):
        wanted, logits = hooked(module, blocks, ids)
        assert hidden.shape == (1, len(ids), WIDTH)
        torch.testing.assert_close(hidden, wanted[-1], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(out.logits, logits, rtol=1e-4, atol=2e-5)


def test_generation_of_unequal_prompts_gives_each_the_tokens_it_gets_alone(case):
    module, model, _ = case
    model.tokenizer = Ids("right")
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with model.generate(**options) as tracer:
        with tracer.invoke(SHORT):
            first = model.output[:, -1].save()
        with tracer.invoke(LONG):
            model.output
        with tracer.invoke():
            result = tracer.result.save()
    with torch.no_grad():
        logits = module(torch.tensor([SHORT])).logits[:, -1]
    torch.testing.assert_close(first, logits, rtol=1e-4, atol=2e-5)
    for row, ids in zip(result, (SHORT, LONG), strict=True):
        alone = module.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **options)
        assert row[-4:].tolist() == alone[0, -4:].tolist()


class Ids:
    """What joining asks of a tokenizer, for models that have none."""

    pad_token_id = 0
    eos_token_id = 2
    backend_tokenizer = None

    def __init__(self, padding_side: str) -> None:
        self.padding_side = padding_side
