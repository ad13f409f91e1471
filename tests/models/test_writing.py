"""`model.generate(prompt, n)`: what comes back is what transformers' own `generate` says, step by step."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
import transformers

import nbsight
from nbsight import LanguageModel
from nbsight.errors import InputError, NbsightWarning
from nbsight.results.generation import Generated, Generations
from tests.compat import models

PARIS = "The Eiffel Tower is in the city of"
LILY = "Lily saw a"
SAMPLING = {"do_sample": True, "temperature": 1.4, "top_k": 40}


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


def plain(model, prompts, count, **options):
    """transformers' own generation of a batch padded on the left, with the logits of every step."""
    rows = [model.tokenizer(prompt)["input_ids"] for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    found = model._model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=count,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=0,
        **options,
    )
    return found.sequences[:, width:], torch.stack(found.logits, 1)


def check(result, ids, logits):
    """One result against ids, (step,), and logits, (step, d_vocab)."""
    count = len(result)
    assert result.ids.tolist() == ids[:count].tolist()
    logs = torch.log_softmax(logits[:count].float(), -1)
    own = logs.gather(1, ids[:count, None])[:, 0]
    assert np.allclose(result.log_probs, own, atol=1e-5)
    assert np.allclose(result.probs, own.exp(), atol=1e-6)
    assert np.allclose(result.entropy, -(logs.exp() * logs).sum(-1), atol=1e-4)
    assert result.ranks.tolist() == (logs > own[:, None]).sum(-1).tolist()
    top = logs.topk(result.top_ids.shape[1])
    assert np.allclose(result.top_probs, top.values.exp(), atol=1e-6)
    assert (result.top_ids == top.indices.numpy()).mean() > 0.99  # ties may be in another order


def test_a_result_says_what_transformers_says(model):
    result = model.generate(LILY, 12)
    ids, logits = plain(model, [LILY], 12, do_sample=False)
    assert type(result) is Generated
    check(result, ids[0], logits[0])
    assert result.text == model.tokenizer.decode(ids[0])
    assert result.prompt == LILY
    assert result.prompt_tokens == tuple(model.to_str_tokens(LILY))
    assert result.stop == "length"
    assert result.perplexity == pytest.approx(math.exp(-result.log_probs.mean()))
    assert torch.equal(torch.from_numpy(result.sequence[-12:]), ids[0])


def test_the_end_of_a_text_is_told_apart_from_the_length(model):
    result = model.generate(PARIS, 6)
    assert (result.text, result.stop, len(result)) == (" Paris.", "end", 3)
    assert result.tokens[-1] == "<|endoftext|>"
    assert model.generate(PARIS, 2).stop == "length"
    assert model.generate(PARIS, 3).stop == "end"
    stopped = model.generate(PARIS, 6, stop_strings=["."], tokenizer=model.tokenizer)
    assert (stopped.text, stopped.stop) == (" Paris.", "criterion")


def test_several_prompts_are_padded_such_that_each_is_as_alone(model):
    prompts = [PARIS, LILY, "One day, a"]
    results = model.generate(prompts, 8)
    assert type(results) is Generations
    ids, logits = plain(model, prompts, 8, do_sample=False)
    for row, result in enumerate(results):
        check(result, ids[row], logits[row])
        alone = model.generate(prompts[row], 8)
        assert result.ids.tolist() == alone.ids.tolist()
        assert np.allclose(result.log_probs, alone.log_probs, atol=1e-4)
        assert result.prompt_tokens == alone.prompt_tokens
    assert results.texts == tuple(one.text for one in results)
    assert [one.stop for one in results] == ["end", "length", "end"]
    assert type(model.generate([LILY], 2)) is Generations


def test_sampling_and_seeds_are_those_of_transformers_and_probabilities_the_models_own(model):
    before = torch.get_rng_state()
    result = model.generate(LILY, 10, seed=5, **SAMPLING)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        ids, logits = plain(model, [LILY], 10, **SAMPLING)
    check(result, ids[0], logits[0])
    assert result.provenance["seed"] == 5
    assert result.provenance["generation"] == {"max_new_tokens": 10, **SAMPLING}
    two = model.generate([LILY, PARIS], 4, num_return_sequences=2, seed=5, **SAMPLING)
    assert [one.prompt for one in two] == [LILY, LILY, PARIS, PARIS]


