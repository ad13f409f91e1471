"""The notebooks run on a real kernel, hold the tutorials' code and show what their text says."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nbformat
import pytest
import torch
from jupyter_client import KernelManager
from nbformat import NotebookNode

from nbsight.models.demo.lexicon import BAD, GOOD
from tests.tutorials import blocks, running
from tests.tutorials.conftest import Plain

TUTORIALS = list(blocks.NOTEBOOKS)
"""Those that hold the tutorials' code."""
NAMES = [*TUTORIALS, "07_paused_run", "08_patching", "09_gallery", "10_steering_and_generation"]
PNG = b"\x89PNG\r\n"

# Values that are read out of the kernel after a notebook has run.
ASKED = {
    "09_gallery": """[
        pair.contrast(0, 1)[:, -1].tolist(), hidden.norm(dim=-1)[0].tolist(),
        norms.of('resid_post')[8].tolist(),
    ]""",
    "02_activation_patching": "[results.tolist(), restored.tolist()]",
    "03_sharing_activations": "chances.tolist()",
    "08_patching": """[table.tolist() for table in (
        result.values, result.recovered, many.mean(), parts.mean()[:2], who.mean()[0], parts.head_recovered[0]
    )]""",
    "07_paused_run": "[early.tolist(), late.tolist(), model.to_string(edited[0, -1].topk(3).indices)]",
    "10_steering_and_generation": """[
        result.probs.tolist(), pair.kl.tolist(), pair.unsteered_probs.tolist(), moved.values.tolist(),
        steered, controls,
    ]""",
    "05_steering": "[steered.tolist(), controls.tolist(), [write_on(strength) for strength in (-3, 0, 3)]]",
}


@dataclass(frozen=True)
class Result:
    """A notebook that has been run, what its solutions printed, and the values that were asked for."""

    notebook: NotebookNode
    solutions: list[str]
    values: Any

    def cell(self, name: str) -> NotebookNode:
        return next(cell for cell in self.notebook.cells if cell.id == name)

    def text(self, name: str) -> str:
        return running.text_of(self.cell(name))


Ran = Callable[[str], Result]


@pytest.fixture(scope="module")
def ran(kernel: KernelManager) -> Ran:
    """Runs a notebook and its solutions, once."""
    done: dict[str, Result] = {}

    def run(name: str) -> Result:
        if name not in done:
            running.forget(kernel)
            notebook = running.execute(running.without_outputs(running.read(name)), kernel)
            asked = f"import json; print(json.dumps({ASKED.get(name, 'None')}))"
            after = nbformat.v4.new_notebook(
                cells=[nbformat.v4.new_code_cell(code) for code in (asked, *running.solutions(notebook))]
            )
            running.execute(after, kernel)
            texts = [running.text_of(cell) for cell in after.cells]
            done[name] = Result(notebook, texts[1:], json.loads(texts[0]))
        return done[name]

    return run


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)]


# -- all of them -----------------------------------------------------------------------------------


def test_every_notebook_is_tested() -> None:
    assert [path.stem for path in sorted(running.NOTEBOOKS.glob("*.ipynb"))] == NAMES


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_notebook_holds_the_tutorials_code_word_for_word(name: str) -> None:
    cells = [cell.source for cell in running.read(name).cells if "tutorial" in cell.metadata.get("tags", ())]
    quoted = "\n".join(blocks.quoted(block) for block in blocks.NOTEBOOKS[name])
    assert blocks.normalised("\n".join(cells)) == blocks.normalised(quoted)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_without_a_complaint_and_shows_a_picture(name: str, ran: Ran) -> None:
    outputs = [output for cell in ran(name).notebook.cells for output in cell.get("outputs", [])]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {output.name for output in outputs if output.output_type == "stream"} <= {"stdout", "stderr"}
    said = "".join(running.warnings_of(cell) for cell in ran(name).notebook.cells).splitlines()
    # Tutorials 2 and 3 patch all positions of a block's output, and that is said.
    warned = [line for line in said if not line.startswith("  ")]
    assert bool(warned) == (name in ("02_activation_patching", "03_sharing_activations"))
    rule = r"Cell In\[\d+\]:\d+: EditWarning: this edit replaces the whole state after `transformer\.h\.\d+`"
    assert [line for line in warned if not re.match(rule, line)] == []
    pictures = [
        base64.b64decode(output.data["image/png"])
        for output in outputs
        if "image/png" in output.get("data", {})
    ]
    assert pictures
    assert all(picture.startswith(PNG) and len(picture) > 10_000 for picture in pictures)


