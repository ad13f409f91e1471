"""Getting a model: folder, hub, cache, shipped; and what is said when it cannot be had."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
import torch
import transformers
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer

from nbsight.core.saving import save
from nbsight.errors import InputError, ModelLoadError
from nbsight.models import demo as shipped
from nbsight.models import hub
from nbsight.models.language_model import LanguageModel

NAME = "some-org/some-model"


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """A hub that refuses connections: tests mean the same with and without a network."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def folder(tmp_path):
    """A copy of the shipped model."""
    return shutil.copytree(shipped.folder(), tmp_path / "model")


@pytest.fixture
def cache(tmp_path):
    """A cache of the hub that holds the shipped model under another name."""
    root = tmp_path / "cache"
    repo = root / f"models--{NAME.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(shipped.folder(), repo / "snapshots" / commit)
    return root


def weight(model: LanguageModel) -> torch.Tensor:
    return model._model.transformer.h[3].mlp.c_fc.weight


def test_the_shipped_model_is_found_by_name_and_by_folder(folder):
    by_name, by_folder = LanguageModel("nbsight/demo"), LanguageModel(str(folder))
    assert torch.equal(weight(by_name), weight(by_folder))
    assert by_name.config.n_layer == 12


def test_weights_are_loaded_when_first_needed(folder):
    model = LanguageModel(str(folder))
    assert not model.dispatched
    assert model.device.type == "meta"
    block = model.transformer.h[3]
    assert block._module.mlp.c_fc.weight.shape == (64, 256)
    with model.trace("The capital of France is"):
        hidden = block.output[0].save()
    assert model.dispatched
    assert model.device.type == "cpu"
    assert hidden.shape == (1, 5, 64)
    assert model.transformer.h[3] is block
    model.dispatch()
    loaded = model._model
    model.dispatch()
    assert model._model is loaded


def test_dispatch_loads_at_once(folder):
    assert LanguageModel(str(folder), dispatch=True).device.type == "cpu"


