"""A scan's shapes are a run's shapes, on every architecture, with weights and without."""

from __future__ import annotations

import copy
import warnings
from functools import lru_cache

import pytest
import torch
import transformers
from torch import nn

from nbsight.core.model import wrap
from nbsight.errors import ModelRunError
from nbsight.models.language_model import LanguageModel
from nbsight.models.transformers_model import TransformersModel
from tests.compat import models
from tests.models.architectures import AVAILABLE, make

IDS, SHORT = [5, 17, 3, 9, 4], [7, 8]

#: Here the tokens that go to an expert are counted with numbers.
OLD_EXPERTS = {"mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v2", "deepseek_v3"}
IS_OLD = transformers.__version__.startswith("4.")


@lru_cache(maxsize=2)
def made(architecture):
    return make(architecture)


def shapes_of(open_trace, model, blocks):
    with open_trace(IDS):
        hidden = [(block.input.shape, block.output[0].shape) for block in model.get(blocks)]
        logits = model.output.logits
    return [*hidden, logits.shape], logits


@pytest.mark.parametrize("where", ["cpu", "meta"])
@pytest.mark.parametrize("case", AVAILABLE, ids=str)
def test_the_shapes_of_a_scan_are_the_shapes_of_a_run(case, where):
    if IS_OLD and (case.name in OLD_EXPERTS or (case.name, where) == ("gemma2", "meta")):
        pytest.skip("these releases look at numbers here; that error has a test of its own")
    module = made(case)
    running = LanguageModel(module)
    real, _ = shapes_of(running.trace, running, case.blocks)
    model = LanguageModel(module if where == "cpu" else copy.deepcopy(module).to("meta"))
    state = torch.get_rng_state()
    found, logits = shapes_of(model.scan, model, case.blocks)
    assert found == real
    assert type(logits.detach()).__name__ == "FakeTensor"
    assert torch.equal(torch.get_rng_state(), state)
    with model.scan() as tracer:
        with tracer.invoke(SHORT):
            short = model.get(case.blocks)[1].output[0].shape
        with tracer.invoke(IDS):
            long = model.output.logits.shape
    assert (short, long) == ((1, 2, 48), real[-1])


@pytest.mark.skipif(not IS_OLD, reason="since 5.0 no expert's tokens are counted with numbers")
def test_a_scan_that_would_need_numbers_says_so_and_knows_what_comes_before():
    case = next(a for a in AVAILABLE if a.name == "mixtral")
    model = LanguageModel(made(case))
    with model.scan(IDS):
        assert model.model.layers[0].self_attn.output[0].shape == (1, 5, 48)
    with pytest.raises(ModelRunError, match=r"`scan` cannot get past `model\.layers\.0\.\w+`.*model\.trace"):
        with model.scan(IDS):
            model.output


class Choosy(nn.Module):
    """Goes one way or another, as a number of its input or of its weights says."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if mask is not None:
            picked = x[mask.bool()]
            return self.lin(picked[: int(mask.sum())])
        y = self.lin(x)
        return y * 2 if float(y.detach().sum()) > 0 else y[:1]


def test_integers_stay_real_and_numbers_of_weights_are_not_there():
    net = models.seeded(Choosy)
    model, x, mask = wrap(net), models.noise(3, 4), torch.tensor([1, 0, 1])
    with model.scan(x, mask):
        seen = model.inputs[0][1]
        shape = model.output.shape
    assert torch.equal(seen, mask)
    assert shape == net(x, mask).shape == (2, 4)
    with pytest.raises(ModelRunError, match="a scan has only shapes"):
        with model.scan(x):
            assert model.lin.output.shape == (3, 4)
            model.output


def test_a_scan_changes_nothing_outside_of_itself():
    net = models.seeded(Choosy)
    model, x = wrap(net), models.noise(3, 4)
    with model.scan(x):
        model.lin.output
        assert type(torch.ones(2)).__name__ == "Tensor"
        assert torch.equal(net(x), net(x))
    assert torch._C._len_torch_dispatch_stack() == 0
    assert "forward" not in vars(net.lin)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("bert", {"input_ids": torch.tensor([[5, 6, 7]])}),
        ("t5", {"input_ids": torch.tensor([[5, 6, 7]]), "decoder_input_ids": torch.tensor([[0, 2]])}),
        ("vit", {"pixel_values": models.noise(1, 3, 8, 8)}),
        ("whisper", {"input_features": models.noise(1, 8, 20), "decoder_input_ids": torch.tensor([[1, 4]])}),
    ],
)
def test_models_for_other_things_than_text_are_scanned(name, call):
    module = getattr(models, name)()
    model = TransformersModel(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers 4.48 about its own caches
        with model.scan(**call):
            shape = model.output.logits.shape
        with torch.no_grad():
            assert shape == module(**call).logits.shape
