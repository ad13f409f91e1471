"""Patching equals a hand-written loop of hooks, and says what a reader must know."""

from __future__ import annotations

import itertools
import pickle
import warnings
from importlib import metadata

import numpy as np
import pytest
import torch

from nbsight.analysis.metrics import logit_difference
from nbsight.analysis.patching import PatchingSweep, activation_patching
from nbsight.analysis.progress import Progress
from nbsight.errors import InputError, NbsightWarning, UnknownArchitectureError
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import PACKAGES, version_of
from nbsight.results.alignment import align
from nbsight.results.base import load_result
from nbsight.results.patching import Patching, has_share
from tests.models.architectures import AVAILABLE, make

CLEAN, CORRUPTED = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
ANSWERS = (" Paris", " Rome")
MORE = [
    ("The capital of France is", "The capital of Italy is", (" Paris", " Rome")),
    ("The capital of Italy is", "The capital of France is", (" Rome", " Paris")),
    ("The capital of Spain is", "The capital of France is", (" Madrid", " Paris")),
]


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


def streams(model, text):
    """The stream before and after each block, and the logits, by plain hooks."""
    kept, handles = {}, []
    for layer, block in enumerate(model._model.transformer.h):
        handles.append(
            block.register_forward_pre_hook(
                lambda _, args, layer=layer: kept.__setitem__(("resid_pre", layer), args[0].clone())
            )
        )
        handles.append(
            block.register_forward_hook(
                lambda _, __, out, layer=layer: kept.__setitem__(
                    ("resid_post", layer), (out if isinstance(out, torch.Tensor) else out[0]).clone()
                )
            )
        )
    with torch.no_grad():
        logits = model._model(model.to_tokens(text)).logits[0, -1]
    for handle in handles:
        handle.remove()
    return kept, logits


def patched_by_hand(model, text, donors, site, layer, positions):
    """The last logits of a run in which a plain hook writes another run's stream."""
    block = model._model.transformer.h[layer]

    def write(hidden):
        for position in positions:
            hidden[:, position] = donors[site, layer][:, position]

    def after(_, __, out):
        write(out if isinstance(out, torch.Tensor) else out[0])

    if site == "resid_post":
        handle = block.register_forward_hook(after)
    else:
        handle = block.register_forward_pre_hook(lambda _, args: write(args[0]))
    with torch.no_grad():
        logits = model._model(model.to_tokens(text)).logits[0, -1]
    handle.remove()
    return logits


def difference(model, logits, answers=ANSWERS):
    right, wrong = (model.to_single_token(answer) for answer in answers)
    return float(logits[right] - logits[wrong])


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_every_value_equals_a_loop_of_hooks(model, direction):
    result = activation_patching(
        model, CLEAN, CORRUPTED, answers=ANSWERS, sites=("resid_pre", "resid_post"), direction=direction
    )
    base, donor = (CORRUPTED, CLEAN) if direction == "denoise" else (CLEAN, CORRUPTED)
    donors, donor_logits = streams(model, donor)
    base_logits = streams(model, base)[1]
    ends = {base: difference(model, base_logits), donor: difference(model, donor_logits)}
    assert result.clean[0] == pytest.approx(ends[CLEAN], abs=1e-4)
    assert result.corrupted[0] == pytest.approx(ends[CORRUPTED], abs=1e-4)
    for site, layer, position in itertools.product(range(2), range(12), range(len(result.positions))):
        name = result.sites[site]
        want = difference(model, patched_by_hand(model, base, donors, name, layer, [position]))
        assert result.values[0, site, layer, position] == pytest.approx(want, abs=1e-4)
        share = (want - ends[base]) / (ends[donor] - ends[base])
        assert result.recovered[0, site, layer, position] == pytest.approx(share, abs=1e-4)
    assert result.is_complete
    assert result.resume is None


