"""Generations: which token each step chose, streaming, seeds, results of invokes."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings

import numpy as np
import pytest
import torch
import transformers

import nbsight
from nbsight.core.stacking import stack_steps
from nbsight.core.steps import Step
from nbsight.errors import EditError, InputError, NeverCalledError, OutOfOrderError, PathError
from nbsight.models.language_model import LanguageModel
from tests.compat import models
from tests.core.small import has_gates, hooked

PARIS, RIVER = "The capital of France is", "In the morning the little dog ran to the river"
IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are slower on several."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def small(request):
    """A random model without a tokenizer."""
    return LanguageModel(getattr(models, request.param)())


def blocks(model):
    return model.transformer.h if "transformer" in model._module._modules else model.model.layers


def path_of_block(model, layer):
    return f"{'transformer.h' if 'transformer' in model._module._modules else 'model.layers'}.{layer}"


def encoded(model, prompt):
    return torch.tensor([model.tokenizer(prompt)["input_ids"]])


def plain(model, ids, **options):
    """What transformers generates, and with plain hooks the values of each pass."""
    given = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "do_sample": False, **options}
    return hooked(model._model, (ids,), given, method="generate")


def hidden(value):
    return value[0] if isinstance(value, tuple) else value


# -- what a step knows -----------------------------------------------------------------------------


def test_a_step_has_the_token_that_its_pass_chose(demo):
    texts, numbers = [], []
    with demo.generate(RIVER, max_new_tokens=5, do_sample=False) as tracer:
        for step in tracer.iter[:]:
            texts.append(step.token)
            numbers.append(step.token_id)
    ids = plain(demo, encoded(demo, RIVER), max_new_tokens=5)[""][0][0, -5:]
    assert numbers == ids.tolist()
    assert texts == [demo.tokenizer.decode(i) for i in ids]
    assert [step.token for step in tracer.steps] == texts
    assert [step.token_id for step in tracer.steps] == numbers
    assert tracer.steps[1].token == texts[1]
    assert tracer.steps[-1].token_id == numbers[-1]


def test_a_step_of_a_random_model_has_ids_and_says_that_there_is_no_text(small):
    with small.generate(IDS, max_new_tokens=6, do_sample=False, eos_token_id=None) as tracer:
        found = [step.token_id for step in tracer.iter[:]]
    assert found == plain(small, IDS, max_new_tokens=6, eos_token_id=None)[""][0][0, -6:].tolist()
    with pytest.raises(InputError, match="no tokenizer"):
        tracer.steps[0].token


def test_the_first_step_is_the_prompt_pass_and_positions_count_on(small):
    seen = []
    with small.generate(IDS, max_new_tokens=4, do_sample=False, eos_token_id=None) as tracer:
        for step in tracer.iter[:]:
            seen.append((step.is_prompt, step.position, blocks(small)[0].output.shape[1]))
    assert seen == [(True, 4, 5), (False, 5, 1), (False, 6, 1), (False, 7, 1)]
    assert [(step.is_prompt, step.position) for step in tracer.steps] == [row[:2] for row in seen]


def test_a_step_is_an_integer_in_every_way(demo):
    with demo.generate(RIVER, max_new_tokens=3, do_sample=False) as tracer:
        steps = list(tracer.iter[:])
    assert all(type(step) is Step and isinstance(step, int) for step in steps)
    assert steps == [0, 1, 2]
    assert ["a", "b", "c"][steps[1]] == "b"
    assert {0: "x"}[steps[0]] == "x"
    assert f"{steps[2]}" == str(steps[2]) == f"{steps[2]:d}" == "2"
    assert f"{steps[2]:03}" == "002"
    assert torch.arange(3)[steps[2]] == 2
    assert np.arange(3)[steps[2]] == 2
    assert list(range(steps[2])) == [0, 1]
    assert steps[1] + 1 == 2
    assert repr(steps[1]) == f"Step(1: {tracer.steps[1].token!r})"
    assert "the prompt" in repr(steps[0])


def test_asking_for_a_token_ends_the_step_and_says_so_when_more_is_asked_of_it(demo):
    with pytest.raises(OutOfOrderError, match=r"step 0, after the token.*\n.*\n.*last in the body"):
        with demo.generate(RIVER, max_new_tokens=3) as tracer:
            for step in tracer.iter[:]:
                step.token
                demo.transformer.h[0].output
    assert not has_gates(demo._module)


def test_asking_for_a_token_does_not_let_the_next_step_slip_away(demo):
    inputs = []
    with demo.generate(RIVER, max_new_tokens=4, do_sample=False) as tracer:
        for step in tracer.iter[:]:
            inputs.append((demo.inputs[1]["input_ids"][0, -1].item(), step.token_id))
    ids = plain(demo, encoded(demo, RIVER), max_new_tokens=4)[""][0][0].tolist()
    assert inputs == list(zip(ids[-5:-1], ids[-4:], strict=True))


def test_the_token_of_an_earlier_step_is_known_in_the_block(demo):
    seen = []
    with demo.generate(RIVER, max_new_tokens=4, do_sample=False) as tracer:
        for step in tracer.iter[1:]:
            seen.append((tracer.steps[step - 1].token, len(tracer.steps)))
            demo.transformer.h[3].output
        seen.append((tracer.steps[-1].token, len(tracer.steps)))
    tokens = demo.to_str_tokens(plain(demo, encoded(demo, RIVER), max_new_tokens=4)[""][0])[-4:]
    assert seen == [(token, at) for token, at in zip(tokens, [2, 3, 4, 4], strict=True)]


def test_a_step_that_is_not_there_is_an_error_and_negative_ones_count_from_the_end(demo):
    with demo.generate(RIVER, max_new_tokens=3, do_sample=False) as tracer:
        with pytest.raises(PathError, match="no step yet"):
            tracer.steps[0]
    assert tracer.steps[-1] == 2
    assert [int(step) for step in tracer.steps[1:]] == [1, 2]
    with pytest.raises(LookupError, match=r"no step 3.*3 steps, 0 to 2"):
        tracer.steps[3]


def test_a_generation_that_was_stopped_knows_the_steps_that_it_made(demo):
    with demo.generate(RIVER, max_new_tokens=9, do_sample=False) as tracer:
        for step in tracer.iter[:]:
            if step == 2:
                tracer.stop()
    tokens = demo.to_str_tokens(plain(demo, encoded(demo, RIVER), max_new_tokens=2)[""][0])[-2:]
    assert len(tracer.steps) == 3
    assert [step.token for step in tracer.steps[:2]] == tokens
    with pytest.raises(InputError, match="step 2 chose no token: the generation ended"):
        tracer.steps[2].token
    assert tokens[0] in repr(tracer.steps)


def test_the_list_of_steps_shows_tokens_and_names_the_prompt_pass(demo):
    with demo.generate(PARIS, max_new_tokens=5, do_sample=False) as tracer:
        before = repr(tracer.steps)
        for _ in tracer.iter[:2]:
            demo.transformer.h[0].output
        during = repr(tracer.steps).splitlines()
    after = repr(tracer.steps).splitlines()
    assert before == "0 steps"
    assert during[0] == "2 steps"
    assert during[2].split() == ["1", "…", "reads", "position", "5"]  # looking moves nothing
    assert after[1].split() == ["0", "'", "Paris'", "(884)", "reads", "the", "prompt,", "5", "tokens"]
    assert after[2].split() == ["1", "'.'", "(14)", "reads", "position", "5"]


def test_a_long_list_of_steps_is_shown_in_part(demo):
    with demo.generate(PARIS, max_new_tokens=100, do_sample=False, eos_token_id=None) as tracer:
        pass
    lines = repr(tracer.steps).splitlines()
    assert lines[0] == "100 steps"
    assert len(lines) == 62
    assert lines[51].strip() == "…"
    assert lines[52].split()[0] == "90"


def test_steps_of_a_run_stay_what_they_were_when_the_tracer_runs_again(demo):
    tracer = demo.trace(fn="generate", max_new_tokens=2, do_sample=False)
    kept = []
    for text in (PARIS, RIVER):
        with tracer:
            with tracer.invoke(text):
                steps = tracer.steps
        kept.append(steps)
    assert kept[0][0].token == " Paris"
    assert kept[1][0].token != " Paris"
    assert tracer.steps[0].token == kept[1][0].token


def test_invokes_without_text_have_steps_of_their_own(demo):
    names = {"demo": demo, "PARIS": PARIS, "RIVER": RIVER}
    code = """