@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_in_the_file_are_those_of_the_code(name: str, ran: Ran) -> None:
    now = ran(name).notebook.cells
    kept = running.read(name).cells
    for old, new in zip(kept, now, strict=True):
        before, after = running.text_of(old), running.text_of(new)
        if name == "04_remote_execution":
            # Random weights differ from one transformers to the next; the shapes do not.
            before, after = (
                re.sub(r"(?m)^  '.*|(?<=Similarity: ).*|[\d,]+ bytes", "", text) for text in (before, after)
            )
        pattern = r"[-+]?\d+\.\d+|(?m:^.* 0\.000$)"  # words of no probability change places with the weather
        assert re.sub(pattern, "#", before) == re.sub(pattern, "#", after), old.id
        assert numbers(before) == pytest.approx(numbers(after), abs=0.02, rel=0.01), old.id
        assert running.receipt_of(old) == running.receipt_of(new), old.id


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_light_and_knows_nothing_of_the_machine(name: str) -> None:
    path = running.NOTEBOOKS / f"{name}.ipynb"
    text = path.read_text(encoding="utf-8")
    notebook = running.read(name)
    nbformat.validate(notebook)
    assert len(text) < 400_000
    assert notebook.metadata == running.METADATA
    assert not re.search(r"/tmp|/home/|/root/|/Users/|\\\\Users|site-packages|ipykernel_\d", text)
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        assert cell.execution_count == number + 1
        assert set(cell.metadata) <= {"tags"}
        assert all(running.LIVE_WIDGET not in output.get("data", {}) for output in cell.outputs)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    text = "\n".join(cell.source for cell in running.read(name).cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    assert links
    assert all((running.NOTEBOOKS / link).is_file() for link in links)


# -- each of them ----------------------------------------------------------------------------------


def test_notebook_1_shows_the_norms_and_says_paris(ran: Ran, demo: Plain) -> None:
    result = ran("01_activation_analysis")
    states, logits = demo.run("The capital of France is")
    assert numbers(result.text("tutorial-norms")) == pytest.approx(
        [state.norm().item() for state in states], abs=0.01
    )
    assert result.text("tutorial-predictions").splitlines()[2] == f"  {demo.top(logits[0, -1], 1)[0]}"
    assert result.text("shapes").splitlines()[0] == "tokens: ['The', '·capital', '·of', '·France', '·is']"
    # What the text says of the picture.
    last = torch.stack([state[0].norm(dim=-1) for state in states])[-1]
    assert last.argsort(descending=True)[:2].tolist() == [0, 2]
    assert last.argmin() == 4
    totals = torch.stack([state.norm() for state in states])
    assert totals[1] > totals[0]
    assert totals.argmin() == 5
    assert totals.argmax() == 11
    by_token = torch.stack([state[0].norm(dim=-1) for state in states])
    assert by_token[0, 0] > 2 * by_token[0, 1:].max()
    assert 5.5 < by_token[11, 0] / by_token[5, 0] < 6
    assert by_token[:, [1, 3, 4]].min() > 1
    assert by_token[:, [1, 3, 4]].max() < 2.5
    assert by_token[7, 2] < 2 < 4.9 < by_token[8, 2]
    receipt = "1 forward · 5 tokens · 13 values"
    assert running.receipt_of(result.cell("tutorial-trace")).startswith(receipt)
    written = torch.stack([state[0, -1] for state in states]).diff(dim=0).norm(dim=-1)
    assert numbers(result.solutions[0]) == pytest.approx(written.tolist(), abs=0.06)
    assert written.argmax() == 0


def test_notebook_2_shows_a_flat_sweep_and_a_map_that_is_not(ran: Ran, demo: Plain) -> None:
    result = ran("02_activation_patching")
    results, restored = result.values
    clean_prompt, corrupted_prompt = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
    paris, rome = (demo.tokenizer.encode(word)[0] for word in (" Paris", " Rome"))
    states, logits = demo.run(clean_prompt)
    best, worst = (
        (out[0, -1, paris] - out[0, -1, rome]).item() for out in (logits, demo.run(corrupted_prompt)[1])
    )
    assert results == pytest.approx([best] * 12, abs=1e-3)
    assert result.text("flat") == "largest distance from the clean run: 0.0\n"

    def share(layer: int, position: int) -> float:
        def patch(state: torch.Tensor) -> torch.Tensor:
            state = state.clone()
            state[:, position] = states[layer][:, position]
            return state

        _, out = demo.run(corrupted_prompt, edit=(layer, patch))
        return ((out[0, -1, paris] - out[0, -1, rome]).item() - worst) / (best - worst)

    expected = [[share(layer, position) for position in range(8)] for layer in range(12)]
    torch.testing.assert_close(torch.tensor(restored), torch.tensor(expected), atol=1e-3, rtol=0)
    # What the text says: first on the landmark, then at the last position, in two goes; the corner is 1 by
    # construction.
    assert restored[0][1] > 0.96
    assert min(row[1] for row in restored[:5]) > 0.77
    assert max(abs(share) for row in restored for share in row[3:7]) < 0.01
    assert max(row[2] for row in restored) < 0.1
    assert max(row[7] for row in restored[:3]) < 0.01
    assert all(0.1 < row[7] < 0.2 for row in restored[3:5])
    assert all(0.6 < row[7] < 0.75 and 0.4 < row[1] < 0.45 for row in restored[5:10])
    assert min(row[7] for row in restored[10:]) > 0.97
    assert max(row[1] for row in restored[10:]) < 0.02
    assert restored[11][7] == pytest.approx(1, abs=1e-3)
    attention = numbers(result.solutions[0])[:12]
    most = sorted(range(12), key=lambda layer: -attention[layer])
    assert most[:3] == [10, 5, 3]
    assert max(attention[layer] for layer in most[3:]) < 0.05
    # nbsight had said that the sweep is flat, once for each of the two lines that write.
    for cell, layer in (("tutorial-patch", 8), ("tutorial-sweep", 0)):
        said = running.warnings_of(result.cell(cell))
        assert said.count("EditWarning") == 1
        assert f"replaces the whole state after `transformer.h.{layer}`" in said


def test_notebook_3_shows_when_the_action_moves_on(ran: Ran, demo: Plain) -> None:
    result = ran("03_sharing_activations")
    to_cat, to_dog = numbers(result.text("compare"))
    assert to_cat < 1e-3
    assert to_dog > 1
    states, _ = demo.run("The cat sat on the mat")
    words = [demo.tokenizer.encode(word)[0] for word in (" mat", " park")]

    def chance(layer: int) -> torch.Tensor:
        def patch(state: torch.Tensor) -> torch.Tensor:
            state = state.clone()
            state[:, 2:4] = states[layer][:, 2:4]
            return state

        return demo.run("The dog ran through the park", edit=(layer, patch))[1][0, 4].softmax(dim=-1)[words]

    chances = torch.tensor(result.values)
    torch.testing.assert_close(
        chances, torch.stack([chance(layer) for layer in range(12)]), atol=1e-3, rtol=0
    )
    assert chances[:4, 0].min() > 0.97
    assert chances[4].max() < 0.35
    assert chances[5:, 0].max() < 0.02
    assert 0.55 < chances[5, 1] < 0.65
    assert chances[10, 1] < 0.85 < 0.95 < chances[11, 1]
    assert "replaces the whole state" in running.warnings_of(result.cell("tutorial-trace"))
    assert result.solutions[0].count("True") == 2


def test_notebook_4_takes_the_journey(ran: Ran, demo: Plain) -> None:
    result = ran("04_remote_execution")
    size = len(demo.tokenizer)
    assert (
        result.text("tutorial-shapes")
        == f"Hidden shape: torch.Size([1, 5, 32])\nLogits shape: torch.Size([1, 5, {size}])\n"
    )
    assert result.text("same") == "the same, bit for bit: True\n"
    kept, forgotten = result.text("saved").splitlines()
    assert kept == "kept: (1, 5, 32)"
    assert "Write `forgotten = ....save()`" in forgotten
    assert re.fullmatch(r"Similarity: -?[01]\.\d{3}\n", result.text("tutorial-compare"))
    parcel = result.text("parcel")
    assert "hidden = model.model.layers[40].output[0].save()" in parcel
    # (1, 5, 32) and (1, 5, size) numbers of four bytes
    assert f"answer:  {4 * 5 * (32 + size):,} bytes" in parcel
    assert "`notes`" in result.solutions[0]


def test_notebook_5_turns_the_mood_and_writes_on(ran: Ran, demo: Plain) -> None:
    result = ran("05_steering")
    love, hate = (
        demo.run(text)[0][6]
        for text in ("I love this movie, it's wonderful", "I hate this movie, it's terrible")
    )
    vector = love.mean(dim=1) - hate.mean(dim=1)
    ids = [[demo.tokenizer.encode(f" {word}")[0] for word in words] for words in (GOOD, BAD)]

    def moods(strength: float) -> list[float]:
        _, logits = demo.run("This restaurant is", edit=(6, lambda state: state + strength * vector))
        return [logits[0, -1].softmax(dim=-1)[words].sum().item() for words in ids]

    steered, pushed, texts = result.values
    assert torch.tensor(steered).flatten().tolist() == pytest.approx(
        [number for strength in range(-6, 7) for number in moods(strength)], abs=1e-3
    )
    assert torch.tensor(pushed).shape == (10, 13, 2)
    # What the text says: left alone it is bad, the curves cross, and pushed too far both fall.
    said = re.fullmatch(r"Normal:  (\w+)\nSteered \(positive\):  (\w+)\n", result.text("tutorial-compare"))
    assert said is not None
    assert said[1] in BAD
    assert said[2] in GOOD
    on_good, on_bad = torch.tensor(steered).T  # one number for each strength from -6 to 6
    assert on_good[6] < 0.4 < 0.6 < on_bad[6]
    assert on_good[7] < on_bad[7]
    assert on_good[8] > on_bad[8]
    assert on_bad[9] < 0.35 < 0.65 < on_good[9]
    assert on_good[3] < 0.2 < 0.8 < on_bad[3]
    assert on_good.argmax() == 10
    assert (on_bad.diff() < 0).all()
    assert on_good[12] + on_bad[12] < 0.4
    random = torch.tensor(pushed)[:, :, 0]  # (direction, strength)
    assert 0.28 < random[:, 9].min() < random[:, 9].max() < 0.45 < on_good[9] - 0.2
    assert random[:, [0, 12]].min() < 0.21 < 0.57 < random[:, [0, 12]].max()
    push, *stream = numbers(result.text("size"))
    assert 0.4 < push / stream[-1] < 0.6
    words = [re.match(r"This restaurant is (\w+)", text)[1] for text in texts]
    assert words[0] in BAD
    assert words[1] in BAD
    assert words[2] in GOOD
    assert texts[0].endswith(" and I hate it.<|endoftext|>")
    assert texts[2].endswith("<|endoftext|>")


def test_notebook_6_decodes_every_layer_and_ends_with_the_widget(ran: Ran, demo: Plain) -> None:
    result = ran("06_logit_lens")
    prompt = "The quick brown fox jumps over the lazy"
    states, logits = demo.run(prompt)
    lines = result.text("tutorial-lens").splitlines()
    assert len(lines) == 13
    word, prob = demo.top(logits[0, -1], 1)[0].rsplit(": ", 1)
    assert lines[-1] == f"Layer 11: {word} ({prob})"
    assert numbers(result.text("check"))[0] < 1e-3
    once, twice = numbers(result.text("double"))
    assert once < 1e-3 < 0.5 < twice
    for name in (result.cell("widget"), running.read("06_logit_lens").cells[-2]):
        data = name.outputs[-1].data
        assert base64.b64decode(data["image/png"]).startswith(PNG)
        assert data["text/plain"].startswith(f"Lens of {prompt!r} through nbsight/demo")
    assert running.LIVE_WIDGET in result.cell("widget").outputs[-1].data
    # The answers of the picture: nothing up to layer 4, then all three come about at nearly the same time.
    names = "When Mary and John went to the store, John gave a drink to"
    for text, first in ((prompt, 8), ("The capital of France is", 8), (names, 7)):
        states, logits = demo.run(text)
        answer = logits[0, -1].argmax()
        decoded = [demo.model.lm_head(demo.model.transformer.ln_f(state))[0, -1] for state in states]
        chances = [layer.softmax(dim=-1)[answer].item() for layer in decoded]
        assert max(chances[:5]) < 0.01
        assert next(layer for layer, chance in enumerate(chances) if chance > 0.5) == first
        assert chances[11] > 0.95
    said = [re.match(r"Layer \d+: '(.*)'", line)[1] for line in lines[1:]]
    assert said[:7] == [" lazy", " hoot", " quack", " jump", " jump", " table", " dog"]
    assert set(said[6:]) == {" dog"}
    found = numbers("\n".join(lines[1:]))
    assert found[6] < 0.1
    assert found[6:] == sorted(found[6:])
    # ... and the state after layer 4 has made its choice all the same.
    donors, logits = demo.run("The capital of Italy is")

    def at_the_end(state: torch.Tensor) -> torch.Tensor:
        return torch.cat([state[:, :-1], donors[4][:, -1:]], dim=1)

    moved = demo.run("The capital of France is", edit=(4, at_the_end))[1][0, -1]
    assert moved.argmax() == logits[0, -1].argmax()


def test_notebook_7_holds_runs_open_and_edits_them(ran: Ran, demo: Plain) -> None:
    result = ran("07_paused_run")
    france, japan = "The capital of France is", "The capital of Japan is"
    paris, tokyo = (demo.tokenizer.encode(word)[0] for word in (" Paris", " Tokyo"))
    states, alone = demo.run(france)
    donors, _ = demo.run(japan)

    def stopped(state: torch.Tensor) -> torch.Tensor:
        return demo.model.lm_head(demo.model.transformer.ln_f(state))[0, -1].softmax(dim=-1)

    def edited(layer: int, position: int = -1) -> tuple[list[torch.Tensor], torch.Tensor]:
        def patch(state: torch.Tensor) -> torch.Tensor:
            state = state.clone()
            state[:, position] = donors[layer][:, position]
            return state

        return demo.run(france, edit=(layer, patch))

    # The four cells: open and step, look, edit, finish.
    assert result.text("open").splitlines() == [
        "run of nbsight/demo, held open before its first module",
        "  [............] 0 of 12 blocks done",
        "  tokens: 'The' ' capital' ' of' ' France' ' is'",
        "run of nbsight/demo, held open at transformer.h.1.output",
        "  [##..........] block 2 of 12",
        "  value: float32 (batch 1, position 5, d_model 64)",
        "  tokens: 'The' ' capital' ' of' ' France' ' is'",
    ]
    for text, layer, state in (
        (result.text("look").splitlines()[0], 1, states[1]),
        (result.text("look").splitlines()[1], 10, states[10]),
        (result.text("edit").splitlines()[0].removeprefix("now: "), 10, edited(10)[0][10]),
    ):
        chance, word = stopped(state).max(dim=-1)
        assert text.startswith(f"transformer.h.{layer}: {demo.tokenizer.decode([int(word)])!r}  ")
        assert numbers(text)[-1] == pytest.approx(chance.item(), abs=0.006)
    assert "' Paris'" not in result.text("look").splitlines()[0]
    assert "' Paris'" in result.text("look").splitlines()[1]
    assert "' Tokyo'" in result.text("edit").splitlines()[0]
    assert result.text("edit").endswith("edited: transformer.h.10.output")
    lines = result.text("finish").splitlines()
    assert [re.search(r"' \w+'", line)[0] for line in lines] == ["' Paris'", "' Tokyo'", "' Tokyo'"]
    for line, logits in zip(lines, (alone, edited(10)[1], demo.run(japan)[1]), strict=True):
        best = logits[0, -1].softmax(dim=-1).topk(3).values
        assert numbers(line) == pytest.approx(best.tolist(), abs=0.0006)
    early, late, words = result.values
    assert words == "".join(
        demo.tokenizer.decode([int(word)]) for word in edited(10)[1][0, -1].topk(3).indices
    )
    # The picture, and what the text says of it.
    for layer, curves in ((2, early), (10, late)):
        wanted = [stopped(state)[[paris, tokyo]] for state in edited(layer)[0]]
        torch.testing.assert_close(torch.tensor(curves), torch.stack(wanted), atol=1e-3, rtol=0)
    assert early[-1][0] > 0.9
    assert max(chance for _, chance in early) < 0.05
    assert late[9][0] > 0.8
    assert max(late[10][0], late[11][0]) < 0.05 < 0.8 < min(late[10][1], late[11][1])
    # A block in slow motion: the modules whose calls end between two blocks, in that order.
    ended: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, path=path: ended.append(path))
        for path, module in demo.model.transformer.h[10].named_modules()
        if path
    ]
    demo.run(france)
    for handle in handles:
        handle.remove()
    slow = [line.split()[0] for line in result.text("slow").splitlines()]
    assert slow == [f"transformer.h.10.{path}" for path in ended]
    # What it does not do, and what is left of it.
    back = result.text("back")
    assert "this run has passed `transformer.h.2.output`" in back
    assert "`transformer.h.8.output` was asked for" in back
    assert back.endswith("It still stands at transformer.h.5\n")
    assert [line.split()[-1] for line in result.text("forget").splitlines()] == ["memory", "gone"]
    for layer, line in enumerate(result.solutions[0].splitlines()):
        wanted = []
        for position in (-1, 3):
            logits = edited(layer, position)[1][0, -1]
            wanted.append((logits[tokyo] - logits[paris]).item())
        assert numbers(line) == pytest.approx(wanted, abs=0.06)
    last, country = zip(*(numbers(line) for line in result.solutions[0].splitlines()), strict=True)
    assert max(last[:3]) < 0 < min(last[3:])
    assert max(country[3:]) < 0 < min(country[:3])