def test_the_fact_moves_from_the_subject_to_the_last_token(model):
    result = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS)
    shares = result.mean()[0]
    last = len(result.positions) - 1
    assert shares[0].argmax() in (1, 2)  # the landmark's own tokens
    assert shares[-1].argmax() == last
    assert shares[-1, last] == pytest.approx(1, abs=1e-4)
    assert np.abs(shares).max() > 0.5
    assert not np.allclose(shares, shares[0])  # not flat, as a patch of all positions would be


def test_a_span_that_is_every_position_gives_the_donors_prediction_and_says_so(model):
    result = activation_patching(
        model, CLEAN, CORRUPTED, answers=ANSWERS, positions={"all": slice(None), "last": -1}
    )
    assert np.allclose(result.recovered[0, 0, :, 0], 1, atol=1e-4)
    assert "`all` is every position" in result.notes[0]
    assert "by construction" in repr(result)
    assert result.positions == ("all", "last")


def test_spans_are_named_by_strings_of_either_prompt(model):
    by_string = activation_patching(
        model, CLEAN, CORRUPTED, answers=ANSWERS, positions=["Eiffel Tower", slice(3, 5), -1], layers=[0, 5]
    )
    by_number = activation_patching(
        model,
        CLEAN,
        CORRUPTED,
        answers=ANSWERS,
        positions={"a": [1, 2], "b": [3, 4], "c": -1},
        layers=[0, 5],
    )
    assert by_string.positions == ("Eiffel Tower", " is in", " of")
    np.testing.assert_allclose(by_string.values, by_number.values, atol=1e-5)
    other = activation_patching(
        model, CLEAN, CORRUPTED, answers=ANSWERS, positions={"subject": "Colosseum"}, layers=[0, 5]
    )
    assert other.positions == ("subject",)
    np.testing.assert_allclose(other.values[..., 0], by_number.values[..., 0], atol=1e-5)


def test_spans_by_pair_are_strings_or_numbers(model):
    clean = [CLEAN, "The Louvre is in the city of"]
    corrupted = [CORRUPTED, "The Prado is in the city of"]
    given = {"answers": ANSWERS, "layers": [0]}
    strings = {"subject": ["Eiffel Tower", "Louvre"], "last": -1}
    first = activation_patching(model, clean, corrupted, positions=strings, **given)
    places = [
        list(model.tokens(clean[0]).positions("Eiffel Tower")),
        list(model.tokens(clean[1]).positions("Louvre")),
    ]
    again = activation_patching(model, clean, corrupted, positions={"subject": places, "last": -1}, **given)
    np.testing.assert_allclose(first.values, again.values, atol=1e-5)
    with pytest.raises(
        InputError, match="`subject` lists spans of 1 pairs of prompts, and there is a pair 1"
    ):
        activation_patching(model, clean, corrupted, positions={"subject": ["Eiffel Tower"]}, **given)


def test_several_pairs_each_have_their_own_answers(model):
    clean, corrupted, answers = zip(*MORE, strict=True)
    result = activation_patching(
        model, list(clean), list(corrupted), answers=list(answers), layers=[0, 5, -1]
    )
    assert result.layers == (0, 5, 11)
    # What differs between the pairs is not said of all of them.
    assert result.metric == "logit difference"
    assert result.positions == ("The", " capital", " of", " Italy …", " is")
    for pair, (one, other, own) in enumerate(MORE):
        donors = streams(model, one)[0]
        for layer, position in itertools.product(range(3), range(len(result.positions))):
            logits = patched_by_hand(model, other, donors, "resid_post", result.layers[layer], [position])
            want = difference(model, logits, own)
            assert result.values[pair, 0, layer, position] == pytest.approx(want, abs=1e-4)
    low, high = result.interval()
    mean = result.mean()
    assert (low <= mean + 1e-9).all()
    assert (mean <= high + 1e-9).all()
    assert np.allclose(mean, result.recovered.mean(0))


