"""The standard names on every family: additive, the same as plain hooks, and writable."""

from __future__ import annotations

import pytest
import torch

from nbsight.errors import PathError
from nbsight.models.language_model import LanguageModel
from nbsight.models.standard import verify
from tests.models.architectures import LAYERS, VOCABULARY, WIDTH
from tests.models.standard_cases import TIER_A, TIER_B, Case, hidden, hooks, replaced, saved, seen_natively
from tests.models.test_architectures import Ids

IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13], [20, 21, 5, 6, 50, 60, 70]])
SHORT, LONG = [5, 17, 3], [7, 8, 9, 10, 11, 12, 13]
NAMES = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}

_last: list = [None, None]


@pytest.fixture(params=[*TIER_A, *TIER_B], ids=str)
def case(request, tmp_path_factory):
    """A checkpoint on disk, loaded by name; the same weights as a plain module beside it."""
    row: Case = request.param
    folder = saved(row, tmp_path_factory.mktemp)
    if _last[0] is not row:
        _last[:] = [row, LanguageModel(str(folder))]
    return row, _last[1]


def names_of(row: Case) -> list[str]:
    return [name for name in NAMES if name != "resid_mid" or row.mid is not None]


def read(model, name: str, layer: int):
    return model.layers[layer].attn.z if name == "z" else getattr(model.layers[layer], name)


def assign(model, name: str, layer: int, value) -> None:
    if name == "z":
        model.layers[layer].attn.z = value
    else:
        setattr(model.layers[layer], name, value)


def test_every_name_holds_on_random_tokens(case):
    _, model = case
    table = verify(model)
    assert table.ok, table
    assert not table.is_guess
    assert table.largest <= 1e-6
    assert model.std.checked is table
    assert f"{table.largest:.1e}" in repr(model.std)


