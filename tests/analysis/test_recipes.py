"""A recipe does what plain hooks do, comes back from its file, and its code gives the same bits."""

from __future__ import annotations

import json

import pytest
import torch

from nbsight.analysis.patch_runs import Patch as Place
from nbsight.analysis.patch_runs import PatchRuns
from nbsight.analysis.recipe_steps import Add, Mean, Patch, Scale, Steer, Zero
from nbsight.analysis.recipes import Recipe
from nbsight.errors import InputError, PathError
from nbsight.models.language_model import LanguageModel

PROMPT = "The Eiffel Tower is in the city of"
OTHER = "The Colosseum is in the city of"
D_MODEL, N_HEADS = 64, 4
VECTOR = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return LanguageModel("nbsight/demo", dispatch=True)


def logits_with(model, prompt, hooks):
    """The model's own logits with plain hooks: (module, kind, function of the value)."""
    handles = []
    for module, kind, change in hooks:
        if kind == "input":

            def before(_, args, change=change):
                return (change(args[0]), *args[1:])

            handles.append(module.register_forward_pre_hook(before))
        else:

            def after(_, __, out, change=change):
                return change(out) if isinstance(out, torch.Tensor) else (change(out[0]), *out[1:])

            handles.append(module.register_forward_hook(after))
    try:
        with torch.no_grad():
            return model._model(torch.tensor([model.tokenizer(prompt)["input_ids"]])).logits
    finally:
        for handle in handles:
            handle.remove()


def seen(model, prompt, module, kind):
    """One value of a plain run, (1, position, ...)."""
    kept = []

    def keep(value):
        kept.append(value.clone())
        return value

    logits_with(model, prompt, [(module, kind, keep)])
    return kept[0]


def at(index, change):
    """Change a copy of a value at an index."""

    def changed(value):
        value = value.clone()
        value[index] = change(value[index])
        return value

    return changed


def by_head(change):
    def changed(value):
        split = value.unflatten(-1, (N_HEADS, -1)).clone()
        return change(split).flatten(-2)

    return changed


def zero_heads(value):
    value[:, :, [1, 3]] = 0
    return value


def zero_head_at(value):
    value[0, 2, 1] = value[0, 5, 1] = 0
    return value


def blocks(model):
    return model._model.transformer.h


def mean_hooks(model):
    mlp = blocks(model)[3].mlp
    mean = torch.cat([seen(model, text, mlp, "output")[0] for text in (OTHER, "The sky")]).mean(0)
    return [(mlp, "output", at((0, 1), lambda _: mean))]


def patch_hooks(model):
    block = blocks(model)[2]
    donor = seen(model, OTHER, block, "output")[0, [1, 1]]
    return [(block, "output", at((0, [1, 2]), lambda _: donor))]


CASES = {
    "zero": (Zero("mlp_out", 4), lambda m: [(blocks(m)[4].mlp, "output", lambda v: v * 0)]),
    "zero heads": (
        Zero("z", 5, heads=[1, 3]),
        lambda m: [(blocks(m)[5].attn.c_proj, "input", by_head(zero_heads))],
    ),
    "zero heads at positions": (
        Zero("z", 5, [2, 5], [1]),
        lambda m: [(blocks(m)[5].attn.c_proj, "input", by_head(zero_head_at))],
    ),
    "scale": (
        Scale("attn_out", 2, [0, -1], factor=0.25),
        lambda m: [(blocks(m)[2].attn, "output", at((0, [0, -1]), lambda v: v * 0.25))],
    ),
    "mean": (Mean("mlp_out", 3, [1], prompts=[OTHER, "The sky"]), lambda m: mean_hooks(m)),
    "add": (
        Add("resid_post", 6, [2, 3], vector="v", strength=1.5),
        lambda m: [(blocks(m)[6], "output", at((0, [2, 3]), lambda v: v + 1.5 * VECTOR))],
    ),
    "patch": (
        Patch("resid_post", 2, [1, 2], prompt=OTHER, source=[1, 1]),
        lambda m: patch_hooks(m),
    ),
}


def recipe_of(*steps):
    return Recipe(PROMPT, steps, {"v": VECTOR} if any(hasattr(step, "vector") for step in steps) else {})


EVERY = [case[0] for name, case in CASES.items() if name != "zero heads at positions"] + [
    Steer("v", [7, 8], 3.0, "last"),
    Scale("q", 5, [1, 4], [0, 2], factor=0.5),
    Mean("z", 8, None, [0, 2], prompts=["a b", "The city"]),
    Patch("z", 9, [3], [1], prompt=[7, 8, 9, 10, 11], source=[-1]),
    Add("v", 10, [2], [0, 1], vector="h"),
]


