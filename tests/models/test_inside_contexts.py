"""The names inside attention and MLP wherever a value can be asked for; what is said where there is none."""

from __future__ import annotations

import time
import warnings

import pytest
import torch
import transformers
from torch import nn

from nbsight.errors import (
    EditError,
    InputError,
    NbsightWarning,
    OutsideTraceError,
    PathError,
    UnknownArchitectureError,
)
from nbsight.models.attention_difference import attention_difference
from nbsight.models.language_model import LanguageModel
from nbsight.models.masks import additive
from nbsight.models.plain_attention import plain_attention
from nbsight.models.standard import verify
from tests.models.standard_cases import TIER_A, TIER_B, hooks
from tests.models.test_architectures import Ids

PROMPT = "The capital of France is"
IDS = [7, 8, 9, 10, 11]
NEWEST = int(transformers.__version__.split(".")[0]) > 4


def case_of(name, **options):
    case = next(one for one in (*TIER_A, *TIER_B) if one.name == name and one.options == options)
    if case.architecture is None:
        pytest.skip("this release of transformers has no such architecture")
    return case


def small_mistral(window):
    config = transformers.MistralConfig(
        vocab_size=101,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        sliding_window=window,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def llama():
    return LanguageModel(case_of("llama").make())


@pytest.fixture
def pattern(demo):
    with demo.trace(PROMPT):
        found = demo.layers[3].attn.pattern.clone()
    return found


# --- on demand ------------------------------------------------------------------------------------


def test_only_the_layer_that_is_asked_computes_a_pattern_and_only_in_its_trace(demo):
    calls = []
    source = demo.std.inside(3).attending.eager
    assert source is not demo.std.inside(4).attending.eager
    module = demo._model.transformer.h[3].attn
    before = (module.__dict__.get("forward"), demo._model.config._attn_implementation)
    with demo.trace(PROMPT) as tracer:
        _ = demo.layers[3].attn.pattern
        calls = [key for key in tracer.run.rewrites if key in list(demo.std.inside(3).attending.source)]
        others = [key for key in tracer.run.rewrites if key in list(demo.std.inside(4).attending.source)]
        _ = demo.logits
    assert len(calls) == 1
    assert others == []
    assert [switch.layer for switch in demo.std.switches] == [3]
    assert (module.__dict__.get("forward"), demo._model.config._attn_implementation) == before
    with demo.trace(PROMPT) as tracer:
        _ = demo.layers[3].resid_post
        assert not tracer.run.rewrites


def test_a_trace_that_asks_for_queries_alone_computes_no_pattern(demo):
    demo.std.forget_switches()
    with demo.trace(PROMPT):
        _ = demo.layers[3].attn.q
        _ = demo.logits
    assert demo.std.switches == ()


def test_reads_in_the_models_order_need_one_forward(demo):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an extra forward says so
        with demo.trace(PROMPT, strict_order=True):
            attn = demo.layers[3].attn
            _ = attn.q, attn.k, attn.v, attn.scores, attn.pattern, attn.z, attn.result
            _ = demo.layers[3].attn_out
            _ = demo.layers[3].mlp.pre, demo.layers[3].mlp.post, demo.layers[3].mlp_out


def test_a_pattern_that_is_read_late_is_the_same(demo, pattern):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with demo.trace(PROMPT):
            _ = demo.layers[5].resid_post
            late = demo.layers[3].attn.pattern.clone()
            logits = demo.logits.clone()
    with demo.trace(PROMPT):
        wanted = demo.logits.clone()
    assert torch.equal(late, pattern)
    assert torch.equal(logits, wanted)


def test_the_difference_of_the_implementations_is_what_two_models_have(demo):
    module = demo._model
    ids = demo.to_tokens(PROMPT)
    found = attention_difference(demo, PROMPT)
    with torch.no_grad():
        loaded = module(ids).logits[0]
        module.config._attn_implementation = "eager"
        try:
            eager = module(ids).logits[0]
        finally:
            module.config._attn_implementation = "sdpa"
    assert found.implementation == "sdpa"
    wanted = (loaded.double() - eager.double()).abs().amax(-1).numpy()
    # Both are noise of the last bit, which masks of different kinds may turn.
    assert found.largest <= 1e-4
    assert abs(found.largest - wanted.max()) <= 2e-5
    assert found.attention.shape == (12,)
    assert 0 < found.attention.max() <= 1e-6
    assert found.shift.max() <= 1e-4
    assert "Eager attention against sdpa" in repr(found)


def test_a_loaded_function_that_computes_something_else_is_found_out(llama, monkeypatch):
    """sdpa without its scale: the pattern of the eager function is not what such a model does."""
    real = nn.functional.scaled_dot_product_attention

    def other(*args, **kwargs):
        return real(*args, **{**kwargs, "scale": 3.0})

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", other)
    model = LanguageModel(case_of("llama").make())
    table = verify(model)
    assert table["pattern"].status == "refused"
    assert "z = pattern · v" in table["pattern"].remark
    with pytest.raises(UnknownArchitectureError, match=r"`pattern` is refused.*z = pattern · v"):
        with model.trace([IDS]):
            _ = model.layers[1].attn.pattern
    # Where it was right when it was checked, the trace says it.
    monkeypatch.undo()
    verify(llama)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", other)
    with llama.trace([IDS]):
        plain = llama.logits.clone()

    def read():
        with llama.trace([IDS]):
            _ = llama.layers[1].attn.pattern
            return llama.logits.clone()

    with pytest.warns(NbsightWarning, match="computes something else there") as said:
        logits = read()
    assert said[0].filename == __file__
    assert torch.equal(logits, plain)


def test_a_window_caps_and_half_precision_are_those_of_the_models_own_function():
    module = small_mistral(window=3)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
        model = LanguageModel(module.to(dtype))
        ids = torch.arange(3, 12)[None]
        with torch.no_grad():
            plain = module(ids).logits
        with model.trace(ids):
            found = model.layers[1].attn.pattern.clone()
            z = model.layers[1].attn.z.clone()
            logits = model.logits.clone()
        far = torch.ones(9, 9, dtype=torch.bool).tril(-3)
        assert (found[..., far] == 0).all()  # a token sees itself and the two before it
        assert (found[..., ~far.logical_or(torch.ones(9, 9, dtype=torch.bool).triu(1))] > 0).all()
        assert torch.equal(logits, plain)
        with model.trace(ids):
            v = model.layers[1].attn.v.clone()
        mixed = torch.einsum("bhqk,bkhd->bqhd", found, v.repeat_interleave(2, 2))
        torch.testing.assert_close(mixed, z, rtol=tolerance, atol=tolerance)


def test_a_model_that_clips_queries_keys_and_values_is_checked_with_them_clipped():
    for config in (
        transformers.OlmoConfig(
            vocab_size=101,
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=6,
            clip_qkv=0.05,
            pad_token_id=0,
        ),
        transformers.MptConfig(
            vocab_size=101, d_model=48, n_layers=2, n_heads=6, max_seq_len=64, attn_config={"clip_qkv": 0.05}
        ),
    ):
        torch.manual_seed(0)
        model = LanguageModel(transformers.AutoModelForCausalLM.from_config(config).eval())
        table = verify(model)
        assert table.ok, table
        with model.trace([IDS]):
            v = model.layers[1].attn.v.clone()
            mixed = model.layers[1].attn.z.clone()
        assert v.abs().max() > 0.05  # what the projection gives, before the clip
        assert mixed.abs().max() <= 0.05 + 1e-6


# --- where a trace may stand ----------------------------------------------------------------------


def test_a_padded_generation_has_each_prompts_own_keys(demo):
    prompts = ["The Colosseum is in the city of", PROMPT]
    alone = []
    for prompt in prompts:
        with demo.generate(prompt, max_new_tokens=3) as tracer:
            alone.append([demo.layers[3].attn.pattern.clone() for _ in tracer.iter[:]])
    got: list[list] = [[], []]
    with demo.generate(max_new_tokens=3) as tracer:
        with tracer.invoke(prompts[0]):
            for _ in tracer.iter[:]:
                got[0].append(demo.layers[3].attn.pattern.clone())
        with tracer.invoke(prompts[1]):
            for _ in tracer.iter[:]:
                got[1].append(demo.layers[3].attn.pattern.clone())
    for mine, wanted in zip(got, alone, strict=True):
        assert len(mine) == len(wanted) == 3
        for one, other in zip(mine, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_keys_of_a_window_that_have_left_the_cache_are_no_padding():
    """The padding of the short prompt leaves the cache of the sliding window one position at a step."""
    model = LanguageModel(small_mistral(window=6))
    model.tokenizer = Ids("left")
    prompts, alone, got = ([5, 17, 3], list(range(20, 27))), [], [[], []]
    for ids in prompts:
        with model.generate([ids], max_new_tokens=6, do_sample=False) as tracer:
            alone.append(
                [
                    (model.layers[1].attn.rot_k.shape[1], model.layers[1].attn.pattern.clone())
                    for _ in tracer.iter[:]
                ]
            )
    with model.generate(max_new_tokens=6, do_sample=False) as tracer:
        with tracer.invoke(prompts[0]):
            for _ in tracer.iter[:]:
                keys = model.layers[1].attn.rot_k.shape[1]
                got[0].append((keys, model.layers[1].attn.pattern.clone()))
        with tracer.invoke(prompts[1]):
            for _ in tracer.iter[:]:
                keys = model.layers[1].attn.rot_k.shape[1]
                got[1].append((keys, model.layers[1].attn.pattern.clone()))
    for mine, wanted in zip(got, alone, strict=True):
        assert [keys for keys, _ in mine] == [keys for keys, _ in wanted]
        for (_, one), (_, other) in zip(mine, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_one_prompts_pattern_is_changed_at_a_later_step(demo):
    def later(tracer):
        logits = []
        for step in tracer.iter[:]:
            if step == 1:
                pattern = demo.layers[3].attn.pattern
                changed = pattern.clone()
                changed[:, 1] = 0
                demo.layers[3].attn.pattern = changed
            logits.append(demo.logits[:, -1].clone())
        return logits

    with demo.generate(PROMPT, max_new_tokens=3) as tracer:
        wanted = later(tracer)
    with demo.generate(max_new_tokens=3) as tracer:
        with tracer.invoke("The Colosseum is in the city of"):
            _ = demo.logits
        with tracer.invoke(PROMPT):
            got = []
            for step in tracer.iter[:]:
                if step == 1:
                    pattern = demo.layers[3].attn.pattern
                    changed = pattern.clone()
                    changed[:, 1] = 0
                    demo.layers[3].attn.pattern = changed
                got.append(demo.logits[:, -1].clone())
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_change_of_turned_keys_is_for_its_step_alone_and_one_of_keys_stays(llama):
    def run(change):
        found = []
        with llama.generate([IDS], max_new_tokens=3, do_sample=False) as tracer:
            for step in tracer.iter[:]:
                if step == 0:
                    change()
                found.append(llama.layers[0].attn.rot_k.clone())
        return found

    plain = run(lambda: None)

    def turned():
        llama.layers[0].attn.rot_k[:, 0] = 0

    def keys():
        llama.layers[0].attn.k[:, 0] = 0

    assert (run(turned)[0][:, 0] == 0).all()
    torch.testing.assert_close(run(turned)[1][:, 0], plain[1][:, 0])
    assert (run(keys)[1][:, 0] == 0).all()


def test_a_kept_edit_a_block_that_travels_and_a_run_held_open(demo, pattern):
    with demo.trace(PROMPT):
        demo.layers[3].attn.pattern[:, 2] = 0
        wanted = demo.logits.clone()
    with demo.edit() as edited:
        demo.layers[3].attn.pattern[:, 2] = 0
    with edited.trace(PROMPT):
        assert torch.equal(edited.logits, wanted)
    assert verify(edited).ok
    with demo.trace(PROMPT, remote="local"):
        far = demo.layers[3].attn.pattern.save()
        demo.layers[3].attn.result[:, :, 2] = 0
        logits = demo.logits.save()
    assert torch.equal(far, pattern)
    attn, mlp = demo.layers[3].attn, demo.layers[3].mlp
    with demo.trace(PROMPT, remote="local"):
        again = attn.pattern.save()
        post = mlp.post.save()
    assert torch.equal(again, pattern)
    assert post.shape == (1, again.shape[-1], demo.d_mlp)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    run = demo.start(PROMPT)
    _ = run.until(demo.layers[3].attn.q)
    held = run.until(demo.layers[3].attn.pattern)
    assert torch.equal(held, pattern)
    held[:, 2] = 0
    assert torch.equal(run.finish().logits, wanted)


def test_a_scan_gives_shapes_without_weights():
    model = LanguageModel("nbsight/demo")
    with model.scan([IDS]):
        assert model.layers[2].attn.q.shape == (1, 5, 4, 16)
        assert model.layers[2].attn.pattern.shape == (1, 4, 5, 5)
        model.layers[2].attn.pattern = model.layers[2].attn.pattern * 0
        assert model.layers[2].attn.result.shape == (1, 5, 4, 64)
        assert model.layers[2].mlp.post.shape == (1, 5, 256)
    assert not model.dispatched


def test_gradients_of_patterns_and_contributions_are_torchs_own(llama):
    ids = torch.tensor([IDS])
    block = llama._model.model.layers[0]
    kept = {}

    def on_z(_, args, kwargs):
        args[0].retain_grad()
        kept["z"] = args[0]

    with hooks((block.self_attn.o_proj, on_z, "input")):
        llama._model(ids).logits[0, -1, 3].backward()
    llama._model.zero_grad()
    z = kept["z"].grad.unflatten(-1, (6, 8))
    with llama.trace(ids):
        v = llama.layers[0].attn.v
        pattern = llama.layers[0].attn.pattern
        result = llama.layers[0].attn.result
        with llama.logits[0, -1, 3].backward():
            of_result = result.grad.clone()
            of_pattern = pattern.grad.clone()
            of_v = v.grad.clone()
    values = v.detach().repeat_interleave(2, 2)
    torch.testing.assert_close(of_pattern, torch.einsum("bqhd,bkhd->bhqk", z, values), rtol=1e-4, atol=1e-6)
    wanted_v = torch.einsum("bhqk,bqhd->bkhd", pattern.detach(), z)
    torch.testing.assert_close(of_v, wanted_v.unflatten(2, (3, 2)).sum(3), rtol=1e-4, atol=1e-6)
    # Every head's contribution is added to the same sum, so all have one gradient; z's is that times W_O.
    assert torch.allclose(of_result, of_result[:, :, :1].expand_as(of_result))
    back = torch.einsum("bphm,hdm->bphd", of_result, llama.layers[0].attn.W_O)
    torch.testing.assert_close(back, z, rtol=1e-4, atol=1e-6)


def test_the_model_in_training_draws_its_dropout_once(llama):
    config = llama._model.config
    module = transformers.AutoModelForCausalLM.from_config(config).train()
    for layer in module.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model = LanguageModel(module)
    with pytest.raises(UnknownArchitectureError, match=r"dropout changes sums: `model.eval\(\)`"):
        with model.trace([IDS]):
            _ = model.layers[0].attn.pattern
    module.eval()
    with model.trace([IDS]):  # another chance, without dropout
        _ = model.layers[0].attn.pattern
    module.train()
    with model.trace([IDS]):
        found = model.layers[0].attn.pattern.clone()
        _ = model.logits
    assert (found.tril() == 0).any(dim=-1).any()  # dropped ones
    assert all(switch.difference != switch.difference for switch in model.std.switches)  # not compared


def test_a_contribution_of_an_adapted_matrix_is_what_the_adapter_gives():
    peft = pytest.importorskip("peft")
    module = case_of("llama").make()
    adapted = peft.get_peft_model(
        module, peft.LoraConfig(r=2, target_modules=["o_proj", "q_proj"], init_lora_weights=False)
    ).eval()
    model = LanguageModel(adapted.base_model.model)
    with model.trace([IDS]):
        result = model.layers[0].attn.result.clone()
        whole = model.layers[0].attn_out.clone()
    torch.testing.assert_close(result.sum(2), whole, rtol=1e-5, atol=1e-5)
    with pytest.raises(PathError, match="merge_and_unload"):
        _ = model.layers[0].attn.W_O


# --- spellings and errors -------------------------------------------------------------------------


def test_strings_of_transformer_lens_mean_the_same(demo, llama):
    pairs = {
        "attn.hook_q": ("attn", "q"),
        "attn.hook_k": ("attn", "k"),
        "attn.hook_v": ("attn", "v"),
        "attn.hook_attn_scores": ("attn", "scores"),
        "attn.hook_pattern": ("attn", "pattern"),
        "attn.hook_z": ("attn", "z"),
        "attn.hook_result": ("attn", "result"),
        "mlp.hook_pre": ("mlp", "pre"),
        "mlp.hook_post": ("mlp", "post"),
    }
    with demo.trace(PROMPT):
        got = [demo[f"blocks.5.{text}"].clone() for text in pairs]
    with demo.trace(PROMPT):
        wanted = [getattr(getattr(demo.layers[5], part), name).clone() for part, name in pairs.values()]
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
    with demo.trace(PROMPT):
        demo["blocks.5.attn.hook_pattern"] = demo["blocks.5.attn.pattern"] * 0
        assert (demo.layers[5].attn.z == 0).all()
    with llama.trace([IDS]):
        gate, pre = llama["blocks.1.mlp.hook_pre"].clone(), llama["blocks.1.mlp.hook_pre_linear"].clone()
        post = llama["blocks.1.mlp.hook_post"].clone()
    with llama.trace([IDS]):
        assert torch.equal(llama.layers[1].mlp.gate, gate)
        assert torch.equal(llama.std.get("pre", 1), pre)
    torch.testing.assert_close(nn.functional.silu(gate) * pre, post)
    with llama.trace([IDS]):
        turned = llama["blocks.1.attn.hook_rot_q"].clone(), llama["blocks.1.attn.hook_rot_k"].clone()
    assert (turned[0].shape, turned[1].shape) == ((1, 5, 6, 8), (1, 5, 3, 8))


def test_what_is_not_there_says_why(demo, llama):
    with demo.trace(PROMPT):
        with pytest.raises(PathError, match=r"layers\[3\].attn.rot_q` does not exist.*layers\[3\].attn.q`"):
            _ = demo.layers[3].attn.rot_q
        with pytest.raises(PathError, match=r"layers\[3\].mlp.gate` does not exist.*layers\[3\].mlp.pre`"):
            _ = demo.layers[3].mlp.gate
        with pytest.raises(PathError, match="12 entries"):
            demo.std.get("pattern", 12)
    with pytest.raises(OutsideTraceError, match=r"layers\[3\]\.attn\.pattern"):
        _ = demo.layers[3].attn.pattern
    mixture = LanguageModel(case_of("mixtral").make())
    with mixture.trace([IDS]):
        with pytest.raises(PathError, match=r"layers\[1\].mlp.pre` does not exist.*mixture of experts"):
            _ = mixture.layers[1].mlp.pre
    opt = LanguageModel(case_of("opt").make())
    with opt.trace([IDS]):
        with pytest.raises(PathError, match="no module of its own"):
            _ = opt.layers[0].mlp.output
    with pytest.raises(EditError, match=r"`model.layers\[1\].attn.pattern` of shape \(1, 6, 5, 5\)"):
        with llama.trace([IDS]):
            llama.layers[1].attn.pattern = torch.zeros(1, 5, 5)


def test_views_print_and_complete_what_they_have(demo):
    attn, mlp = demo.layers[3].attn, demo.layers[3].mlp
    assert "pattern" in repr(attn)
    assert "post" in repr(mlp)
    assert {"pattern", "result", "W_Q", "c_attn"} <= set(dir(attn))
    assert {"pre", "W_in", "c_fc"} <= set(dir(mlp))
    assert "W_Q of 12 layers, (12, 4, 64, 16)" in repr(demo.W_Q)


def test_the_matrices_of_all_layers_act_as_one_tensor(demo):
    stack = torch.stack([demo.layers[layer].attn.W_Q for layer in range(12)])
    assert demo.W_Q.shape == stack.shape
    assert demo.W_Q.ndim == 4
    assert torch.equal(demo.W_Q[2:4], stack[2:4])
    assert torch.equal(demo.W_Q[-1, 2], stack[-1, 2])
    assert torch.equal(demo.W_Q[:, 1], stack[:, 1])
    assert torch.equal(demo.W_V @ demo.W_O, demo.W_V.stack() @ demo.W_O.stack())
    assert torch.equal(torch.einsum("lhmd->lhdm", demo.W_Q), stack.transpose(-1, -2))
    assert torch.equal(demo.W_Q.norm(dim=-1), stack.norm(dim=-1))
    with pytest.raises(PathError, match="12 layers; there is no 12"):
        _ = demo.W_Q[12]
    model = LanguageModel(demo._model.__class__(demo._model.config).eval())
    before = model._model.transformer.h[0].attn.c_proj.weight.clone()
    model.layers[0].attn.W_O[1] = 0
    after = model._model.transformer.h[0].attn.c_proj.weight
    assert (after[16:32] == 0).all()
    assert torch.equal(after[:16], before[:16])


# --- the parts ------------------------------------------------------------------------------------


def test_the_plain_function_is_torchs_own():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 6, 5, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    seen = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    wide = [one.repeat_interleave(2, 1) for one in (k, v)]
    for options in (
        {},
        {"is_causal": True},
        {"attn_mask": seen},
        {"attn_mask": torch.randn(2, 1, 5, 5), "scale": 0.3},
    ):
        wanted = nn.functional.scaled_dot_product_attention(q, *wide, **options)
        torch.testing.assert_close(plain_attention(q, *wide, **options), wanted)
        grouped = plain_attention(q, k, v, enable_gqa=True, **options)
        torch.testing.assert_close(grouped, wanted)


def test_masks_of_other_functions_become_numbers():
    q, k = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 5, 4)
    lowest = torch.finfo(torch.float32).min
    module = nn.Module()
    assert additive({"query": q[:, :, :1], "key": k, "attention_mask": None}, module) is None
    causal = additive({"query": k, "key": k, "attention_mask": None}, module)
    assert torch.equal(causal[0, 0] == 0, torch.ones(5, 5, dtype=torch.bool).tril())
    # flash attention's: which keys are no padding; the last query stands at the last key
    given = {"query": q, "key": k, "attention_mask": torch.tensor([[0, 1, 1, 1, 1]]), "sliding_window": 2}
    wanted = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]], dtype=torch.bool)
    assert torch.equal(additive(given, module)[0, 0] == 0, wanted)
    assert additive(given, module).min() == lowest
    with pytest.raises(InputError, match="str"):
        additive({"query": q, "key": k, "attention_mask": "block"}, module)


def test_a_read_of_the_stream_knows_nothing_of_what_is_inside():
    """No places, no sources and no check are made for a trace that asks for none of these names."""
    model = LanguageModel(case_of("llama").make())
    with model.trace([IDS]):
        _ = model.layers[1].resid_post
    assert model.std._insides == {}
    assert "pattern" not in model.std.checked.names
    start = time.perf_counter()
    verify(model)
    assert "pattern" in model.std.checked.names
    assert time.perf_counter() - start < 30