def test_a_metric_can_be_any_function(model):
    own = activation_patching(
        model, CLEAN, CORRUPTED, metric=lambda logits: logits[:, 3] ** 2, layers=[2], positions=[1, -1]
    )
    donors = streams(model, CLEAN)[0]
    for place, position in enumerate([1, len(model.to_str_tokens(CORRUPTED)) - 1]):
        logits = patched_by_hand(model, CORRUPTED, donors, "resid_post", 2, [position])
        assert own.values[0, 0, 0, place] == pytest.approx(float(logits[3]) ** 2, rel=1e-4)
    by_name = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, layers=[2])
    by_metric = activation_patching(
        model, CLEAN, CORRUPTED, metric=logit_difference(model, *ANSWERS), layers=[2]
    )
    assert np.array_equal(by_name.values, by_metric.values)


def test_kl_is_measured_from_the_clean_prediction(model):
    result = activation_patching(model, CLEAN, CORRUPTED, metric="kl", layers=[11], positions=[-1])
    assert result.clean[0] == pytest.approx(0, abs=1e-5)
    assert result.values[0, 0, 0, 0] == pytest.approx(0, abs=1e-4)  # the last layer's last position is all
    clean, corrupted = (streams(model, text)[1].log_softmax(-1) for text in (CLEAN, CORRUPTED))
    assert result.corrupted[0] == pytest.approx(float((clean.exp() * (clean - corrupted)).sum()), rel=1e-4)


def test_an_interrupt_keeps_what_is_done_and_resume_does_the_rest(model):
    whole = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, batch=20)
    calls = []

    def stop(partial):
        calls.append(partial)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.warns(NbsightWarning, match=r"stopped after 40 of 96 runs; .*`result\.resume\(\)` goes on"):
        part = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, batch=20, on_batch=stop)
    assert not part.is_complete
    assert int(np.isfinite(part.values).sum()) == 40
    assert "not complete" in repr(part)
    rest = part.resume()
    assert rest.is_complete
    assert np.allclose(rest.values, whole.values, atol=1e-4)


def test_memory_that_runs_out_keeps_what_is_done_and_resume_does_the_rest(model):
    whole = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, batch=20)
    seen = []

    def full(module, args, output):
        if len(seen) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore of that")

    handle = model._model.transformer.h[3].mlp.register_forward_hook(full)
    try:
        with pytest.warns(
            NbsightWarning, match=r"memory ran out \(.*\) after 40 of 96 runs; .*resume"
        ) as said:
            part = activation_patching(
                model, CLEAN, CORRUPTED, answers=ANSWERS, batch=20, on_batch=seen.append
            )
    finally:
        handle.remove()
    assert said[0].filename == __file__
    assert not part.is_complete
    assert int(np.isfinite(part.values).sum()) == 40
    rest = part.resume()
    assert rest.is_complete
    assert np.allclose(rest.values, whole.values, atol=1e-4)


def test_memory_that_is_too_small_from_the_start_is_an_error(model):
    def full(module, args, output):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    handle = model._model.transformer.h[3].mlp.register_forward_hook(full)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS)
    finally:
        handle.remove()


def test_a_metric_that_fails_half_way_keeps_what_was_done_before(model):
    calls = []

    def breaks(logits):
        calls.append(len(logits))
        return logits[:, 0] * (torch.nan if len(calls) > 3 else 1)

    with pytest.raises(InputError, match="gave nan for the run changed at Point") as caught:
        activation_patching(model, CLEAN, CORRUPTED, metric=breaks, batch=20)
    assert "The 40 of 96 runs before it are in the error's `.result`." in str(caught.value)
    part = caught.value.result
    assert int(np.isfinite(part.values).sum()) == 40
    breaks_no_more = activation_patching(model, CLEAN, CORRUPTED, metric=lambda logits: logits[:, 0])
    known = np.isfinite(part.values)
    assert np.allclose(part.values[known], breaks_no_more.values[known], atol=1e-4)


