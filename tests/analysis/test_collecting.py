"""What is collected is what hooks see, whatever stops it half way, and it is read back as it was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nbsight.analysis import collecting
from nbsight.analysis.collecting import collect
from nbsight.analysis.collection import Collection
from nbsight.analysis.site import site_of, sites_of
from nbsight.errors import InputError, NbsightWarning, PathError, StorageError
from nbsight.models.language_model import LanguageModel
from tests.models.standard_cases import TIER_A

# an older transformers has not all of them
CASES = [case for case in TIER_A if case.architecture is not None]
ROOT = Path(__file__).parents[2]
SITES = ["layers.2.resid_post", ("z", 3), "blocks.3.hook_mlp_out", ("mlp_in", 3)]
SMALL = {"batch_tokens": 96, "shard_tokens": 150}


@pytest.fixture(scope="module")
def demo():
    return LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture(scope="module")
def texts():
    return [
        *("The capital of France is Paris", "", "The Eiffel Tower is in the city of"),
        *(f"The opposite of hot is cold and {'very ' * (n % 9)}warm" for n in range(40)),
    ]


@pytest.fixture(scope="module")
def made(demo, texts, tmp_path_factory):
    return collect(demo, texts, SITES, tmp_path_factory.mktemp("made"), **SMALL)


def seen(demo, text):
    """By plain hooks, one text at a time: what every site holds, (position, ...)."""
    ids = torch.tensor([demo.tokenizer(text)["input_ids"]])
    found, blocks = {}, demo._module.transformer.h
    hooks = [
        blocks[2].register_forward_hook(
            lambda m, a, out: found.update({"layers.2.resid_post": out[0] if isinstance(out, tuple) else out})
        ),
        blocks[3].attn.c_proj.register_forward_pre_hook(
            lambda m, a: found.update({"layers.3.z": a[0].unflatten(-1, (4, 16))})
        ),
        blocks[3].mlp.register_forward_hook(lambda m, a, out: found.update({"layers.3.mlp_out": out})),
        blocks[3].mlp.register_forward_pre_hook(lambda m, a: found.update({"layers.3.mlp_in": a[0]})),
    ]
    with torch.no_grad():
        demo._module(ids)
    for hook in hooks:
        hook.remove()
    return {name: value[0] for name, value in found.items()}


def same_files(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_values_are_those_of_plain_hooks(demo, texts, made):
    assert made.sites == ("layers.2.resid_post", "layers.3.z", "layers.3.mlp_in", "layers.3.mlp_out")
    assert made.is_complete
    assert len(made) == len(texts)
    for number in (0, 2, 7, 20, -1):
        expected = seen(demo, texts[number])
        assert made.ids(number).tolist() == demo.tokenizer(texts[number])["input_ids"]
        for name in made.sites:
            torch.testing.assert_close(made.values(number, name), expected[name], atol=2e-5, rtol=1e-5)


def test_a_text_without_tokens_keeps_its_number(made):
    assert made.values(1, "layers.3.z").shape == (0, 4, 16)
    assert made.length(1) == 0
    assert made.skipped == {"empty": 1, "left_out": 0, "cut": 0}
    assert "1 without tokens" in repr(made)


def test_the_forward_ends_after_the_last_site(demo, tmp_path):
    ran = []
    hooks = [
        block.register_forward_pre_hook(lambda m, a, n=n: ran.append(n))
        for n, block in enumerate(demo._module.transformer.h)
    ]
    collect(demo, ["a young dog"], ("resid_post", 2), tmp_path / "a")
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_padded_batches_hold_what_each_text_has_alone(case, tmp_path):
    model = LanguageModel(case.make())
    rows = [[7, 8, 9], [10, 11, 12, 13, 14], [15, 16]]
    together = collect(model, rows, ("resid_post", 1), tmp_path / "a")
    alone = collect(model, rows, ("resid_post", 1), tmp_path / "b", batch_tokens=1)
    for number in range(3):
        torch.testing.assert_close(together.values(number), alone.values(number), atol=2e-5, rtol=1e-4)


def test_shuffled_batches_are_every_token_once(made):
    batches = list(made.batches(64, ["layers.3.z", "layers.2.resid_post"], seed=3))
    assert [len(batch.ids) for batch in batches[:-1]] == [64] * (len(batches) - 1)
    places = [
        (text, at) for b in batches for text, at in zip(b.texts.tolist(), b.positions.tolist(), strict=True)
    ]
    assert sorted(places) == [(t, p) for t in range(len(made)) for p in range(made.length(t))]
    assert places != sorted(places)
    for batch in batches:
        for row in range(0, len(batch.ids), 7):
            text, at = int(batch.texts[row]), int(batch.positions[row])
            assert batch.ids[row] == made.ids(text)[at]
            for name, value in batch.values.items():
                assert torch.equal(value[row], made.values(text, name)[at])
    again = [batch.texts.tolist() for batch in made.batches(64, seed=3)]
    assert again == [batch.texts.tolist() for batch in batches]
    assert again != [batch.texts.tolist() for batch in made.batches(64, seed=4)]


def test_batches_without_first_tokens_and_in_order(made):
    rest = list(made.batches(50, shuffle=False, skip_first=True, drop_last=True))
    assert all((batch.positions > 0).all() and len(batch.ids) == 50 for batch in rest)
    numbers = torch.cat([batch.texts for batch in rest])
    assert (numbers.diff() >= 0).all()


def test_a_generator_a_file_and_rows_give_the_same_bytes(demo, tmp_path):
    lines = ["The key is here", "A young dog", "One plus one is two"]
    plain = tmp_path / "lines.txt"
    plain.write_text("\n".join(lines), encoding="utf-8")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"body": line}) for line in lines), encoding="utf-8")
    ways = {
        "list": (lines, {}),
        "generator": ((line for line in lines), {}),
        "file": (plain, {}),
        "rows": ([{"body": line} for line in lines], {"field": "body"}),
        "jsonl": ([rows], {"field": "body"}),
    }
    for name, (given, options) in ways.items():
        collect(demo, given, ("resid_pre", 1), tmp_path / name, **options)
        found, first = ((tmp_path / one / "shard-00000.safetensors").read_bytes() for one in (name, "list"))
        assert found == first


def test_what_is_stored_may_be_narrower(demo, tmp_path):
    kept = collect(demo, ["A young dog"], ("resid_post", 5), tmp_path / "a", dtype=torch.bfloat16)
    full = collect(demo, ["A young dog"], ("resid_post", 5), tmp_path / "b")
    assert torch.equal(kept.values(0), full.values(0).bfloat16())
    assert next(kept.batches(2)).values["layers.5.resid_post"].dtype is torch.bfloat16


# --- stopped and gone on with ---------------------------------------------------------------------

SLOW = """
import sys, time
from nbsight.analysis.collecting import collect
from nbsight.models.language_model import LanguageModel
def slow(texts):
    for text in texts:
        time.sleep(0.05)
        yield text