def test_ids_arrays_and_a_model_without_a_tokenizer():
    model = LanguageModel(models.gpt2())
    result = model.generate(torch.tensor([[5, 6, 7]]), 3, eos_token_id=None)
    wanted = model._model.generate(
        torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert result.ids.tolist() == wanted[0, 3:].tolist()
    assert result.prompt_tokens == ("<5>", "<6>", "<7>")
    assert result.text == "".join(f"<{token}>" for token in result.ids)
    with pytest.raises(InputError, match="this model has no tokenizer"):
        model.generate("text", 3)


def test_an_encoder_decoder_writes():
    model = LanguageModel(models.t5())
    result = model.generate(torch.tensor([[5, 6, 7]]), 3, eos_token_id=None)
    with torch.no_grad():
        wanted = model._model.generate(
            torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False, eos_token_id=None,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    check(result, wanted.sequences[0, 1:], torch.stack(wanted.logits, 1)[0])


def test_the_number_of_tokens_beside_the_prompt_is_what_asks_for_a_result(model):
    ids = model.generate(PARIS, max_new_tokens=2, do_sample=False)
    assert type(ids) is torch.Tensor
    with model.generate(PARIS, 2, do_sample=False) as tracer:
        result = tracer.result
    assert torch.equal(result, ids)
    assert type(model.generate(PARIS, max_new_tokens=2, alternatives=2)) is Generated


def test_kept_edits_act_and_are_named(model):
    direction = torch.randn(64, generator=torch.Generator().manual_seed(0))
    with model.edit() as (tracer, edited):
        for _ in tracer.iter[:]:
            edited.transformer.h[6].output[0][:] += 4 * direction

    handle = model._model.transformer.h[6].register_forward_hook(
        lambda _, given, output: (
            (output[0] + 4 * direction, *output[1:]) if isinstance(output, tuple) else output + 4 * direction
        )
    )
    ids, logits = plain(model, [LILY], 6, do_sample=False)
    handle.remove()
    result = edited.generate(LILY, 6)
    check(result, ids[0], logits[0])
    assert result.ids.tolist() != model.generate(LILY, 6).ids.tolist()
    assert len(result.provenance["edits"]) == 1


def test_an_edit_of_the_logits_is_in_the_probabilities(model):
    with model.edit() as (tracer, edited):
        for _ in tracer.iter[:]:
            edited.output.logits[:, :, 10] = 100.0
    result = edited.generate(LILY, 3)
    assert result.ids.tolist() == [10, 10, 10]
    assert result.probs.min() > 0.999


# -- streaming -------------------------------------------------------------------------------------


def test_tokens_come_as_soon_as_they_are_chosen(model):
    order = []
    handle = model._model.lm_head.register_forward_hook(lambda *_: order.append("pass"))
    stream = model.generate(LILY, 3, stream=True)
    assert order == []
    for token in stream:
        order.append(str(token))
    handle.remove()
    assert order[::2] == ["pass"] * 3
    assert "".join(order[1::2]) == stream.result.text
    assert list(stream) == []
    assert stream.result.ids.tolist() == model.generate(LILY, 3).ids.tolist()


def test_a_stream_can_be_left_and_keeps_what_it_has(model):
    whole = model.generate(LILY, 6)
    stream = model.generate(LILY, 6, stream=True)
    for token in stream:
        if token.step == 2:
            break
    assert stream.result.ids.tolist() == whole.ids[:3].tolist()
    assert stream.result.stop == "unfinished"
    assert [token.id for token in stream] == whole.ids[3:].tolist()
    assert stream.result.stop == "length"
    with model.generate(LILY, 6, stream=True) as other:
        next(other)
    assert other.is_over
    assert len(other.result) == 1
    assert not any(module._forward_hooks for module in model._model.modules())


def test_the_model_can_be_used_between_two_tokens(model):
    whole = model.generate(LILY, 4).ids.tolist()
    found = []
    for token in model.generate(LILY, 4, stream=True):
        with model.trace(PARIS):
            logits = model.output.logits
        assert int(logits[0, -1].argmax()) == model.to_single_token(" Paris")
        found.append(token.id)
        assert model.generate(PARIS, 1).text == " Paris"
    assert found == whole


def test_it_writes_in_the_block_of_a_trace_too(model):
    with model.trace(LILY):
        early = model.layers[2].resid_post
        inside = model.generate(PARIS, 3)
        late = model.layers[8].resid_post
    with model.trace(LILY):
        wanted = [model.layers[2].resid_post, model.layers[8].resid_post]
    assert inside.text == " Paris."
    assert torch.equal(early, wanted[0])
    assert torch.equal(late, wanted[1])


def test_a_model_of_any_task_writes_as_well(model):
    other = nbsight.TransformersModel(model._model, tokenizer=model.tokenizer, task="text-generation")
    assert other.generate(LILY, 4).ids.tolist() == model.generate(LILY, 4).ids.tolist()


def test_two_streams_go_on_side_by_side(model):
    one, two = (model.generate(prompt, 3, stream=True) for prompt in (LILY, PARIS))
    pairs = list(zip(one, two, strict=True))
    assert [a.id for a, _ in pairs] == model.generate(LILY, 3).ids.tolist()
    assert [b.id for _, b in pairs] == model.generate(PARIS, 3).ids.tolist()


def test_rows_that_have_ended_give_none(model):
    turns = list(model.generate([LILY, PARIS], 5, stream=True))
    assert [turn[1] is None for turn in turns] == [False, False, False, True, True]


def test_a_character_of_several_tokens_comes_with_the_last_of_them(model):
    text = "Ä☃"
    script = iter(model.tokenizer.encode(text, add_special_tokens=False))

    def forced(ids, scores):
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([next(script)]), 0.0)

    count = len(model.tokenizer.encode(text, add_special_tokens=False))
    assert count > 2
    stream = model.generate(LILY, count, eos_token_id=None, logits_processor=[forced], stream=True)
    assert "".join(map(str, stream)) == text
    assert stream.result.text == text


def test_an_interrupt_keeps_what_is_there(model):
    passes = []

    def interrupt(*_):
        passes.append(1)
        if len(passes) == 4:
            raise KeyboardInterrupt

    handle = model._model.lm_head.register_forward_hook(interrupt)
    try:
        with pytest.warns(NbsightWarning, match="interrupted after 3 tokens"):
            result = model.generate(LILY, 100)
        passes.clear()
        stream = model.generate(LILY, 100, stream=True)
        with pytest.raises(KeyboardInterrupt):
            for _ in stream:
                pass
    finally:
        handle.remove()
    for kept in (result, stream.result):
        assert kept.stop == "interrupted"
        assert kept.ids.tolist() == model.generate(LILY, 3).ids.tolist()


def test_an_error_half_way_has_what_was_written(model):
    passes = []

    def fail(*_):
        passes.append(1)
        if len(passes) == 3:
            raise ValueError("a cable was pulled")

    handle = model._model.lm_head.register_forward_hook(fail)
    try:
        with pytest.raises(ValueError, match="a cable was pulled") as caught:
            model.generate(LILY, 100)
    finally:
        handle.remove()
    assert len(caught.value.result) == 2
    assert caught.value.result.stop == "unfinished"
    assert model.generate(PARIS, 1).text == " Paris"


def test_tokens_are_handed_to_a_callback_too(model):
    got = []
    result = model.generate(LILY, 4, on_token=got.append, seed=1, **SAMPLING)
    assert [token.id for token in got] == result.ids.tolist()


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        (("", 3), {}, "the prompt is empty"),
        ((LILY, 0), {}, "an integer of at least 1; it was 0"),
        ((LILY, 3), {"max_new_tokens": 4}, "given twice"),
        ((LILY,), {"stream": True}, r"how many tokens\?.*stream=True"),
        ((LILY, 3), {"alternatives": 0}, "`alternatives` is how many"),
        ((LILY, 3), {"num_beams": 2}, "beam search"),
        ((LILY, 3), {"prompt_lookup_num_tokens": 2}, "several tokens"),
        ((LILY, 3), {"remote": "local"}, "writes here"),
        ((LILY, 5000), {}, "this model has positions for"),
        ((LILY, 3), {"seed": 1.5}, "`seed` is an integer"),
    ],
)
def test_what_cannot_be_served_says_what_to_write(model, args, kwargs, said):
    with pytest.raises(InputError, match=said):
        model.generate(*args, **kwargs)


