"""Programs in nnsight's style: wrappers with aliases and pipelines, copied, edited and sent."""

# These programs are written as nnsight's users write them.
# ruff: noqa: B007, RUF059

from __future__ import annotations

import copy
import pickle

import torch

import nbsight as nnsight
from nbsight.models.wrapped import wrap
from tests.compat import models
from tests.core.small import hooked, rows

X = rows(2)


def renamed():
    return nnsight.NNsight(models.chain(), rename={"h": "layers", "lin": "linear"})


def test_aliases_survive_copies_and_pickles():
    for other in (copy.deepcopy(renamed()), pickle.loads(pickle.dumps(renamed()))):
        with other.trace(X):
            hidden = other.layers[1].linear.output.save()
        assert torch.equal(hidden, hooked(other._module, (X,))["h.1.lin.output"][0])


def test_aliases_hold_in_edited_copies():
    chain = renamed()
    with chain.edit() as (tracer, edited):
        edited.layers[1].output[:] = 0
    with edited.trace(X):
        hidden = edited.layers[1].output.save()
        out = edited.output.save()
    assert float(hidden.abs().sum()) == 0
    assert torch.equal(out, hooked(chain._module, (X,), edit={"h.1": torch.zeros_like})[""][0])


def test_aliases_travel_with_a_remote_block():
    chain = renamed()
    with chain.trace(X, remote="local"):
        hidden = chain.layers[1].linear.output.save()
    assert torch.equal(hidden, hooked(chain._module, (X,))["h.1.lin.output"][0])


def test_an_edit_of_a_pipeline_stays_on_the_edited_copy():
    diffusion = nnsight.DiffusionModel(models.Pipeline())
    with diffusion.edit() as (tracer, edited):
        for step in tracer.iter[:]:
            edited.unet.mid_block.output[:] = 0
    changed = edited.generate("a cat", seed=0, num_inference_steps=3).images
    plain = diffusion.generate("a cat", seed=0, num_inference_steps=3).images

    handle = diffusion.pipeline.components["unet"].mid_block.register_forward_hook(
        lambda _, __, out: torch.zeros_like(out)
    )
    generator = torch.Generator().manual_seed(0)
    wanted = diffusion.pipeline("a cat", generator=generator, num_inference_steps=3).images
    handle.remove()
    assert torch.equal(changed, wanted)
    assert not torch.equal(plain, wanted)


def test_a_cache_of_a_pipeline_has_an_entry_for_each_step():
    diffusion = nnsight.DiffusionModel(models.Pipeline())
    with diffusion.generate("a cat", seed=0, num_inference_steps=4) as tracer:
        cache = tracer.cache(modules=[diffusion.unet.mid_block])
    kept = []
    handle = diffusion.unet._module.mid_block.register_forward_hook(lambda _, __, out: kept.append(out))
    diffusion.pipeline("a cat", generator=torch.Generator().manual_seed(0), num_inference_steps=4)
    handle.remove()
    assert len(kept) == len(cache.unet.mid_block) == 4
    assert all(map(torch.equal, cache.unet.mid_block.output, kept))


def test_a_processed_input_may_have_gradients():
    vit = nnsight.TransformersModel(models.vit())
    pixels = models.noise(1, 3, 8, 8).requires_grad_()
    with vit.trace(pixel_values=pixels, grad=True):
        loss = vit.output.logits[0, 1].save()
    (grad,) = torch.autograd.grad(loss, pixels)
    again = pixels.detach().requires_grad_()
    (wanted,) = torch.autograd.grad(vit._module(pixel_values=again).logits[0, 1], again)
    assert torch.allclose(grad, wanted, atol=1e-6)


def test_wrap_takes_other_names_and_gives_what_nnsight_calls_its_class():
    chain = wrap(models.chain(), rename={"h": "layers"})
    assert isinstance(chain, nnsight.NNsight)
    with chain.trace(X):
        hidden = chain.layers[1].output
    assert torch.equal(hidden, hooked(chain._module, (X,))["h.1.output"][0])
