"""What every result promises: labels and units, tables, pictures, files, text and HTML, provenance."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest

from nbsight import (
    LanguageModel,
    ablation,
    activation_patching,
    align,
    attention_difference,
    attribution_patching,
    component_lens,
    direct_attribution,
    estimate_memory,
    head_scores,
    load_result,
    logit_lens,
    stream_norms,
    verify,
)
from nbsight.analysis.distributions import entropy, kl, log_probs
from nbsight.analysis.generation_pair import compare_generations
from nbsight.analysis.run_difference import compare_runs
from nbsight.results.base import Result, _kinds

PROMPT = "The Eiffel Tower is in the"
OTHER = "The Colosseum is in the"
ANSWERS = (" Paris", " Rome")

MAKE: dict[str, Callable[[LanguageModel], Result]] = {
    "AttentionDifference": lambda model: attention_difference(model, PROMPT),
    "Lens": lambda model: logit_lens(model, PROMPT, statistics=True, track=[" city", " a"]),
    "ComponentLens": lambda model: component_lens(model, PROMPT, heads=[1], track=[" city"]),
    "AttributionPatching": lambda model: attribution_patching(model, PROMPT, OTHER, answers=ANSWERS),
    "AttributionCheck": lambda model: attribution_patching(model, PROMPT, OTHER, answers=ANSWERS).check(8),
    "DirectAttribution": lambda model: direct_attribution(model, PROMPT, ANSWERS, heads=True),
    "HeadScores": lambda model: head_scores(model, [PROMPT, "a b a b a b"]),
    "Generated": lambda model: model.generate(PROMPT, 6),
    "LogProbs": lambda model: log_probs(model, PROMPT),
    "Entropy": lambda model: entropy(model, PROMPT),
    "Divergence": lambda model: kl(model, PROMPT, model.trace(PROMPT, trace=False), None),
    "GenerationPair": lambda model: compare_generations(
        model, PROMPT, model.steer(np.ones(64), layer=4, strength=2), 5
    ),
    "RunDifference": lambda model: compare_runs(model, PROMPT, "The Eiffel House is in the"),
    "Norms": lambda model: stream_norms(model, PROMPT),
    "Tokens": lambda model: model.tokens(PROMPT),
    "Verification": verify,
    "Placement": lambda model: model.placement,
    "MemoryEstimate": lambda _: estimate_memory("nbsight/demo"),
    "Patching": lambda model: activation_patching(
        model, PROMPT, OTHER, answers=ANSWERS, sites=["resid_post", "z"], layers=[0, 5]
    ),
    "Ablation": lambda model: ablation(
        model, PROMPT, method="resample", reference=[OTHER], answers=ANSWERS, layers=[2]
    ),
}


@pytest.fixture(scope="session")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture(scope="session")
def made(model):
    return {name: make(model) for name, make in MAKE.items()}


@pytest.fixture(params=sorted(MAKE))
def result(request, made):
    return made[request.param]


def test_no_kind_of_result_is_left_out():
    own = {name for name, kind in _kinds.items() if kind.__module__.startswith("nbsight.")}
    assert own == set(MAKE)


def test_every_dimension_has_labels_and_every_array_a_unit(result):
    labelled = {dim for _, dim, _ in result._coordinates()}
    for table, own, array in result._variables():
        # A rank, a pair and a channel's number are counted, and a count is its own label.
        assert set(own.metadata["dims"]) <= labelled | {"rank", "pair"}, table
        if array.dtype.kind == "f":
            assert own.metadata["unit"] or getattr(result, "unit", ""), f"{table} has no unit"


def test_tables_have_the_numbers_where_the_labels_say(result):
    data = result.to_xarray()
    generator = np.random.default_rng(0)
    for table, own, array in result._variables():
        assert data[table].dims == own.metadata["dims"]
        frame = result.to_dataframe(table)
        assert len(frame) == array.size
        labels = {dim: (name, values) for name, dim, values in result._coordinates() if name == dim}
        for flat in generator.integers(0, array.size, 5):
            place = np.unravel_index(flat, array.shape)
            row = frame.iloc[int(flat)]
            assert same(row[table], array[place])
            assert same(data[table].values[place], array[place])
            for dim, index in zip(own.metadata["dims"], place, strict=True):
                if dim in labels:
                    assert same(row[dim], labels[dim][1][index])


def same(one, other) -> bool:
    both_nan = isinstance(one, (float, np.floating)) and np.isnan(one) and np.isnan(other)
    return bool(both_nan or one == other)


def test_a_datasets_attributes_are_what_files_can_hold(result):
    for name, value in result.to_xarray().attrs.items():
        assert isinstance(value, (str, int, float, list)), name


def test_a_file_and_a_pickle_give_it_back_without_the_model(result, tmp_path):
    path = result.save(tmp_path / "result")
    with np.load(path, allow_pickle=False) as archive:
        json.loads(archive["header"].tobytes())
    for again in (load_result(path), pickle.loads(pickle.dumps(result))):
        assert type(again) is type(result)
        assert again.hash == result.hash
        assert repr(again) == repr(result)
        assert again.cite() == result.cite()
    size = len(pickle.dumps(result))
    assert size < 500_000  # the model alone is several megabytes


def test_the_picture_is_drawn_without_pyplot_and_can_be_saved_for_print(result):
    if type(result).__name__ == "MemoryEstimate":
        pytest.skip("a handful of sizes is said in words")
    figure = result.plot()
    for kind in ("png", "pdf", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind)
        assert len(buffer.getvalue()) > 2000
    assert len(figure.axes[0].get_title("left") + figure.get_suptitle()) > 10


class Cells(HTMLParser):
    """The text on show, words apart at the ends of elements; and the tags, to see that they match."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] != "style":
            self.words += data.split()


