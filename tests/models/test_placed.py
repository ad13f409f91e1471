"""Models whose weights lie in two places: all names, edits, gradients and generation as in one.

There is one device here. accelerate fetches the second half's weights from disk whenever a module runs, and
between runs those are on the meta device: what reads a weight at the wrong time reads nothing.
"""

from __future__ import annotations

import accelerate
import pytest
import torch
from transformers import AutoModelForCausalLM

from nbsight.models.language_model import LanguageModel
from nbsight.models.standard import verify
from tests.models.architectures import LAYERS
from tests.models.inside_cases import inside_of, seen_inside
from tests.models.standard_cases import TIER_A, TIER_B, hidden, hooks, replaced, saved, seen_natively
from tests.models.test_inside import names_of as inside_names
from tests.models.test_inside import read as read_inside
from tests.models.test_standard import by_hand, names_of, read

IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13], [20, 21, 5, 6, 50, 60, 70]])
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
GENERATION = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}

_last: list = [None, None, None]


@pytest.fixture(params=[*TIER_A, *TIER_B], ids=str)
def case(request, tmp_path_factory):
    """A checkpoint with its second block and its end on disk, and the same with all of it here."""
    row = request.param
    folder = saved(row, tmp_path_factory.mktemp)
    if _last[0] is not row:
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()
        places = dict.fromkeys((name for name, _ in _leaves(plain, row.blocks)), "cpu")
        places[f"{row.blocks}.1"] = places[row.ln_final] = "disk"
        model = LanguageModel(
            str(folder), device_map=places, offload_folder=str(tmp_path_factory.mktemp("away")), dispatch=True
        )
        _last[:] = [row, model, plain]
    return row, _last[1], _last[2]


def _leaves(module, blocks):
    """Every block, and every other module that has weights of its own, so that a map names them all."""
    for name, part in module.named_modules():
        is_block = name.startswith(f"{blocks}.") and name.count(".") == blocks.count(".") + 1
        is_inside = name.startswith(f"{blocks}.") and not is_block
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        if is_block or (own and not is_inside):
            yield name, part


def assign(model, name, layer, value):
    if name == "z":
        model.layers[layer].attn.z = value
    else:
        setattr(model.layers[layer], name, value)


def test_the_second_half_is_away(case):
    row, model, _ = case
    assert f"{row.blocks}.1" in model.placement.offloaded
    assert all(p.device.type == "meta" for p in model._module.get_submodule(f"{row.blocks}.1").parameters())


def test_every_name_holds(case):
    row, model, _ = case
    table = verify(model)
    assert table.ok, table
    for name in inside_names(row):
        assert table[name].status == "verified", table[name]


def test_names_are_what_plain_hooks_see_in_the_model_that_is_here(case):
    row, model, plain = case
    wanted = seen_natively(row, plain, IDS)
    with model.trace(IDS):
        got = {
            (name, layer): read(model, name, layer).clone()
            for layer in range(LAYERS)
            for name in names_of(row)
        }
        logits = model.logits.clone()
    for key, value in got.items():
        value = value.flatten(-2) if key[0] == "z" else value
        torch.testing.assert_close(value, wanted[key], **CLOSE)
    torch.testing.assert_close(logits, wanted["logits"], **CLOSE)


def test_names_inside_attention_and_mlp_are_those_of_the_model_that_is_here(case):
    row, model, plain = case
    wanted = seen_inside(row, plain, IDS, 1)
    names = inside_names(row)
    with model.trace(IDS):
        got = {name: read_inside(model, name, 1).clone() for name in names}
    here = LanguageModel(plain)
    with here.trace(IDS):
        same = {name: read_inside(here, name, 1).clone() for name in names}
    for name in names:
        assert got[name].device.type == "cpu"
        torch.testing.assert_close(got[name].clamp_min(-1e4), same[name].clamp_min(-1e4), **CLOSE)
        if name in wanted:
            torch.testing.assert_close(got[name], wanted[name], **CLOSE)


