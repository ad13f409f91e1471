"""Mixtures of experts: routers, choices and what each expert adds, read and written, against plain hooks."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from nbsight.errors import PathError
from nbsight.models.language_model import LanguageModel
from nbsight.models.standard import verify
from tests.models.standard_cases import TIER_B, hooks
from tests.models.test_architectures import Ids

NAMES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v2", "deepseek_v3")
IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13], [20, 21, 5, 6, 50, 60, 70]])
SHORT, LONG = [5, 17, 3], [7, 8, 9, 10, 11, 12, 13]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FROM_5 = "before transformers 5 the choice is made in the MLP's own forward"

_made: dict = {}


@pytest.fixture(params=[row for row in TIER_B if row.name in NAMES and row.architecture], ids=str)
def case(request):
    row = request.param
    if row not in _made:
        module = row.make()
        _made[row] = module, LanguageModel(module)
    module, model = _made[row]
    mlp = module.get_submodule(row.blocks)[1].get_submodule(row.mlp)
    return module, model, mlp


def router_of(mlp) -> nn.Module:
    return mlp.router if hasattr(mlp, "router") else mlp.gate


def needs_choice(mlp) -> None:
    if isinstance(mlp.experts, nn.ModuleList):
        pytest.skip(FROM_5)


def logits_with(module, *pairs) -> torch.Tensor:
    with torch.no_grad(), hooks(*pairs):
        return module(IDS).logits


def shaped(value: torch.Tensor) -> torch.Tensor:
    return value.unflatten(0, (len(IDS), -1))


def test_the_names_hold_on_random_tokens(case):
    _, model, mlp = case
    table = verify(model)
    assert table.ok, table
    assert table["router"].status == "verified"
    whole = () if isinstance(mlp.experts, nn.ModuleList) else ("expert_ids", "expert_weights", "expert_out")
    for name in whole:
        assert table[name].status == "verified"
        assert table[name].error <= 1e-6


def test_the_choice_is_what_plain_hooks_see(case):
    module, model, mlp = case
    seen = {}

    def on_router(own, args, out):
        weight = own.weight.detach()
        bias = getattr(own, "bias", None)
        scores = args[0].detach().flatten(0, -2).float() @ weight.float().T
        seen["router"] = scores if bias is None else scores + bias.detach()

    def on_experts(_, args, kwargs):
        seen["ids"], seen["weights"] = (*args, *kwargs.values())[1:3]

    pairs = [(router_of(mlp), on_router, "output")]
    has_choice = not isinstance(mlp.experts, nn.ModuleList)
    if has_choice:
        pairs.append((mlp.experts, on_experts, "input"))
    logits = logits_with(module, *pairs)
    with model.trace(IDS):
        found = [model.layers[1].mlp.router.clone()]
        if has_choice:
            found += [model.layers[1].mlp.expert_ids.clone(), model.layers[1].mlp.expert_weights.clone()]
        assert torch.equal(model.logits, logits)
    torch.testing.assert_close(found[0].float(), shaped(seen["router"]), **CLOSE)
    assert found[0].shape == (2, 7, 4)
    if has_choice:
        assert torch.equal(found[1], shaped(seen["ids"]))
        assert torch.equal(found[2], shaped(seen["weights"]))


def test_what_each_expert_adds_is_that_experts_own_arithmetic(case):
    module, model, mlp = case
    needs_choice(mlp)
    seen = {}

    def on_experts(_, args, kwargs):
        seen["hidden"], seen["ids"], seen["weights"] = (*args, *kwargs.values())[:3]

    logits_with(module, (mlp.experts, on_experts, "input"))
    with model.trace(IDS):
        found = model.layers[1].mlp.expert_out.clone()
        given = mlp_output(model)
    assert not found.requires_grad
    experts, made = mlp.experts, torch.zeros(14, 2, 48)
    for row in range(14):
        for place in range(2):
            expert, x = int(seen["ids"][row, place]), seen["hidden"][row]
            if hasattr(experts, "gate_up_proj_bias"):  # gpt-oss: interleaved, and clamped
                both = x @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
                gate, up = both[::2].clamp(max=experts.limit), both[1::2].clamp(-experts.limit, experts.limit)
                inner = (up + 1) * gate * torch.sigmoid(gate * experts.alpha)
                out = inner @ experts.down_proj[expert] + experts.down_proj_bias[expert]
            else:
                gate, up = (experts.gate_up_proj[expert] @ x).chunk(2)
                out = experts.down_proj[expert] @ (nn.functional.silu(gate) * up)
            made[row, place] = (out * seen["weights"][row, place]).detach()
    torch.testing.assert_close(found, shaped(made), **CLOSE)
    torch.testing.assert_close(found.sum(2).flatten(0, 1), given, **CLOSE)


def mlp_output(model) -> torch.Tensor:
    return model.layers[1].mlp.experts.output.clone()


def test_a_change_of_the_routers_scores_goes_through_the_models_own_choice(case):
    module, model, mlp = case
    router = router_of(mlp)
    with torch.no_grad():
        if isinstance(router, nn.Linear):
            wanted = logits_with(module, (router, _raised, "output"))
        else:  # the same by its bias, or by a matrix product that is replaced for one forward
            wanted = _with_product(module, router)

    with model.trace(IDS):
        model.layers[1].mlp.router[..., 3] += 50.0
        if not isinstance(mlp.experts, nn.ModuleList):
            assert (model.layers[1].mlp.expert_ids == 3).any(-1).all()
        logits = model.logits.clone()
    torch.testing.assert_close(logits, wanted, **CLOSE)
    assert (logits - module(IDS).logits).abs().max() > 1e-4


def _raised(_, __, scores):
    scores = scores.clone()
    scores[:, 3] += 50.0
    return scores


def _with_product(module, router) -> torch.Tensor:
    """The logits while the router's `F.linear` gives other scores; nothing of nbsight is in the way."""
    functional = nn.functional.linear
    is_routing = {"now": False}

    def linear(*args, **kwargs):
        out = functional(*args, **kwargs)
        return _raised(None, None, out) if is_routing["now"] else out

    def begin(_, args, kwargs):
        is_routing["now"] = True

    def end(_, __, out):
        is_routing["now"] = False

    nn.functional.linear = linear
    try:
        return logits_with(module, (router, begin, "input"), (router, end, "output"))
    finally:
        nn.functional.linear = functional