with demo.trace(fn="generate", max_new_tokens=2, do_sample=False) as tracer:
    with tracer.invoke(PARIS):
        one = tracer.steps
        first = [step.token for step in tracer.iter[:]]
    with tracer.invoke(RIVER):
        two = [step.token for step in tracer.iter[:]]
"""
    exec(compile(code, "<nowhere at all>", "exec"), names)
    assert names["first"] == [step.token for step in names["one"]] == [" Paris", "."]
    tokens = demo.to_str_tokens(plain(demo, encoded(demo, RIVER), max_new_tokens=2)[""][0])[-2:]
    assert names["two"] == tokens


def test_a_forward_has_no_steps_and_says_so(demo):
    with demo.trace(PARIS) as tracer:
        with pytest.raises(InputError, match="one pass and chooses no tokens"):
            tracer.steps
        for call in tracer.iter[:1]:
            with pytest.raises(InputError, match="counts the calls of a module"):
                call.token
            assert repr(call) == "Step(0)"


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda step: pickle.loads(pickle.dumps(step))])
def test_a_copy_of_a_step_keeps_what_it_knows(demo, again):
    with demo.generate([RIVER, PARIS], max_new_tokens=5, do_sample=False) as tracer:
        pass
    for step in tracer.steps:
        other = again(step)
        assert other == step
        assert (other.tokens, other.token_ids, other.position, other.is_prompt) == (
            step.tokens, step.token_ids, step.position, step.is_prompt,
        )  # fmt: skip
    assert repr(again(tracer.steps)) == repr(tracer.steps)
    assert again(Step(3)) == 3


# -- several rows ----------------------------------------------------------------------------------


def test_several_rows_have_a_token_each_and_none_after_their_end(demo):
    with demo.generate([RIVER, PARIS], max_new_tokens=5, do_sample=False) as tracer:
        found = [(step.tokens, step.token_ids) for step in tracer.iter[:]]
    alone = [plain(demo, encoded(demo, text), max_new_tokens=5)[""][0][0] for text in (RIVER, PARIS)]
    river, paris = (
        ids[len(demo.tokenizer(text)["input_ids"]) :] for ids, text in zip(alone, (RIVER, PARIS), strict=True)
    )
    ids = [[int(river[at]), int(paris[at]) if at < len(paris) else None] for at in range(5)]
    assert len(paris) == 3
    assert [row[1] for row in found] == ids
    assert [row[0][1] for row in found] == [*map(demo.tokenizer.decode, paris), None, None]
    with pytest.raises(InputError, match=r"2 rows; write `step.tokens`"):
        tracer.steps[0].token


def test_an_invoke_sees_its_own_tokens_and_positions_and_its_loop_ends_with_its_rows(demo):
    with demo.generate(max_new_tokens=5, do_sample=False) as tracer:
        with tracer.invoke(PARIS):
            one = [(step.token, step.position) for step in tracer.iter[:]]
            after, steps = "reached", tracer.steps
        with tracer.invoke(RIVER):
            two = [(step.token, step.position) for step in tracer.iter[:]]
    for found, text in ((one, PARIS), (two, RIVER)):
        with demo.generate(text, max_new_tokens=5, do_sample=False) as alone:
            wanted = [(step.token, step.position) for step in alone.iter[:]]
        assert found == wanted
    assert after == "reached"
    assert len(one) == len(steps) == 3
    assert len(two) == len(tracer.steps) == 5
    assert [step.token for step in steps] == [token for token, _ in one]
    assert tracer.steps[3].tokens == [None, two[3][0]]


def test_an_invokes_result_and_hidden_states_are_those_that_it_has_alone(small):
    prompts = [torch.tensor([[5, 6, 7]]), torch.tensor([[11, 12, 13, 14, 15, 16]])]
    kept = [[], []]
    with small.generate(max_new_tokens=4, do_sample=False, eos_token_id=None) as tracer:
        with tracer.invoke(prompts[0]):
            first = tracer.cache(modules=[blocks(small)[1]], device=None)
            for _ in tracer.iter[:]:
                kept[0].append(blocks(small)[1].output[0])
            one = tracer.result
        with tracer.invoke(prompts[1]):
            for _ in tracer.iter[:]:
                kept[1].append(blocks(small)[1].output[0])
            two = tracer.result
    for ids, values, result in zip(prompts, kept, (one, two), strict=True):
        wanted = plain(small, ids, max_new_tokens=4, eos_token_id=None)
        assert torch.equal(result, wanted[""][0])
        for value, own in zip(values, wanted[f"{path_of_block(small, 1)}.output"], strict=True):
            assert torch.allclose(value, hidden(own), atol=1e-5)
    assert torch.equal(first[path_of_block(small, 1)].stack(), stack_steps(kept[0]))


@pytest.mark.parametrize("as_dict", [False, True])
def test_an_invoke_that_ended_early_has_no_pads_in_its_result(demo, as_dict):
    with demo.generate(
        max_new_tokens=5, do_sample=False, return_dict_in_generate=as_dict, output_scores=as_dict
    ) as tracer:
        with tracer.invoke(PARIS):
            one = tracer.result
        with tracer.invoke(RIVER):
            two = tracer.result
    for result, text in ((one, PARIS), (two, RIVER)):
        wanted = plain(demo, encoded(demo, text), max_new_tokens=5)[""][0]
        assert torch.equal(result.sequences if as_dict else result, wanted)
    if as_dict:
        assert len(one.scores) == 5
        assert one.scores[0].shape == (1, 1824)
        assert demo.tokenizer.decode(one.scores[0].argmax()) == " Paris"


def test_edits_of_one_invoke_in_some_steps_leave_the_other_alone(small):
    prompts = [torch.tensor([[5, 6, 7, 8]]), torch.tensor([[11, 12, 13, 14]])]
    with small.generate(max_new_tokens=4, do_sample=False, eos_token_id=None) as tracer:
        with tracer.invoke(prompts[0]):
            for _ in tracer.iter[1::2]:
                blocks(small)[0].output[0][:] = 0
            one = tracer.result
        with tracer.invoke(prompts[1]):
            two = tracer.result
    turns = iter(range(4))

    def silence(value):
        if next(turns) % 2:
            hidden(value)[:] = 0

    edited = hooked(
        small._model,
        (prompts[0],),
        {
            "attention_mask": torch.ones_like(prompts[0]),
            "max_new_tokens": 4,
            "do_sample": False,
            "eos_token_id": None,
            "pad_token_id": 0,
        },
        method="generate",
        edit={path_of_block(small, 0): silence},
    )
    assert torch.equal(one, edited[""][0])
    assert torch.equal(two, plain(small, prompts[1], max_new_tokens=4, eos_token_id=None)[""][0])
    assert not torch.equal(one, plain(small, prompts[0], max_new_tokens=4, eos_token_id=None)[""][0])


def test_a_generation_that_ends_early_ends_the_loop_and_what_follows_it_runs(small):
    ids = plain(small, IDS, max_new_tokens=6, eos_token_id=None)[""][0][0, 5:].tolist()
    stop = ids[2]
    length = ids.index(stop) + 1
    with small.generate(IDS, max_new_tokens=6, do_sample=False, eos_token_id=stop) as tracer:
        states = [blocks(small)[0].output[0] for step in tracer.iter[:]]
        after = small.dtype
    wanted = plain(small, IDS, max_new_tokens=6, eos_token_id=stop)
    assert len(states) == len(tracer.steps) == length
    assert after is torch.float32
    for value, own in zip(states, wanted[f"{path_of_block(small, 0)}.output"], strict=True):
        assert torch.equal(value, hidden(own))


def test_rows_that_are_returned_several_times_belong_to_their_invoke(demo):
    options = {"max_new_tokens": 4, "do_sample": True, "num_return_sequences": 3, "seed": 1}
    with demo.generate(**options) as tracer:
        with tracer.invoke([PARIS]):
            texts = [step.tokens for step in tracer.iter[:]]
            one = tracer.result
        with tracer.invoke(RIVER):
            two = tracer.result
    length = len(demo.tokenizer(RIVER)["input_ids"])
    assert len(one) == len(two) == 3
    assert all(row[:5].tolist() == demo.tokenizer(PARIS)["input_ids"] for row in one)
    assert all(row[:length].tolist() == demo.tokenizer(RIVER)["input_ids"] for row in two)
    assert tracer.steps[0].tokens[:3] == texts[0]
    assert len(tracer.steps[0].tokens) == 6


def test_values_of_rows_that_are_returned_several_times_are_the_invokes_own(small):
    prompts = [torch.tensor([[5, 6, 7]]), torch.tensor([[11, 12, 13, 14]])]
    with small.generate(
        max_new_tokens=2, do_sample=True, num_return_sequences=2, seed=0, eos_token_id=None
    ) as tracer:
        with tracer.invoke(prompts[0]):
            one = blocks(small)[1].output[0]
        with tracer.invoke(prompts[1]):
            two = blocks(small)[1].output[0]
    for value, ids in ((one, prompts[0]), (two, prompts[1])):
        own = hidden(hooked(small._model, (ids,))[f"{path_of_block(small, 1)}.output"][0])
        assert torch.allclose(value, own.expand(2, -1, -1), atol=1e-5)


def test_beams_have_their_tokens_at_the_end(demo):
    options = {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2}
    with demo.generate(RIVER, do_sample=False, **options) as tracer:
        rows = []
        for step in tracer.iter[:]:
            rows.append(demo.transformer.h[0].output.shape[0])
            with pytest.raises(InputError, match="beam search"):
                step.token
        result = tracer.result
    wanted = plain(demo, encoded(demo, RIVER), **options)[""][0]
    length = len(demo.tokenizer(RIVER)["input_ids"])
    assert set(rows) == {3}
    assert torch.equal(result, wanted)
    found = [step.token_ids for step in tracer.steps]
    for at, ids in enumerate(found[: wanted.shape[1] - length]):
        for row, token in enumerate(ids):
            assert token is None or token == wanted[row, length + at]
    assert found[0] == wanted[:, length].tolist()


def test_invokes_of_a_beam_search_have_their_own_results(small):
    prompts = [torch.tensor([[5, 6, 7, 8]]), torch.tensor([[11, 12, 13, 14]])]
    options = {"max_new_tokens": 4, "num_beams": 2, "eos_token_id": None}
    with small.generate(do_sample=False, **options) as tracer:
        with tracer.invoke(prompts[0]):
            one = tracer.result
        with tracer.invoke(prompts[1]):
            two = tracer.result
    assert torch.equal(one, plain(small, prompts[0], **options)[""][0])
    assert torch.equal(two, plain(small, prompts[1], **options)[""][0])


# -- other ways to generate ------------------------------------------------------------------------


def test_embeddings_as_the_prompt(small):
    embeds = small._model.get_input_embeddings()(IDS).detach()
    with small.generate(inputs_embeds=embeds, max_new_tokens=4, do_sample=False, eos_token_id=None) as tracer:
        seen = [(step.position, step.token_id) for step in tracer.iter[:]]
        result = tracer.result
    wanted = plain(small, IDS, max_new_tokens=4, eos_token_id=None)[""][0][0, -4:].tolist()
    assert seen == list(zip([4, 5, 6, 7], wanted, strict=True))
    assert result[0].tolist() == wanted


def test_a_model_with_an_encoder_counts_the_positions_of_its_decoder():
    model = LanguageModel(models.t5())
    with model.generate(IDS, max_new_tokens=4, do_sample=False, eos_token_id=None) as tracer:
        seen = []
        for step in tracer.iter[:]:
            shape = model.decoder.block[0].output[0].shape
            seen.append((shape[1], step.position, step.is_prompt, step.token_id))
        result = tracer.result
    assert [row[:3] for row in seen] == [(1, 0, True), (1, 1, False), (1, 2, False), (1, 3, False)]
    assert [row[3] for row in seen] == result[0, 1:].tolist()
    assert torch.equal(result, plain(model, IDS, max_new_tokens=4, eos_token_id=None)[""][0])


def test_assisted_generation_chooses_several_tokens_in_a_step(demo):
    options = {"max_new_tokens": 12, "prompt_lookup_num_tokens": 4, "eos_token_id": 5}
    with demo.generate(RIVER, do_sample=False, **options) as tracer:
        texts = [step.tokens[0] for step in tracer.iter[:]]
        result = tracer.result
    length = len(demo.tokenizer(RIVER)["input_ids"])
    assert torch.equal(result, plain(demo, encoded(demo, RIVER), **options)[""][0])
    assert "".join(texts) == "".join(demo.to_str_tokens(result)[length:])
    several = [step for step in tracer.steps if len(step.record().ids[0]) > 1]
    assert several
    with pytest.raises(InputError, match="tokens at once"):
        several[0].token_id


def test_criteria_of_the_users_own_still_stop(demo):
    asked = []

    def third(ids, scores, **_):
        asked.append(ids.shape[1])
        return torch.full((ids.shape[0],), len(asked) == 3)

    given = [third]
    with demo.generate(RIVER, max_new_tokens=9, do_sample=False, stopping_criteria=given) as tracer:
        pass
    assert len(tracer.steps) == len(asked) == 3
    assert given == [third]


def test_a_model_with_its_own_generate_knows_its_passes_and_no_tokens():
    class Own(transformers.GPT2LMHeadModel):
        @torch.no_grad()
        def generate(self, input_ids, attention_mask=None, max_new_tokens=3, **_):
            for _ in range(max_new_tokens):
                input_ids = torch.cat([input_ids, self(input_ids).logits[:, -1:].argmax(-1)], 1)
            return input_ids

    model = LanguageModel(models.seeded(lambda: Own(models.gpt2().config)))
    with model.generate(IDS, max_new_tokens=3) as tracer:
        steps = list(tracer.iter[:])
        with pytest.raises(InputError, match="which tokens this generation chooses is not known"):
            steps[0].token
    assert steps == [0, 1, 2]
    assert [step.is_prompt for step in steps] == [True, False, False]
    assert repr(tracer.steps).splitlines() == ["3 steps", "  0  the prompt", "  1", "  2"]
    with pytest.raises(InputError, match="`on_token` cannot be served"):
        model.generate(IDS, on_token=print)


# -- streaming -------------------------------------------------------------------------------------


def test_tokens_are_handed_over_one_by_one(demo):
    got = []
    ids = demo.generate(RIVER, max_new_tokens=5, do_sample=False, on_token=got.append)
    wanted = plain(demo, encoded(demo, RIVER), max_new_tokens=5)[""][0]
    assert type(ids) is torch.Tensor
    assert torch.equal(ids, wanted)
    assert [token.id for token in got] == wanted[0, -5:].tolist()
    assert [int(token.step) for token in got] == [0, 1, 2, 3, 4]
    assert "".join(token.text for token in got) == demo.tokenizer.decode(wanted[0, -5:])
    assert got[1].step.token == got[1].text
    assert str(got[1]) == got[1].text
    assert got[1].text in repr(got[1])


def test_tokens_are_handed_over_as_soon_as_they_are_chosen(demo):
    order = []
    handle = demo._model.lm_head.register_forward_hook(lambda *_: order.append("pass"))
    demo.generate(RIVER, max_new_tokens=3, do_sample=False, on_token=lambda token: order.append("token"))
    handle.remove()
    assert order == ["pass", "token"] * 3


def test_printing_tokens_as_they_come(demo, capsys):
    demo.generate(PARIS, max_new_tokens=2, do_sample=False, on_token=print)
    assert capsys.readouterr().out == " Paris\n.\n"


def test_several_rows_come_together(demo):
    got = []
    demo.generate([RIVER, PARIS], max_new_tokens=5, do_sample=False, on_token=got.append)
    assert [len(token.ids) for token in got] == [2] * 5
    assert [token.texts[1] for token in got] == [" Paris", ".", "<|endoftext|>", None, None]
    assert str(got[0]).endswith(" |  Paris")
    with pytest.raises(InputError, match=r"write `token.texts`"):
        got[0].text


@pytest.mark.parametrize("loops", [False, True])
def test_a_block_reads_and_edits_as_ever_while_tokens_are_handed_over(demo, loops):
    got, states = [], []
    with demo.generate(RIVER, max_new_tokens=4, do_sample=False, on_token=got.append) as tracer:
        if loops:
            for step in tracer.iter[:]:
                assert len(got) == step  # all that came before, and not yet its own
                if step == 1:
                    demo.transformer.h[2].output[0][:] = 0
                states.append(demo.transformer.h[4].output[0])
        result = tracer.result
    turns = iter(range(4))

    def silence(value):
        if next(turns) == 1 and loops:
            hidden(value)[:] = 0

    ids = encoded(demo, RIVER)
    options = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": 4,
        "do_sample": False,
        "pad_token_id": 0,
    }
    wanted = hooked(demo._model, (ids,), options, method="generate", edit={"transformer.h.2": silence})
    assert torch.equal(result, wanted[""][0])
    assert [token.id for token in got] == result[0, -4:].tolist()
    for value, own in zip(states, wanted["transformer.h.4.output"], strict=False):
        assert torch.equal(value, hidden(own))
    assert len(states) == 4 * loops


def test_a_callback_runs_on_the_side_of_the_block(demo):
    seen = []

    def look(token):
        seen.append(torch.is_grad_enabled())
        with demo.trace(PARIS):
            seen.append(demo.tokenizer.decode(demo.output[0, -1].argmax()))
        seen.append(demo._model(encoded(demo, PARIS)).logits.shape[1])

    with demo.generate(RIVER, max_new_tokens=2, do_sample=False, on_token=look) as tracer:
        passes = len(list(tracer.iter[:]))
    assert seen == [True, " Paris", 5] * 2
    assert passes == 2


def test_tokens_of_invokes_come_in_the_order_of_the_invokes(demo):
    got = []
    with demo.generate(max_new_tokens=3, do_sample=False, on_token=got.append) as tracer:
        with tracer.invoke(PARIS):
            state = demo.transformer.h[2].output[0]
        with tracer.invoke(RIVER):
            result = tracer.result
    assert [token.texts[0] for token in got] == [" Paris", ".", "<|endoftext|>"]
    assert [token.ids[1] for token in got] == result[0, -3:].tolist()
    with demo.trace(PARIS):
        assert torch.allclose(state, demo.transformer.h[2].output[0], atol=1e-5)


@pytest.mark.parametrize("way", ["call", "block", "loop", "invoke"])
def test_an_error_of_a_callback_is_the_users_own(demo, way):
    cause = KeyError("why")

    def fail(token):
        if token.step == 1:
            raise LookupError("mine") from cause

    with pytest.raises(LookupError, match="mine") as caught:
        if way == "call":
            demo.generate(RIVER, max_new_tokens=3, on_token=fail)
        elif way == "invoke":
            with demo.generate(max_new_tokens=3, on_token=fail) as tracer:
                with tracer.invoke(RIVER):
                    demo.output
        else:
            with demo.generate(RIVER, max_new_tokens=3, on_token=fail) as tracer:
                for _ in tracer.iter[: 9 if way == "loop" else 0]:
                    demo.output
    assert type(caught.value) is LookupError
    assert caught.value.__cause__ is cause
    frames = [str(entry.path) for entry in caught.traceback]
    assert frames[-1] == __file__
    assert len([path for path in frames if "nbsight/core/run.py" in path or "transformers" in path]) == 0
    assert not has_gates(demo._module)
    with demo.trace(PARIS):
        assert demo.tokenizer.decode(demo.output[0, -1].argmax()) == " Paris"


def test_a_callback_cannot_ask_the_model_that_waits_for_it(demo):
    with pytest.raises(InputError, match="waits for the callback"):
        with demo.generate(RIVER, max_new_tokens=3, on_token=lambda _: demo.transformer.h[0].output):
            pass
    assert not has_gates(demo._module)


def test_a_callback_may_stop_the_generation(demo):
    got = []

    def until_two(token):
        got.append(token.id)
        if len(got) == 2:
            tracer.stop()

    with demo.generate(RIVER, max_new_tokens=9, do_sample=False, on_token=until_two) as tracer:
        pass
    assert len(got) == len(tracer.steps) == 2
    assert [step.token_id for step in tracer.steps] == got


def test_a_character_of_several_tokens_comes_with_the_last_of_them(demo):
    text = "aé🙂b"
    pieces = [demo.tokenizer.decode(i) for i in demo.tokenizer(text)["input_ids"]]
    assert any("\ufffd" in piece for piece in pieces)  # otherwise this shows nothing
    script = iter(demo.tokenizer(text)["input_ids"])

    def forced(ids, scores):
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([next(script)]), 0.0)

    got = []
    count = len(pieces)
    demo.generate(
        PARIS,
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        logits_processor=[forced],
        on_token=got.append,
    )
    assert len(got) == count
    assert "".join(token.text for token in got) == text
    assert not any("\ufffd" in token.text for token in got)


def test_a_streamer_of_transformers_is_passed_on(demo, capsys):
    demo.generate(
        PARIS, max_new_tokens=2, do_sample=False, streamer=transformers.TextStreamer(demo.tokenizer)
    )
    assert capsys.readouterr().out == PARIS + " Paris.\n"
    with demo.generate(
        PARIS,
        max_new_tokens=2,
        do_sample=False,
        streamer=transformers.TextStreamer(demo.tokenizer, skip_prompt=True),
    ) as tracer:
        states = [demo.transformer.h[0].output for _ in tracer.iter[:]]
    assert len(states) == 2
    assert capsys.readouterr().out == " Paris.\n"


def test_what_cannot_stream_says_so(demo):
    with pytest.raises(InputError, match="beam search"):
        demo.generate(PARIS, num_beams=2, on_token=print)
    with pytest.raises(InputError, match="such as print; it was int"):
        demo.generate(PARIS, on_token=3)
    with pytest.raises(InputError, match="where the model runs"):
        with demo.generate(PARIS, on_token=print, remote="local"):
            pass


# -- seeds -----------------------------------------------------------------------------------------

SAMPLING = {"max_new_tokens": 8, "do_sample": True, "temperature": 1.5, "eos_token_id": None}


def sampled(model, ids, seed, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return plain(model, ids, **{**SAMPLING, **options})[""][0]


def test_a_seed_gives_what_torch_gives_with_it_and_leaves_the_users_numbers_alone(small):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    one, two, other = (small.generate(IDS, **SAMPLING, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, sampled(small, IDS, 3))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_the_blocks_own_random_numbers_and_the_models_do_not_meet(small):
    with small.generate(IDS, **SAMPLING, seed=3) as tracer:
        torch.manual_seed(5)
        mine = [torch.rand(())]
        for step in tracer.iter[:]:
            blocks(small)[0].output
            mine.append(torch.rand(()))
            step.token_id
            mine.append(torch.rand(()))
        result = tracer.result
        mine.append(torch.rand(()))
    mine.append(torch.rand(()))
    assert torch.equal(result, sampled(small, IDS, 3))
    torch.manual_seed(5)
    assert torch.equal(torch.stack(mine), torch.stack([torch.rand(()) for _ in mine]))


def test_a_seed_covers_dropout_as_well():
    model = LanguageModel(models.gpt2().train())
    model._module.config.resid_pdrop = 0.3
    with model.generate(IDS, max_new_tokens=5, do_sample=False, eos_token_id=None, seed=7) as tracer:
        states = []
        for _ in tracer.iter[:]:
            states.append(model.transformer.h[1].output[0])
            torch.rand(3)
    torch.manual_seed(7)
    wanted = plain(model, IDS, max_new_tokens=5, eos_token_id=None)["transformer.h.1.output"]
    for value, own in zip(states, wanted, strict=True):
        assert torch.equal(value, hidden(own))


def test_invokes_are_sampled_as_one_batch_from_one_seed(small):
    prompts = [torch.tensor([[5, 6, 7, 8]]), torch.tensor([[11, 12, 13, 14]])]
    before = torch.get_rng_state()
    with small.generate(**SAMPLING, seed=2) as tracer:
        with tracer.invoke(prompts[0]):
            noise = torch.rand(2)
            one = tracer.result
        with tracer.invoke(prompts[1]):
            for step in tracer.iter[:]:
                step.token_id
            two = tracer.result
    after = torch.get_rng_state()
    assert torch.equal(torch.cat([one, two]), sampled(small, torch.cat(prompts), 2))
    torch.set_rng_state(before)
    assert torch.equal(noise, torch.rand(2))
    assert torch.equal(torch.get_rng_state(), after)


def test_a_seed_and_tokens_that_are_handed_over(small):
    got = []
    result = small.generate(
        IDS, **SAMPLING, seed=3, on_token=lambda token: got.append((token.id, torch.rand(())))
    )
    assert torch.equal(result, sampled(small, IDS, 3))
    assert [token for token, _ in got] == result[0, -8:].tolist()


def test_an_error_gives_the_users_numbers_back(small):
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        with small.generate(IDS, **SAMPLING, seed=3) as tracer:
            for step in tracer.iter[:]:
                blocks(small)[0].output
                1 / (2 - step)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", ["x", 1.5, True, 2**65])
def test_a_seed_is_an_integer(demo, seed):
    with pytest.raises(InputError, match="`seed` is an integer"):
        demo.generate(PARIS, seed=seed)


# -- nnsight's names -------------------------------------------------------------------------------


def test_the_streamer_is_the_place_where_tokens_are_chosen(demo):
    with demo.generate(RIVER, max_new_tokens=4, do_sample=False) as tracer:
        tokens = []
        for _ in tracer.iter[:]:
            tokens.append(demo.generator.streamer.output.clone())
        result = demo.generator.output
    assert [token.shape for token in tokens] == [(1,)] * 4
    assert torch.equal(torch.cat(tokens), result[0, -4:])
    assert torch.equal(result, plain(demo, encoded(demo, RIVER), max_new_tokens=4)[""][0])


@pytest.mark.parametrize("way", ["assign", "in place", "integer"])
def test_a_token_can_be_chosen_for_the_model(demo, way):
    other = demo.to_single_token(" dog")
    with demo.generate(RIVER, max_new_tokens=4, do_sample=False) as tracer:
        for _ in tracer.iter[1]:
            if way == "assign":
                demo.generator.streamer.output = torch.tensor([other])
            elif way == "in place":
                demo.generator.streamer.output[:] = other
            else:
                demo.generator.streamer.output = other
        result = tracer.result
    turns = iter(range(4))

    def force(ids, scores):
        return (
            scores
            if next(turns) != 1
            else torch.full_like(scores, -1e9).index_fill(1, torch.tensor([other]), 0.0)
        )

    wanted = plain(demo, encoded(demo, RIVER), max_new_tokens=4, logits_processor=[force])[""][0]
    assert torch.equal(result, wanted)
    assert tracer.steps[1].token == " dog"


def test_an_invoke_chooses_tokens_for_its_own_rows(demo):
    other = demo.to_single_token(" dog")
    with demo.generate(max_new_tokens=3, do_sample=False) as tracer:
        with tracer.invoke(PARIS):
            one = tracer.result
        with tracer.invoke(RIVER):
            for _ in tracer.iter[0]:
                demo.generator.streamer.output = other
            two = tracer.result
    assert demo.tokenizer.decode(one[0, 5:7]) == " Paris."
    assert two[0, -3] == other
    assert torch.equal(one, plain(demo, encoded(demo, PARIS), max_new_tokens=3)[""][0])


def test_writing_the_token_that_ends_a_text_ends_the_row(demo):
    end = demo.tokenizer.eos_token_id
    with demo.generate(max_new_tokens=5, do_sample=False) as tracer:
        with tracer.invoke(RIVER):
            for step in tracer.iter[:]:
                if step == 1:
                    demo.generator.streamer.output[:] = end
            one = tracer.result
        with tracer.invoke(RIVER):
            two = tracer.result
    wanted = plain(demo, encoded(demo, RIVER), max_new_tokens=5)[""][0]
    assert one[0].tolist() == [*wanted[0, :-4].tolist(), end]
    assert torch.equal(two, wanted)
    with demo.generate(RIVER, max_new_tokens=5, do_sample=False) as tracer:
        for _ in tracer.iter[1]:
            demo.generator.streamer.output = end
    assert len(tracer.steps) == 2


def test_a_token_that_is_none_is_refused(demo):
    with pytest.raises(EditError, match="one integer for each of 1 rows"):
        with demo.generate(RIVER, max_new_tokens=2):
            demo.generator.streamer.output = 0.5
    with pytest.raises(InputError, match="none in `trace`"):
        with demo.trace(RIVER):
            demo.generator.streamer.output
    with pytest.raises(AttributeError):
        demo.generators


def test_next_goes_on_module_by_module(demo):
    with demo.generate(RIVER, max_new_tokens=4, do_sample=False):
        zero = demo.lm_head.output[0, -1].argmax()
        early = demo.transformer.h[0].next().output
        one = demo.lm_head.next().output[0, -1].argmax()
        three = demo.lm_head.next(2).output[0, -1].argmax()
    wanted = plain(demo, encoded(demo, RIVER), max_new_tokens=4)
    assert [int(zero), int(one), int(three)] == [int(wanted[""][0][0, at]) for at in (-4, -3, -1)]
    assert torch.equal(early[0], hidden(wanted["transformer.h.0.output"][1]))


def test_the_tracers_next_is_a_step(demo):
    with demo.generate(RIVER, max_new_tokens=4, do_sample=False) as tracer:
        step = tracer.next()
        value = demo.transformer.h[0].output[0]
        later = tracer.next(2)
        token = later.token
        with pytest.raises(NeverCalledError, match=r"asked for step 4, and the model made 4 steps"):
            tracer.next()
    wanted = plain(demo, encoded(demo, RIVER), max_new_tokens=4)
    assert (step, later) == (1, 3)
    assert torch.equal(value, hidden(wanted["transformer.h.0.output"][1]))
    assert token == demo.tokenizer.decode(wanted[""][0][0, -1])
    with pytest.raises(InputError, match="`trace` has one"):
        with demo.trace(RIVER) as tracer:
            tracer.next()


def test_a_generation_warns_of_nothing(demo):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        demo.generate(PARIS, max_new_tokens=3, do_sample=False, on_token=lambda _: None, seed=1)
        with demo.generate(PARIS, max_new_tokens=3, do_sample=False) as tracer:
            assert [step.token for step in tracer.iter[:]] == [" Paris", ".", "<|endoftext|>"]


# -- other shapes of models, threads, elsewhere ----------------------------------------------------


class Peft(torch.nn.Module):
    """The shape of a PEFT model: it generates through the model inside, and is not called itself."""

    def __init__(self, inner):
        super().__init__()
        self.base_model = torch.nn.Module()
        self.base_model.model = inner
        self.config = inner.config

    def get_base_model(self):
        return self.base_model.model

    def forward(self, *args, **kwargs):
        return self.base_model.model(*args, **kwargs)

    def generate(self, *args, **kwargs):
        return self.base_model.model.generate(*args, **kwargs)


def test_a_model_inside_another_one_makes_the_steps():
    inner = models.gpt2()
    model = LanguageModel(Peft(inner))
    states = []
    with model.generate(IDS, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0) as tracer:
        for step in tracer.iter[:]:
            states.append(model.base_model.model.transformer.h[1].output)
            assert step.token_id is not None
        result = tracer.result
    wanted = plain(LanguageModel(inner), IDS, max_new_tokens=4, eos_token_id=None)
    assert torch.equal(result, wanted[""][0])
    assert [step.token_id for step in tracer.steps] == result[0, -4:].tolist()
    assert len(states) == 4
    for value, own in zip(states, wanted["transformer.h.1.output"], strict=True):
        assert torch.equal(hidden(value), hidden(own))


def test_one_criterion_alone_is_taken_too(demo):
    class Third(transformers.StoppingCriteria):
        def __call__(self, ids, scores, **_):
            return torch.full((len(ids),), ids.shape[1] == 8)

    with demo.generate(
        PARIS, max_new_tokens=9, do_sample=False, eos_token_id=None, stopping_criteria=Third()
    ) as tracer:
        pass
    assert len(tracer.steps) == 3


def test_a_cache_of_an_invoke_ends_with_its_rows(demo):
    with demo.generate(max_new_tokens=5, do_sample=False) as tracer:
        with tracer.invoke(PARIS):
            one = tracer.cache(modules=[demo.transformer.h[1]])
        with tracer.invoke(RIVER):
            two = tracer.cache(modules=[demo.transformer.h[1]])
    for cache, text, steps in ((one, PARIS, 3), (two, RIVER, 5)):
        wanted = plain(demo, encoded(demo, text), max_new_tokens=5)["transformer.h.1.output"]
        assert len(cache.transformer.h[1]) == len(wanted) == steps
        stacked = torch.cat([hidden(value) for value in wanted], 1)
        assert torch.allclose(cache.transformer.h[1].stack(), stacked, atol=1e-5)


def test_seeds_of_two_threads_do_not_meet(small):
    found, errors = {}, []

    def draw(seed):
        try:
            with small.generate(IDS, **SAMPLING, seed=seed) as tracer:
                for _ in tracer.iter[:]:
                    blocks(small)[0].output
                found[seed] = tracer.result
        except Exception as error:  # it has to be seen outside of the thread
            errors.append(error)

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(torch.equal(found[seed], sampled(small, IDS, seed)) for seed in range(6))


def test_steps_elsewhere_are_steps_here(demo):
    with demo.generate(RIVER, max_new_tokens=3, do_sample=True, seed=3, remote="local") as tracer:
        kept = nbsight.save([])
        with tracer.iter[:] as step:
            kept.append(demo.transformer.h[2].output[0])
        steps = tracer.steps
        stacked = stack_steps(kept).save()
    with demo.generate(RIVER, max_new_tokens=3, do_sample=True, seed=3) as tracer:
        cache = tracer.cache(modules=[demo.transformer.h[2]])
    assert repr(steps) == repr(tracer.steps)
    assert torch.equal(stacked, cache.transformer.h[2].stack())


def test_a_model_that_hears_knows_its_tokens():
    model = LanguageModel(models.whisper())
    sound = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    processed = nbsight.TransformersModel(model._module, task="automatic-speech-recognition")
    with processed.generate(input_features=sound, **options) as tracer:
        found = [step.token_id for step in tracer.iter[:]]
        result = tracer.result
    with torch.no_grad():
        wanted = model._module.generate(input_features=sound, **options)
    assert torch.equal(result, wanted)
    assert found == wanted[0, -len(found) :].tolist()