import json
texts, sites = json.load(open(sys.argv[1]))
model = LanguageModel("nbsight/demo")
collect(model, slow(texts), [tuple(s) if isinstance(s, list) else s for s in sites], sys.argv[2],
        batch_tokens=96, shard_tokens=150)
"""


def test_a_killed_collection_goes_on_to_the_same_bytes(demo, texts, made, tmp_path):
    told = tmp_path / "told.json"
    told.write_text(json.dumps([texts, SITES]))
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(told), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    try:
        end = time.monotonic() + 200
        while not (folder / "index.json").exists():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    half = Collection(folder)
    assert not half.is_complete
    assert 0 < len(half) < len(texts)
    (folder / "shard-00001.safetensors.part").write_bytes(b"half a shard")
    before = (folder / "shard-00000.safetensors").stat().st_mtime_ns
    whole = collect(demo, texts, SITES, folder, **SMALL)
    assert (folder / "shard-00000.safetensors").stat().st_mtime_ns == before
    assert whole.is_complete
    same_files(made.folder, folder)


def test_an_interrupt_keeps_finished_shards_and_goes_on(demo, texts, made, tmp_path):
    def interrupted():
        for number, text in enumerate(texts):
            if number == 35:
                raise KeyboardInterrupt
            yield text

    with pytest.warns(NbsightWarning, match="the same call goes on"):
        half = collect(demo, interrupted(), SITES, tmp_path / "a", **SMALL)
    assert 0 < len(half) < 35
    collect(demo, texts, SITES, tmp_path / "a", **SMALL)
    same_files(made.folder, tmp_path / "a")


def test_a_finished_collection_is_not_run_again(demo, texts, made, monkeypatch):
    monkeypatch.setattr(collecting, "_forward", None)
    assert len(collect(demo, texts, SITES, made.folder, **SMALL)) == len(texts)


def test_a_batch_that_does_not_fit_is_split(demo, texts, made, tmp_path, monkeypatch):
    real = collecting._forward

    def tight(model, sites, rows, put):
        if len(rows) > 2:
            raise RuntimeError("CUDA out of memory")
        real(model, sites, rows, put)

    monkeypatch.setattr(collecting, "_forward", tight)
    found = collect(demo, texts, SITES, tmp_path / "a", **SMALL)
    for number in (0, 9):
        torch.testing.assert_close(
            found.values(number, "layers.3.z"), made.values(number, "layers.3.z"), atol=2e-5, rtol=1e-5
        )


FULL = """
import resource, signal, sys, json
from nbsight.analysis.collecting import collect
from nbsight.errors import StorageError
from nbsight.models.language_model import LanguageModel
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = LanguageModel("nbsight/demo", dispatch=True)
def texts():
    for number in range(60):
        if number == 30:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        yield "The opposite of hot is cold"
try:
    collect(model, texts(), ("resid_post", 1), sys.argv[1], shard_tokens=100)