@pytest.mark.parametrize("name", ["attn_out", "mlp_out", "resid_post", "z"])
def test_a_donor_from_the_half_that_is_here_is_patched_into_the_other(case, name):
    row, model, plain = case
    with model.trace(IDS.flip(1)):
        donor = read(model, name, 0).clone()
    wanted = by_hand(row, plain, name, 1, lambda value: donor if value.shape == donor.shape else value)
    with model.trace(IDS):
        assign(model, name, 1, donor)
        logits = model.logits.clone()
    torch.testing.assert_close(logits, wanted, **CLOSE)
    assert (logits - plain(IDS).logits).abs().max() > 1e-4


def test_what_heads_add_can_be_taken_out_of_a_layer_that_is_away(case):
    row, model, plain = case

    def without(_, args, kwargs):
        z = args[0].unflatten(-1, (row.heads[0], -1)).clone()
        z[:, :, 2] = 0
        return (z.flatten(-2), *args[1:]), kwargs

    mix = plain.get_submodule(row.blocks)[1].get_submodule(row.mix)
    with torch.no_grad(), hooks((mix, without, "input")):
        wanted = plain(IDS).logits
    with model.trace(IDS):
        model.layers[1].attn.result[:, :, 2] = 0
        logits = model.logits.clone()
    torch.testing.assert_close(logits, wanted, **CLOSE)


def test_gradients_go_through_the_half_that_is_away(case):
    row, model, plain = case
    kept = []

    def keep(_, __, value):
        kept.append(hidden(value).requires_grad_())

    with hooks((plain.get_submodule(row.blocks)[0], keep, "output")):
        loss = plain(IDS).logits[:, -1].log_softmax(-1)[:, 5].sum()
    (wanted,) = torch.autograd.grad(loss, kept)
    with model.trace(IDS, grad=True):
        resid = model.layers[0].resid_post
        with model.logits[:, -1].log_softmax(-1)[:, 5].sum().backward():
            found = resid.grad
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_generation_goes_on_in_steps(case):
    row, model, plain = case
    block = plain.get_submodule(row.blocks)[1]

    def silence(_, __, value):
        changed = hidden(value).clone()
        changed[:, -1] *= -1
        return replaced(value, changed)

    options = {"attention_mask": torch.ones_like(IDS), **GENERATION}
    with hooks((block, silence, "output")):
        wanted = plain.generate(IDS, **options)
    with model.generate(IDS, **GENERATION) as tracer:
        for _ in tracer.iter[:]:
            model.layers[1].resid_post[:, -1] *= -1
        result = tracer.result
    assert torch.equal(result, wanted)


def test_matrices_of_a_layer_that_is_away_are_those_of_the_model_that_is_here(case):
    row, model, plain = case
    here = LanguageModel(plain)
    inside = inside_of(row)
    names = ["W_O", "W_Q", *(("W_K", "W_V") if inside.k else ())]
    names += ["W_in", "W_out"] if inside.has_mlp else []
    for name in names:
        got, wanted = (getattr(one, name)[1] for one in (model, here))
        assert got.device.type == "cpu"
        assert torch.equal(got, wanted), name


def test_blocks_that_are_brought_in_whole_have_all_names_and_matrices(tmp_path_factory):
    row = next(one for one in TIER_A if one.name == "gpt2")
    folder = saved(row, tmp_path_factory.mktemp)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    moved = AutoModelForCausalLM.from_pretrained(folder).eval()
    accelerate.cpu_offload(moved, execution_device="cpu", preload_module_classes=["GPT2Block"])
    model, here = LanguageModel(moved), LanguageModel(plain)
    assert verify(model).ok
    found = []
    for one in (model, here):
        with one.trace(IDS):
            one.layers[1].attn.result[:, :, 2] = 0
            found.append(one.logits.clone())
    torch.testing.assert_close(*found, **CLOSE)
    assert torch.equal(model.W_Q[1], here.W_Q[1])
    assert model.placement.by_place == {"cpu": here.placement.total}
    assert set(model.placement.devices) == {"cpu"}
