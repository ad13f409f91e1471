"""The tutorials' own code does what its comments promise, wherever Python code can run."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from jupyter_client import KernelManager

from nbsight.errors import CaptureError, EditWarning
from nbsight.models.demo.lexicon import BAD, GOOD
from tests.tutorials import blocks, running
from tests.tutorials.conftest import Plain

REMOTE = "04_remote_execution"
LOCAL_TUTORIALS = [name for name in blocks.NOTEBOOKS if name != REMOTE]

Ran = Callable[[str], tuple[dict[str, Any], str]]

WHOLE = "EditWarning: this edit replaces the whole state after `transformer.h."
"""Tutorials 2 and 3 patch all positions of a block's output; that is said, once for each line."""


def text_of(tutorial: str, llama_folder: Path) -> str:
    """A tutorial's blocks, one after the other."""
    model = str(llama_folder) if tutorial == REMOTE else blocks.DEMO
    return "\n".join(blocks.runnable(block, model=model) for block in blocks.NOTEBOOKS[tutorial])


def run_as_file(text: str, folder: Path) -> dict[str, Any]:
    import runpy

    path = folder / "tutorial.py"
    path.write_text(text, encoding="utf-8")
    return runpy.run_path(str(path))


def run_in_a_function(text: str, folder: Path) -> dict[str, Any]:
    body = textwrap.indent(text, "    ")
    return run_as_file(f"def main():\n{body}\n    return locals()\n\nnames = main()\n", folder)["names"]


def run_by_exec(text: str, folder: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(text, "<string>", "exec"), names)
    return names