def test_options_of_a_result_are_refused_in_a_block(model):
    with pytest.raises(InputError, match="a block has none: read the logits"):
        with model.generate(LILY, 3, alternatives=3):
            pass


def test_a_model_with_its_own_generate_is_refused():
    class Own(transformers.GPT2LMHeadModel):
        @torch.no_grad()
        def generate(self, input_ids, attention_mask=None, max_new_tokens=3, **_):
            return input_ids

    model = LanguageModel(models.seeded(lambda: Own(models.gpt2().config)))
    with pytest.raises(InputError, match="which tokens this generation chooses is not known"):
        model.generate(torch.tensor([[5, 6]]), 3)


# -- the result ------------------------------------------------------------------------------------


def test_a_result_has_its_tokens_as_items(model):
    result = model.generate(LILY, 4)
    assert [token.id for token in result] == result.ids.tolist()
    last = result[-1]
    assert (last.step, last.token) == (3, result.tokens[3])
    assert last.top[0][1] >= last.prob
    with pytest.raises(InputError, match="steps 0 to 3; there is no step 4"):
        result[4]
    assert pickle.loads(pickle.dumps(result)).text == result.text


def test_the_text_says_what_the_page_says(model):
    results = model.generate([PARIS, LILY], 45)
    for shown in (results[0], results[1], results):
        page, text = shown._repr_html_(), repr(shown)
        assert text.splitlines()[0].replace("'", "&#x27;") in page
    assert "… and 5 more tokens" in repr(results[1])
    assert "·Paris" in repr(results[0])


