"""Programs in nnsight's style: diffusion pipelines."""

# These programs are written as nnsight's users write them.
# ruff: noqa: B007

from __future__ import annotations

import numpy as np
import pytest
import torch

import nbsight as nnsight
from tests.compat import models
from tests.core.small import same


@pytest.fixture
def diffusion():
    return nnsight.DiffusionModel(models.Pipeline())


def plain_pictures(pipeline, prompt, **options):
    kept = []
    handle = pipeline.components["unet"].register_forward_hook(lambda _, __, out: kept.append(out.sample))
    images = pipeline(prompt, generator=torch.Generator().manual_seed(0), **options).images
    handle.remove()
    return kept, images


def test_a_pipeline_is_traced_for_one_step(diffusion):
    with diffusion.trace("a cat", seed=0) as tracer:
        words = diffusion.text_encoder.output.save()
        noise_ = diffusion.unet.output.sample.save()
        images = tracer.result.images
    kept, wanted = plain_pictures(diffusion.pipeline, "a cat", num_inference_steps=1)
    assert torch.equal(words, diffusion.pipeline.components["text_encoder"](["a cat"]))
    assert torch.equal(noise_, kept[0])
    assert torch.equal(images, wanted)


def test_steps_of_denoising_are_looped_over_and_edited(diffusion):
    with diffusion.generate("a cat", num_inference_steps=4, seed=0) as tracer:
        middles = nnsight.save([])
        for step in tracer.iter[:]:
            if step == 2:
                diffusion.unet.mid_block.output[:] = 0
            middles.append(diffusion.unet.output.sample)
        images = tracer.result.images
    calls = []

    def silence(_, __, out):
        calls.append(1)
        return torch.zeros_like(out) if len(calls) == 3 else None

    handle = diffusion.pipeline.components["unet"].mid_block.register_forward_hook(silence)
    kept, wanted = plain_pictures(diffusion.pipeline, "a cat", num_inference_steps=4)
    handle.remove()
    assert same(list(middles), kept)
    assert torch.equal(images, wanted)


def test_a_pipeline_runs_without_a_block(diffusion):
    images = diffusion.generate("a cat", seed=0).images
    assert torch.equal(images, plain_pictures(diffusion.pipeline, "a cat")[1])


def test_prompts_share_a_pipeline_run_where_there_is_no_guidance(diffusion):
    with diffusion.generate(num_inference_steps=2, seed=0) as tracer:
        with tracer.invoke("a cat"):
            one = diffusion.unet.mid_block.output.save()
        with tracer.invoke(["a dog", "a tree"]):
            diffusion.unet.mid_block.output[:] = 0
            two = diffusion.unet.mid_block.output.save()
    with diffusion.generate("a cat", num_inference_steps=2, seed=0):
        alone = diffusion.unet.mid_block.output.save()
    assert torch.allclose(one, alone, atol=1e-6)
    assert two.shape[0] == 2
    with pytest.raises(ValueError, match="guidance_scale=1"):
        with diffusion.generate(num_inference_steps=2, guidance_scale=7.5) as tracer:
            with tracer.invoke("a cat"):
                diffusion.unet.output.sample
            with tracer.invoke("a dog"):
                diffusion.unet.output.sample


def test_loading_a_pipeline_by_name_says_what_is_needed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(nnsight.NbsightError, match=r"pip install nbsight\[diffusion\]"):
        nnsight.DiffusionModel("some/pipeline")
    with pytest.raises(ValueError, match="diffusers pipeline"):
        nnsight.DiffusionModel(3)


def test_a_real_pipeline_of_diffusers_runs():
    diffusers = pytest.importorskip(
        "diffusers", reason="cannot be imported with this transformers", exc_type=ImportError
    )
    unet = models.seeded(
        lambda: diffusers.UNet2DModel(
            sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 8),
            norm_num_groups=4, down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
    )  # fmt: skip
    pipeline = diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler(num_train_timesteps=10))
    pipeline.set_progress_bar_config(disable=True)
    ddpm = nnsight.DiffusionModel(pipeline)
    kept = []
    handle = unet.mid_block.register_forward_hook(lambda _, __, out: kept.append(out.clone()))
    wanted = pipeline(
        generator=torch.Generator().manual_seed(0), num_inference_steps=2, output_type="np"
    ).images
    handle.remove()
    with ddpm.generate(batch_size=1, num_inference_steps=2, seed=0, output_type="np") as tracer:
        middles = []
        for step in tracer.iter[:]:
            middles.append(ddpm.unet.mid_block.output.clone())
        images = tracer.result.images
    assert same(middles, kept)
    assert np.array_equal(images, wanted)
