"""What a checkpoint says of a model's size is what the loaded model has."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from nbsight.models import demo
from nbsight.server.engines.sizes import memory_of, weights_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=100)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "torch.float64"])
def test_the_bytes_are_those_of_the_loaded_parameters(folder, dtype):
    wanted = getattr(torch, (dtype or "float32").removeprefix("torch."))
    loaded = GPT2LMHeadModel.from_pretrained(folder).to(wanted)
    assert weights_of(str(folder), dtype) == sum(p.numel() * p.element_size() for p in loaded.parameters())


def test_a_worker_is_given_more_than_the_weights(folder):
    assert memory_of(10**9) == 1_200_000_000 + 2**30


def test_what_cannot_be_known_is_not_guessed(tmp_path, folder):
    assert weights_of(str(tmp_path / "nowhere")) is None
    torch.save({}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert weights_of(str(tmp_path)) == (tmp_path / "pytorch_model.bin").stat().st_size


def test_the_server_reads_headers_without_torch():
    code = (
        "import sys; from nbsight.server.engines.sizes import weights_of; "
        f"assert weights_of({demo.NAME!r}) > 10**6; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
