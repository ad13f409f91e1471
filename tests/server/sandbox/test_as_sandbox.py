"""What `remote="local"` does, a server of the tier `sandbox` does too: the same tests, behind walls."""

from __future__ import annotations

import pytest
import torch

from nbsight.errors import RemoteError
from nbsight.models.language_model import LanguageModel
from tests.remote import test_local
from tests.remote.test_local import *  # noqa: F403 (its tests are to run here again)

PROMPT = test_local.PROMPT


@pytest.fixture
def model(local_model: LanguageModel) -> LanguageModel:
    """With weights, because most of these compare with hooks."""
    return local_model


@pytest.fixture(autouse=True)
def _server_in_place_of_local(in_sandbox) -> None: ...


# What only a run in the same process can do.
test_a_wrapped_module_gets_literally_what_it_returns = None
test_nnsights_options_of_remote_traces_are_accepted = None
# They read weights, which are not there.
test_nothing_is_shared_with_the_run = None
test_the_weights_are_loaded_when_a_block_needs_them = None
# They go backward through the model, whose graph is not there.
test_a_parameter_of_the_users_collects_its_gradient_here = None


@pytest.mark.parametrize(
    "experiment",
    [
        test_local._edit,
        test_local._invokes,
        test_local._generate,
        test_local._labelled,
        test_local._functions,
        test_local._messages,
        test_local._stop,
        test_local._one_line,
    ],
)
def test_there_and_here_agree_bit_for_bit(model, experiment):
    def compare(a, b):
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(a, torch.as_tensor(b))
        elif isinstance(a, (list, tuple)):
            assert len(a) == len(b)
            for one, other in zip(a, b, strict=True):
                compare(one, other)
        else:
            assert a == b

    compare(experiment(model, None), experiment(model, "local"))


def test_a_weight_is_not_there_and_says_so_on_the_users_line(model):
    with pytest.raises(RemoteError, match=r"reads a weight.*model\.lm_head\(hidden\)") as info:
        with model.trace(PROMPT, remote="local"):
            shape = tuple(model.transformer.wte.weight.shape)
            row = model.transformer.wte.weight[3].save()
    assert info.traceback[-1].path.name == "test_as_sandbox.py"
    with model.trace(PROMPT, remote="local"):
        shape = tuple(model.transformer.wte.weight.shape)
    assert shape == tuple(model._model.transformer.wte.weight.shape)


def test_a_module_is_applied_by_the_worker(model):
    with model.trace(PROMPT, remote="local"):
        hidden = model.transformer.h[4].output[0]
        early = model.lm_head(model.transformer.ln_f(hidden)).save()
    with model.trace(PROMPT):
        wanted = model.lm_head(model.transformer.ln_f(model.transformer.h[4].output[0])).save()
    assert torch.equal(early, wanted)


def test_gradients_through_the_model_are_refused_with_what_to_use_instead(model):
    with pytest.raises(RemoteError, match=r"gradients end where the model begins.*tier `program` or `local`"):
        with model.trace(PROMPT, remote="local"):
            hidden = model.transformer.h[4].output[0]
            model.output.sum().backward()
            grad = hidden.grad.save()


def test_gradients_of_the_blocks_own_arithmetic_work(model):
    with model.trace(PROMPT, remote="local"):
        hidden = model.transformer.h[4].output[0].detach().clone().requires_grad_()
        (hidden**2).sum().backward()
        grad = hidden.grad.save()
        value = hidden.detach().save()
    assert torch.equal(grad, 2 * value)


def test_a_change_through_numpy_is_a_change(model):
    def run(where):
        with model.trace(PROMPT, remote=where):
            model.transformer.h[4].output[0].numpy()[:, 0] = 1.0
            logits = model.output.save()
        return logits

    assert torch.equal(run(None), run("local"))


def test_what_is_drawn_is_drawn_from_the_same_numbers(model):
    def run(where):
        with model.generate(PROMPT, max_new_tokens=6, do_sample=True, remote=where) as tracer:
            torch.manual_seed(5)
            first = torch.rand(3).save()
            ids = tracer.result.save()
            last = torch.rand(3).save()
        return first, ids, last

    for here, there in zip(run(None), run("local"), strict=True):
        assert torch.equal(here, there)


def test_a_module_can_be_skipped_there_too(model):
    def run(where):
        with model.trace(PROMPT, remote=where):
            before = model.transformer.h[3].mlp.input
            model.transformer.h[3].mlp.skip(before * 2)
            logits = model.output.save()
        return logits

    assert torch.equal(run(None), run("local"))
