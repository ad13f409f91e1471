"""The standard names wherever a value can be asked for: invokes, generations, edits, scans, gradients …"""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import transformers

from nbsight.errors import EditError, NbsightWarning, OutsideTraceError, PathError, UnknownArchitectureError
from nbsight.models.language_model import LanguageModel
from nbsight.models.standard import verify
from nbsight.models.transformers_model import TransformersModel
from tests.models.architectures import AVAILABLE, LAYERS, WIDTH, make
from tests.models.standard_cases import TIER_A, TIER_B, hooks

PROMPT = "The capital of France is"
IDS = [7, 8, 9, 10, 11]


@pytest.fixture(scope="module")
def llama():
    return LanguageModel(next(case for case in TIER_A if case.name == "llama").make())


# --- where a trace may stand ----------------------------------------------------------------------


def test_a_generation_reads_and_writes_at_every_step(demo):
    with demo.generate(PROMPT, max_new_tokens=3) as tracer:
        shapes, logits = [], []
        for _ in tracer.iter[:]:
            shapes.append(tuple(demo.layers[3].attn.z.shape))
            demo.layers[3].resid_mid = demo.layers[3].resid_mid * 1.5
            logits.append(demo.logits.clone())
        ids = tracer.result
    assert shapes == [(1, 5, 4, 16), (1, 1, 4, 16), (1, 1, 4, 16)]
    block = demo._model.transformer.h[3]

    # By hand: what the block adds to 1.5 times its middle.
    state = {}

    def middle(_, args, kwargs):
        state["mid"] = args[0]
        return (args[0] * 1.5, *args[1:]), kwargs

    def end(_, __, out):
        mid = state["mid"]
        hidden = out if isinstance(out, torch.Tensor) else out[0]
        new = hidden + 0.5 * mid
        return new if isinstance(out, torch.Tensor) else (new, *out[1:])

    with hooks((block.ln_2, middle, "input"), (block, end, "output")):
        wanted = demo._model.generate(demo.to_tokens(PROMPT), max_new_tokens=3, do_sample=False)
    assert torch.equal(ids, wanted)
    assert len(logits) == 3


def test_a_kept_edit_may_name_a_layer(demo):
    with demo.trace(PROMPT):
        demo.layers[4].attn.z[:, :, 1] = 0
        wanted = demo.logits.clone()
    with demo.edit() as edited:
        demo.layers[4].attn.z[:, :, 1] = 0
    with edited.trace(PROMPT):
        got = edited.logits.clone()
    with demo.trace(PROMPT):
        plain = demo.logits.clone()
    assert torch.equal(got, wanted)
    assert not torch.equal(plain, wanted)
    assert edited.std._root is edited
    # The check runs beside the edit, so an edit cannot make a name look wrong.
    with demo.edit() as broken:
        demo.layers[4].resid_post[:] = 0
    assert verify(broken).ok


def test_a_scan_gives_shapes_without_weights():
    model = LanguageModel("nbsight/demo")
    with model.scan([IDS]):
        assert model.layers[2].attn.z.shape == (1, 5, 4, 16)
        assert model.layers[2].resid_mid.shape == (1, 5, 64)
        model.layers[2].mlp_out = model.layers[2].mlp_out * 2
        assert model.logits.shape == (1, 5, 1824)
    assert not model.dispatched
    assert model.std.checked is None
    assert model.n_layers == 12


def test_a_block_that_travels_uses_the_names(demo):
    with demo.trace(PROMPT):
        wanted = demo.layers[5].resid_mid.clone(), demo.logits.clone()
    with demo.trace(PROMPT, remote="local"):
        mid = demo.layers[5].resid_mid.save()
        logits = demo.logits.save()
    assert torch.equal(mid, wanted[0])
    assert torch.equal(logits, wanted[1])
    layer, layers = demo.layers[5], demo.layers
    with demo.trace(PROMPT, remote="local"):
        again = layer.resid_mid.save()
        last = layers[-1].resid_post.save()
    assert torch.equal(again, mid)
    assert last.shape == mid.shape