except StorageError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_FSIZE")
def test_a_full_disk_keeps_finished_shards(demo, tmp_path):
    folder = tmp_path / "full"
    said = subprocess.run(
        [sys.executable, "-c", FULL, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "could not be written" in said
    assert "goes on from there" in said
    assert not list(folder.glob("*.part"))
    half = Collection(folder)
    half.check()
    assert 0 < len(half) < 60
    whole = collect(demo, ["The opposite of hot is cold"] * 60, ("resid_post", 1), folder, shard_tokens=100)
    assert len(whole) == 60
    whole.check()


# --- bad input ------------------------------------------------------------------------------------


def test_a_text_that_is_too_long_is_named_and_may_be_cut_or_left_out(demo, tmp_path):
    long = ["A young dog"] * 30 + ["very " * 200, "A young dog"]
    with pytest.raises(InputError, match=r"text 30 has .* tokens, and at most 128"):
        collect(demo, long, ("resid_post", 0), tmp_path / "a", shard_tokens=20)
    assert len(Collection(tmp_path / "a")) > 0
    cut = collect(demo, long, ("resid_post", 0), tmp_path / "a", shard_tokens=20, over_long="cut")
    assert cut.length(30) == 128
    assert cut.skipped["cut"] == 1
    out = collect(demo, long, ("resid_post", 0), tmp_path / "b", over_long="leave_out")
    assert (out.length(30), out.length(31)) == (0, cut.length(31))
    assert "1 too long and left out" in repr(out)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("A young dog", "single text"),
        (7, "go through"),
        ([{"body": "x"}], "has no 'text'; it has 'body'"),
        ([None], "text 0 is a NoneType"),
        (Path("/no/such/file"), "cannot be read"),
    ],
)
def test_what_is_no_text_is_refused(demo, tmp_path, given, match):
    with pytest.raises(InputError, match=match):
        collect(demo, given, ("resid_post", 0), tmp_path / "a")


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"sites": ("resid_post", 2)}, "sites"),
        ({"batch_tokens": 100}, "batch_tokens 4096, now 100"),
        ({"texts": ["Another text", "A young dog"]}, "not those"),
        ({"texts": []}, "not those"),
    ],
)
def test_going_on_with_other_things_is_refused(demo, tmp_path, changed, match):
    told = {"texts": ["A young dog", "The key"], "sites": ("resid_post", 1)}
    collect(demo, folder=tmp_path / "a", **told)
    with pytest.raises(InputError, match=match):
        collect(demo, folder=tmp_path / "a", **{**told, **changed})


def test_going_on_with_other_weights_is_refused(tmp_path):
    model = LanguageModel("nbsight/demo", dispatch=True)
    collect(model, ["A young dog"], ("resid_post", 1), tmp_path / "a")
    with torch.no_grad():
        model._module.transformer.h[4].mlp.c_fc.weight.mul_(1.01)
    with pytest.raises(InputError, match="other weights"):
        collect(model, ["A young dog"], ("resid_post", 1), tmp_path / "a")


def test_damage_is_found(demo, tmp_path):
    found = collect(demo, ["A young dog"] * 9, ("resid_post", 1), tmp_path / "a", shard_tokens=9)
    found.check()
    path = tmp_path / "a" / "shard-00001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    (tmp_path / "a" / "shard-00002.safetensors").unlink()
    again = Collection(tmp_path / "a")
    with pytest.raises(StorageError, match=r"shard-00001.safetensors \(changed\), .*00002.* \(missing\)"):
        again.check()
    with pytest.raises(StorageError, match="00002"):
        again.values(len(again) - 1)


def test_other_folders_and_questions_are_refused(demo, made, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other files"):
        collect(demo, ["A"], ("resid_post", 1), tmp_path)
    with pytest.raises(InputError, match="holds no collected"):
        Collection(tmp_path)
    with pytest.raises(InputError, match="there are 43 texts"):
        made.values(43, "layers.3.z")
    with pytest.raises(InputError, match="which site is not said"):
        made.values(0)
    with pytest.raises(InputError, match="no number of tokens"):
        next(made.batches(0))


@pytest.mark.parametrize("given", ["layers.3.pattern", ("scores", 1), "logits", 3, "layers.3"])
def test_what_has_no_value_for_each_position_is_no_site(demo, given):
    with pytest.raises((InputError, PathError)):
        site_of(demo, given)


def test_sites_may_be_written_in_several_ways(demo):
    given = ["blocks.3.hook_resid_post", "layers[3].resid_post", "model.layers[-9].resid_post", "embed"]
    assert list(map(str, sites_of(demo, given))) == ["embed", "layers.3.resid_post"]
    assert str(site_of(demo, "blocks.2.ln2.hook_normalized")) == "layers.2.mlp_in"
    assert str(site_of(demo, "blocks.2.attn.hook_z")) == "layers.2.z"
    assert str(site_of(demo, "blocks.2.mlp.hook_pre")) == "layers.2.pre"