@pytest.mark.parametrize("name", ["expert_ids", "expert_weights"])
@pytest.mark.parametrize("how", ["in place", "assigned"])
def test_another_choice_is_what_a_plain_hook_makes_of_it(case, name, how):
    module, model, mlp = case
    needs_choice(mlp)
    number = {"expert_ids": 1, "expert_weights": 2}[name]

    def change(value):
        value = value.clone()
        value[:, -2] = 1 if name == "expert_ids" else value[:, -2] * -3
        return value

    def hook(_, args, kwargs):
        values = [*args, *kwargs.values()]
        values[number] = change(shaped(values[number])).flatten(0, 1)
        return tuple(values), {}

    wanted = logits_with(module, (mlp.experts, hook, "input"))
    with model.trace(IDS):
        own = model.layers[1].mlp
        if how == "assigned":
            setattr(own, name, change(getattr(own, name)))
        elif name == "expert_ids":
            own.expert_ids[:, -2] = 1
        else:
            own.expert_weights[:, -2] *= -3
        logits = model.logits.clone()
    torch.testing.assert_close(logits, wanted, **CLOSE)
    assert (logits - module(IDS).logits).abs().max() > 1e-5


@pytest.mark.parametrize("how", ["in place", "assigned"])
def test_a_choice_that_is_taken_out_adds_nothing(case, how):
    module, model, mlp = case
    needs_choice(mlp)

    def hook(_, args, kwargs):
        values = [*args, *kwargs.values()]
        values[2] = values[2] * torch.tensor([1.0, 0.0])
        return tuple(values), {}

    wanted = logits_with(module, (mlp.experts, hook, "input"))
    with model.trace(IDS):
        own = model.layers[1].mlp
        if how == "in place":
            own.expert_out[:, :, 1] = 0
        else:
            own.expert_out = own.expert_out * torch.tensor([1.0, 0.0])[:, None]
        logits = model.logits.clone()
    torch.testing.assert_close(logits, wanted, **CLOSE)