def test_a_run_held_open_stands_at_a_name(demo):
    with demo.trace(PROMPT):
        demo.layers[2].attn.z[:, :, 1] = 0
        demo.layers[2].attn_out[:, -1] = 0
        demo.layers[2].resid_mid = demo.layers[2].resid_mid * 2
        wanted = demo.logits.clone()
    run = demo.start(PROMPT)
    run.until(demo.layers[2].attn.z)[:, :, 1] = 0
    run.until(demo.layers[2].attn_out)[:, -1] = 0
    mid = run.until(demo.layers[2].resid_mid)
    demo.layers[2].resid_mid = mid * 2
    assert torch.equal(run.finish().logits, wanted)


def test_a_helper_and_a_comprehension_may_read(demo):
    def norms(layer):
        return layer.resid_post.norm(dim=-1)

    with demo.trace(PROMPT):
        found = [norms(layer) for layer in demo.layers]
    with demo.trace(PROMPT):
        stack = demo.resid_post[:]
    assert torch.equal(torch.cat(found), stack[:, 0].norm(dim=-1))


def test_two_traces_of_one_model_do_not_mix(demo):
    with demo.trace(PROMPT):
        outer = demo.layers[1].resid_mid
        with demo.trace("Rome"):
            inner = demo.layers[1].resid_mid
        again = demo.layers[2].resid_mid
    assert outer.shape[1] == again.shape[1] == 5
    assert inner.shape[1] != 5


# --- gradients ------------------------------------------------------------------------------------

NAMES = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")


def gradients_by_hand(module, ids, layer):
    """Gradients of the last logit at the native modules, by torch alone."""
    block = module.model.layers[layer]
    kept = {}

    def output(name):
        def hook(_, __, value):
            value = value if isinstance(value, torch.Tensor) else value[0]
            value.retain_grad()
            kept[name] = value

        return hook

    def taken(name):
        def hook(_, args, kwargs):
            value = (args or tuple(kwargs.values()))[0]
            value.retain_grad()
            kept[name] = value

        return hook

    with hooks(
        (block, taken("resid_pre"), "input"),
        (block.self_attn.o_proj, taken("z"), "input"),
        (block.self_attn, output("attn_out"), "output"),
        (block.post_attention_layernorm, taken("resid_mid"), "input"),
        (block.mlp, output("mlp_out"), "output"),
        (block, output("resid_post"), "output"),
    ):
        module(torch.tensor([ids])).logits[0, -1, 3].backward()
    module.zero_grad()
    return {name: value.grad for name, value in kept.items()}


def test_gradients_of_every_name_are_torchs_own(llama):
    wanted = gradients_by_hand(llama._model, IDS, 0)
    with llama.trace([IDS]):
        layer = llama.layers[0]
        values = {
            "resid_pre": layer.resid_pre,
            "z": layer.attn.z,
            "attn_out": layer.attn_out,
            "resid_mid": layer.resid_mid,
            "mlp_out": layer.mlp_out,
            "resid_post": layer.resid_post,
        }
        with llama.logits[0, -1, 3].backward():
            got = {name: value.grad.clone() for name, value in values.items()}
    for name in NAMES:
        torch.testing.assert_close(got[name].reshape(wanted[name].shape), wanted[name], rtol=1e-5, atol=1e-6)


