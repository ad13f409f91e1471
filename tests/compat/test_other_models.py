"""Programs in nnsight's style: models other than language models, and the other wrappers."""

# These programs are written as nnsight's users write them.
# ruff: noqa: B007

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import nbsight as nnsight
from tests.compat import models
from tests.compat.models import first, noise
from tests.core.small import hooked, rows, same

IMAGE = noise(2, 3, 8, 8)
IDS = torch.tensor([[5, 6, 7, 8]])


def test_a_cnn():
    cnn = nnsight.NNsight(models.seeded(models.Cnn))
    with cnn.trace(IMAGE):
        maps = cnn.features[0].output.save()
        cnn.features[3].output[:, 2] = 0
        out = cnn.output.save()

    def silence(value):
        value[:, 2] = 0

    wanted = hooked(cnn._module, (IMAGE,), edit={"features.3": silence})
    assert torch.equal(maps, wanted["features.0.output"][0])
    assert torch.equal(out, wanted[""][0])


def test_a_diffusion_unet_with_a_dataclass_output():
    unet = nnsight.NNsight(models.seeded(models.UNet))
    sample, time = noise(2, 3, 6, 6), torch.tensor([3, 3])
    with unet.trace(sample, timestep=time):
        middle = unet.mid_block.output.save()
        unet.up_blocks[0].output = unet.up_blocks[0].output * 2
        record = nnsight.save(unet.output)
    wanted = hooked(
        unet._module, (sample,), {"timestep": time}, edit={"up_blocks.0": lambda value: value * 2}
    )
    assert torch.equal(middle, wanted["mid_block.output"][0])
    assert torch.equal(record.sample, wanted[""][0].sample)


def test_an_adapter_around_a_layer():
    peft = nnsight.NNsight(models.seeded(models.Peft))
    x = rows(2)
    with peft.trace(x):
        low = peft.base_model.model.h[1].lin.lora_A["default"].output.save()
        peft.base_model.model.h[2].lin.lora_B.default.output[:] = 0
        out = peft.output.save()
    wanted = hooked(peft._module, (x,), edit={"base_model.model.h.2.lin.lora_B.default": torch.zeros_like})
    assert torch.equal(low, wanted["base_model.model.h.1.lin.lora_A.default.output"][0])
    assert torch.equal(out, wanted[""][0])


def test_an_adapter_put_in_after_wrapping_is_found():
    chain = nnsight.NNsight(models.chain())
    x = rows(2)
    with chain.trace(x):
        chain.h[0].lin.output.save()
    torch.manual_seed(2)
    chain._module.h[0].lin = models.Adapter(chain._module.h[0].lin)
    with torch.no_grad(), chain.trace(x):
        whole = chain.h[0].lin.output.save()
        out = chain.output.save()
    wanted = hooked(chain._module, (x,))
    assert torch.equal(whole, wanted["h.0.lin.output"][0])
    assert torch.equal(out, wanted[""][0])


def test_parts_that_return_anything_and_a_part_that_is_called_thrice():
    odd = nnsight.NNsight(models.seeded(models.Odd))
    x = noise(2, 4)
    with odd.trace(x) as tracer:
        nothing = odd.silent.output
        note = odd.as_dict.output["note"]
        hidden = odd.as_dict.output["hidden"].save()
        record = odd.as_record.output.sample.save()
        cells = []
        for call in tracer.iter[:3]:
            cells.append(odd.again[0].output)
        out = odd.output.save()
    wanted = hooked(odd._module, (x,))
    assert nothing is None
    assert note == "kept"
    assert torch.equal(hidden, wanted["as_dict.output"][0]["hidden"])
    assert torch.equal(record, wanted["as_record.output"][0].sample)
    assert same(cells, wanted["cell.output"])
    assert torch.equal(out, wanted[""][0])


# -- TransformersModel -----------------------------------------------------------------------------


def test_a_transformers_model_is_literal():
    gpt2 = nnsight.TransformersModel(models.gpt2())
    with gpt2.trace(IDS):
        block = nnsight.save(gpt2.transformer.h[1].output)
        attention = nnsight.save(gpt2.transformer.h[2].attn.output)
        out = nnsight.save(gpt2.output)
    wanted = hooked(gpt2._module, (IDS,))
    plain = wanted["transformer.h.1.output"][0]
    assert type(block) is type(plain)
    assert torch.equal(first(block), first(plain))
    assert same(attention[0], wanted["transformer.h.2.attn.output"][0][0])
    assert type(out) is type(wanted[""][0])
    assert torch.equal(out.logits, wanted[""][0].logits)


def test_a_transformers_model_is_loaded_for_its_task(tmp_path):
    module = models.bert()
    module.save_pretrained(tmp_path)
    bert = nnsight.TransformersModel(str(tmp_path), task="text-classification")
    assert bert.task == "text-classification"
    assert not bert.dispatched
    with bert.trace(IDS):
        inner = bert.bert.encoder.layer[0].E_output.dense.output.save()
        logits = bert.output.logits.save()
    assert bert.dispatched
    wanted = hooked(module, (IDS,))
    assert torch.allclose(inner, wanted["bert.encoder.layer.0.output.dense.output"][0], atol=1e-6)
    assert torch.allclose(logits, wanted[""][0].logits, atol=1e-6)