def test_each_name_is_what_a_plain_hook_sees(case):
    row, model = case
    wanted = seen_natively(row, model._model, IDS)
    with model.trace(IDS):
        embed = model.embed.save()
        got = {
            (name, layer): read(model, name, layer).save()
            for layer in range(LAYERS)
            for name in names_of(row)
        }
        ln_final = model.ln_final.output.save()
        unembed = model.unembed.output.save()
        logits = model.logits.save()
    for key, value in got.items():
        if key[0] == "z":
            assert value.shape == (*IDS.shape, row.heads[0], wanted[key].shape[-1] // row.heads[0])
            assert torch.equal(value.flatten(-2), wanted[key]), key
        else:
            assert type(value) is torch.Tensor
            assert torch.equal(value, wanted[key]), key
    assert torch.equal(embed, wanted["embed"] if row.embed and not row.pos else embed)
    assert torch.equal(ln_final, wanted["ln_final"])
    assert torch.equal(unembed, wanted["unembed"])
    assert torch.equal(logits, wanted["logits"])


def test_what_is_added_adds_up(case):
    row, model = case
    with model.trace(IDS):
        for layer in model.layers:
            pre, attn = layer.resid_pre.clone(), layer.attn_out.clone()
            mid = None if row.mid is None else layer.resid_mid.clone()
            mlp, post = layer.mlp_out.clone(), layer.resid_post.clone()
            torch.testing.assert_close(pre + attn + mlp, post, rtol=1e-6, atol=1e-6)
            if mid is not None:
                torch.testing.assert_close(pre + attn, mid, rtol=1e-6, atol=1e-6)
            assert attn.norm() > 0.01
            assert mlp.norm() > 0.01


def by_hand(row: Case, module, name: str, layer: int, change) -> torch.Tensor:
    """The logits when a plain hook does what an assignment to the name says."""
    block = module.get_submodule(row.blocks)[layer]
    before: dict[str, torch.Tensor] = {}

    def on_output(_, __, value):
        return replaced(value, change(hidden(value) * row.factor) / row.factor)

    def on_end(_, __, value):
        return replaced(value, change(hidden(value)))

    def on_rows(_, __, value):  # rows and positions in one dimension
        return change(value.unflatten(0, (len(IDS), -1))).flatten(0, 1)

    def on_input(_, args, kwargs):
        if args:
            return (change(args[0]), *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: change(kwargs[first])}

    def keep(_, args, kwargs):
        before["pre"] = (args or tuple(kwargs.values()))[0]

    def on_heads(_, args, kwargs):
        heads = args[0].unflatten(-1, (row.heads[0], -1))
        return (change(heads).flatten(-2), *args[1:]), kwargs

    def on_mid(_, __, value):
        # Another way to the same stream: the attention adds what is missing.
        mid = before["pre"] + hidden(value) * row.factor
        return replaced(value, (change(mid) - before["pre"]) / row.factor)

    pairs = {
        "resid_pre": [(block, on_input, "input")],
        "resid_post": [(block, on_end, "output")],
        "attn_out": [(block.get_submodule(row.attn), on_output, "output")],
        "mlp_out": [(block.get_submodule(row.mlp), on_rows if row.flat else on_output, "output")],
        "z": [(block.get_submodule(row.mix), on_heads, "input")],
        "resid_mid": [(block, keep, "input"), (block.get_submodule(row.attn), on_mid, "output")],
    }[name]
    with torch.no_grad(), hooks(*pairs):
        return module(IDS).logits


def turned(value):
    return value.flip(1) * 0.5 + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_an_assignment_equals_a_hand_written_hook(case, name):
    row, model = case
    if name not in names_of(row):
        pytest.skip("there is no such value in a parallel block")
    wanted = by_hand(row, model._model, name, 0, turned)
    plain = model._model(IDS).logits
    with model.trace(IDS):
        assign(model, name, 0, turned(read(model, name, 0)))
        seen = read(model, name, 0).clone().save()
        later = model.layers[0].resid_post.clone().save()
        logits = model.logits.save()
    torch.testing.assert_close(logits, wanted, **CLOSE)
    assert (logits - plain).abs().max() > 1e-3
    with model.trace(IDS):
        torch.testing.assert_close(seen, turned(read(model, name, 0)), rtol=0, atol=0)
    if name == "resid_post":
        assert torch.equal(seen, later)


@pytest.mark.parametrize("name", NAMES)
def test_a_change_in_place_of_one_position_lands(case, name):
    row, model = case
    if name not in names_of(row):
        pytest.skip("there is no such value in a parallel block")

    def one(value):
        value = value.clone()
        value[:, -2] *= -2
        return value

    wanted = by_hand(row, model._model, name, LAYERS - 1, one)
    with model.trace(IDS):
        read(model, name, LAYERS - 1)[:, -2] *= -2
        logits = model.logits.save()
    torch.testing.assert_close(logits, wanted, **CLOSE)


def test_one_head_can_be_ablated(case):
    row, model = case

    def without(value):
        value = value.clone()
        value[:, :, 2] = 0
        return value

    wanted = by_hand(row, model._model, "z", 1, without)
    with model.trace(IDS):
        model.layers[1].attn.z[:, :, 2] = 0
        logits = model.logits.save()
    torch.testing.assert_close(logits, wanted, **CLOSE)


def test_sizes_are_those_of_the_weights(case):
    row, model = case
    module = model._model
    block = module.get_submodule(row.blocks)[0]
    mix = block.get_submodule(row.mix).weight
    wide = mix.shape[0] if row.name == "gpt2" else mix.shape[1]
    assert (model.n_layers, model.d_model, model.d_vocab) == (LAYERS, WIDTH, VOCABULARY)
    assert (model.n_heads, model.n_kv_heads) == row.heads
    assert model.d_head == wide // row.heads[0]
    assert model.d_mlp in (40, 80, 4 * WIDTH)
    with model.trace(IDS):
        assert model.layers[0].attn.z.shape == (*IDS.shape, model.n_heads, model.d_head)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_values_are_those_of_the_prompt_alone(case, side):
    row, model = case
    alone = {}
    for ids in (SHORT, LONG):
        with model.trace([ids]):
            alone[len(ids)] = [
                read(model, name, layer).clone() for layer in range(LAYERS) for name in names_of(row)
            ]
            alone[len(ids)].append(model.logits.clone())
    model.tokenizer = Ids(side)
    names = names_of(row)
    with model.trace() as tracer:
        with tracer.invoke(SHORT):
            short = [read(model, name, layer).clone() for layer in range(LAYERS) for name in names]
            short.append(model.logits.clone())
        with tracer.invoke(LONG):
            long = [read(model, name, layer).clone() for layer in range(LAYERS) for name in names]
            long.append(model.logits.clone())
    for got, wanted in zip([*short, *long], [*alone[3], *alone[7]], strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_an_assignment_in_one_invoke_leaves_the_other_alone(case, name):
    row, model = case
    if name not in names_of(row):
        pytest.skip("there is no such value in a parallel block")
    model.tokenizer = Ids("left")
    with model.trace([SHORT]):
        assign(model, name, 0, turned(read(model, name, 0)))
        wanted = model.logits.clone()
    with model.trace([LONG]):
        plain = model.logits.clone()
    with model.trace() as tracer:
        with tracer.invoke(SHORT):
            assign(model, name, 0, turned(read(model, name, 0)))
            changed = model.logits.clone()
        with tracer.invoke(LONG):
            other = model.logits.clone()
    torch.testing.assert_close(changed, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)


def test_what_a_block_has_not_says_why(case):
    row, model = case
    with model.trace(IDS):
        if row.mid is None:
            with pytest.raises(PathError, match="attention and MLP of a block read the same stream"):
                model.layers[0].resid_mid
        if row.pos is None:
            with pytest.raises(PathError, match=r"rotary|ALiBi"):
                model.pos_embed
        else:
            assert model.pos_embed.shape[1:] == (IDS.shape[1], WIDTH)