def test_notebook_8_finds_the_fact_and_the_way_it_takes(ran: Ran, demo: Plain) -> None:
    result = ran("08_patching")
    values, shares, means, parts, who, heads = (torch.tensor(table) for table in result.values)
    clean, corrupted = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
    paris, rome = (demo.tokenizer.encode(word)[0] for word in (" Paris", " Rome"))
    donors, _ = demo.run(clean)

    def by_hand(layer: int, position: int) -> float:
        def patch(state: torch.Tensor) -> torch.Tensor:
            state = state.clone()
            state[:, position] = donors[layer][:, position]
            return state

        logits = demo.run(corrupted, edit=(layer, patch))[1][0, -1]
        return float(logits[paris] - logits[rome])

    for layer, position in ((0, 1), (4, 1), (6, 7), (9, 7)):
        assert values[0, 0, layer, position].item() == pytest.approx(by_hand(layer, position), abs=1e-3)
    # What the text says: first the landmark, then the last position, in two goes; 1 in the corner, 0 before.
    share = shares[0, 0]
    assert share[:5].argmax(dim=1).tolist() == [1] * 5
    assert share[:, 2:7].abs().max() < 0.1
    assert share[4, 7] < 0.3 < 0.6 < share[5:10, 7].min()
    assert share[5:10, 1].min() > 0.4
    assert share[10:, 7].min() > 0.97
    assert share[10:, :7].abs().max() < 0.03
    assert share[-1, -1].item() == pytest.approx(1, abs=1e-3)
    assert share[:, 0].abs().max() < 1e-3
    # The lens agrees at layer 5, and would say nearly the same of the Colosseum up to layer 9.
    ratios = []
    for text in (clean, corrupted):
        decoded = [
            demo.model.lm_head(demo.model.transformer.ln_f(state))[0, -1] for state in demo.run(text)[0]
        ]
        ratios.append(torch.stack([logits[paris] - logits[rome] for logits in decoded]).exp())
    tower, arena = ratios
    assert tower[4] < 1 < 25 < tower[5] < 35
    assert 3.5 < arena[5] < 4.5
    assert (arena[5:10] > 1).all()
    assert (arena[10:] < 1).all()
    assert (tower[1:3] > 1).all()
    assert (arena[1:3] > 1).all()
    courses = result.cell("lens-courses").outputs
    assert any("image/png" in output.get("data", {}) for output in courses)
    # The parts: attention at the last position and one head for each go, MLPs at both ends.
    attention, mlp = parts
    assert attention[:, 7].argsort(descending=True)[:3].tolist() == [10, 5, 3]
    assert attention[:, :7].abs().max() < 0.05
    assert parts.max() < 0.4
    assert mlp[0].argmax() == 1
    assert mlp[0, 1] > 0.2
    assert mlp[:, 7].argsort(descending=True)[:2].tolist() == [10, 11]
    best = heads[:, 7].flatten().argsort(descending=True)[:2].tolist()
    assert [divmod(head, 4) for head in best] == [(10, 3), (5, 0)]
    enough, needed = zip(*(numbers(line) for line in result.text("noise").splitlines()), strict=True)
    assert needed[2] > 0.4 > 0.33 > enough[2] > 0.3
    assert enough[1] > needed[1] + 0.03
    # The relay: the name, then " a", then the last token; one head carries it over each of the two steps.
    assert [int(row.argmax()) for row in who] == [9] * 4 + [11] + [13] * 7
    assert who.max(dim=1).values.min() > 0.97
    lines = sorted(result.text("heads").splitlines()[:2])
    assert [line.rpartition(":")[0] for line in lines] == [
        "layer 3, head 1, at ' a'",
        "layer 4, head 0, at ' to'",
    ]
    assert all(numbers(line)[-1] > 0.95 for line in lines)
    # Many pairs: the country is fetched within two layers.
    assert means.shape[1] == 12
    assert means[0, 2, 4] < 0.05 < 0.95 < means[0, 4, 4]
    assert result.text("sure").count("differs from 0") == 3
    rest = [row.split()[-2] for row in result.solutions[0].replace("]", " ").splitlines()]
    assert all(abs(float(number)) <= 0.011 for number in rest)
    assert "most moved by head 0 of layer 4 at '·to'" in result.solutions[1]
    plain, silent = (numbers(line)[-1] for line in result.solutions[1].splitlines()[1:3])
    assert plain > 4
    assert silent < -4


