"""Models as other libraries hand them out: dispatched, offloaded, adapted, quantised, compiled."""

from __future__ import annotations

import warnings

import accelerate
import pytest
import torch
from torch import nn

from nbsight.core.model import wrap
from nbsight.errors import NeverCalledError
from nbsight.models.language_model import LanguageModel
from nbsight.models.transformers_model import TransformersModel
from tests.compat import models
from tests.compat.models import first, noise
from tests.core.small import Chain, build, close, hooked, rows, same

X = rows(2)
IDS, OTHER = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10]])
GENERATION = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}


def zero(value):
    value[:] = 0


def generated(module, ids=IDS):
    return module.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **GENERATION)


# -- accelerate ------------------------------------------------------------------------------------

DEVICES = {"h.0": "cpu", "h.1": "disk", "h.2": "disk", "h.3": "cpu", "head": "disk"}


def on_disk(net, folder):
    return accelerate.disk_offload(net, folder, execution_device="cpu")


def here_and_there(net, folder):
    return accelerate.dispatch_model(net, DEVICES, main_device="cpu", offload_dir=folder, force_hooks=True)


def whole_blocks(net, folder):
    return accelerate.cpu_offload(net, execution_device="cpu", preload_module_classes=["Block"])


@pytest.fixture(params=[on_disk, here_and_there, whole_blocks])
def offloaded(request, tmp_path):
    net = build(Chain)
    request.param(net, str(tmp_path))
    assert net.h[1].lin.weight.device.type == "meta"
    return net


def loaded(net):
    return [name for name, weight in net.h[1].named_parameters() if weight.device.type != "meta"]


def test_an_offloaded_model_is_read_edited_and_cached(offloaded):
    want = hooked(build(Chain), (X,))
    model = wrap(offloaded)
    with model.trace(X) as tracer:
        cache = tracer.cache(modules=[model.h[2].lin], include_inputs=True)
        hidden = model.h[1].lin.output
        model.h[2].output[:] = 0
        final = model.output
    assert same([hidden, cache.h[2].lin.output], [want[f"h.{n}.lin.output"][0] for n in (1, 2)])
    assert same(final, hooked(build(Chain), (X,), edit={"h.2": zero})[""][0])
    assert loaded(offloaded) == []
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            donor = model.h[1].output
        with tracer.invoke(X[1:]):
            model.h[2].output[:] = donor
            final = model.output
    assert close(donor, want["h.1.output"][0][:1])
    with torch.no_grad():
        plain = build(Chain)
        assert close(final, plain.head(plain.h[3](donor)))


def test_a_run_that_ends_early_reads_an_offloaded_model_right_each_time(offloaded):
    want = hooked(build(Chain), (X,))
    model = wrap(offloaded)
    for _ in range(3):
        with model.trace(X):
            hidden = model.h[1].lin.output
        assert same(hidden, want["h.1.lin.output"][0])
        with torch.no_grad():
            assert same(offloaded(X), want[""][0])
        assert loaded(offloaded) == []


def test_gradients_of_an_offloaded_models_values():
    net, other, kept = build(Chain), build(Chain), []
    accelerate.cpu_offload(net, execution_device="cpu")
    other.h[1].register_forward_hook(lambda module, given, out: kept.append(out))
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(other(x).sum(), kept)
    model = wrap(net)
    with model.trace(x, grad=True):
        hidden = model.h[1].output
        with model.output.sum().backward():
            found = hidden.grad
    assert close(found, gradient)


def test_a_dispatched_language_model_is_read_and_generates(tmp_path):
    module = models.gpt2()
    want, tokens = hooked(module, (IDS,)), generated(module)
    accelerate.disk_offload(module, str(tmp_path), execution_device="cpu")
    model = LanguageModel(module)
    with model.trace(IDS):
        hidden, logits = model.transformer.h[1].output[0], model.output.logits
    assert torch.equal(hidden, first(want["transformer.h.1.output"][0]))
    assert torch.equal(logits, want[""][0].logits)
    with model.generate(IDS, **GENERATION) as tracer:
        lengths = [model.transformer.h[1].output[0].shape[1] for _ in tracer.iter[:]]
        result = tracer.result
    assert lengths == [4, 1, 1]
    assert torch.equal(result, tokens)


# -- PEFT ------------------------------------------------------------------------------------------

#: With the oldest transformers the newest releases of these cannot be imported.
TOO_NEW = "cannot be imported with this transformers"