def test_the_loaded_model_equals_transformers_own(folder):
    own = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LanguageModel(str(folder), device_map="auto")
    text = "The Eiffel Tower is in the city of"
    with model.trace(text):
        out = model.output.save()
    with torch.no_grad():
        assert torch.equal(out.logits, own(**tokenizer(text, return_tensors="pt")).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_the_dtype_is_accepted_in_every_spelling(folder, name, dtype):
    model = LanguageModel(str(folder), **{name: dtype})
    assert weight(model).dtype is torch.bfloat16


def test_options_reach_the_model(folder):
    assert (
        LanguageModel(str(folder), attn_implementation="eager")._model.config._attn_implementation == "eager"
    )
    assert (
        LanguageModel(str(folder), tokenizer_kwargs={"padding_side": "left"}).tokenizer.padding_side == "left"
    )
    assert LanguageModel(str(folder)).tokenizer.padding_side == "right"
    config = LanguageModel(str(folder)).config
    config.layer_norm_epsilon = 0.5
    other = LanguageModel(str(folder), config=config)
    assert other._model.transformer.ln_f.eps == 0.5
    mapped = LanguageModel(str(folder), device_map={"": "cpu"}, low_cpu_mem_usage=True)
    assert weight(mapped).device.type == "cpu"


def test_a_missing_pad_token_becomes_the_end_of_text(folder):
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("pad_token")
    path.write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").unlink()
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    assert LanguageModel(str(folder)).tokenizer.pad_token == "<|endoftext|>"


def test_a_folder_without_a_tokenizer_takes_ids_only(folder):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    model = LanguageModel(str(folder))
    assert model.tokenizer is None
    with model.trace([1, 2, 3]):
        out = model.output.save()
    assert out.shape == (1, 3, model.config.vocab_size)
    with pytest.raises(InputError, match="no tokenizer files in"):
        with model.trace("text"):
            pass
    with pytest.raises(InputError, match="no tokenizer files in"):
        model.to_single_token(" Paris")


def test_a_tokenizer_can_be_given_by_name_or_as_it_is(folder):
    own = AutoTokenizer.from_pretrained(folder)
    assert LanguageModel(str(folder), tokenizer=own).tokenizer is own
    assert LanguageModel(str(folder), tokenizer="nbsight/demo").to_single_token(" Paris") > 0
    module = AutoModelForCausalLM.from_pretrained(folder)
    assert LanguageModel(module, tokenizer=str(folder)).to_single_token(" Paris") > 0
    with pytest.raises(ModelLoadError, match="cannot be reached"):
        LanguageModel(module, tokenizer=NAME)


def test_a_loaded_module_can_be_wrapped(folder):
    module = AutoModelForCausalLM.from_pretrained(folder)
    model = LanguageModel(module, tokenizer=AutoTokenizer.from_pretrained(folder))
    assert model.dispatched
    assert model._model is module
    with pytest.raises(InputError, match="loaded already"):
        LanguageModel(module, dtype=torch.bfloat16)


CODE = """
from transformers import GPT2Config, GPT2LMHeadModel
class OddConfig(GPT2Config):
    model_type = "odd"
class OddModel(GPT2LMHeadModel):
    config_class = OddConfig
"""


def test_code_that_comes_with_a_model_runs_only_when_it_is_trusted(folder, monkeypatch, tmp_path):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked at the terminal"))
    (folder / "odd.py").write_text(CODE)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "odd",
        "architectures": ["OddModel"],
        "auto_map": {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddModel"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelLoadError, match="If you trust it, write `trust_remote_code=True`"):
        LanguageModel(str(folder))
    model = LanguageModel(str(folder), trust_remote_code=True)
    assert type(model._module).__name__ == "OddModel"
    assert torch.equal(weight(model), weight(LanguageModel("nbsight/demo")))


def test_models_without_a_language_models_head_are_loaded_as_what_they_are(tmp_path):
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24}
    for kind in (transformers.BertForMaskedLM, transformers.BertModel):
        own = kind(transformers.BertConfig(vocab_size=50, **small)).eval()
        own.save_pretrained(tmp_path / kind.__name__)
        model = LanguageModel(str(tmp_path / kind.__name__))
        with model.trace([1, 2, 3]):
            hidden = model.get(model._blocks[0])[1].output[0].save()
            out = save(model.output)
        assert type(model._model) is kind
        assert hidden.shape == (1, 3, 16)
        with torch.no_grad():
            wanted = own(torch.tensor([[1, 2, 3]]))
        first = out.logits if kind is transformers.BertForMaskedLM else out.last_hidden_state
        assert torch.equal(first, wanted[0])


def test_weights_that_are_partly_on_disk_can_be_traced(tmp_path):
    places = dict.fromkeys(("transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head"), "cpu")
    places |= {f"transformer.h.{layer}": "disk" if layer >= 6 else "cpu" for layer in range(12)}
    kept = []
    for options in ({"device_map": places, "offload_folder": str(tmp_path)}, {}):
        model = LanguageModel("nbsight/demo", **options)
        with model.trace("The capital of France is"):
            model.transformer.h[8].output[0][:] *= 2
            kept.append((model.transformer.h[9].output[0].save(), model.output.save()))
    assert torch.equal(kept[0][0], kept[1][0])
    assert torch.equal(kept[0][1].logits, kept[1][1].logits)


def adapter_in(folder, base, **options):
    peft = pytest.importorskip(
        "peft", reason="it cannot be imported with this transformers", exc_type=ImportError
    )
    kind = peft.LoraConfig(r=2, init_lora_weights=False, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        peft.get_peft_model(base, kind).save_pretrained(folder)
    return peft


def test_an_adapter_is_put_in_when_the_weights_are_loaded(tmp_path):
    base = AutoModelForCausalLM.from_pretrained(shipped.folder())
    peft = adapter_in(tmp_path, base, target_modules=["c_attn"], fan_in_fan_out=True)
    wanted = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(shipped.folder()), tmp_path
    ).eval()
    model = LanguageModel("nbsight/demo", adapter=str(tmp_path))
    ids = torch.tensor([[5, 6, 7, 8]])
    with model.trace(ids):
        low = model.transformer.h[3].attn.c_attn.lora_A.default.output.save()
        logits = model.output.logits.save()
    with torch.no_grad():
        assert torch.allclose(logits, wanted(ids).logits, atol=1e-5)
        assert not torch.allclose(
            logits, LanguageModel("nbsight/demo", dispatch=True)._module(ids).logits, atol=1e-3
        )
    assert low.shape == (1, 4, 2)


def test_an_adapter_of_another_model_is_refused_before_the_weights_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(
        transformers.PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("it loads")
    )
    config = transformers.GPT2Config(
        n_embd=32, n_layer=12, n_head=4, vocab_size=100, bos_token_id=1, eos_token_id=1
    )
    narrow = tmp_path / "narrow"
    adapter_in(narrow, transformers.GPT2LMHeadModel(config), target_modules=["c_attn"], fan_in_fan_out=True)
    with pytest.raises(
        ModelLoadError, match=r"h\.0\.attn\.c_attn` takes vectors of 32, and the one of this model of 64"
    ):
        LanguageModel("nbsight/demo", adapter=str(narrow)).dispatch()
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24}
    other = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=50, **small))
    adapter_in(tmp_path / "other", other, target_modules=["q_proj"])
    with pytest.raises(ModelLoadError, match=r"q_proj`, which this model does not have"):
        LanguageModel("nbsight/demo", adapter=str(tmp_path / "other"), dispatch=True)
    with pytest.raises(ModelLoadError, match=r"there is no adapter at .*adapter_config\.json"):
        LanguageModel("nbsight/demo", adapter=str(tmp_path), dispatch=True)