@torch.no_grad()
def test_notebook_9_shows_every_view_and_says_what_is_in_it(ran: Ran, demo: Plain) -> None:
    result = ran("09_gallery")
    clean = "The capital of France is"
    states, _ = demo.run(clean)
    paris, rome = (demo.tokenizer(text)["input_ids"][0] for text in (" Paris", " Rome"))
    decoded = [demo.model.lm_head(demo.model.transformer.ln_f(state))[0, -1] for state in states]
    gaps = [float(layer[paris] - layer[rome]) for layer in decoded]
    shown, sizes, norms = result.values
    assert shown == pytest.approx(gaps, abs=1e-2)
    assert numbers(result.text("difference")) == pytest.approx(gaps, abs=0.06)
    assert min(gaps) > 2  # blue all the way up
    assert sizes == pytest.approx(norms, rel=1e-4)
    assert sizes == pytest.approx(states[8][0].norm(dim=-1).tolist(), rel=1e-4)
    assert re.search(r"layer 8, position 4: '·Washington' .*'·Paris'", result.text("parts"))
    assert result.text("jobs") == "[('patching', 'done', 60)]"
    assert result.text("copies").startswith("False layer,position")
    live = [
        cell.id
        for cell in result.notebook.cells
        for output in cell.get("outputs", [])
        if running.LIVE_WIDGET in output.get("data", {})
    ]
    assert live == ["lens", "contrast", "norms", "inspector", "patching", "stepper"]
    prompt = "The capital of Italy is"
    italy = demo.run(prompt)[0]
    france, other = (demo.tokenizer(text)["input_ids"][0] for text in (" France", " Italy"))
    apart = [
        abs(float(layer[france] - layer[other]))
        for layer in (demo.model.lm_head(demo.model.transformer.ln_f(state))[0, -1] for state in italy)
    ]
    assert int(result.solutions[0]) == apart.index(max(apart))