def test_what_a_result_depends_on_is_looked_up_once(model, monkeypatch):
    asked = []
    monkeypatch.setattr(metadata, "version", lambda package: asked.append(package) or "1")
    version_of.cache_clear()
    parts = []
    activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, batch=10, on_batch=parts.append)
    version_of.cache_clear()  # the versions above are made up
    assert len(parts) == 10
    assert sorted(asked) == sorted(PACKAGES)


def test_partial_results_come_as_batches_end(model):
    sweep = PatchingSweep(model, CLEAN, CORRUPTED, answers=ANSWERS, batch=30)
    known = [int(np.isfinite(part.values).sum()) for part in sweep]
    assert known == [30, 60, 90, 96]
    assert sweep.is_complete


def test_a_result_survives_a_file_and_a_pickle(model, tmp_path):
    result = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, layers=[3])
    for back in (load_result(result.save(tmp_path / "patching")), pickle.loads(pickle.dumps(result))):
        assert isinstance(back, Patching)
        assert np.array_equal(back.values, result.values)
        assert back.hash == result.hash
        assert repr(back) == repr(result)
    table = result.to_dataframe()
    assert len(table) == result.values.size
    assert result.to_xarray()["value"].dims == ("pair", "site", "layer", "position")


def test_the_picture_has_a_panel_for_each_site(model):
    result = activation_patching(
        model, CLEAN, CORRUPTED, answers=ANSWERS, sites=("resid_pre", "resid_post"), layers=[0, 11]
    )
    figure = result.plot()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:2] == ["resid_pre", "resid_post"]


def test_baselines_without_a_way_between_them_are_flagged(model):
    result = activation_patching(
        model, CLEAN, CORRUPTED, metric=lambda logits: logits.sum(-1) * 0 + 2, layers=[1]
    )
    assert np.isnan(result.recovered).all()
    assert np.allclose(result.effect, 0)
    assert "2 in the clean run and 2 in the corrupted one: there is no way between them" in result.notes[0]
    assert result.notes[0] in repr(result)


def test_rounding_is_no_way_between_baselines():
    assert not has_share(3.0, 3.0 + 1e-6)
    assert has_share(np.array([1e-9, 0.0, -1.0]), np.array([2e-9, 1.0, 1.0])).all()


def test_answers_the_wrong_way_round_are_flagged(model):
    result = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS[::-1], layers=[1])
    assert "is lower in the clean run" in result.notes[0]
    assert "the wrong way round" in repr(result)
    right = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, layers=[1])
    assert right.notes == ()


def test_positions_before_the_first_difference_are_flagged(model):
    early = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, layers=[1], positions=[0])
    assert "differ from position 1 on, and only positions before it are patched" in early.notes[0]
    assert np.allclose(early.effect, 0, atol=1e-4)
    both = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, layers=[1], positions=[0, 1])
    assert both.notes == ()


def test_equal_prompts_are_flagged(model):
    result = activation_patching(model, CLEAN, CLEAN, answers=ANSWERS, layers=[1])
    assert any("both prompts are the same" in note for note in result.notes)


def test_heads_of_several_pairs_have_an_interval_and_significance(model):
    clean, corrupted, answers = zip(*MORE, strict=True)
    result = activation_patching(
        model, list(clean), list(corrupted), answers=list(answers), sites=["z"], layers=[8, 9]
    )
    shares = result.head_recovered
    mean = result.mean(by_head=True)
    assert np.allclose(mean, shares.mean(0))
    low, high = result.interval(by_head=True)
    assert (low <= mean + 1e-9).all()
    assert (mean <= high + 1e-9).all()
    drawn = np.random.default_rng(0).integers(0, len(shares), (2000, len(shares)))
    assert np.allclose(low, np.quantile(shares[drawn].mean(1), 0.025, axis=0))
    assert result.significant(by_head=True).shape == mean.shape
    layer, position, head = result.best_head()
    assert np.abs(mean).max() == abs(mean[[8, 9].index(layer), position, head])
    assert f"most moved by head {head} of layer {layer}" in repr(result)


