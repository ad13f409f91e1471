"""The lens of a layer is what the model says when it has no later layers."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from nbsight.analysis import unembedding
from nbsight.analysis.lens import lens_cell, logit_lens
from nbsight.errors import InputError, UnknownArchitectureError
from nbsight.models.language_model import LanguageModel
from tests.models.architectures import AVAILABLE, GPT2_LIKE, LLAMA_LIKE, WIDTH, Architecture, heads, make

IDS = [7, 8, 9, 10, 11, 12, 13]
PROMPT = "The capital of France is"


@pytest.fixture(scope="session")
def demo():
    return LanguageModel("nbsight/demo", dispatch=True)


def truncated_logits(module: nn.Module, blocks: str, ids: list[int]) -> list[torch.Tensor]:
    """The logits of the model with one block, with two, and so on: no norm or head is named here."""
    path, _, name = blocks.rpartition(".")
    owner = module.get_submodule(path)
    every, found = getattr(owner, name), []
    try:
        for count in range(1, len(every) + 1):
            setattr(owner, name, every[:count])
            with torch.no_grad():
                found.append(module(torch.tensor([ids]), use_cache=False).logits[0].float())
    finally:
        setattr(owner, name, every)
    return found


def naive(logits: torch.Tensor, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    probs, ids = logits.double().softmax(-1).topk(top_k)
    return probs.numpy(), ids.numpy()


SPECIAL = [
    Architecture("gemma2_capped", "Gemma2Config", heads(final_logit_softcapping=0.05)),
    Architecture("granite_scaled", "GraniteConfig", {**LLAMA_LIKE, "logits_scaling": 0.125}),
    Architecture("cohere_scaled", "CohereConfig", {**LLAMA_LIKE, "logit_scale": 4.0}),
    Architecture(
        "opt_projected",
        "OPTConfig",
        {
            "hidden_size": WIDTH,
            "word_embed_proj_dim": 20,
            "ffn_dim": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "max_position_embeddings": 64,
        },
        "model.decoder.layers",
    ),
]


@pytest.mark.parametrize("architecture", [*AVAILABLE, *SPECIAL], ids=str)
def test_a_layer_says_what_the_model_without_later_layers_says(architecture):
    module = make(architecture)
    wanted = truncated_logits(module, architecture.blocks, IDS)
    lens = logit_lens(LanguageModel(module), IDS, top_k=4)
    assert lens.top_probs.shape == (len(wanted), len(IDS), 4)
    for layer, logits in enumerate(wanted):
        probs, _ = naive(logits, 4)
        np.testing.assert_allclose(lens.top_probs[layer], probs, rtol=2e-4)
        every = logits.softmax(-1).numpy()
        own = np.take_along_axis(every, lens.top_ids[layer], -1)
        np.testing.assert_allclose(own, probs, rtol=2e-4)  # the same tokens, ties aside


@pytest.mark.parametrize(("cells", "rows"), [(7000, 1024), (50, 3), (10**9, 1)])
def test_chunks_of_the_vocabulary_and_of_the_rows_change_nothing(monkeypatch, cells, rows):
    torch.manual_seed(0)
    head = nn.Linear(16, 5000)
    way = unembedding.Unembedding((nn.LayerNorm(16),), head)
    resid = 5 * torch.randn(12, 16)
    monkeypatch.setattr(unembedding, "_CELLS", cells)
    monkeypatch.setattr(unembedding, "_ROWS", rows)
    with torch.no_grad():
        got_probs, got_ids = way.top(resid, 1500)
        logits = head(nn.functional.layer_norm(resid, (16,)))
    probs, ids = naive(logits, 1500)
    np.testing.assert_allclose(got_probs.numpy(), probs, rtol=1e-4)
    assert (got_ids.numpy() == ids).mean() > 0.999  # neighbours that differ in the last bit may change places


def test_more_tokens_than_there_are_gives_all_of_them():
    way = unembedding.Unembedding((), nn.Linear(4, 10))
    probs, ids = way.top(torch.randn(3, 4), 50)
    assert probs.shape == (3, 10)
    torch.testing.assert_close(probs.sum(-1), torch.ones(3))
    assert torch.equal(ids.sort(-1).values, torch.arange(10).expand(3, 10))


def test_the_logits_of_a_large_vocabulary_are_never_held_at_once():
    head = nn.Linear(8, 200_000, bias=False)
    way = unembedding.Unembedding((), head)
    largest = 0
    real = nn.functional.linear

    def watch(*args):
        nonlocal largest
        out = real(*args)
        largest = max(largest, out.numel())
        return out

    nn.functional.linear = watch
    try:
        with torch.no_grad():
            way.top(torch.randn(2000, 8), 5)
    finally:
        nn.functional.linear = real
    assert 0 < largest <= unembedding._CELLS < 2000 * 200_000 / 10


def test_the_last_layer_is_the_models_own_output(demo):
    lens = logit_lens(demo, PROMPT, top_k=6)
    ids = torch.tensor(demo.tokenizer(PROMPT)["input_ids"])[None]
    with torch.no_grad():
        probs, top = naive(demo._model(ids).logits[0], 6)
    np.testing.assert_allclose(lens.top_probs[-1], probs, rtol=1e-4)
    assert (lens.top_ids[-1][:, 0] == top[:, 0]).all()
    assert lens.top_tokens[-1, -1, 0] == " Paris"
    assert lens.tokens == tuple(demo.to_str_tokens(PROMPT))
    assert lens.layers == tuple(range(12))
    assert (lens.prompt, lens.model) == (PROMPT, "nbsight/demo")
    assert lens.provenance["dtype"] == "float32"
    assert lens.provenance["torch"] == torch.__version__.split("+")[0] or "+" in lens.provenance["torch"]


def test_the_last_row_is_checked_against_the_run_itself(demo):
    lens = logit_lens(demo, PROMPT)
    assert 0 <= lens.check < 1e-5
    assert f"the last row is the model's own output (probabilities within {lens.check:.0e})" in repr(lens)
    with demo.edit() as edited:
        # Behind the last block, so that only the model's own output has it.
        edited.transformer.ln_f.output[:] = edited.transformer.ln_f.output * 0.3
    lens = logit_lens(edited, PROMPT)
    with edited.trace(PROMPT):
        own = edited.output.logits[0, -1].softmax(-1)
    at = lens.top_ids[-1, -1]
    assert lens.check == pytest.approx(np.abs(own[at].numpy() - lens.top_probs[-1, -1]).max(), abs=1e-6)
    assert lens.check > 0.01
    assert "off the model's own output. Something changes it" in repr(lens)


def test_the_statistics_come_with_the_same_tokens(demo):
    plain, more = logit_lens(demo, PROMPT, top_k=7), logit_lens(demo, PROMPT, top_k=7, statistics=True)
    assert np.array_equal(plain.top_ids, more.top_ids)
    np.testing.assert_allclose(plain.top_probs, more.top_probs, rtol=1e-5)
    with pytest.raises(InputError, match=r"there is no token 999999; the ids of this model are 0 to"):
        logit_lens(demo, PROMPT, track=[999999])


def test_a_cell_says_the_same_as_the_grid_and_more(demo):
    lens = logit_lens(demo, PROMPT)
    for layer, position in ((0, 0), (5, 3), (-1, -1)):
        cell = lens_cell(demo, PROMPT, layer, position, top_k=40)
        kept = lens.at(layer, position)
        assert (cell.layer, cell.position) == (kept.layer, kept.position)
        assert cell.tokens[:5] == kept.tokens
        np.testing.assert_allclose(cell.probs[:5], kept.probs, rtol=1e-4)
        assert len(cell.tokens) == len(cell.ids) == len(cell.probs) == 40
        assert (np.diff(cell.probs) <= 0).all()


def test_a_cell_runs_only_the_layers_below_it(demo):
    calls = []
    handles = [
        block.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
        for number, block in enumerate(demo._model.transformer.h)
    ]
    try:
        lens_cell(demo, PROMPT, 3, 0)
        lens_cell(demo, PROMPT, 3, 0)
    finally:
        for handle in handles:
            handle.remove()
    assert calls[-4:] == [0, 1, 2, 3]


def test_the_lens_brings_a_way_to_ask_for_more_and_does_not_pickle_it(demo):
    lens = logit_lens(demo, PROMPT, top_k=2)
    assert lens.detail(11, 4, 30).tokens[:2] == lens.at(11, 4).tokens
    assert lens.detail.model is demo
    again = pickle.loads(pickle.dumps(lens))
    assert again.detail is None
    np.testing.assert_array_equal(again.top_probs, lens.top_probs)


def test_ids_text_and_messages_are_prompts_and_several_prompts_are_not(demo):
    ids = demo.to_tokens(PROMPT)
    assert logit_lens(demo, ids).prompt == PROMPT
    np.testing.assert_array_equal(logit_lens(demo, ids).top_ids, logit_lens(demo, PROMPT).top_ids)
    with pytest.raises(InputError, match=r"one prompt and was given 2"):
        logit_lens(demo, [PROMPT, PROMPT])


def test_a_model_without_a_tokenizer_shows_ids():
    lens = logit_lens(LanguageModel(make(AVAILABLE[0])), IDS, top_k=1)
    assert lens.tokens == tuple(f"<{i}>" for i in IDS)
    assert lens.top_tokens[0, 0, 0] == f"<{lens.top_ids[0, 0, 0]}>"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: logit_lens(model, PROMPT, top_k=0), "write 1 or more"),
        (lambda model: lens_cell(model, PROMPT, 12, 0), "12 layers, 0 to 11; there is no 12"),
        (lambda model: lens_cell(model, PROMPT, 0, -6), "5 positions, 0 to 4; there is no -6"),
    ],
)
def test_a_place_that_is_not_there_is_named(demo, call, said):
    with pytest.raises(InputError, match=said):
        call(demo)


def test_a_model_whose_logits_are_made_in_an_unknown_way_is_refused():
    class Shifted(transformers.GPT2LMHeadModel):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits.flip(-1)
            return out

    torch.manual_seed(0)
    module = Shifted(transformers.GPT2Config(vocab_size=101, **GPT2_LIKE)).eval()
    with pytest.raises(UnknownArchitectureError, match=r"transformer\.ln_f → lm_head"):
        logit_lens(LanguageModel(module), IDS)


def test_a_model_without_a_head_is_refused():
    module = transformers.GPT2Model(transformers.GPT2Config(vocab_size=101, **GPT2_LIKE)).eval()
    with pytest.raises(UnknownArchitectureError, match="language-modelling head"):
        logit_lens(LanguageModel(module), IDS)


def test_a_new_head_is_noticed():
    module = make(AVAILABLE[0])
    model = LanguageModel(module)
    before = logit_lens(model, IDS)
    torch.manual_seed(5)
    module.lm_head = nn.Linear(WIDTH, 101, bias=False)
    after = logit_lens(model, IDS)
    probs, _ = naive(truncated_logits(module, "transformer.h", IDS)[-1], 5)
    np.testing.assert_allclose(after.top_probs[-1], probs, rtol=1e-4)
    assert not np.allclose(before.top_probs[-1], probs, rtol=1e-2)


def test_half_precision_is_read_in_the_models_own_arithmetic():
    module = make(AVAILABLE[0]).to(torch.bfloat16)
    lens = logit_lens(LanguageModel(module), IDS, top_k=3)
    with torch.no_grad():
        probs, _ = naive(module(torch.tensor([IDS])).logits[0].float(), 3)
    np.testing.assert_allclose(lens.top_probs[-1], probs, rtol=2e-2)


def test_the_model_is_left_as_it_was(demo):
    logit_lens(demo, PROMPT)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in demo._model.modules())


def test_another_threads_forward_does_not_disturb_the_search():
    module = make(AVAILABLE[0])
    model = LanguageModel(module)
    stop = threading.Event()

    def run():
        while not stop.is_set():
            with torch.no_grad():
                module(torch.tensor([IDS]))

    other = threading.Thread(target=run)
    other.start()
    try:
        lens = logit_lens(model, IDS)
    finally:
        stop.set()
        other.join()
    probs, _ = naive(truncated_logits(module, "transformer.h", IDS)[-1], 5)
    np.testing.assert_allclose(lens.top_probs[-1], probs, rtol=1e-4)