# --- what cannot be had --------------------------------------------------------------------------


def test_an_unreachable_hub_is_said_quickly_with_the_two_ways_out(tmp_path):
    start = time.perf_counter()
    with pytest.raises(ModelLoadError) as caught:
        LanguageModel(NAME, cache_dir=tmp_path)
    assert time.perf_counter() - start < 4
    text = str(caught.value)
    for part in (
        repr(NAME),
        "cannot be reached",
        str(tmp_path),
        "127.0.0.1",
        'LanguageModel("nbsight/demo")',
        "folder",
    ):
        assert part in text
    assert isinstance(caught.value, OSError)


def test_a_hub_that_never_answers_is_not_waited_for(tmp_path, monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "WAIT", 0.3)
        start = time.perf_counter()
        with pytest.raises(ModelLoadError, match="cannot be reached"):
            LanguageModel(NAME, cache_dir=tmp_path)
        assert time.perf_counter() - start < 4


def test_a_cached_model_is_used_when_the_hub_cannot_be_reached(cache, monkeypatch):
    start = time.perf_counter()
    model = LanguageModel(NAME, cache_dir=cache)
    assert model.to_single_token(" Paris") > 0
    assert torch.equal(weight(model), weight(LanguageModel("nbsight/demo")))
    assert model._model.name_or_path == model.config._name_or_path == NAME
    assert time.perf_counter() - start < 8
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert LanguageModel(NAME, cache_dir=cache).config.n_layer == 12
    with pytest.raises(ModelLoadError, match="revision 'v9'"):
        LanguageModel(NAME, cache_dir=cache, revision="v9")


def test_offline_mode_asks_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "get_session", lambda: pytest.fail("the hub was asked"))
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE is set"):
        LanguageModel(NAME, cache_dir=tmp_path)


def test_folders_that_hold_no_model_are_named(tmp_path):
    with pytest.raises(ModelLoadError, match=r"no config\.json"):
        LanguageModel(str(tmp_path))
    for name in (str(tmp_path / "nothing"), "./nothing", "~/no/thing", "a/b/c"):
        with pytest.raises(ModelLoadError, match="there is no folder"):
            LanguageModel(name)
    with pytest.raises(ModelLoadError, match="neither a folder nor a possible model name"):
        LanguageModel("a name with blanks")


def test_broken_files_are_an_error_that_names_the_model(folder):
    (folder / "model.safetensors").write_bytes(b"nothing")
    model = LanguageModel(str(folder))
    with pytest.raises(ModelLoadError, match="the weights of the model"):
        model.dispatch()
    assert not model.dispatched
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(ModelLoadError, match="unheard-of"):
        LanguageModel(str(folder))


def test_an_unknown_dtype_is_an_error():
    with pytest.raises(ModelLoadError, match="there is no dtype 'float99'"):
        LanguageModel("nbsight/demo", dtype="float99")


HAPPY = """
from nbsight.models.language_model import LanguageModel
model = LanguageModel("nbsight/demo", device_map="auto")
with model.trace("The capital of France is"):
    hidden = model.transformer.h[3].output[0].save()
    out = model.output.save()
with model.trace() as tracer:
    with tracer.invoke("The capital of France is"):
        first = model.output.save()
    with tracer.invoke("The cat"):
        second = model.output.save()
with model.generate("The capital of France is", max_new_tokens=2) as tracer:
    ids = tracer.result.save()
with model.generate(max_new_tokens=2) as tracer:
    with tracer.invoke("The capital of France is"):
        ids = tracer.result.save()
    with tracer.invoke("The cat"):
        ids = tracer.result.save()
"""


def test_the_happy_path_prints_no_warning():
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-W", "default::UserWarning", "-W", "default::FutureWarning", "-c", HAPPY],
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