def test_heads_that_were_not_patched_have_no_numbers(model):
    result = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, layers=[1])
    with pytest.raises(InputError, match=r'no heads were patched: `sites=\["z"\]`'):
        result.mean(by_head=True)


def synthetic(shares):
    shares = np.asarray(shares, float)
    return Patching(
        clean_prompts=["a"] * len(shares),
        corrupted_prompts=["b"] * len(shares),
        sites=["resid_post"],
        layers=[0],
        positions=[str(place) for place in range(shares.shape[1])],
        heads=[],
        values=shares[:, None, None],
        clean=np.ones(len(shares)),
        corrupted=np.zeros(len(shares)),
    )


def test_significance_finds_what_is_there_and_little_else():
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.2, (20, 40))
    noise[:, :3] += 1
    marked = synthetic(noise).significant()[0, 0]
    assert marked[:3].all()
    assert marked[3:].sum() <= 2


def test_cells_without_a_number_are_no_tests():
    generator = np.random.default_rng(0)
    shares = generator.normal(0, 0.2, (12, 10))
    shares[:, 0] += 1
    alone = synthetic(shares).significant()[0, 0]
    beside = synthetic(np.concatenate([shares, np.full((12, 500), np.nan)], 1)).significant()[0, 0]
    assert alone[0]
    assert np.array_equal(beside[:10], alone)
    assert not beside[10:].any()


def test_few_pairs_show_nothing_and_an_interval_covers_the_truth():
    generator = np.random.default_rng(1)
    assert not synthetic(generator.normal(1, 0.1, (3, 30))).significant().any()
    covered = []
    for _ in range(60):
        low, high = synthetic(generator.normal(0.5, 0.3, (25, 1))).interval(draws=400)
        covered.append(low[0, 0, 0] <= 0.5 <= high[0, 0, 0])
    assert np.mean(covered) > 0.8


def test_one_pair_has_no_interval():
    with pytest.raises(InputError, match="needs at least two pairs"):
        synthetic(np.zeros((1, 2))).interval()


def test_equal_baselines_have_no_share():
    result = synthetic(np.full((2, 3), 0.5))
    same = Patching(**{**result.__dict__, "clean": np.zeros(2)})
    assert np.isnan(same.recovered).all()
    assert "most recovered" not in repr(same)


BAD = [
    ({"layers": []}, "`layers` is empty; give at least one, 0 to 11"),
    ({"layers": ["a"]}, "the model has 12 layers, 0 to 11; there is no 'a'"),
    ({"layers": [-13]}, "there is no -13"),
    ({"sites": []}, "`sites` is empty; give at least one of resid_pre, z"),
    ({"sites": ["z"], "heads": [9]}, "the model has 4 heads, 0 to 3; there is no 9"),
    ({"sites": ["z"], "heads": []}, "`heads` is empty"),
    ({"positions": []}, "`positions` is empty"),
    ({"positions": {}}, "`positions` is empty"),
    ({"positions": {"subject": "London"}}, "'London' does not occur in 'The Colosseum is in the city of'"),
    ({"positions": {"subject": "i"}}, "'i' occurs 3 times"),
    ({"answers": (" Rome", " Rome")}, "the two tokens are the same"),
    ({"answers": ("", " Rome")}, "'' is 0 tokens, not one"),
    ({"answers": (" Rome", " Paris", " Madrid")}, "answers are the right one and the other one"),
    ({"answers": (99999, 3)}, "there is no token 99999; the vocabulary has ids 0 to"),
    ({"batch": 0}, "batch=0 is no number of runs"),
    ({"batch": 2.5}, "batch=2.5 is no number of runs"),
    ({"metric": lambda logits: None}, "one number for each row, shape (1,); `metric` gave None"),
    ({"metric": lambda logits: ["much"]}, "`metric` gave a list"),
    ({"metric": lambda logits: logits[:, :2]}, "`metric` gave shape (1, 2)"),
    ({"metric": lambda logits: logits.mean()}, "`metric` gave shape ()"),
    (
        {"metric": lambda logits: logits[:1, 0]},
        "each row, shape (97,); `metric` gave shape (1,)",
    ),
    ({"metric": lambda logits: logits[:, 0] * torch.nan}, "the metric gave nan for the plain run"),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=[said[:40] for _, said in BAD])