def test_notebook_10_says_what_hooks_say_and_how_far_each_word_was_moved(ran: Ran, demo: Plain) -> None:
    result = ran("10_steering_and_generation")
    probs, apart, unsteered, moved, steered, controls = result.values
    love, hate = (
        demo.run(text)[0][6]
        for text in ("I love this movie, it's wonderful", "I hate this movie, it's terrible")
    )
    push = 4 * (love.mean(dim=1) - hate.mean(dim=1))
    start = len(demo.tokenizer("This restaurant is")["input_ids"])

    def both(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities after each position of a text, pushed and plain."""
        found = [demo.run(text, edit=(6, lambda state: state + push)), demo.run(text)]
        return found[0][1][0].log_softmax(-1), found[1][1][0].log_softmax(-1)

    # The plain text, and the one that the push writes.
    _, plain = both("This restaurant is bad.")
    ids = demo.tokenizer("This restaurant is bad.<|endoftext|>")["input_ids"]
    own = plain[start - 1 :].gather(1, torch.tensor(ids[start:])[:, None]).exp().flatten()
    assert probs == pytest.approx(own.tolist(), abs=1e-4)
    text = "This restaurant is excellent and I like it."
    pushed, plain = both(text)
    ids = demo.tokenizer(text + "<|endoftext|>")["input_ids"]
    wanted = (pushed.exp() * (pushed - plain)).sum(-1)[start - 1 :]
    assert apart == pytest.approx(wanted.tolist(), abs=1e-3)
    chosen = plain[start - 1 :].gather(1, torch.tensor(ids[start:])[:, None]).exp().flatten()
    assert unsteered == pytest.approx(chosen.tolist(), abs=1e-3)
    pushed, plain = both("This restaurant is good and I like it.")
    assert moved == pytest.approx((plain.exp() * (plain - pushed)).sum(-1).tolist(), abs=1e-3)
    # What the text says.
    assert 0.20 < probs[0] < 0.23
    assert 14 < numbers(result.text("numbers"))[1] < 16
    assert result.text("stream") == " bad.<|endoftext|>\n3 tokens, unfinished\n"
    assert sorted(range(len(apart)), key=apart.__getitem__)[-2:] == [0, 2]
    assert unsteered[0] < 0.04
    assert sorted(range(len(moved)), key=moved.__getitem__)[-2:] == [2, 4]
    assert max(value for at, value in enumerate(moved) if at not in (2, 4)) < 0.2
    assert max(steered[:5]) < 2.8 < 100 < steered[5]
    assert steered[7] < steered[6] < steered[5]
    assert all(max(control[:5]) < 2.8 for control in controls)
    assert sum(max(control) > 20 for control in controls) == 4
    texts = re.findall(r"^[+-]\d  ' (\w+)", result.text("steer"), re.MULTILINE)
    assert [word in GOOD for word in texts] == [False, False, True, True]
    assert result.solutions[0].splitlines()[1:3] == ["on:   excellent and I like it.", "off:  bad."]
    assert result.solutions[0].splitlines()[-1] == "[]"
    shown = [output for output in result.cell("live").outputs if "text/html" in output.get("data", {})]
    assert "after &#x27;This movie is&#x27;" in shown[-1].data["text/html"]
