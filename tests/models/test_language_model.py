"""`LanguageModel` end to end, on the shipped model, against plain hooks and separate runs."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from nbsight.errors import EditError, InputError, PathError
from nbsight.models import demo as shipped
from nbsight.models.language_model import BlockEnvoy, LanguageModel
from nbsight.models.outputs import BlockOutput, LogitsOutput

PARIS, ROME, FRANCE = (
    "The Eiffel Tower is in the city of",
    "The Colosseum is in the city of",
    "The capital of France is",
)
SHORT = "The cat"
LAYER = 5


@pytest.fixture(scope="module")
def plain():
    """The same model without nbsight."""
    return AutoModelForCausalLM.from_pretrained(shipped.folder()).eval()


@pytest.fixture
def left(demo):
    """The shipped model with a tokenizer that pads on the left."""
    tokenizer = copy.deepcopy(demo.tokenizer)
    tokenizer.padding_side = "left"
    return LanguageModel(demo._model, tokenizer=tokenizer)


def run_plain(plain, tokenizer, text, layer=LAYER, edit=None):
    """Hidden state after `layer` and logits, by a plain hook that may edit."""
    found = []

    def hook(_, __, out):
        hidden = out if isinstance(out, torch.Tensor) else out[0]
        if edit is not None:
            edit(hidden)
        found.append(hidden.clone())

    handle = plain.transformer.h[layer].register_forward_hook(hook)
    with torch.no_grad():
        logits = plain(**tokenizer(text, return_tensors="pt")).logits
    handle.remove()
    return found[0], logits


class TestReading:
    def test_a_traced_value_equals_a_plain_hook_bit_for_bit(self, demo, plain):
        hidden, logits = run_plain(plain, demo.tokenizer, PARIS)
        with demo.trace(PARIS):
            block = demo.transformer.h[LAYER].output.save()
            out = demo.output.save()
        assert isinstance(block, BlockOutput)
        assert isinstance(out, LogitsOutput)
        assert torch.equal(block[0], hidden)
        assert torch.equal(out[0, -1], logits[0, -1])
        assert torch.equal(out.logits, logits)
        assert len(out.past_key_values) == 12 or out.past_key_values is not None

    def test_every_form_of_the_same_prompt_gives_the_same_numbers(self, demo):
        ids = demo.tokenizer(PARIS)["input_ids"]
        forms = [
            PARIS,
            [PARIS],
            ids,
            [ids],
            torch.tensor(ids),
            torch.tensor([ids]),
            demo.tokenizer(PARIS, return_tensors="pt"),
            demo.tokenizer(PARIS),
        ]
        results = []
        for form in forms:
            with demo.trace(form):
                results.append(demo.output.save())
        with demo.trace(input_ids=torch.tensor([ids])):
            results.append(demo.output.save())
        with demo.trace(inputs_embeds=demo._model.transformer.wte(torch.tensor([ids])).detach()):
            results.append(demo.output.save())
        assert all(torch.equal(results[0].logits, other.logits) for other in results[1:])

    def test_the_model_can_be_used_outside_a_trace(self, demo, plain):
        hidden, logits = run_plain(plain, demo.tokenizer, PARIS, layer=11)
        normed = demo._model.transformer.ln_f(hidden)
        assert torch.allclose(normed @ demo._model.lm_head.weight.T, logits, atol=1e-4)

    def test_options_reach_the_forward(self, demo):
        with demo.trace(PARIS, output_hidden_states=True, use_cache=False):
            out = demo.output.save()
        assert len(out.hidden_states) == 13
        assert out.past_key_values is None

    def test_labels_give_the_loss(self, demo, plain):
        ids = torch.tensor([demo.tokenizer(PARIS)["input_ids"]])
        with demo.trace(ids, labels=ids):
            out = demo.output.save()
        with torch.no_grad():
            assert torch.equal(out.loss, plain(ids, labels=ids).loss)

    def test_only_blocks_read_as_blocks(self, demo):
        assert isinstance(demo.transformer.h[3], BlockEnvoy)
        for envoy in (demo.transformer, demo.transformer.h, demo.transformer.h[3].mlp, demo.lm_head):
            assert not isinstance(envoy, BlockEnvoy)
        with demo.trace(PARIS):
            mlp = demo.transformer.h[3].mlp.output.save()
        assert type(mlp) is torch.Tensor


class TestEditing:
    def test_an_in_place_edit_equals_a_hand_written_hook(self, demo, plain):
        def edit(hidden):
            hidden[:, -1] *= 3

        _, wanted = run_plain(plain, demo.tokenizer, PARIS, edit=edit)
        with demo.trace(PARIS):
            demo.transformer.h[LAYER].output[0][:, -1] *= 3
            one = demo.output.save()
        with demo.trace(PARIS):
            demo.transformer.h[LAYER].output[:, -1] *= 3
            two = demo.output.save()
        assert torch.equal(one.logits, wanted)
        assert torch.equal(two.logits, wanted)

    def test_patching_every_position_gives_the_donors_logits(self, demo):
        with demo.trace(PARIS):
            donor = demo.transformer.h[LAYER].output.save()
            clean = demo.output.save()
        forms = ["[0][:]", "[0]", "output", "tuple", "[:]"]
        for form in forms:
            with demo.trace(ROME):
                block = demo.transformer.h[LAYER]
                if form == "[0][:]":
                    block.output[0][:] = donor[0]
                elif form == "[0]":
                    block.output[0] = donor
                elif form == "output":
                    block.output = donor
                elif form == "tuple":
                    block.output = (donor[0], None)
                else:
                    block.output[:] = donor
                patched = demo.output.save()
            assert torch.equal(patched.logits, clean.logits), form

    def test_a_coefficient_of_zero_changes_nothing(self, demo):
        with demo.trace(PARIS):
            vector = demo.transformer.h[LAYER].output[0].mean(dim=1).clone().save()
            clean = demo.output.save()
        with demo.trace(PARIS):
            demo.transformer.h[LAYER].output[0][:] += 0.0 * vector
            out = demo.output.save()
        assert torch.equal(out.logits, clean.logits)

    def test_the_models_output_can_be_replaced(self, demo):
        with demo.trace(PARIS):
            demo.output = torch.zeros_like(demo.output)
            out = demo.output.save()
            result = demo.output.hf
        assert out.logits.eq(0).all()
        assert result.logits.eq(0).all()

    def test_a_float32_value_fits_a_bfloat16_model(self):
        model = LanguageModel("nbsight/demo", dtype=torch.bfloat16)
        with model.trace(PARIS):
            hidden = model.transformer.h[LAYER].output[0].save()
        assert hidden.dtype is torch.bfloat16
        with model.trace(PARIS):
            model.transformer.h[LAYER].output = hidden.float() * 2
            assigned = model.output.save()
        with model.trace(PARIS):
            model.transformer.h[LAYER].output[0][:] = hidden.float() * 2
            in_place = model.output.save()
        assert assigned.dtype is torch.bfloat16
        assert torch.equal(assigned.logits, in_place.logits)

    def test_one_prompt_can_go_on_as_several_rows(self, demo, plain):
        scales = torch.tensor([0.0, 1.0, 2.0])[:, None, None]
        with demo.trace(PARIS):
            block = demo.transformer.h[LAYER]
            block.output = block.output * scales
            out = demo.output.save()
        for row, scale in zip(out, scales.flatten(), strict=True):
            _, wanted = run_plain(plain, demo.tokenizer, PARIS, edit=lambda hidden, s=scale: hidden.mul_(s))
            torch.testing.assert_close(row, wanted[0], rtol=1e-4, atol=1e-4)

    def test_a_patch_of_another_length_names_both_shapes(self, demo):
        with demo.trace(SHORT):
            donor = demo.transformer.h[LAYER].output[0].save()
        with pytest.raises(EditError, match=r"\(1, 8, 64\).*\(1, 2, 64\)") as caught:
            with demo.trace(PARIS):
                demo.transformer.h[LAYER].output = donor
        caught.match("2 tokens: 'The' ' cat'")
        with demo.trace(PARIS):  # the model works normally afterwards
            assert demo.transformer.h[LAYER].output.shape == (1, 8, 64)

    def test_the_two_prompts_of_a_mismatch_are_shown_with_their_tokens(self, demo):
        for text in (SHORT, PARIS):
            with demo.trace(text):
                demo.output
        text = demo._explain_mismatch(torch.Size((1, 8, 64)), torch.Size((1, 2, 64)))
        assert "this prompt, 8 tokens: 'The' ' Eiffel'" in text
        assert "the value's, 2 tokens: 'The' ' cat'" in text
        assert demo._explain_mismatch((1, 8, 64), (1, 8, 63)) is None
        assert demo._explain_mismatch((1, 8, 64), (1, 77, 64)) is None
        assert demo._explain_mismatch((64,), (63,)) is None

    def test_remembered_prompts_are_each_threads_own(self, demo):
        found = []
        with demo.trace(SHORT):
            demo.output

        def elsewhere():
            found.append(demo._explain_mismatch((1, 8, 64), (1, 2, 64)))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert found == [None]


class TestBatches:
    @pytest.mark.parametrize(
        "texts", [(PARIS, ROME), (PARIS, SHORT), (SHORT, PARIS, "The capital of France is")]
    )
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_invokes_equal_separate_runs(self, demo, left, plain, texts, side):
        model = left if side == "left" else demo
        kept = []
        with model.trace() as tracer:
            for text in texts:
                with tracer.invoke(text):
                    kept.append((model.transformer.h[LAYER].output[0].save(), model.output.save()))
        for (hidden, out), text in zip(kept, texts, strict=True):
            wanted, logits = run_plain(plain, demo.tokenizer, text)
            assert hidden.shape == wanted.shape
            torch.testing.assert_close(hidden, wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(out.logits, logits, rtol=1e-4, atol=1e-4)

    def test_positions_count_from_the_first_token_in_edits_too(self, left, plain):
        def edit(hidden):
            hidden[:, 0] = 0

        _, wanted = run_plain(plain, left.tokenizer, SHORT, edit=edit)
        with left.trace() as tracer:
            with tracer.invoke(PARIS):
                untouched = left.output.save()
            with tracer.invoke(SHORT):
                left.transformer.h[LAYER].output[0][:, 0] = 0
                out = left.output.save()
        torch.testing.assert_close(out.logits, wanted, rtol=1e-4, atol=1e-4)
        _, clean = run_plain(plain, left.tokenizer, PARIS)
        torch.testing.assert_close(untouched.logits, clean, rtol=1e-4, atol=1e-4)

    def test_a_replacement_in_one_invoke_stays_in_its_rows(self, left, plain):
        _, wanted = run_plain(plain, left.tokenizer, SHORT, edit=lambda hidden: hidden.mul_(2))
        _, clean = run_plain(plain, left.tokenizer, PARIS)
        with left.trace() as tracer:
            with tracer.invoke(PARIS):
                untouched = left.output.save()
            with tracer.invoke(SHORT):
                left.transformer.h[LAYER].output = left.transformer.h[LAYER].output * 2
                out = left.output.save()
        torch.testing.assert_close(out.logits, wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(untouched.logits, clean, rtol=1e-4, atol=1e-4)

    def test_a_list_is_one_invoke_whose_rows_are_padded(self, demo, left, plain):
        for model in (demo, left):
            with model.trace([PARIS, SHORT]):
                hidden = model.transformer.h[LAYER].output[0].save()
            assert hidden.shape == (2, 8, 64)
            wanted, _ = run_plain(plain, demo.tokenizer, SHORT)
            own = hidden[1, -2:] if model is left else hidden[1, :2]
            torch.testing.assert_close(own, wanted[0], rtol=1e-4, atol=1e-4)

    def test_a_padded_length_that_equals_a_size_of_the_model_cuts_nothing_else(self, plain):
        config = GPT2Config(
            n_layer=2, n_embd=36, n_head=6, vocab_size=50, n_positions=64, attn_implementation="eager"
        )
        torch.manual_seed(0)
        model = LanguageModel(AutoModelForCausalLM.from_config(config).eval())
        with model.trace([1, 2, 3, 4], output_attentions=True):
            alone = model.transformer.h[0].attn.output[-1].save()
        with model.trace(output_attentions=True) as tracer:
            with tracer.invoke([1, 2, 3, 4]):
                pattern = model.transformer.h[0].attn.output[-1].save()
            with tracer.invoke([5] * 6):  # six tokens, six heads
                model.output
        assert pattern.shape == (1, 6, 4, 4)
        torch.testing.assert_close(pattern, alone)


class TestGeneration:
    @pytest.mark.parametrize("texts", [(PARIS, ROME), (PARIS, SHORT)])
    def test_each_prompt_gets_the_tokens_it_gets_alone(self, demo, plain, texts):
        kept = []
        with demo.generate(max_new_tokens=5, do_sample=False, eos_token_id=None) as tracer:
            for text in texts:
                with tracer.invoke(text):
                    kept.append(tracer.result.save())
        for ids, text in zip(kept, texts, strict=True):
            encoded = demo.tokenizer(text, return_tensors="pt")
            wanted = plain.generate(
                **encoded, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0
            )
            assert ids[0, -5:].tolist() == wanted[0, -5:].tolist()

    def test_one_prompt_generates_what_transformers_generates(self, demo, plain):
        with demo.generate(PARIS, max_new_tokens=4, do_sample=False) as tracer:
            ids = tracer.result.save()
        encoded = demo.tokenizer(PARIS, return_tensors="pt")
        wanted = plain.generate(**encoded, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert torch.equal(ids, wanted)

    def test_more_tokens_than_there_are_positions_is_an_error(self, demo):
        with pytest.raises(InputError, match=r"8 tokens and 500 more.*max_new_tokens=120"):
            with demo.generate(PARIS, max_new_tokens=500):
                pass


class TestBadInput:
    @pytest.mark.parametrize(
        ("prompt", "message"),
        [("", "empty"), ("word " * 200, "at most 128"), ([[]], "empty"), ([99999], "outside the vocabulary")],
    )
    def test_a_bad_prompt_is_an_error_and_the_model_works_afterwards(self, demo, prompt, message):
        with pytest.raises(InputError, match=message):
            with demo.trace(prompt):
                demo.output
        with pytest.raises(InputError, match=message):
            with demo.trace() as tracer:
                with tracer.invoke(prompt):
                    demo.output
        with demo.trace(PARIS):
            out = demo.output.save()
        assert out.shape[1] == 8

    def test_an_integer_other_than_zero_says_what_to_write(self, demo):
        with pytest.raises(PathError, match=r"\[:, 1\]"):
            with demo.trace(PARIS):
                demo.transformer.h[0].output[1]

    def test_tokenizer_options_belong_to_the_prompt(self, demo):
        with demo.trace("word " * 200, truncation=True, max_length=128):
            assert demo.output.shape[1] == 128
        with pytest.raises(InputError, match=r"tracer\.invoke\(prompt, truncation"):
            with demo.trace(truncation=True) as tracer:
                with tracer.invoke(PARIS):
                    demo.output


class TestTokenHelpers:
    def test_they_agree_with_the_tokenizer(self, demo):
        ids = demo.tokenizer(PARIS)["input_ids"]
        assert demo.to_tokens(PARIS).tolist() == [ids]
        assert "".join(demo.to_str_tokens(PARIS)) == PARIS
        assert demo.to_str_tokens(ids) == demo.to_str_tokens(PARIS)
        assert demo.to_str_tokens([PARIS, SHORT])[1] == ["The", " cat"]
        assert demo.to_string(ids) == PARIS
        assert demo.to_string(torch.tensor([ids, ids])) == [PARIS, PARIS]
        paris = demo.to_single_token(" Paris")
        assert demo.to_string(paris) == " Paris"
        assert demo.to_string(torch.tensor(paris)) == " Paris"
        with pytest.raises(InputError, match="3 tokens"):
            demo.to_single_token("Tower")

    def test_rows_of_to_tokens_are_padded_as_in_a_trace(self, demo, left):
        assert demo.to_tokens([PARIS, SHORT])[1, 2:].eq(0).all()
        assert left.to_tokens([PARIS, SHORT])[1, :6].eq(0).all()


class TestNames:
    def test_modules_answer_to_their_aliases(self, demo):
        rename = {"transformer.h": "layers", "attn": ["attention", "sa"]}
        model = LanguageModel(demo._model, tokenizer=demo.tokenizer, rename=rename)
        assert model.layers is model.transformer.h
        assert model.layers[2].attention is model.transformer.h[2].attn
        assert model.layers[2].sa is model.transformer.h[2].attn
        with model.trace(PARIS):
            hidden = model.layers[LAYER].output[0].save()
        assert hidden.shape == (1, 8, 64)
        with pytest.raises(PathError):
            model.transformer.layers
        with pytest.raises(PathError, match="no such module"):
            LanguageModel(demo._model, rename={"blocks": "layers"})

    def test_envoys_can_be_chosen_by_class_and_by_path(self, demo):
        class Mine(BlockEnvoy):
            pass

        kind = type(demo._model.transformer.h[0].mlp)
        model = LanguageModel(demo._model, envoys={kind: Mine, "h.3": Mine})
        assert isinstance(model.transformer.h[0].mlp, Mine)
        assert isinstance(model.transformer.h[3], Mine)
        assert not isinstance(model.transformer.h[4], Mine)

    def test_the_tokenizer_can_be_replaced(self, demo):
        model = LanguageModel(demo._model)
        assert model.tokenizer is None
        model.tokenizer = demo.tokenizer
        assert model.to_tokens(SHORT).shape == (1, 2)


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_model_can_be_copied_and_pickled(again, is_loaded, plain):
    model = LanguageModel("nbsight/demo")
    if is_loaded:
        model.std.verify()  # what is known of the names holds a lock
    other = again(model)
    with other.trace("The capital of France is"):
        hidden = other.layers[3].resid_post.save()
        logits = other.logits.save()
    ids = other.tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        expected = plain(**ids, output_hidden_states=True)
    assert torch.equal(hidden, expected.hidden_states[4])
    assert torch.equal(logits, expected.logits)


def test_a_deep_copy_has_weights_of_its_own(demo):
    other = copy.deepcopy(demo)
    with torch.no_grad():
        other._module.lm_head.weight.zero_()
    with demo.trace("The capital of France is"):
        logits = demo.logits.save()
    with other.trace("The capital of France is"):
        zeros = other.logits.save()
    assert logits.any()
    assert not zeros.any()