def test_bad_input_is_named_on_one_screen(model, options, said):
    with pytest.raises(InputError) as caught:
        activation_patching(model, CLEAN, CORRUPTED, **{"answers": ANSWERS, **options})
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) < 12


def test_a_module_is_no_language_model(model):
    with pytest.raises(InputError, match=r"was given a GPT2LMHeadModel\. Write `nbsight\.LanguageModel\("):
        activation_patching(model._model, CLEAN, CORRUPTED, answers=ANSWERS)


def test_a_metric_may_give_arrays_and_lists(model):
    options = {"layers": [1], "positions": [1, 2]}
    tensor = activation_patching(model, CLEAN, CORRUPTED, metric=lambda logits: logits[:, 3], **options)
    array = activation_patching(
        model, CLEAN, CORRUPTED, metric=lambda logits: logits[:, 3].numpy(), **options
    )
    plain = activation_patching(
        model, CLEAN, CORRUPTED, metric=lambda logits: logits[:, 3].tolist(), **options
    )
    assert np.array_equal(tensor.values, array.values)
    assert np.allclose(tensor.values, plain.values)


def test_an_answer_without_its_blank_is_flagged(model):
    result = activation_patching(model, CLEAN, CORRUPTED, answers=("Paris", " Rome"), layers=[1])
    assert "'Paris' and ' Paris' are two tokens, and the first was measured" in result.notes[0]
    assert activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, layers=[1]).notes == ()


def test_a_site_that_fails_its_check_is_refused_and_the_stream_is_not():
    module = make(next(one for one in AVAILABLE if one.name == "gpt2"))

    class Adds(type(module.transformer.h[0])):
        def forward(self, *args, **kwargs):
            found = super().forward(*args, **kwargs)
            return found + 1 if isinstance(found, torch.Tensor) else (found[0] + 1, *found[1:])

    for block in module.transformer.h:
        block.__class__ = Adds
    model = LanguageModel(module)
    ids = torch.tensor([[7, 8, 9]]), torch.tensor([[7, 10, 9]])
    with pytest.raises(UnknownArchitectureError, match="`attn_out` is refused on GPT2LMHeadModel"):
        activation_patching(model, *ids, answers=(3, 4), sites=["attn_out"])
    assert activation_patching(model, *ids, answers=(3, 4)).is_complete


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"Write `answers=\(\" Paris\", \" Rome\"\)`"),
        ({"answers": (" Constantinople", " Rome")}, "Constantinople"),
        ({"answers": ANSWERS, "sites": ("resid",)}, "there is no site 'resid'; there are resid_pre, z,"),
        ({"answers": ANSWERS, "layers": [12]}, "the model has 12 layers, 0 to 11; there is no 12"),
        ({"answers": ANSWERS, "positions": [99]}, r"has 8 tokens, 0 to 7; there is no 99"),
        ({"answers": ANSWERS, "positions": ["Louvre"]}, "'Louvre' does not occur in 'The Colosseum is"),
        ({"answers": ANSWERS, "positions": ["i"]}, "'i' occurs 3 times in"),
        ({"answers": ANSWERS, "positions": [1.5]}, "a number, a slice or a string of the text, not float"),
        ({"answers": ANSWERS, "positions": {"a": []}}, "a span of positions is empty"),
        ({"answers": ANSWERS, "direction": "up"}, r'"denoise" \(run corrupted, patch from clean\)'),
        ({"answers": ANSWERS, "metric": "loss"}, "there is no metric 'loss'"),
        ({"metric": lambda logits: logits[0, 0]}, "one number for each row"),
        ({"answers": [ANSWERS, ANSWERS]}, "such a pair for each of the 1 pairs"),
    ],
)
def test_what_cannot_be_done_is_said(model, options, said):
    with pytest.raises(InputError, match=said):
        activation_patching(model, CLEAN, CORRUPTED, **options)