def test_gradients_in_a_batch_are_those_alone(llama):
    short = gradients_by_hand(llama._model, IDS[:3], 0)
    long = gradients_by_hand(llama._model, IDS, 0)
    with llama.trace() as tracer:
        with tracer.invoke([IDS[:3]]):
            mid_short, z_short = None, llama.layers[0].attn.z
            mid_short = llama.layers[0].resid_mid
            loss = llama.logits[0, -1, 3]
            with loss.backward(retain_graph=True):
                grads_short = z_short.grad.clone(), mid_short.grad.clone()
        with tracer.invoke([IDS]):
            z_long = llama.layers[0].attn.z
            mid_long = llama.layers[0].resid_mid
            loss = llama.logits[0, -1, 3]
            with loss.backward():
                grads_long = z_long.grad.clone(), mid_long.grad.clone()
    for got, wanted in ((grads_short, short), (grads_long, long)):
        torch.testing.assert_close(got[0].flatten(-2), wanted["z"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(got[1], wanted["resid_mid"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_learned_vector_written_to_a_name_gets_its_gradient(llama, name):
    """Adding a zero vector changes nothing, and its gradient is that of the value, summed."""
    wanted = gradients_by_hand(llama._model, IDS, 0)[name]
    width = (6, 8) if name == "z" else (WIDTH,)
    vector = torch.zeros(width, requires_grad=True)
    with llama.trace([IDS], grad=True):
        if name == "z":
            llama.layers[0].attn.z = llama.layers[0].attn.z + vector
        else:
            setattr(llama.layers[0], name, getattr(llama.layers[0], name) + vector)
        loss = llama.logits[0, -1, 3]
    loss.backward()
    llama._model.zero_grad()
    torch.testing.assert_close(vector.grad.flatten(), wanted.sum((0, 1)).flatten(), rtol=1e-5, atol=1e-6)


def test_a_change_in_place_counts_where_gradients_are_recorded(llama):
    for name in NAMES:
        with llama.trace([IDS]):
            value = llama.layers[0].attn.z if name == "z" else getattr(llama.layers[0], name)
            value[:, 1] = 0
            plain = llama.logits.clone()
        with llama.trace([IDS], grad=True):
            value = llama.layers[0].attn.z if name == "z" else getattr(llama.layers[0], name)
            value[:, 1] = 0
            recorded = llama.logits
        torch.testing.assert_close(recorded, plain, rtol=0, atol=0)
        assert recorded.requires_grad


def case_of(name, **options):
    case = next((one for one in (*TIER_A, *TIER_B) if one.name == name and one.options == options), None)
    assert case is not None
    if case.architecture is None:
        pytest.skip("this release of transformers has no such architecture")
    return case


@pytest.mark.parametrize("name", ["granite", "falcon", "opt"])
def test_gradients_of_what_is_no_tensor_of_the_models(name):
    """Scaled, overwritten later, or without rows: the gradient is that of a vector added to the stream."""
    options = {"residual_multiplier": 0.22} if name == "granite" else {}
    case = case_of(name, **options)
    module = case.make()
    kept = {}

    def hook(_, __, value):
        value = value.clone()  # falcon adds into it
        value.retain_grad()
        kept["mlp"] = value
        return value

    block = module.get_submodule(case.blocks)[0]
    with hooks((block.get_submodule(case.mlp), hook, "output")):
        module(torch.tensor([IDS])).logits[0, -1, 3].backward()
    wanted = kept["mlp"].grad / case.factor
    module.zero_grad()
    model = LanguageModel(module)
    with model.trace([IDS]):
        mlp = model.layers[0].mlp_out
        assert mlp.shape == (1, len(IDS), WIDTH)
        with model.logits[0, -1, 3].backward():
            got = mlp.grad.clone()
    torch.testing.assert_close(got[0], wanted.reshape(got[0].shape), rtol=1e-5, atol=1e-7)


def test_a_value_that_the_model_overwrites_is_kept():
    case = case_of("falcon")
    model = LanguageModel(case.make())
    with model.trace([IDS], finish=True):
        seen = model.layers[0].mlp_out
        then = seen.clone()
    assert torch.equal(seen, then)
    with model.trace([IDS], finish=True):
        native = model.transformer.h[0].mlp.output
        then = native.clone()
    assert not torch.equal(native, then)  # else there is nothing to be kept from


@pytest.mark.parametrize("name", ["granite", "falcon", "opt", "llama"])
@pytest.mark.parametrize("grad", [False, True])
def test_nothing_holds_the_values_of_a_trace_after_it(name, grad):
    """Without the garbage collector: there is no cycle."""
    options = {"residual_multiplier": 0.22} if name == "granite" else {}
    model = LanguageModel(case_of(name, **options).make())
    with model.trace([IDS]):
        model.layers[0].attn_out  # the check is made, the gates are known

    def values():
        with model.trace([IDS], grad=grad):
            kept = [model.layers[0].attn.z, model.layers[0].attn_out]
            kept += [model.layers[0].mlp_out, model.layers[1].mlp_out]
            kept[-1][:] = 0
            logits = model.logits
        return [weakref.ref(value) for value in (*kept, logits)]

    gc.collect()
    gc.disable()
    try:
        assert [ref() is None for ref in values()] == [True] * 5
    finally:
        gc.enable()


def test_heads_are_the_mix_of_their_own_groups_values():
    """z is the pattern times the values of the group of keys and values that the head belongs to."""
    case = case_of("llama")
    module = case.make()
    module.set_attn_implementation("eager") if hasattr(module, "set_attn_implementation") else setattr(
        module.config, "_attn_implementation", "eager"
    )
    model = LanguageModel(module)
    attention = module.model.layers[1].self_attn
    kept = {}
    with (
        torch.no_grad(),
        hooks(
            (attention.v_proj, lambda _, __, value: kept.update(values=value), "output"),
            (attention, lambda _, __, value: kept.update(pattern=value[1]), "output"),
        ),
    ):
        module(torch.tensor([IDS]), output_attentions=True)
    values = kept["values"].unflatten(-1, (3, 8))  # (batch, position, group, d_head)
    with model.trace([IDS]):
        z = model.layers[1].attn.z
    assert (model.n_heads, model.n_kv_heads, model.d_head) == (6, 3, 8)
    for head in range(6):
        wanted = kept["pattern"][0, head] @ values[0, :, head // 2]
        torch.testing.assert_close(z[0, :, head], wanted, rtol=1e-5, atol=1e-6)


def test_a_post_norm_checkpoint_has_only_what_is_true_of_it():
    case = case_of("opt")
    row = case.architecture
    module = make(type(row)(row.name, row.config, {**row.options, "do_layer_norm_before": False}, row.blocks))
    model = LanguageModel(module)
    table = verify(model)
    assert table.ok, table
    assert {row.name for row in table.rows if row.status == "absent"} == {
        *("attn_out", "resid_mid", "mlp_out", "ln_final"),
        *("rot_q", "rot_k", "gate", "W_gate"),  # OPT has neither rotary positions nor gates
    }
    with model.trace([IDS]):
        assert model.layers[1].resid_post.shape == (1, len(IDS), WIDTH)
        with pytest.raises(PathError, match="normalise the stream itself after each addition"):
            model.layers[1].attn_out
        with pytest.raises(PathError, match="norm of its own"):
            model.ln_final


def test_rows_that_cannot_be_counted_are_said():
    model = LanguageModel(case_of("opt").make())
    with pytest.raises(PathError, match=r"model\.model\.decoder\.layers\.0\.fc2\.output"):
        with model.generate([IDS], max_new_tokens=2):
            model.layers[0].mlp_out


# --- other spellings ------------------------------------------------------------------------------

STRINGS = {
    "blocks.5.hook_resid_pre": lambda m: m.layers[5].resid_pre,
    "blocks.5.attn.hook_z": lambda m: m.layers[5].attn.z,
    "blocks.5.hook_attn_out": lambda m: m.layers[5].attn_out,
    "blocks.5.hook_resid_mid": lambda m: m.layers[5].resid_mid,
    "blocks.5.hook_mlp_out": lambda m: m.layers[5].mlp_out,
    "blocks.5.hook_resid_post": lambda m: m.layers[5].resid_post,
    "blocks.5.resid_post": lambda m: m.layers[5].resid_post,
    "blocks.5.hook_out": lambda m: m.layers[5].resid_post,
    "blocks.5.attn.o.hook_in": lambda m: m.layers[5].attn.z,
    "hook_embed": lambda m: m.embed,
    "hook_pos_embed": lambda m: m.pos_embed,
    "ln_final.hook_normalized": lambda m: m.ln_final.output,
    "unembed.hook_out": lambda m: m.unembed.output,
}


@pytest.mark.parametrize("text", STRINGS)
def test_a_string_of_transformer_lens_means_the_name(demo, text):
    with demo.trace(PROMPT):
        wanted = STRINGS[text](demo).clone()
    with demo.trace(PROMPT):
        got = demo[text].clone()
    assert torch.equal(got, wanted)


def test_a_string_can_be_assigned(demo):
    with demo.trace(PROMPT):
        demo.layers[5].resid_post = demo.layers[5].resid_post * 0
        wanted = demo.logits.clone()
    with demo.trace(PROMPT):
        demo["blocks.5.hook_resid_post"] = demo["blocks.5.hook_resid_post"] * 0
        got = demo.logits.clone()
    assert torch.equal(got, wanted)


def test_a_string_that_means_nothing_says_what_does(demo):
    with pytest.raises(PathError, match=r"blocks\.5\.hook_resid_psot.*hook_resid_post"):
        demo["blocks.5.hook_resid_psot"]
    assert demo["transformer"] is demo.transformer


def test_names_of_nnterp_mean_the_same(demo):
    with demo.trace(PROMPT):
        one = [demo.token_embeddings, demo.layers_input[3], demo.attentions_output[3], demo.mlps_output[3]]
        one = [value.clone() for value in (*one, demo.layers_output[3])]
    with demo.trace(PROMPT):
        two = [demo.embed.clone(), demo.layers[3].resid_pre.clone(), demo.layers[3].attn_out.clone()]
        two += [demo.layers[3].mlp_out.clone(), demo.layers[3].resid_post.clone()]
    for got, wanted in zip(one, two, strict=True):
        assert torch.equal(got, wanted)
    assert (demo.num_layers, demo.num_heads, demo.hidden_size, demo.vocab_size) == (12, 4, 64, 1824)
    with demo.trace(PROMPT):
        demo.layers_output[3] = demo.layers_output[3] * 0
        assert (demo.layers[3].resid_post == 0).all()


def test_one_name_over_layers_stacks(demo):
    with demo.trace(PROMPT):
        stack = demo.attn_out[2:5]
    with demo.trace(PROMPT):
        each = [demo.layers[layer].attn_out.clone() for layer in (2, 3, 4)]
    assert torch.equal(stack, torch.stack(each))
    with pytest.raises(PathError, match="order in which the model computes"):
        with demo.trace(PROMPT):
            demo.attn_out[::-1]


def test_values_by_name_for_code_that_has_the_name_as_text(demo):
    with demo.trace(PROMPT):
        z = demo.std.get("z", 3).clone()
        demo.std.set("z", 3, demo.std.get("z", 3) * 0)
        assert (demo.layers[3].attn_out - demo.transformer.h[3].attn.c_proj.bias).abs().max() < 1e-6
    with demo.trace(PROMPT):
        assert torch.equal(demo.layers[3].attn.z, z)


# --- whose name it is -----------------------------------------------------------------------------


def test_a_name_that_the_model_has_itself_is_the_models(llama):
    bare = LanguageModel(llama._model.model)
    assert bare.layers[0] is bare.get("layers.0")
    with bare.trace([IDS]):
        native = bare.layers[0].output[0].clone()
    with bare.trace([IDS]):
        standard = bare.std.layers[0].resid_post.clone()
    assert torch.equal(native, standard)
    with pytest.raises(PathError, match="no output embedding"):
        bare.unembed


def test_a_name_that_the_user_gave_is_the_users(demo):
    model = LanguageModel(demo._model, tokenizer=demo.tokenizer, rename={"transformer.h": "layers"})
    assert model.layers[3] is model.transformer.h[3]
    with model.trace(PROMPT):
        assert model.std.layers[3].resid_mid.shape == (1, 5, 64)


def test_a_layer_answers_with_what_its_block_has(demo):
    layer = demo.layers[3]
    assert layer.ln_1 is demo.transformer.h[3].ln_1
    assert layer.mlp.c_fc is demo.transformer.h[3].mlp.c_fc
    assert layer.attn.c_proj is demo.transformer.h[3].attn.c_proj
    assert demo.ln_final is demo.transformer.ln_f
    assert demo.unembed is demo.lm_head
    assert demo.layers[-1] == demo.layers[11]
    assert [one.index for one in demo.layers[2:4]] == [2, 3]
    with demo.trace(PROMPT):
        assert layer.attn.output[0].shape == (1, 5, 64)
        layer.output = layer.output[0] * 0
        assert (layer.resid_post == 0).all()
    assert "resid_mid" in dir(layer)
    assert "z" in dir(layer.attn)


def test_a_plain_attribute_is_as_quick_as_ever(demo):
    """A name of the model's own is found without the standard names having been looked at."""
    model = LanguageModel(demo._model, tokenizer=demo.tokenizer)
    model.transformer.h[0]
    assert "_std" not in model.__dict__


# --- what is refused ------------------------------------------------------------------------------


def test_outside_a_trace_the_error_says_how(demo):
    with pytest.raises(OutsideTraceError, match=r"model\.layers\[3\]\.attn\.z.*model\.trace"):
        demo.layers[3].attn.z
    with pytest.raises(OutsideTraceError):
        demo.layers[3].resid_mid = 0


def test_a_value_that_does_not_fit_says_what_does(demo):
    with pytest.raises(EditError, match=r"layers\[3\]\.resid_mid.*\(1, 5, 64\).*\(1, 5, 63\)"):
        with demo.trace(PROMPT):
            demo.layers[3].resid_mid = demo.layers[3].resid_mid[..., 1:]
    with pytest.raises(EditError, match=r"layers\[3\]\.attn\.z.*int"):
        with demo.trace(PROMPT):
            demo.layers[3].attn.z = 0
    with pytest.raises(PathError, match="resid_psot"):
        with demo.trace(PROMPT):
            demo.layers[3].resid_psot = 0
    with pytest.raises(PathError, match="cannot be assigned"):
        demo.ln_final = 3


def test_a_layer_beyond_the_end(demo):
    with pytest.raises(PathError, match="12 entries, 0 to 11"):
        demo.layers[12]
    with pytest.raises(PathError, match="12 entries"):
        demo["blocks.40.hook_resid_post"]


def test_a_name_that_fails_its_check_is_refused_and_the_native_path_stays(llama):
    module = next(case for case in TIER_A if case.name == "llama").make()
    block = module.model.layers[1]
    plain = block.forward

    def half(*args, **kwargs):  # a block that adds only half of what its attention returns
        out = plain(*args, **kwargs)
        return out * 0.5 if isinstance(out, torch.Tensor) else (out[0] * 0.5, *out[1:])

    block.forward = half
    model = LanguageModel(module)
    table = verify(model)
    assert not table.ok
    assert table["attn_out"].status == "refused"
    assert "refused" in repr(table)
    with model.trace([IDS]):
        with pytest.raises(UnknownArchitectureError, match=r"off by .* at layer 1.*self_attn\.output"):
            model.layers[0].attn_out
        assert model.model.layers[0].self_attn.output[0].shape == (1, 5, WIDTH)
        assert model.layers[0].resid_post.shape == (1, 5, WIDTH)


def test_a_name_that_failed_for_dropout_gets_another_chance():
    module = case_of("gpt2").make().train()
    model = LanguageModel(module)
    with model.trace([IDS]):
        with pytest.raises(UnknownArchitectureError, match="training mode, and dropout"):
            model.embed
    module.eval()
    with model.trace([IDS]):
        assert model.embed.shape == (1, len(IDS), WIDTH)


def test_the_logits_are_the_logits_where_a_loss_comes_first(demo):
    model = TransformersModel(demo._model, tokenizer=demo.tokenizer, task=None)
    ids = demo.to_tokens(PROMPT)
    with model.trace(ids, labels=ids):
        logits = model.logits
        model.logits = model.logits * 0
        assert (model.output.logits == 0).all()
        assert model.output.loss > 0
    assert logits.shape == (1, 5, 1824)


def test_a_parallel_family_is_guessed_too():
    module = case_of("gpt_neox").make()
    module.config.model_type = "nobodys"
    table = verify(LanguageModel(module))
    assert table.ok
    assert table["resid_mid"].status == "absent"


def test_a_model_with_no_known_family_keeps_its_own_paths():
    config = transformers.T5Config(
        num_layers=2, num_decoder_layers=3, d_model=16, d_kv=8, d_ff=24, num_heads=2, vocab_size=32
    )
    model = TransformersModel(transformers.T5ForConditionalGeneration(config), task=None)
    assert not hasattr(model, "layers")
    with pytest.raises(UnknownArchitectureError, match="'t5'"):
        model.std.layers[0]
    table = verify(model)
    assert table.architecture is None
    assert not table.ok
    assert "t5" in repr(model.std)


def test_a_family_is_guessed_by_structure_and_the_guess_is_checked():
    row = next(one for one in AVAILABLE if one.name == "llama")
    module = make(row)
    module.config.model_type = "nobodys"
    model = LanguageModel(module)
    table = verify(model)
    assert table.ok
    assert table.is_guess
    assert "by structure" in repr(table)
    with model.trace([IDS]):
        assert model.layers[LAYERS - 1].resid_mid.shape == (1, 5, WIDTH)


def test_saving_before_an_assignment_in_place_is_said(demo):
    def assign_after_saving():
        with demo.trace(PROMPT):
            before = demo.layers[3].resid_mid.save()
            demo.layers[3].resid_mid = before * 2

    with pytest.warns(NbsightWarning, match="changed in place"):
        assign_after_saving()


def test_half_precision_passes_the_check():
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        for case in TIER_A:
            if case.name in ("gpt2", "llama", "gemma2") and case.architecture is not None:
                table = verify(LanguageModel(case.make().to(dtype)))
                assert table.ok, table
                assert table.dtype == str(dtype).removeprefix("torch.")