# -- chats -----------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": " Lily saw a cat. "},
    {"role": "assistant", "content": "A cat?"},
    {"role": "user", "content": "A cat?"},
]


@pytest.fixture
def talking(model):
    model.tokenizer.chat_template = TEMPLATE
    yield model
    model.tokenizer.chat_template = None


def said(tokens, **where):
    return "".join(tokens.strings[at] for at in tokens.of_role(**where))


def test_the_roles_of_a_chat_are_its_messages(talking):
    tokens = talking.tokens(CHAT)
    assert said(tokens, role="system").strip() == "Be kind."
    assert said(tokens, role="user", message=1).strip() == "Lily saw a cat."
    assert said(tokens, role="assistant") == "A cat?"
    assert said(tokens, role="user", message=3) == "A cat?"
    assert said(tokens, role="user", message=3, frame=True) == "<|user|>A cat?\n"
    assert said(tokens, role="assistant", message=4, frame=True) == "<|assistant|>"
    assert tokens.text.startswith("<|system|>Be kind.\n<|user|>Lily")
    ids = talking.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=True)
    assert tokens.ids.tolist() == list(ids["input_ids"])
    with pytest.raises(InputError, match=r"'tool' says nothing here; the messages are 0: system, 1: user"):
        tokens.of_role("tool")
    with pytest.raises(InputError, match="has no roles"):
        talking.tokens(LILY).of_role("user")


def test_roles_are_positions_in_a_trace(talking):
    tokens = talking.tokens(CHAT)
    with talking.trace(CHAT):
        hidden = talking.layers[2].resid_post
    assert hidden.shape[1] == len(tokens)
    assert hidden[:, tokens.of_role("user")].shape[1] == len(tokens.of_role("user"))


def test_a_template_that_changes_early_messages_still_gives_their_words(talking):
    talking.tokenizer.chat_template = (
        "{{ messages | length }}:{% for m in messages %}[{{ m.role }} {{ m.content }}]{% endfor %}"
    )
    tokens = talking.tokens(CHAT)
    assert said(tokens, role="assistant").strip() == "A cat?"
    assert said(tokens, role="user", message=3).strip() == "A cat?"


def test_a_chat_is_continued_and_keeps_its_roles(talking):
    result = talking.generate(CHAT, 3)
    text = talking.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert result.prompt == text
    assert result.ids.tolist() == talking.generate(text, 3).ids.tolist()
    assert result.prompt_roles.tolist() == talking.tokens(CHAT).roles.tolist()
    many = talking.generate([CHAT, CHAT[:2]], 3)
    assert [one.ids.tolist() for one in many] == [
        talking.generate(chat, 3).ids.tolist() for chat in (CHAT, CHAT[:2])
    ]


def test_as_the_last_line_of_a_cell_a_stream_shows_its_text_as_it_is_written(model, monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell

    shown, shell = [], InteractiveShell()
    shell.kernel = object()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr("nbsight.models.live._EVERY", 0.0)

    class Handle:
        def update(self, data, raw):
            shown.append(data)

    def display(data, raw, display_id):
        shown.append(data)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    stream = model.generate(PARIS, 6, stream=True)
    stream._ipython_display_()
    assert [data["text/plain"] for data in shown] == [
        "0 tokens so far …\n",
        "1 token so far …\n Paris",
        "2 tokens so far …\n Paris.",
        "3 tokens so far …\n Paris.<|endoftext|>",
        repr(stream.result),
    ]
    assert shown[-1]["text/html"] == stream.result._repr_html_()
    model.generate(PARIS, 2, stream=True)._ipython_display_()
    assert shown[-1]["text/plain"].startswith("2 tokens by")


def test_in_a_terminal_a_stream_is_printed(model, monkeypatch, capsys):
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    model.generate(PARIS, 2, stream=True)._ipython_display_()
    assert capsys.readouterr().out == " Paris.\n"