def test_prompts_that_do_not_line_up_show_both_token_lists(model):
    with pytest.raises(InputError, match="equal length") as caught:
        activation_patching(model, "The cat is", CORRUPTED, answers=ANSWERS)
    assert "Colos" in str(caught.value)
    assert "cat" in str(caught.value)


LONGER = "The Eiffel Tower, as we know, is in the city of"


def moved_by_hand(model, base, donor, site, layer, pairs):
    """The last logits of a run whose places get what other places of another run hold, by plain hooks."""
    donors = streams(model, donor)[0]
    here = torch.zeros(1, len(model.to_str_tokens(base)), model.std.d_model)
    for target, source in pairs:
        here[:, target] = donors[site, layer][:, source]
    return patched_by_hand(model, base, {(site, layer): here}, site, layer, [one for one, _ in pairs])


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_prompts_of_different_lengths_are_patched_where_they_correspond(model, direction):
    lined = align(model.tokens(LONGER), model.tokens(CORRUPTED), how="diff")
    assert lined.only_first
    result = activation_patching(
        model, LONGER, CORRUPTED, answers=ANSWERS, align="diff", direction=direction, layers=[0, 5, 11]
    )
    denoise = direction == "denoise"
    base, donor = (CORRUPTED, LONGER) if denoise else (LONGER, CORRUPTED)
    pairs = sorted((second, first) if denoise else (first, second) for first, second in lined.pairs)
    assert len(result.positions) == len(pairs)
    for row, layer in enumerate(result.layers):
        for column, pair in enumerate(pairs):
            want = difference(model, moved_by_hand(model, base, donor, "resid_post", layer, [pair]))
            assert result.values[0, 0, row, column] == pytest.approx(want, abs=1e-4)


def test_strings_say_what_corresponds(model):
    clean, corrupted = "The Eiffel Tower is in the city of", "The Colosseum of old is in the city of"
    result = activation_patching(
        model,
        clean,
        corrupted,
        answers=ANSWERS,
        align={"Eiffel Tower": "Colosseum of old"},
        positions={"subject": "of old", "last": -1},
        layers=[1],
    )
    length = len(model.to_str_tokens(corrupted))
    pairs = {"subject": [(3, 1), (4, 2)], "last": [(length - 1, 7)]}
    for column, name in enumerate(result.positions):
        want = difference(model, moved_by_hand(model, corrupted, clean, "resid_post", 1, pairs[name]))
        assert result.values[0, 0, 0, column] == pytest.approx(want, abs=1e-4)


def test_a_position_without_a_partner_is_refused(model):
    with pytest.raises(InputError, match=r"position 3 of the prompt that is run .* has no partner"):
        activation_patching(
            model,
            LONGER,
            CORRUPTED,
            answers=ANSWERS,
            align="diff",
            direction="noise",
            positions=[3],
        )
    with pytest.raises(InputError, match="`align` lists 1 ways to line prompts up, and there is a pair 1"):
        activation_patching(
            model, [LONGER] * 2, [CORRUPTED] * 2, answers=ANSWERS, align=["diff"], positions=[-1]
        )


def test_one_prompt_and_several_are_refused(model):
    with pytest.raises(InputError, match="one clean and one corrupted prompt, or a list of each"):
        activation_patching(model, [CLEAN], CORRUPTED, answers=ANSWERS)


def test_no_warning_comes_of_the_sweeps_own_edits(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, layers=[0, 3])


def test_a_bar_waits_half_a_second_unless_it_is_asked_for(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert Progress(3, "x", None).bar.delay == 0.5
    assert Progress(3, "x", True).bar.delay == 0
    assert Progress(3, "x", False).bar.disable
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert Progress(3, "x", None).bar.disable