def adapted(base=None):
    peft = pytest.importorskip("peft", reason=TOO_NEW, exc_type=ImportError)
    config = peft.LoraConfig(
        r=2, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return peft.get_peft_model(models.gpt2() if base is None else base, config).eval()


LOW = "base_model.model.transformer.h.1.attn.c_attn.lora_A.default"


def test_an_adapters_parts_are_read_and_its_blocks_are_found():
    module = adapted()
    want = hooked(module, (), {"input_ids": IDS})
    block = first(want["base_model.model.transformer.h.1.output"][0])
    for model in (LanguageModel(module), TransformersModel(module), wrap(module)):
        given = {"input_ids": IDS}
        with model.trace(**given):
            low = model.transformer.h[1].attn.c_attn.lora_A.default.output
            hidden = model.base_model.model.transformer.h[1].output
            logits = model.output.logits
        assert torch.equal(low, want[f"{LOW}.output"][0])
        assert torch.equal(first(hidden), block)
        assert torch.equal(logits, want[""][0].logits)
    with model.trace(**given):
        assert model.transformer.h[1]._path == "base_model.model.transformer.h.1"


def test_silencing_an_adapter_gives_the_plain_model():
    module = adapted()
    model = LanguageModel(module)
    with torch.no_grad():
        plain, with_adapter = models.gpt2()(IDS).logits, module(input_ids=IDS).logits
    with model.trace(IDS):
        for block in model.transformer.h:
            block.attn.c_attn.lora_B.default.output[:] = 0
        silenced = model.output.logits
    with module.disable_adapter(), model.trace(IDS):
        disabled = model.output.logits
    assert not torch.allclose(with_adapter, plain, atol=1e-4)
    assert torch.allclose(silenced, plain, atol=1e-5)
    assert torch.allclose(disabled, plain, atol=1e-5)


def test_an_adapter_that_is_put_in_after_the_first_trace_is_followed():
    base = models.gpt2()
    model = LanguageModel(base)
    with model.trace(IDS):
        model.transformer.h[1].attn.c_attn.output
    module = adapted(base)
    want = hooked(module, (), {"input_ids": IDS})
    with model.trace(IDS):
        low = model.transformer.h[1].attn.c_attn.lora_A.default.output
        logits = model.output.logits
    assert torch.equal(low, want[f"{LOW}.output"][0])
    assert torch.equal(logits, want[""][0].logits)
    module.merge_adapter()
    with model.trace(IDS):
        merged = model.output.logits
    assert torch.allclose(merged, logits, atol=1e-5)


def test_an_adapted_model_takes_invokes_generates_in_steps_and_has_gradients():
    module = adapted()
    model = LanguageModel(module)
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            one = model.output.logits
        with tracer.invoke(OTHER):
            two = model.output.logits
    with torch.no_grad():
        assert torch.allclose(one, module(input_ids=IDS).logits, atol=1e-5)
        assert torch.allclose(two, module(input_ids=OTHER).logits, atol=1e-5)
    with model.generate(IDS, **GENERATION) as tracer:
        lengths = [model.transformer.h[1].output[0].shape[1] for _ in tracer.iter[:]]
        result = tracer.result
    assert lengths == [4, 1, 1]
    assert torch.equal(result, generated(module))
    kept = []
    module.get_submodule(LOW).register_forward_hook(lambda _, __, out: kept.append(out))
    (gradient,) = torch.autograd.grad(module(input_ids=IDS).logits.sum(), kept)
    with model.trace(IDS, grad=True):
        low = model.transformer.h[1].attn.c_attn.lora_A.default.output
        with model.output.logits.sum().backward():
            found = low.grad
    assert torch.allclose(found, gradient, atol=1e-5)


def test_a_shells_own_output_in_generation_says_whose_to_ask():
    model = LanguageModel(adapted())
    with pytest.raises(NeverCalledError, match=r"`model\.base_model\.model\.output`"):
        with model.generate(IDS, **GENERATION) as tracer:
            for _ in tracer.iter[:]:
                model.output


# -- compiled --------------------------------------------------------------------------------------


def test_a_compiled_language_model_is_read_takes_invokes_and_generates():
    module = models.gpt2()
    want, tokens = hooked(module, (IDS,)), generated(module)
    model = LanguageModel(torch.compile(module, backend="eager"))
    with model.trace(IDS):
        hidden, logits = model.transformer.h[1].output[0], model.output.logits
    assert torch.equal(hidden, first(want["transformer.h.1.output"][0]))
    assert torch.equal(logits, want[""][0].logits)
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            one = model.transformer.h[1].output[0]
        with tracer.invoke(OTHER):
            model.output
    assert torch.allclose(one, hidden, atol=1e-5)
    with model.generate(IDS, **GENERATION) as tracer:
        lengths = [model.transformer.h[1].output[0].shape[1] for _ in tracer.iter[:]]
        result = tracer.result
    assert lengths == [4, 1, 1]
    assert torch.equal(result, tokens)
    with pytest.raises(NeverCalledError, match=r"`model\._orig_mod\.output`"):
        with model.generate(IDS, **GENERATION):
            model.output
    torch._dynamo.reset()


# -- quantised -------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_layers_that_torchao_quantised(config):
    # Installed, it is imported by transformers everywhere and writes of missing GPU libraries.
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is no test requirement")
    net = models.seeded(lambda: nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.quantize_(net, getattr(quantization, config)())
    assert type(net[0].weight) is not nn.Parameter or type(net[0].weight.data) is not torch.Tensor
    x = noise(2, 64)
    want = hooked(net, (x,))
    model = wrap(net)
    with model.trace(x):
        hidden, final = model[0].output, model.output
    assert same([hidden, final], [want["0.output"][0], want[""][0]])
    with model.trace(x):
        model[0].output[:] = 0
        final = model.output
    assert same(final, hooked(net, (x,), edit={"0": zero})[""][0])


# -- diffusers -------------------------------------------------------------------------------------


def test_a_diffusion_unet_of_diffusers():
    diffusers = pytest.importorskip("diffusers", reason=TOO_NEW, exc_type=ImportError)
    unet = models.seeded(
        lambda: diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=8,
            norm_num_groups=4,
            attention_head_dim=2,
        )
    )
    given = (noise(2, 3, 8, 8), torch.tensor([3, 3]), noise(2, 4, 8))
    crossed = "up_blocks.0.attentions.0.transformer_blocks.0.attn2"
    want = hooked(unet, given)
    model = wrap(unet)
    with model.trace(*given):
        down, middle = model.down_blocks[1].output, model.mid_block.output
        attention = model.get(crossed).output
        sample = model.output.sample
    assert same(
        [down, middle, attention, sample],
        [want[f"{path}.output"][0] for path in ("down_blocks.1", "mid_block", crossed)]
        + [want[""][0].sample],
    )
    with model.trace(*given):
        model.mid_block.output[:] = 0
        sample = model.output.sample
    assert same(sample, hooked(unet, given, edit={"mid_block": zero})[""][0].sample)
