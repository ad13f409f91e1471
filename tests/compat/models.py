"""Tiny models with random weights, and helpers that compute the same things with plain torch."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import transformers
from torch import nn

from tests.core.small import Chain, build

PROMPT = "The capital of France is"
OTHER = "The capital of Italy is"
LONGER = "In the morning the little dog ran to the river"


def chain(depth: int = 4) -> nn.Module:
    return build(Chain, depth)


def seeded(make: Any) -> Any:
    """A model in eval mode whose weights are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return make().eval()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids_of(model: Any, prompt: str) -> torch.Tensor:
    return torch.tensor([model.tokenizer(prompt)["input_ids"]])


def first(value: Any) -> Any:
    """The hidden state in what a block returned, on any release of transformers."""
    return value[0] if isinstance(value, tuple) else value


class Cnn(nn.Module):
    """A small image classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(5, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.features(image)).flatten(1))


class UNet(nn.Module):
    """The shape of a diffusion UNet: down, middle, up with skips, a time embedding, a dataclass out."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.time = nn.Linear(1, width)
        self.down_blocks = nn.ModuleList(
            [nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)]
        )
        self.mid_block = nn.Conv2d(width, width, 1)
        self.up_blocks = nn.ModuleList([nn.Conv2d(2 * width, width, 1), nn.Conv2d(2 * width, 3, 1)])

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor | None = None
    ) -> Noise:
        skips = []
        for block in self.down_blocks:
            sample = torch.tanh(block(sample))
            skips.append(sample)
        sample = sample + self.time(timestep.float().reshape(-1, 1))[:, :, None, None]
        if condition is not None:
            sample = sample + condition[:, :, None, None]
        sample = self.mid_block(sample)
        for block in self.up_blocks:
            sample = block(torch.cat([sample, skips.pop()], 1))
        return Noise(sample)


@dataclasses.dataclass
class Noise:
    sample: torch.Tensor

    def __getitem__(self, place: int) -> torch.Tensor:
        return (self.sample,)[place]


@dataclasses.dataclass
class Images:
    images: torch.Tensor


class Words(nn.Module):
    """Turns prompts into vectors, by their letters."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.table = nn.Embedding(128, width)

    def forward(self, prompts: list[str]) -> torch.Tensor:
        return torch.stack([self.table(torch.tensor([ord(c) % 128 for c in p])).mean(0) for p in prompts])


class Pipeline:
    """The shape of a diffusers pipeline: components by name, a call that loops over steps."""

    def __init__(self) -> None:
        self.components = {
            "unet": seeded(UNet),
            "text_encoder": seeded(Words),
            "scheduler": object(),
            "tokenizer": "letters",
        }

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        num_inference_steps: int = 3,
        guidance_scale: float = 1.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | None = None,
    ) -> Images:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        prompts = [p for p in prompts for _ in range(num_images_per_prompt)]
        words = self.components["text_encoder"](prompts)
        sample = torch.randn(1, 3, 6, 6, generator=generator).repeat(len(prompts), 1, 1, 1)
        for step in reversed(range(num_inference_steps)):
            time = torch.full((len(prompts),), step)
            sample = sample - 0.1 * self.components["unet"](sample, time, condition=words).sample
        return Images(sample)


class Adapter(nn.Module):
    """A low-rank adapter around a linear layer, shaped as PEFT's are."""

    def __init__(self, base_layer: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base_layer.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base_layer.out_features, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + 0.5 * self.lora_B["default"](self.lora_A["default"](x))


class Peft(nn.Module):
    """A model under the two layers of names that PEFT puts around one."""

    def __init__(self) -> None:
        super().__init__()
        inner = Chain(3)
        for block in inner.h:
            block.lin = Adapter(block.lin)
        self.base_model = nn.Module()
        self.base_model.model = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_model.model(x)


class Odd(nn.Module):
    """Parts that return a dict, a dataclass and None; one that is reached by two paths and called thrice."""

    def __init__(self) -> None:
        super().__init__()
        self.as_dict, self.as_record, self.silent = AsDict(), AsRecord(), Silent()
        self.cell = nn.Linear(4, 4)
        self.again = nn.ModuleList([self.cell])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.silent(x)
        x = self.as_dict(x)["hidden"] + self.as_record(x).sample
        for _ in range(3):
            x = torch.tanh(self.cell(x))
        return x


class AsDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"hidden": self.lin(x), "note": "kept"}


class AsRecord(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Noise:
        return Noise(self.lin(x))


class Silent(nn.Module):
    def forward(self, x: torch.Tensor) -> None:
        return None


class Bert(nn.Module):
    """Blocks whose children are called as served values are."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 4)
        self.output = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.tanh(self.dense(x)))


TINY = {"vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(**TINY, n_embd=24, n_layer=3, n_head=4, n_positions=40)
    return seeded(lambda: transformers.GPT2LMHeadModel(config))


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        **TINY, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=40,
    )  # fmt: skip
    return seeded(lambda: transformers.LlamaForCausalLM(config))


def bert() -> nn.Module:
    config = transformers.BertConfig(
        **TINY, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4
    )
    return seeded(lambda: transformers.BertForSequenceClassification(config))


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=97, d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    return seeded(lambda: transformers.T5ForConditionalGeneration(config))


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, image_size=8,
        patch_size=4, num_labels=3,
    )  # fmt: skip
    return seeded(lambda: transformers.ViTForImageClassification(config))


def whisper() -> nn.Module:
    config = transformers.WhisperConfig(
        **TINY, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=40, decoder_ffn_dim=40, num_mel_bins=8,
        max_source_positions=10, max_target_positions=20, decoder_start_token_id=1, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    return seeded(lambda: transformers.WhisperForConditionalGeneration(config))


IMAGE_TOKEN = 90


def llava() -> nn.Module:
    vision = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    text = transformers.LlamaConfig(
        **TINY, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=40,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, image_seq_length=4,
        vision_feature_layer=-1,
    )  # fmt: skip
    return seeded(lambda: transformers.LlavaForConditionalGeneration(config))