def read(text: str) -> Cells:
    parser = Cells()
    parser.feed(text)
    assert not parser.open
    return parser


def test_html_and_text_say_the_same(result, made, model):
    say_the_same(result)
    if result is made["Tokens"]:
        clean, corrupted = model.tokens([PROMPT, OTHER])
        say_the_same(align(clean, corrupted))
        say_the_same(align(clean, model.tokens("The city of Rome is in the"), how="diff"))
        say_the_same(model.tokens([PROMPT, OTHER]))


def say_the_same(shown) -> None:
    page = read(shown._repr_html_()).words
    text = repr(shown).split()
    shortened = [word[:-1] for word in text if word.endswith("…")]
    assert [word for word in text if word not in page and not word.endswith("…")] == []
    missing = [word for word in page if word not in text]
    assert [word for word in missing if not word.startswith(tuple(shortened or ["\n"]))] == []


@pytest.mark.parametrize("text", ["<b>", "&lt;", "a \"&'"])
def test_what_looks_like_html_in_a_prompt_is_text(model, text):
    for shown in (
        model.tokens(text),
        model.tokens([text]),
        logit_lens(model, text),
        stream_norms(model, text),
        component_lens(model, text),
        align(model.tokens(text), model.tokens(text)),
    ):
        page = shown._repr_html_()
        assert "<b>" not in page
        say_the_same(shown)


def test_where_the_numbers_come_from_is_in_it(result, model):
    known = result.provenance
    assert known["model"] == "nbsight/demo"
    if type(result).__name__ == "MemoryEstimate":
        return  # of files: nothing was run, and no package had a say
    assert known["dtype"] == "float32"
    for name in ("attn_implementation", "nbsight", "torch", "transformers"):
        assert known[name]
    assert "revision" in known
    if type(result).__name__ not in ("Verification", "Placement"):  # ids drawn at random; no prompt
        assert known["prompts"][0] == PROMPT
    if type(result).__name__ in ("Verification", "Ablation"):
        assert known["seed"] == 0
    said = result.cite()
    assert said.startswith(f"{type(result).title.capitalize()} of nbsight/demo")
    assert said.endswith(f"(result {result.hash}).")
    assert f"torch {known['torch']}" in said
    assert 'title="model nbsight/demo' in result._repr_html_()


def test_the_colours_are_not_all_that_tells_lines_apart(made):
    lines = made["Norms"].plot().axes[0].get_lines()
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in lines}) == len(lines)
    courses = made["Lens"].plot("probability").axes[0].get_lines()
    assert [line.get_label() for line in courses] == ["·city", "·a"]
    np.testing.assert_allclose(courses[0].get_ydata(), made["Lens"].track_probs[:, -1, 0])
    ranks = made["Lens"].plot("rank", position=0).axes[0]
    np.testing.assert_allclose(ranks.get_lines()[1].get_ydata(), made["Lens"].track_ranks[:, 0, 1] + 1)
    assert ranks.yaxis_inverted()
