"""Programs in nnsight's style: a prompt with images."""

# These programs are written as nnsight's users write them.
# ruff: noqa: B007

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import tokenizers
import torch
import transformers

import nbsight as nnsight
from tests.compat import models
from tests.compat.models import IMAGE_TOKEN, first, noise
from tests.core.small import hooked

IMAGE = noise(2, 3, 8, 8)


since_4_52 = pytest.mark.skipif(
    not hasattr(transformers, "LlavaModel"), reason="before 4.52 the parts of vision models had other names"
)


def seen(*ids: int) -> torch.Tensor:
    return torch.tensor([[ids[0], *[IMAGE_TOKEN] * 4, *ids[1:]]])


@pytest.fixture(scope="module")
def llava():
    return nnsight.VisionLanguageModel(models.llava())


@since_4_52
def test_a_vision_language_model_answers_as_a_language_model(llava):
    call = {"input_ids": seen(5, 7, 8), "pixel_values": IMAGE[:1]}
    with llava.trace(**call):
        patches = nnsight.save(
            llava.model.vision_tower.encoder.layers[0].output
            if hasattr(llava.model.vision_tower, "encoder")
            else llava.model.vision_tower.vision_model.encoder.layers[0].output
        )
        hidden = llava.model.language_model.layers[1].output[0].save()
        logits = llava.output[0, -1].save()
    wanted = hooked(llava._module, (), call)
    assert first(patches).shape == (1, 5, 16)
    assert torch.equal(hidden, first(wanted["model.language_model.layers.1.output"][0]))
    assert torch.equal(logits, wanted[""][0].logits[0, -1])


@since_4_52
def test_an_edit_of_the_image_features_reaches_the_text(llava):
    call = {"input_ids": seen(5, 7, 8), "pixel_values": IMAGE[:1]}
    with llava.trace(call):
        llava.model.multi_modal_projector.output[:] = 0
        logits = llava.output.logits.save()

    def silence(value):
        value[:] = 0

    wanted = hooked(llava._module, (), call, edit={"model.multi_modal_projector": silence})
    assert torch.equal(logits, wanted[""][0].logits)


@since_4_52
def test_prompts_with_images_share_a_forward(llava):
    one = {"input_ids": seen(5, 7, 8), "pixel_values": IMAGE[:1]}
    two = {"input_ids": seen(9, 10, 11, 12, 13), "pixel_values": IMAGE[1:]}
    with llava.trace() as tracer:
        with tracer.invoke(**one):
            a = llava.lm_head.output.save()
        with tracer.invoke(**two):
            b = llava.lm_head.output.save()
    assert torch.allclose(a, llava._module(**one).logits, atol=1e-5)
    assert torch.allclose(b, llava._module(**two).logits, atol=1e-5)


@since_4_52
def test_a_vision_language_model_generates(llava):
    call = {"input_ids": seen(5, 7, 8), "pixel_values": IMAGE[:1]}
    with llava.generate(**call, max_new_tokens=3, min_new_tokens=3, do_sample=False) as tracer:
        steps = []
        for step in tracer.iter[:]:
            steps.append(llava.model.language_model.layers[0].output[0].shape[1])
        ids = tracer.result.save()
    wanted = llava._module.generate(
        **call,
        attention_mask=torch.ones(1, 7, dtype=torch.long),
        max_new_tokens=3,
        min_new_tokens=3,
        do_sample=False,
    )
    assert steps == [7, 1, 1]
    assert torch.equal(ids, wanted)


@pytest.fixture
def saved_llava(tmp_path):
    """A folder as the hub has them: weights, a tokenizer of a few words, an image processor."""
    words = {
        word: place for place, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "what", "is", "this"])
    }
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({**words, "<image>": IMAGE_TOKEN}, unk_token="<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>",
        additional_special_tokens=["<image>"], padding_side="left",
    )  # fmt: skip
    kind = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    images = kind(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    processor = transformers.LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=4, num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    models.llava().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return str(tmp_path), processor


@since_4_52
def test_a_prompt_and_images_go_through_the_processor(saved_llava):
    folder, processor = saved_llava
    llava = nnsight.VisionLanguageModel(folder)
    picture = PIL.Image.fromarray((np.arange(8 * 8 * 3).reshape(8, 8, 3) % 255).astype(np.uint8))
    prompt = "<image> what is this"
    call = processor(text=prompt, images=[picture], return_tensors="pt")
    assert not llava.dispatched
    with llava.trace(prompt, images=[picture]):
        hidden = llava.model.language_model.layers[2].output[0].save()
    wanted = hooked(llava._module, (), dict(call))
    assert torch.equal(hidden, first(wanted["model.language_model.layers.2.output"][0]))
    with llava.trace("what is this"):
        words = llava.lm_head.output.save()
    assert torch.equal(words, llava._module(torch.tensor([[4, 5, 6]])).logits)


@since_4_52
def test_a_chat_with_an_image_goes_through_the_template(saved_llava):
    folder, processor = saved_llava
    processor.chat_template = (
        "{% for m in messages %}{% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    llava = nnsight.VisionLanguageModel(folder, processor=processor)
    picture = PIL.Image.new("RGB", (8, 8), (200, 30, 90))
    chat = [
        {
            "role": "user",
            "content": [{"type": "image", "image": picture}, {"type": "text", "text": "what is this"}],
        }
    ]
    with llava.trace(chat):
        logits = llava.output.logits.save()
    call = processor(text="<image> what is this", images=[picture], return_tensors="pt")
    assert torch.equal(logits, llava._module(**call).logits)


@since_4_52
def test_images_with_positions_in_three_dimensions_share_a_forward():
    text = {
        "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 64, **models.TINY,
        "rope_scaling": {"type": "default", "mrope_section": [2, 2, 2]},
    }  # fmt: skip
    vision = {
        "depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 24, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    config = transformers.Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=90, video_token_id=91,
        vision_start_token_id=92, vision_end_token_id=93,
    )  # fmt: skip
    qwen = nnsight.VisionLanguageModel(
        models.seeded(lambda: transformers.Qwen2VLForConditionalGeneration(config))
    )

    def call(seed, *ids):
        whole = torch.tensor([[5, 92, 90, 93, *ids]])
        return {
            "input_ids": whole,
            "mm_token_type_ids": (whole == 90).long(),
            "pixel_values": noise(4, 3 * 2 * 4 * 4, seed=seed),
            "image_grid_thw": torch.tensor([[1, 2, 2]]),
        }

    one, two = call(0, 6, 7), call(1, 8, 9, 10, 11)
    with qwen.trace() as tracer:
        with tracer.invoke(**one):
            a = qwen.lm_head.output.save()
        with tracer.invoke(**two):
            b = qwen.lm_head.output.save()
    for value, given in ((a, one), (b, two)):
        wanted = qwen._module(**given, attention_mask=torch.ones_like(given["input_ids"])).logits
        assert torch.allclose(value, wanted, atol=1e-5)


@since_4_52
def test_a_prompt_with_images_can_be_scanned(llava):
    with llava.scan(input_ids=seen(5, 7, 8), pixel_values=IMAGE[:1]):
        shape = llava.model.language_model.layers[2].output[0].shape
    assert shape == (1, 7, 24)


def test_images_without_a_processor_say_so(llava):
    with pytest.raises(ValueError, match="processor="):
        with llava.trace("<image>what?", images=[IMAGE[0]]):
            llava.output.save()