@pytest.fixture(
    params=[run_as_file, run_in_a_function, run_by_exec], ids=lambda run: run.__name__, scope="module"
)
def ran(request: pytest.FixtureRequest, llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Runs a tutorial and returns its names and what it printed; other warnings are errors."""
    done: dict[str, tuple[dict[str, Any], str]] = {}

    def run(tutorial: str) -> tuple[dict[str, Any], str]:
        if tutorial not in done:
            printed = io.StringIO()
            with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
                warnings.simplefilter("error")
                warnings.simplefilter("default", EditWarning)
                names = request.param(text_of(tutorial, llama_folder), tmp_path_factory.mktemp("tutorial"))
            done[tutorial] = names | {"said": [str(each.message) for each in caught]}, printed.getvalue()
        return done[tutorial]

    return run


def difference(demo: Plain, logits: torch.Tensor) -> float:
    paris, rome = (demo.tokenizer.encode(word)[0] for word in (" Paris", " Rome"))
    return (logits[0, -1, paris] - logits[0, -1, rome]).item()


# -- what the blocks are ---------------------------------------------------------------------------


@pytest.mark.skipif(
    not blocks.ORIGINAL.exists(), reason="the authors' own file is not part of the repository"
)
def test_the_blocks_are_those_of_the_original() -> None:
    assert [blocks.quoted(name) for name in blocks.BLOCKS] == blocks.original_blocks()


@pytest.mark.parametrize("block", blocks.BLOCKS)
def test_only_import_model_name_and_remote_are_changed(block: str) -> None:
    before, after = (text.splitlines() for text in (blocks.quoted(block), blocks.runnable(block)))
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    allowed = [
        r"from nnsight import LanguageModel",
        r"model = LanguageModel\(.*\)",
        r"with model\.\w+\(.*remote=True\) as \w+:",
    ]
    assert len(changed) <= 3
    assert all(any(re.fullmatch(rule, old) for rule in allowed) for old, _ in changed)


# -- what they promise -----------------------------------------------------------------------------


def test_tutorial_1_prints_the_norms_of_a_plain_hook_and_paris(ran: Ran, demo: Plain) -> None:
    names, printed = ran("01_activation_analysis")
    states, logits = demo.run("The capital of France is")
    norms, predictions = printed.split("\nTop predictions:\n")
    assert norms.splitlines() == [
        "Layer-wise activation norms:",
        *(f"  Layer {layer}: {state.norm().item():.2f}" for layer, state in enumerate(states)),
    ]
    assert len(states) == 12
    assert [line.strip() for line in predictions.splitlines()] == demo.top(logits[0, -1], 5)
    assert float(re.match(r"  ' Paris': (\d\.\d+)", predictions)[1]) > 0.8
    assert all(torch.equal(names["activations"][layer], state) for layer, state in enumerate(states))


def test_tutorial_2_gives_the_clean_value_at_every_layer(ran: Ran, demo: Plain) -> None:
    names, printed = ran("02_activation_patching")
    clean = difference(demo, demo.run(names["clean_prompt"])[1])
    corrupted = difference(demo, demo.run(names["corrupted_prompt"])[1])
    assert corrupted < 0 < clean
    assert printed.splitlines() == [
        f"Clean logit diff: {clean:.3f}",
        f"Patched logit diff: {clean:.3f}",
        *(f"Layer {layer}: {clean:.3f}" for layer in range(12)),
        "",
        "Most important layer: 0",
    ]
    assert [text.partition(" by ")[0] for text in names["said"]] == [
        f"this edit replaces the whole state after `transformer.h.{layer}`" for layer in (8, 0)
    ]
    # The sweep replaces the whole state, so nothing of the corrupted prompt is left, to the last bit.
    assert names["results"].tolist() == [names["logit_diff"](names["clean_logits"])] * 12


def test_tutorial_3_turns_the_dog_prompt_into_the_cat_prompt(
    ran: Ran, demo: Plain, request: pytest.FixtureRequest
) -> None:
    names, printed = ran("03_sharing_activations")
    cat_states, cat = demo.run("The cat sat on the mat")
    _, dog = demo.run("The dog ran through the park")
    assert printed == f"Modified logits shape: torch.Size([1, 6, {cat.shape[-1]}])\n"
    if "run_by_exec" not in request.node.name:  # without text the two prompts run one after the other
        (text,) = names["said"]
        assert text.startswith("this edit replaces the whole state after `transformer.h.6` by `cat_hidden`")
    # A batch of two is summed in another order than a batch of one.
    torch.testing.assert_close(names["modified_logits"], cat, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(names["cat_hidden"], cat_states[6], atol=1e-4, rtol=1e-4)
    assert (names["modified_logits"] - dog).abs().max() > 1


def test_tutorial_4_brings_back_what_a_plain_hook_reads(
    ran: Ran, llama: Plain, request: pytest.FixtureRequest
) -> None:
    if "run_by_exec" in request.node.name:
        with pytest.raises(CaptureError, match="Put the code into a cell or a file"):
            ran(REMOTE)
        return
    names, printed = ran(REMOTE)
    states, logits = llama.run("The meaning of life is")
    lines = printed.splitlines()
    assert lines[:2] == [f"Hidden shape: {states[40].shape}", f"Logits shape: {logits.shape}"]
    assert torch.equal(names["hidden"], states[40])
    assert lines[2:4] == ["", "Top predictions from Llama-70B:"]
    assert [line.strip() for line in lines[4:9]] == llama.top(logits[0, -1], 5)
    means = [llama.run(prompt)[0][30].mean(dim=1) for prompt in ("What is 2+2?", "The capital of France is")]
    assert lines[9:] == [f"Similarity: {torch.cosine_similarity(*means, dim=-1).item():.3f}"]


def test_tutorial_5_pushes_the_next_word_towards_good(ran: Ran, demo: Plain) -> None:
    names, printed = ran("05_steering")
    love, hate = (
        demo.run(text)[0][6]
        for text in ("I love this movie, it's wonderful", "I hate this movie, it's terrible")
    )
    vector = love.mean(dim=1) - hate.mean(dim=1)
    _, normal = demo.run("This restaurant is")
    _, steered = demo.run("This restaurant is", edit=(6, lambda state: state + 3.0 * vector))
    torch.testing.assert_close(names["steered_logits"], steered, atol=1e-4, rtol=1e-4)
    words = [line.split(": ", 1)[1].strip() for line in printed.splitlines()]
    assert printed.splitlines() == [f"Normal:  {words[0]}", f"Steered (positive):  {words[1]}"]
    assert words[0] in GOOD + BAD
    assert words[1] in GOOD
    good = [demo.tokenizer.encode(f" {word}")[0] for word in GOOD]
    before, after = (logits[0, -1].softmax(dim=-1)[good].sum().item() for logits in (normal, steered))
    assert after > before + 0.2


def test_tutorial_6_decodes_each_layer_and_ends_with_the_models_own_output(ran: Ran, demo: Plain) -> None:
    names, printed = ran("06_logit_lens")
    states, logits = demo.run("The quick brown fox jumps over the lazy")
    lines = ["Layer-by-layer predictions for final token:"]
    for layer, state in enumerate(states):
        decoded = demo.model.lm_head(demo.model.transformer.ln_f(state))[0, -1]
        word, prob = demo.top(decoded, 1)[0].rsplit(": ", 1)
        lines.append(f"Layer {layer}: {word} ({prob})")
    assert len(lines) == 13
    assert printed.splitlines() == lines
    word, prob = demo.top(logits[0, -1], 1)[0].rsplit(": ", 1)
    assert lines[-1] == f"Layer 11: {word} ({prob})"
    assert word == "' dog'"
    torch.testing.assert_close(names["layer_logits"], logits, atol=1e-4, rtol=1e-4)


# -- where they run --------------------------------------------------------------------------------


def in_a_process(arguments: list[str], text: str | None = None) -> str:
    """What Python prints; anything on its error stream but the expected warnings is a failure."""
    environment = os.environ | {"PYTHONPATH": str(blocks.REPOSITORY), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, *arguments],
        input=text,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("  ")]
    assert said
    assert [line for line in said if WHOLE not in line] == []
    return done.stdout


@pytest.fixture(scope="module")
def expected(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each tutorial prints as a file of its own."""
    printed = {}
    for tutorial in blocks.NOTEBOOKS:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            run_as_file(text_of(tutorial, llama_folder), tmp_path_factory.mktemp("tutorial"))
        printed[tutorial] = out.getvalue()
    return printed


def test_the_blocks_run_as_a_script(expected: dict[str, str], llama_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "tutorials.py"
    script.write_text("\n".join(text_of(name, llama_folder) for name in blocks.NOTEBOOKS), encoding="utf-8")
    assert in_a_process([str(script)]) == "".join(expected.values())


def test_the_blocks_run_from_standard_input(expected: dict[str, str], llama_folder: Path) -> None:
    # Without tutorial 4: a block that is sent has to be read, and what came through a pipe is gone.
    text = "\n".join(text_of(name, llama_folder) for name in LOCAL_TUTORIALS)
    assert in_a_process(["-"], text) == "".join(expected[name] for name in LOCAL_TUTORIALS)


# Tutorial 4 needs the text of its block, which IPython does not keep for a timed cell;
# notebook 4 runs it in plain cells.
@pytest.mark.parametrize("tutorial", LOCAL_TUTORIALS)
def test_the_blocks_run_in_a_timed_cell(
    tutorial: str, expected: dict[str, str], llama_folder: Path, fresh_kernel: KernelManager
) -> None:
    cells = ["%load_ext nbsight", "%%time\n" + text_of(tutorial, llama_folder)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    running.execute(notebook, fresh_kernel)
    said = running.warnings_of(notebook.cells[1])
    assert [line for line in said.splitlines() if not line.startswith("  ") and WHOLE not in line] == []
    assert bool(said) == (tutorial in ("02_activation_patching", "03_sharing_activations"))
    printed, timing = running.text_of(notebook.cells[1]).split("CPU times:")
    assert printed == expected[tutorial]
    assert "Wall time:" in timing
