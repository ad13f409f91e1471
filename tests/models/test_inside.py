"""The names inside attention and MLP on every family, against plain hooks and transformers' own patterns."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from nbsight.errors import PathError
from nbsight.models.language_model import LanguageModel
from nbsight.models.standard import verify
from tests.models.architectures import LAYERS
from tests.models.inside_cases import inside_of, seen_inside
from tests.models.standard_cases import TIER_A, TIER_B, hooks, saved
from tests.models.test_architectures import Ids

IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13], [20, 21, 5, 6, 50, 60, 70]])
SHORT, LONG = [5, 17, 3], [7, 8, 9, 10, 11, 12, 13]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
ATTN = ("q", "k", "v", "rot_q", "rot_k", "scores", "pattern", "result")
MLP = ("gate", "pre", "post")
NEWEST = int(transformers.__version__.split(".")[0]) > 4

_last: list = [None, None, None]


@pytest.fixture(params=[*TIER_A, *TIER_B], ids=str)
def case(request, tmp_path_factory):
    """A checkpoint on disk, loaded by name; beside it the same weights with eager attention."""
    row = request.param
    folder = saved(row, tmp_path_factory.mktemp)
    if _last[0] is not row:
        eager = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        _last[:] = [row, LanguageModel(str(folder)), eager]
    return row, _last[1], _last[2]


def names_of(row) -> list[str]:
    """The names of a layer, in the order in which the model comes by them."""
    inside = inside_of(row)
    absent = set() if inside.is_rotary else {"rot_q", "rot_k"}
    if inside.k is None:
        absent |= {"k", "v"}
    if not inside.has_mlp:
        absent |= set(MLP)
    elif inside.gate is None:
        absent |= {"gate"}
    return [name for name in (*ATTN, *MLP) if name not in absent]


def read(model, name: str, layer: int):
    part = model.layers[layer].mlp if name in MLP else model.layers[layer].attn
    return getattr(part, name)


def assign(model, name: str, layer: int, value) -> None:
    setattr(model.layers[layer].mlp if name in MLP else model.layers[layer].attn, name, value)


def logits_of(model, change) -> torch.Tensor:
    with model.trace(IDS):
        change()
        logits = model.logits.save()
    return logits


def repeated(heads: torch.Tensor, count: int) -> torch.Tensor:
    return heads.repeat_interleave(count // heads.shape[2], dim=2)


def with_mixed(row, module, layer: int, change) -> torch.Tensor:
    """The logits when a plain hook changes what the heads found, (batch, position, head, d_head)."""

    def hook(_, args, kwargs):
        z = args[0].unflatten(-1, (row.heads[0], -1))
        return (change(z).flatten(-2), *args[1:]), kwargs

    block = module.get_submodule(row.blocks)[layer]
    with torch.no_grad(), hooks((block.get_submodule(row.mix), hook, "input")):
        return module(IDS).logits


# --- reading --------------------------------------------------------------------------------------


def test_every_name_inside_holds_on_random_tokens(case):
    row, model, _ = case
    table = verify(model)
    assert table.ok, table
    rows = {line.name: line for line in table.rows}
    for name in names_of(row):
        assert rows[name].status == "verified", rows[name]
        assert rows[name].error <= 1e-6
    there = {"v", *(MLP if inside_of(row).first_is_dense else ())}  # v as the attention function gets it
    for name in {*ATTN, *MLP} - set(names_of(row)) - there:
        assert rows[name].status == "absent", rows[name]


def test_projections_and_the_mlp_are_what_plain_hooks_see(case):
    row, model, _ = case
    wanted = seen_inside(row, model._model, IDS, 1)
    names = [name for name in names_of(row) if name in wanted]
    assert {"q"} <= set(names)
    with model.trace(IDS):
        got = {name: read(model, name, 1).clone() for name in names}
    for name in names:
        assert torch.equal(got[name], wanted[name]), name
    assert got["q"].shape[2] == row.heads[0]
    if "k" in got:
        assert got["k"].shape[2] == got["v"].shape[2] == row.heads[1]


def test_patterns_are_those_that_transformers_returns_and_reading_them_changes_no_number(case):
    row, model, eager = case
    if row.name == "falcon" and inside_of(row).alibi:
        pytest.skip("transformers' eager Falcon adds ALiBi twice, so its patterns are not those of sdpa")
    with torch.no_grad():
        wanted = eager(IDS, output_attentions=True).attentions
        plain = model._model(IDS).logits
    before = model._model.config._attn_implementation
    with model.trace(IDS):
        got = [model.layers[layer].attn.pattern.clone() for layer in range(LAYERS)]
        logits = model.logits.clone()
    for left, right in zip(got, wanted, strict=True):
        torch.testing.assert_close(left, right, **CLOSE)
    assert torch.equal(logits, plain)
    assert model._model.config._attn_implementation == before
    assert {switch.layer for switch in model.std.switches} == (set() if before == "eager" else {0, 1})
    for switch in model.std.switches:
        assert switch.implementation == before
        assert switch.difference <= 1e-5
        assert not switch.is_used


def test_scores_become_the_pattern_and_the_pattern_mixes_the_values(case):
    row, model, _ = case
    with model.trace(IDS):
        v = read(model, "v", 1).clone() if inside_of(row).v else None
        scores, pattern = model.layers[1].attn.scores.clone(), model.layers[1].attn.pattern.clone()
        z = model.layers[1].attn.z.clone()
    if row.name == "gpt_oss":  # a part of each row goes to a sink
        assert (pattern.sum(-1) < 1).all()
    else:
        torch.testing.assert_close(scores.softmax(-1), pattern, **CLOSE)
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:3]), **CLOSE)
    assert (pattern.triu(1) == 0).all()
    if v is not None:
        mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, repeated(v, row.heads[0]))
        torch.testing.assert_close(mixed, z, **CLOSE)


def test_turned_queries_and_keys_reproduce_the_scores(case):
    row, model, eager = case
    if not inside_of(row).is_rotary or row.name in ("gpt_oss", "gemma2"):
        pytest.skip("no rotary positions; or the scores are capped, or a sink takes part (checked by verify)")
    with torch.no_grad():
        wanted = eager(IDS, output_attentions=True).attentions[1]
    with model.trace(IDS):
        q, k = model.layers[1].attn.rot_q.clone(), model.layers[1].attn.rot_k.clone()
    core = model._model.get_submodule(row.blocks)[1].get_submodule(row.mix.rpartition(".")[0])
    scale = getattr(core, "scaling", getattr(core, "norm_factor", q.shape[-1] ** -0.5))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, repeated(k, row.heads[0])) * scale
    hidden = torch.ones(IDS.shape[1], IDS.shape[1], dtype=torch.bool).triu(1)
    torch.testing.assert_close(scores.masked_fill(hidden, -torch.inf).softmax(-1), wanted, **CLOSE)


def test_what_the_heads_add_is_their_own_part_of_the_matrix(case):
    row, model, _ = case
    seen = seen_inside(row, model._model, IDS, 0)
    mix = model._model.get_submodule(row.blocks)[0].get_submodule(row.mix)
    matrix = (mix.weight if row.name == "gpt2" else mix.weight.T).detach()
    with model.trace(IDS):
        result = model.layers[0].attn.result.clone()
    width = seen["z"].shape[-1]
    for head in range(row.heads[0]):
        own = seen["z"][:, :, head] @ matrix[head * width : (head + 1) * width]
        torch.testing.assert_close(result[:, :, head], own * row.factor, **CLOSE)
    bias = 0 if mix.bias is None else mix.bias.detach()
    torch.testing.assert_close(result.sum(2) / row.factor + bias, seen["mixed"], **CLOSE)


def test_a_model_loaded_with_eager_attention_has_the_same_values(case, tmp_path_factory):
    row, model, eager = case
    if not NEWEST and row.name == "opt":
        pytest.skip("OPT of the oldest release has heads and rows in one dimension there; it is refused")
    loaded = LanguageModel(str(saved(row, tmp_path_factory.mktemp)), attn_implementation="eager")
    table = verify(loaded)
    assert table.ok, table
    assert loaded._model.config._attn_implementation == "eager"
    names = [name for name in names_of(row) if table[name].status == "verified"]
    assert {"q", "scores", "pattern", "result"} <= set(names)
    with torch.no_grad():
        wanted = eager(IDS, output_attentions=True).attentions[1]
    with loaded.trace(IDS):
        got = {name: read(loaded, name, 1).clone() for name in names}
    torch.testing.assert_close(got["pattern"], wanted, **CLOSE)
    assert loaded.std.switches == ()
    if not (row.name == "falcon" and inside_of(row).alibi):
        with model.trace(IDS):
            same = {name: read(model, name, 1).clone() for name in names}
        for name in names:
            one, other = (each[name].clamp_min(-1e4) for each in (got, same))
            torch.testing.assert_close(one, other, **CLOSE)

    def without(z):
        z = z.clone()
        z[:, :, 2] = 0
        return z

    with_hook = with_mixed(row, loaded._model, 1, without)
    with loaded.trace(IDS):
        loaded.layers[1].attn.pattern[:, 2] = 0
        logits = loaded.logits.save()
    torch.testing.assert_close(logits, with_hook, **CLOSE)


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("how", ["in place", "assigned"])
def test_one_head_of_queries_keys_or_values_is_changed_as_a_plain_hook_changes_it(case, name, how):
    row, model, _ = case
    inside = inside_of(row)
    if name not in names_of(row):
        pytest.skip("keys and values come from a compressed vector")
    path = inside.qkv or getattr(inside, name)

    def hook(_, __, value):
        value = value.clone()
        if inside.qkv is None:
            value.unflatten(-1, (row.heads[0 if name == "q" else 1], -1))[:, :, 0] *= -2
        else:
            columns = torch.arange(value.shape[-1]).view(1, 1, -1)
            own = inside.split(columns)["qkv".index(name)][0, 0, 0]
            value[..., own] = value[..., own] * -2
        return value

    block = model._model.get_submodule(row.blocks)[0]
    with torch.no_grad(), hooks((block.get_submodule(path), hook, "output")):
        wanted = model._model(IDS).logits

    def change():
        if how == "in place":
            read(model, name, 0)[:, :, 0] *= -2
        else:
            value = read(model, name, 0).clone()
            value[:, :, 0] *= -2
            assign(model, name, 0, value)

    got = logits_of(model, change)
    torch.testing.assert_close(got, wanted, **CLOSE)
    assert (got - model._model(IDS).logits).abs().max() > 1e-4


@pytest.mark.parametrize("how", ["in place", "assigned"])
def test_a_head_without_its_pattern_finds_nothing(case, how):
    row, model, _ = case

    def without(z):
        z = z.clone()
        z[:, :, 2] = 0
        return z

    wanted = with_mixed(row, model._model, 1, without)

    def change():
        if how == "in place":
            model.layers[1].attn.pattern[:, 2] = 0
        else:
            pattern = model.layers[1].attn.pattern.clone()
            pattern[:, 2] = 0
            model.layers[1].attn.pattern = pattern

    torch.testing.assert_close(logits_of(model, change), wanted, **CLOSE)
    if model._model.config._attn_implementation != "eager":
        assert [switch.is_used for switch in model.std.switches] == [True]


@pytest.mark.parametrize("name", ["scores", "rot_q"])
def test_equal_scores_give_the_mean_of_the_values(case, name):
    row, model, _ = case
    if row.name == "gpt_oss" or (name == "rot_q" and (inside_of(row).alibi or not inside_of(row).is_rotary)):
        pytest.skip("a sink takes part, or nothing is turned")
    if inside_of(row).v is None:
        pytest.skip("values come from a compressed vector")
    v = repeated(seen_inside(row, model._model, IDS, 0)["v"], row.heads[0])
    mean = v.cumsum(1) / torch.arange(1, IDS.shape[1] + 1).view(1, -1, 1, 1)
    wanted = with_mixed(row, model._model, 0, lambda z: mean)

    def change():
        value = read(model, name, 0)
        if name == "rot_q":
            value[:] = 0
        else:
            hidden = torch.ones(value.shape[-2:], dtype=torch.bool).triu(1)
            assign(model, name, 0, torch.zeros_like(value).masked_fill(hidden, -1e9))

    torch.testing.assert_close(logits_of(model, change), wanted, **CLOSE)


@pytest.mark.parametrize("how", ["in place", "assigned"])
def test_a_contribution_that_is_taken_out_is_a_head_that_finds_nothing(case, how):
    row, model, _ = case

    def without(z):
        z = z.clone()
        z[:, :, 2] = 0
        return z

    wanted = with_mixed(row, model._model, 1, without)

    def change():
        result = model.layers[1].attn.result
        if how == "in place":
            result[:, :, 2] = 0
        else:
            kept = torch.ones(result.shape[2], 1)
            kept[2] = 0
            model.layers[1].attn.result = result * kept

    torch.testing.assert_close(logits_of(model, change), wanted, **CLOSE)


@pytest.mark.parametrize("name", MLP)
def test_one_position_of_the_mlp_is_changed_as_a_plain_hook_changes_it(case, name):
    row, model, _ = case
    inside = inside_of(row)
    if name not in names_of(row):
        pytest.skip("the MLP has no gate, or is a mixture of experts")
    path = inside.down if name == "post" else inside.gate_up or (inside.up if name == "pre" else inside.gate)

    def changed(value):
        value = value.clone()
        own = value.unflatten(0, (len(IDS), -1)) if row.flat else value
        if inside.gate_up and name != "post":
            own = own.chunk(2, -1)[0 if name == "gate" else 1]
        own[:, -2] *= -2
        return value

    block = model._model.get_submodule(row.blocks)[0]
    if name == "post":
        pair = (block.get_submodule(path), lambda _, args, kwargs: ((changed(args[0]),), kwargs), "input")
    else:
        pair = (block.get_submodule(path), lambda _, __, value: changed(value), "output")
    with torch.no_grad(), hooks(pair):
        wanted = model._model(IDS).logits

    def change():
        read(model, name, 0)[:, -2] *= -2

    got = logits_of(model, change)
    torch.testing.assert_close(got, wanted, **CLOSE)
    assert (got - model._model(IDS).logits).abs().max() > 1e-5


# --- batches and steps ----------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_values_inside_are_those_of_the_prompt_alone(case, side):
    row, model, _ = case
    names, alone = names_of(row), {}
    for ids in (SHORT, LONG):
        with model.trace([ids]):
            alone[len(ids)] = [read(model, name, layer).clone() for layer in range(LAYERS) for name in names]
    model.tokenizer = Ids(side)
    with model.trace() as tracer:
        with tracer.invoke(SHORT):
            short = [read(model, name, layer).clone() for layer in range(LAYERS) for name in names]
        with tracer.invoke(LONG):
            long = [read(model, name, layer).clone() for layer in range(LAYERS) for name in names]
    for name, got, wanted in zip(names * 2 * LAYERS, [*short, *long], [*alone[3], *alone[7]], strict=True):
        if name == "scores":  # what the mask adds to hidden ones is of no account
            got, wanted = (value.clamp_min(-1e4).tril() for value in (got, wanted))
            if inside_of(row).alibi:  # it counts positions from the padding; only differences matter
                got, wanted = (value - value[..., :1] for value in (got, wanted))
                got, wanted = (value.tril() for value in (got, wanted))
        if name in ("rot_q", "rot_k") and side == "left":
            continue  # both turned further by the padding, or not, which the scores do not show
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["v", "pattern", "result", "post"])
def test_an_edit_inside_in_one_invoke_leaves_the_other_alone(case, name):
    row, model, _ = case
    if name not in names_of(row):
        pytest.skip("there is no such value")
    model.tokenizer = Ids("left")
    with model.trace([SHORT]):
        read(model, name, 0)[:, 1] *= 0
        wanted = model.logits.clone()
    with model.trace([LONG]):
        other = model.logits.clone()
    with model.trace() as tracer:
        with tracer.invoke(LONG):
            kept = model.logits.clone()
        with tracer.invoke(SHORT):
            read(model, name, 0)[:, 1] *= 0
            changed = model.logits.clone()
    torch.testing.assert_close(changed, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(kept, other, rtol=1e-4, atol=1e-5)


def test_each_step_of_a_generation_has_its_pattern(case):
    row, model, eager = case
    if row.name == "falcon" and inside_of(row).alibi:
        pytest.skip("transformers' eager Falcon adds ALiBi twice, so its patterns are not those of sdpa")
    q, patterns = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with model.generate([LONG], max_new_tokens=3, do_sample=False) as tracer:
            for _ in tracer.iter[:]:
                q.append(model.layers[1].attn.q.shape[1])
                patterns.append(model.layers[1].attn.pattern.clone())
            ids = tracer.result
    with torch.no_grad():
        whole = eager(ids, output_attentions=True).attentions[1]
    has_cache = row.name != "mpt"  # its configuration says so
    assert q == [len(LONG), *(1 if has_cache else len(LONG) + step for step in range(1, len(patterns)))]
    for step, pattern in enumerate(patterns):
        length = len(LONG) + step
        rows = slice(length - q[step], length)
        # Where the cache has room for later tokens, nobody looks there.
        assert not pattern[..., length:].any()
        torch.testing.assert_close(pattern[..., :length], whole[:, :, rows, :length], rtol=1e-4, atol=1e-5)


# --- matrices -------------------------------------------------------------------------------------


def test_matrices_have_the_shapes_of_the_formulas_and_share_memory(case):
    row, model, _ = case
    heads, kv = row.heads
    seen = seen_inside(row, model._model, IDS, 1)
    names = names_of(row)
    with model.trace(IDS):
        stream = model.layers[1].attn.q.shape[-1]
    attn, width = model.layers[1].attn, model.d_model
    assert attn.W_O.shape == (heads, model.d_head, width)
    if "k" in names:
        assert attn.W_Q.shape == (heads, width, stream)
        assert attn.W_K.shape == attn.W_V.shape == (kv, width, stream)
        assert attn.b_Q.shape == (heads, stream)
    whole = torch.einsum("bphd,hdm->bpm", seen["z"], attn.W_O) + attn.b_O
    torch.testing.assert_close(whole, seen["mixed"], **CLOSE)
    parameters = {tensor.untyped_storage().data_ptr() for tensor in model._model.parameters()}
    for name in ("W_K", "W_V", "W_O") if "k" in names else ("W_O",):
        assert getattr(attn, name).untyped_storage().data_ptr() in parameters
        assert not getattr(attn, name).requires_grad
    if inside_of(row).first_is_dense:
        assert model.layers[0].mlp.W_gate.shape == (width, 80)
    if inside_of(row).has_mlp:
        mlp = model.layers[1].mlp
        assert mlp.W_in.shape == mlp.W_out.T.shape == (width, model.d_mlp)
        assert model.W_in.shape == (LAYERS, width, model.d_mlp)
        assert torch.equal(model.W_in[1], mlp.W_in)
    else:
        with pytest.raises(PathError, match="mixture of experts"):
            _ = model.layers[1].mlp.W_in
    assert model.W_U.shape == (width, model.d_vocab)
    assert torch.equal(model.W_E, model._model.get_input_embeddings().weight)
    if row.pos is None:
        with pytest.raises(PathError, match="W_pos"):
            _ = model.W_pos
    else:
        with model.trace(IDS):
            pos = model.pos_embed.clone()
        assert torch.equal(model.W_pos[: IDS.shape[1]], pos[0])