def test_an_unknown_task_and_what_is_not_there_say_so(tmp_path):
    models.bert().save_pretrained(tmp_path)
    with pytest.raises(nnsight.NbsightError, match="telepathy"):
        nnsight.TransformersModel(str(tmp_path), task="telepathy")
    with pytest.raises(ValueError, match="`peft=` is not part of this version"):
        nnsight.TransformersModel(models.gpt2(), peft="an/adapter")
    with pytest.raises(ValueError, match="`pipe` is not part of this version"):
        nnsight.TransformersModel(models.gpt2()).pipe("text")


def test_bert_pads_on_the_right_and_gives_each_prompt_its_own():
    bert = nnsight.TransformersModel(models.bert())
    long, short = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[7, 9]])
    with bert.trace() as tracer:
        with tracer.invoke(long):
            a = nnsight.save(bert.bert.encoder.layer[1].output)
        with tracer.invoke(short):
            b = nnsight.save(bert.bert.encoder.layer[1].output)
    for value, ids in ((a, long), (b, short)):
        wanted = hooked(bert._module, (ids,))["bert.encoder.layer.1.output"][0]
        assert torch.allclose(first(value), first(wanted), atol=1e-5)


def test_t5_with_an_encoder_and_a_decoder():
    t5 = nnsight.TransformersModel(models.t5())
    decoder = torch.tensor([[0, 9]])
    with t5.trace(input_ids=IDS, decoder_input_ids=decoder):
        encoded = t5.encoder.block[1].output[0].save()
        decoded = t5.decoder.block[0].output[0].save()
        logits = t5.output.logits.save()
    wanted = hooked(t5._module, (), {"input_ids": IDS, "decoder_input_ids": decoder})
    assert torch.equal(encoded, first(wanted["encoder.block.1.output"][0]))
    assert torch.equal(decoded, first(wanted["decoder.block.0.output"][0]))
    assert torch.equal(logits, wanted[""][0].logits)


def test_t5_generates():
    t5 = nnsight.TransformersModel(models.t5())
    with t5.generate(IDS, max_new_tokens=3, min_new_tokens=3, do_sample=False) as tracer:
        steps = [first(t5.decoder.block[1].output).shape[1] for step in tracer.iter[:]]
        ids = tracer.result.save()
    wanted = t5._module.generate(
        IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=3, min_new_tokens=3, do_sample=False
    )
    assert steps == [1, 1, 1]
    assert torch.equal(ids, wanted)


def test_vit_takes_pixels_and_joins_invokes():
    vit = nnsight.TransformersModel(models.vit())
    blocks = vit.vit.encoder.layer if hasattr(vit.vit, "encoder") else vit.vit.layers
    path = blocks[0]._path
    with vit.trace(pixel_values=IMAGE):
        hidden = nnsight.save(blocks[0].output)
        logits = vit.output.logits.save()
    wanted = hooked(vit._module, (), {"pixel_values": IMAGE})
    assert torch.equal(first(hidden), first(wanted[f"{path}.output"][0]))
    assert torch.equal(logits, wanted[""][0].logits)
    with vit.trace() as tracer:
        with tracer.invoke(pixel_values=IMAGE[:1]):
            one = vit.classifier.output.save()
        with tracer.invoke(pixel_values=IMAGE):
            two = vit.classifier.output.save()
    assert torch.allclose(one, logits[:1], atol=1e-5)
    assert torch.allclose(two, logits, atol=1e-5)


def test_vit_takes_images_through_its_processor():
    processor = (
        transformers.ViTImageProcessorPil(size={"height": 8, "width": 8})
        if hasattr(transformers, "ViTImageProcessorPil")
        else transformers.ViTImageProcessor(size={"height": 8, "width": 8})
    )
    vit = nnsight.TransformersModel(models.vit(), image_processor=processor)
    image = (np.arange(8 * 8 * 3).reshape(8, 8, 3) % 255).astype(np.uint8)
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    for given in ((image,), ([image],)):
        with vit.trace(*given):
            logits = vit.output.logits.save()
        assert torch.equal(logits, vit._module(pixel_values=pixels).logits)


def test_whisper_hears_and_writes():
    whisper = nnsight.TransformersModel(models.whisper())
    sound = noise(1, 8, 20)
    start = torch.tensor([[1, 4]])
    with whisper.trace(input_features=sound, decoder_input_ids=start):
        encoded = nnsight.save(whisper.model.encoder.layers[1].output)
        crossed = whisper.model.decoder.layers[0].encoder_attn.output[0].save()
        logits = whisper.output.logits.save()
    wanted = hooked(whisper._module, (), {"input_features": sound, "decoder_input_ids": start})
    assert torch.equal(first(encoded), first(wanted["model.encoder.layers.1.output"][0]))
    assert torch.equal(crossed, wanted["model.decoder.layers.0.encoder_attn.output"][0][0])
    assert torch.equal(logits, wanted[""][0].logits)
