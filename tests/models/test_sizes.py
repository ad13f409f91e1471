"""Sizes: what weights will take is what they take; where they are is where they are; too much is refused."""

from __future__ import annotations

import itertools
import json
import shutil

import accelerate
import pytest
import torch
import transformers
from torch import nn

from nbsight.core.model import Model
from nbsight.display.numbers import bytes_text
from nbsight.errors import InputError, ModelLoadError, NotEnoughMemoryError
from nbsight.models import demo as shipped
from nbsight.models import sizing
from nbsight.models.language_model import LanguageModel
from nbsight.models.sizing import estimate_memory
from nbsight.models.wrapped import wrap
from nbsight.results.base import load_result
from nbsight.results.sizes import MemoryEstimate, Placement
from tests.models.architectures import AVAILABLE, make


def _tensors(module: nn.Module):
    return itertools.chain(module.parameters(), module.buffers())


def measured(module: nn.Module) -> int:
    """Bytes of parameters and buffers by their storages, shared ones once."""
    found = {}
    for tensor in _tensors(module):
        storage = tensor.untyped_storage()
        found[storage.data_ptr() or id(tensor)] = storage.nbytes()
    return sum(found.values())


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(shipped.folder(), tmp_path / "model")


# -- estimates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", AVAILABLE, ids=str)
def test_an_estimate_is_what_the_loaded_model_takes(row, tmp_path):
    make(row).to(torch.bfloat16).save_pretrained(tmp_path)
    for dtype in (None, torch.float32, torch.float16, "auto"):
        found = estimate_memory(str(tmp_path), dtype=dtype)
        loaded = LanguageModel(str(tmp_path), dtype=dtype, dispatch=True)
        real = measured(loaded._module)
        assert abs(found.total - real) <= 0.01 * real, dtype
        assert found.parameters.sum() == sum(p.numel() for p in loaded._module.parameters())
        assert str(next(loaded._module.parameters()).dtype) == f"torch.{found.dtype}"
        assert f"{row.blocks}.1" in found.parts