def whole():
    vectors = {"v": VECTOR, "h": VECTOR[: D_MODEL // N_HEADS]}
    return Recipe(PROMPT, EVERY, vectors)


def run_code(model, code, path):
    path.write_text(code)
    names = {"model": model}
    exec(compile(code, str(path), "exec"), names)
    return names["logits"]


@pytest.mark.parametrize("name", CASES)
def test_every_operation_is_that_of_a_plain_hook(model, name):
    step, hooks = CASES[name]
    found = recipe_of(step).run(model)
    wanted = logits_with(model, PROMPT, hooks(model))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert (wanted - logits_with(model, PROMPT, [])).abs().max() > 1e-3


def test_a_file_and_the_code_give_the_same_bits(model, tmp_path):
    recipe = whole()
    wanted = recipe.run(model)
    assert torch.equal(recipe.run(model), wanted)
    path = recipe.save(tmp_path / "all")
    again = Recipe.load(path)
    assert again.steps == recipe.steps
    assert torch.equal(again.run(model), wanted)
    code = again.to_code(vectors=tmp_path / "all.safetensors")
    assert torch.equal(run_code(model, code, tmp_path / "code.py"), wanted)
    assert repr(again) == repr(recipe)


@pytest.mark.parametrize("name", CASES)
def test_the_code_of_every_operation_runs(model, tmp_path, name):
    recipe = recipe_of(CASES[name][0])
    recipe.save(tmp_path / "one.json")
    code = recipe.to_code(vectors=tmp_path / "one.safetensors")
    assert torch.equal(run_code(model, code, tmp_path / "code.py"), recipe.run(model))


def test_a_steering_is_told_as_data_and_acts_the_same(model):
    steering = model.steer(VECTOR, layer=[3, 4], strength=4, positions="last", inplace=True)
    try:
        recipe = Recipe.of_steering(PROMPT, model.edits)
        with model.trace(PROMPT):
            wanted = model.output.logits.clone().save()
        text = model.generate(PROMPT, 6).text
    finally:
        steering.remove()
    assert torch.equal(recipe.run(model), wanted)
    with recipe.steered(model):
        assert model.generate(PROMPT, 6).text == text
    assert not list(model.edits)


def test_what_the_patching_view_runs_is_a_recipe(model, tmp_path):
    runs = PatchRuns(model, PROMPT, OTHER, answers=(" Paris", " Rome"))
    places = [Place(2, "resid_post", 2, 1), Place(9, "z", 7, 6, head=1)]
    for direction in ("denoise", "noise"):
        here = [
            p if direction == "denoise" else Place(p.layer, p.site, p.target, p.source, p.head)
            for p in places
        ]
        recipe = Recipe.of_patches(runs, here, direction)
        assert recipe.prompt == (OTHER if direction == "denoise" else PROMPT)
        torch.testing.assert_close(recipe.run(model)[:, -1], runs.run(here, direction), rtol=0, atol=1e-5)
        code = recipe.to_code()
        assert "vectors" not in code
        assert torch.equal(run_code(model, code, tmp_path / f"{direction}.py"), recipe.run(model))


def test_an_edit_that_is_code_is_no_data(model):
    with model.edit(inplace=True):
        model.transformer.h[3].mlp.output = model.transformer.h[3].mlp.output * 2
    try:
        with pytest.raises(InputError, match="a block of code"):
            Recipe.of_steering(PROMPT, model.edits)
    finally:
        model.clear_edits()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Zero("resid", 0), "resid_pre, q, k"),
        (lambda: Zero("mlp_out", -1), "count from 0"),
        (lambda: Zero("mlp_out", 1, heads=[0]), "no heads"),
        (lambda: Zero("mlp_out", 1, []), "at least one"),
        (lambda: Patch("z", 1, [1, 2], prompt=OTHER, source=[1]), "one `source`"),
        (lambda: Mean("z", 1, prompts=[]), "at least one prompt"),
        (lambda: Steer("v", [1], positions="some"), "generated"),
        (lambda: Recipe(PROMPT, []), "it was nothing"),
        (lambda: Recipe(PROMPT, [Add("resid_post", 1, vector="w")], {"v": VECTOR}), "there are v"),
    ],
)
def test_a_step_that_cannot_be_is_refused_when_it_is_made(made, said):
    with pytest.raises(ValueError, match=said):
        made()


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Zero("mlp_out", 40), "12 entries, 0 to 11"),
        (Zero("mlp_out", 1, [30]), "8 tokens, 0 to 7"),
        (Zero("z", 1, heads=[9]), "0 to 3"),
        (Patch("mlp_out", 1, [1], prompt=OTHER, source=[20]), "20"),
        (Patch("mlp_out", 1, prompt="The sky"), "8 and 2 tokens"),
        (Add("mlp_out", 1, vector="h"), "shape"),
    ],
)
def test_what_does_not_fit_the_model_is_said_before_a_number_comes_out(model, step, said):
    vectors = {"h": VECTOR[:16]} if isinstance(step, Add) else {}
    with pytest.raises((InputError, PathError), match=said):
        Recipe(PROMPT, [step], vectors).run(model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(format=9), "format 9"),
        (lambda d: d["steps"][0].update(do="run"), "run"),
        (lambda d: d["steps"][1].update(layer="x"), r"\$.steps\[1\].layer"),
        (lambda d: d["steps"][0].update(code="print()"), "code"),
        (lambda d: d["vectors"].update(v="0"), "not the one"),
    ],
)
def test_a_file_that_was_changed_is_refused(tmp_path, change, said):
    path = whole().save(tmp_path / "changed.json")
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=said):
        Recipe.load(path)


def test_vectors_that_are_missing_or_none_are_said(tmp_path):
    path = whole().save(tmp_path / "all.json")
    (tmp_path / "all.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="holds no tensors"):
        Recipe.load(path)
    (tmp_path / "all.safetensors").unlink()
    with pytest.raises(InputError, match="not beside it"):
        Recipe.load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="no recipe"):
        Recipe.load(path)