def test_what_experts_add_is_seen_after_an_edit_of_their_weights(case):
    _, model, mlp = case
    needs_choice(mlp)
    with model.trace(IDS):
        plain = model.layers[1].mlp.expert_out.clone()
    with model.trace(IDS):
        model.layers[1].mlp.expert_weights[:] *= 2
        doubled = model.layers[1].mlp.expert_out.clone()
    torch.testing.assert_close(doubled, 2 * plain, **CLOSE)


def test_invokes_have_their_own_choices(case):
    _, model, mlp = case
    has_choice = not isinstance(mlp.experts, nn.ModuleList)
    names = ("router", "expert_weights", "expert_out") if has_choice else ("router",)
    alone = {}
    for ids in (SHORT, LONG):
        with model.trace([ids]):
            alone[len(ids)] = [getattr(model.layers[1].mlp, name).clone() for name in names]
    with model.trace([SHORT]):
        model.layers[1].mlp.router[..., 3] += 50.0
        changed = model.logits.clone()
    with model.trace([LONG]):
        plain = model.logits.clone()
    model.tokenizer = Ids("left")
    with model.trace() as tracer:
        with tracer.invoke(SHORT):
            short = [getattr(model.layers[1].mlp, name).clone() for name in names]
        with tracer.invoke(LONG):
            long = [getattr(model.layers[1].mlp, name).clone() for name in names]
    for got, wanted in zip([*short, *long], [*alone[3], *alone[7]], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    with model.trace() as tracer:
        with tracer.invoke(SHORT):
            model.layers[1].mlp.router[..., 3] += 50.0
            one = model.logits.clone()
        with tracer.invoke(LONG):
            other = model.logits.clone()
    torch.testing.assert_close(one, changed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_routers_scores(case):
    _, model, _ = case
    with model.trace(IDS, grad=True):
        scores = model.layers[1].mlp.router
        with model.logits[:, -1, 5].sum().backward():
            found = scores.grad.clone()
    step, change = torch.zeros(2, 7, 4), 1e-2
    step[0, -1, int(found[0, -1].abs().argmax())] = change
    values = []
    for sign in (1, -1):
        with model.trace(IDS):
            own = model.layers[1].mlp
            own.router = own.router + (sign * step).to(own.router.dtype)
            values.append(model.logits[:, -1, 5].sum().double())
    slope = float((values[0] - values[1]) / (2 * change))
    assert abs(slope - float((found * step).sum() / change)) <= 0.02 * abs(slope) + 2e-4


def test_a_scan_knows_the_shapes(case):
    _, model, mlp = case
    needs_choice(mlp)
    with model.scan(IDS):
        own = model.layers[1].mlp
        shapes = [tuple(own.router.shape), tuple(own.expert_ids.shape), tuple(own.expert_out.shape)]
    assert shapes == [(2, 7, 4), (2, 7, 2), (2, 7, 2, 48)]


def test_a_model_without_experts_says_so():
    model = LanguageModel("nbsight/demo")
    with pytest.raises(
        PathError, match=r"layers\[3\]\.mlp\.router` does not exist: its MLP is one, and no mixture"
    ):
        with model.trace("The"):
            model.layers[3].mlp.router
    if not hasattr(transformers, "DeepseekV3Config"):
        return
    row = next(row for row in TIER_B if row.name == "deepseek_v3")
    mixed = LanguageModel(row.make())
    with pytest.raises(PathError, match="no mixture of experts"):
        with mixed.trace(IDS):
            mixed.layers[0].mlp.expert_out  # its first layer is dense