def test_the_dtype_of_the_files_counts_where_the_configuration_has_none(folder):
    settings = json.loads((folder / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        settings.pop(name, None)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).to(torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    found = estimate_memory(str(folder), dtype="auto")
    assert found.dtype == "bfloat16"
    assert found.total == measured(LanguageModel(str(folder), dtype="auto", dispatch=True)._module)


def test_an_estimate_says_whether_it_fits_and_what_else_there_is(folder, monkeypatch):
    found = estimate_memory("nbsight/demo", dtype=torch.float32)
    text = repr(found)
    assert text.startswith(f"nbsight/demo in float32: {bytes_text(found.total)} of weights (")
    assert "12 blocks" in text
    assert "the header of model.safetensors" in text
    assert "cpu: " in text
    assert "it fits" in text
    assert found.fits("cpu")
    monkeypatch.setattr(sizing, "free_bytes", lambda device: 1_000_000)
    small = estimate_memory(str(folder), dtype=torch.float32)
    assert not small.fits("cpu")
    for part in ("too much", "dtype=torch.bfloat16", "quantization_config=", 'device_map="auto"'):
        assert part in repr(small)
    assert "too much" in small._repr_html_()
    half = estimate_memory(str(folder), dtype="bfloat16")
    assert half.total < 0.55 * small.total


def test_an_estimate_reads_no_weights(folder):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    header = int.from_bytes(data[:8], "little")
    file.write_bytes(data[: 8 + header])  # nothing behind the header
    assert estimate_memory(str(folder)).total == estimate_memory("nbsight/demo").total


def test_files_alone_tell_where_the_model_cannot_be_made_without_weights(monkeypatch):
    module = transformers.AutoModelForCausalLM.from_pretrained(shipped.folder())
    monkeypatch.setattr(sizing.Loader, "tree", lambda *_: None)
    found = estimate_memory("nbsight/demo", dtype=torch.float32)
    assert found.source == "the header of model.safetensors"
    # without what is made anew: the oldest release keeps masks as buffers
    assert found.total == sum(p.nbytes for p in module.parameters())
    monkeypatch.setattr(sizing, "headers_of", lambda *_: None)
    with pytest.raises(ModelLoadError, match="not known before it is loaded"):
        estimate_memory("nbsight/demo")


def test_a_models_own_estimate_is_that_of_its_name():
    model = LanguageModel("nbsight/demo")
    before = estimate_memory(model)
    model.dispatch()
    after = estimate_memory(model)
    assert before.total == after.total == measured(model._module)
    assert after.source == "the loaded weights themselves"
    with pytest.raises(InputError, match="takes a name"):
        estimate_memory(3)


def test_estimates_and_placements_are_results(tmp_path):
    for found in (estimate_memory("nbsight/demo"), LanguageModel("nbsight/demo", dispatch=True).placement):
        again = load_result(found.save(tmp_path / "one"))
        assert type(again) in (MemoryEstimate, Placement)
        assert repr(again) == repr(found)
        assert again.to_dataframe()["bytes"].sum() == found.total


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_take_what_was_estimated(bits, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is no test requirement")
    assert bitsandbytes
    settings = {
        "vocab_size": 101, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).save_pretrained(tmp_path)
    kind = transformers.BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    found = estimate_memory(str(tmp_path), quantization_config=kind, dtype=torch.float32)
    model = LanguageModel(
        str(tmp_path), quantization_config=kind, dtype=torch.float32, device_map={"": "cpu"}
    )
    ids = torch.tensor([[5, 6, 7, 8]])
    with model.trace(ids):
        model.model.layers[0].output[0][:, -1] *= 2
        attn = model.model.layers[1].self_attn.output[0].clone()
        logits = model.logits.clone()
    real = measured(model._module)
    for module in model._module.modules():  # scales are no parameters, and memory all the same
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        real += 0 if state is None else state.absmax.nbytes
        scale = getattr(getattr(module, "weight", None), "SCB", None)
        real += 0 if scale is None else scale.nbytes
    assert abs(found.total - real) <= 0.05 * real
    seen = {}
    module = model._module
    handles = [
        module.model.layers[1].self_attn.register_forward_hook(
            lambda _, __, out: seen.update(attn=out[0].clone())
        ),
        module.model.layers[0].register_forward_hook(_doubled_last),
    ]
    with torch.no_grad():
        wanted = module(ids).logits
    for handle in handles:
        handle.remove()
    assert torch.equal(attn, seen["attn"])
    assert torch.equal(logits, wanted)
    assert f"{bits} bits" in repr(found)
    assert model.placement.total == measured(model._module)


def _doubled_last(_, __, out):
    hidden = out if isinstance(out, torch.Tensor) else out[0]
    hidden = hidden.clone()
    hidden[:, -1] *= 2
    return hidden if isinstance(out, torch.Tensor) else (hidden, *out[1:])


# -- placements ------------------------------------------------------------------------------------


def test_a_placement_says_where_every_part_is():
    model = LanguageModel("nbsight/demo")
    assert set(model.placement.held) == {"not loaded"}
    model.dispatch()
    found = model.placement
    assert found.parts[:3] == ("transformer.wte", "transformer.wpe", "transformer.h.0")
    assert set(found.devices) == {"cpu"} == set(found.held)
    assert found.offloaded == ()
    assert found.total == measured(model._module)
    block = sum(t.nbytes for t in _tensors(model._model.transformer.h[3]))
    assert found.bytes[found.parts.index("transformer.h.3")] == block
    assert "transformer.h.0–11" in repr(found)
    assert "12 × " in repr(found)
    assert "12 × " in found._repr_html_()
    assert len(found.plot().axes[0].patches) == len(found.parts)


def test_a_placement_tells_what_lies_in_memory_and_what_on_disk(tmp_path):
    places = dict.fromkeys(("transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head"), "cpu")
    places |= {f"transformer.h.{layer}": "disk" if layer >= 6 else "cpu" for layer in range(12)}
    model = LanguageModel("nbsight/demo", device_map=places, offload_folder=str(tmp_path), dispatch=True)
    found = model.placement
    assert found.offloaded == tuple(f"transformer.h.{layer}" for layer in range(6, 12))
    assert set(found.devices) == {"cpu"}
    assert found.by_place.keys() == {"cpu", "disk"}
    assert "on disk" in repr(found)
    assert found.total == LanguageModel("nbsight/demo", dispatch=True).placement.total
    words = [text.get_text() for text in found.plot().axes[0].get_legend().get_texts()]
    assert words == ["cpu", "fetched from disk when it runs"]
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    accelerate.cpu_offload(net, execution_device="cpu")
    assert wrap(net).placement.by_place == {"cpu": 4 * (20 + 15)}


def test_any_module_has_a_placement():
    net = nn.Sequential(nn.Linear(3, 4).to(torch.bfloat16), nn.BatchNorm1d(4))
    found = wrap(net).placement
    assert found.dtypes[0] == "bfloat16"
    assert found.total == 2 * 16 + 4 * 16 + 8
    assert isinstance(wrap(net), Model)


# -- loading ---------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_refused_before_they_are_loaded(folder, monkeypatch):
    monkeypatch.setattr(sizing, "free_bytes", lambda device: 1_000_000)
    monkeypatch.setattr(sizing.Loader, "weights", lambda self: pytest.fail("it began to load"))
    for how in ("later", "at once"):
        with pytest.raises(NotEnoughMemoryError) as caught:
            model = LanguageModel(str(folder), dispatch=how == "at once", dtype=torch.float32)
            model.dispatch()
        text = str(caught.value)
        for part in ("in float32", "1.0 MB are free on cpu", "dtype=torch.bfloat16", "check_memory=False"):
            assert part in text
    monkeypatch.undo()
    monkeypatch.setattr(sizing, "free_bytes", lambda device: 1_000_000)
    assert LanguageModel(str(folder), check_memory=False, dispatch=True).dispatched
    assert LanguageModel(str(folder), device_map="auto", dispatch=True).dispatched
