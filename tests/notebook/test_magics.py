"""Magics, receipts and folded errors, in a shell without a kernel."""

from __future__ import annotations

import pytest
import torch
from IPython.core.completer import provisionalcompleter

import nbsight
from nbsight.core import alive, capture, in_cell, jobs
from nbsight.errors import NbsightError
from nbsight.notebook import extension
from nbsight.notebook.folding import COLOURS
from nbsight.notebook.shapes import shapes_of
from nbsight.notebook.trace_cell import indented
from nbsight.notebook.words import arguments, split

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def loaded():
    return nbsight.LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture
def shell(plain, loaded):
    extension.load_ipython_extension(plain)
    plain.user_ns.update(model=loaded, torch=torch)
    alive.models.add(loaded)
    return plain


def run(shell, code):
    result = shell.run_cell(code, store_history=True)
    result.raise_error()
    return result.result


def plain_text(capsys):
    return COLOURS.sub("", capsys.readouterr().out)


def plain_logits(model, prompt=PROMPT):
    with torch.no_grad():
        return model._model(**model.tokenizer(prompt, return_tensors="pt")).logits


# -- %%trace -----------------------------------------------------------------------------------


def test_a_traced_cell_gives_what_a_hook_sees(shell, loaded):
    kept = []
    handle = loaded._model.transformer.h[3].register_forward_hook(lambda m, i, out: kept.append(out))
    plain_logits(loaded)
    handle.remove()
    oracle = kept[0] if isinstance(kept[0], torch.Tensor) else kept[0][0]
    value = run(shell, f'%%trace model "{PROMPT}"\nhidden = model.transformer.h[3].output[0]\nhidden')
    assert torch.equal(value, oracle)
    assert torch.equal(shell.user_ns["hidden"], oracle)
    assert "_nbsight_last" not in shell.user_ns


def test_a_traced_cell_takes_keywords_names_and_shell_syntax(shell, loaded):
    run(shell, f"text = {PROMPT!r}")
    run(shell, "%%trace model text, grad=True\nwhere = %pwd\nlogits = model.output.logits")
    assert torch.allclose(shell.user_ns["logits"], plain_logits(loaded), atol=1e-5)
    assert shell.user_ns["logits"].requires_grad
    assert isinstance(shell.user_ns["where"], str)


def test_strings_over_several_lines_stay_as_they_are(shell):
    text = run(shell, f'%%trace model "{PROMPT}"\ntext = """a\n  b\nc"""\nmodel.output.logits\ntext')
    assert text == "a\n  b\nc"


def test_invokes_are_found_in_a_traced_cell(shell, loaded):
    run(
        shell,
        "%%trace model\n"
        f"with tracer.invoke({PROMPT!r}):\n    first = model.output.logits.save()\n"
        "with tracer.invoke('The capital of Italy is'):\n    second = model.output.logits.save()\n",
    )
    assert torch.allclose(shell.user_ns["first"], plain_logits(loaded), atol=1e-4)
    assert torch.allclose(shell.user_ns["second"], plain_logits(loaded, "The capital of Italy is"), atol=1e-4)


def test_a_traced_cell_generates(shell, loaded):
    run(shell, f'%%trace --generate model "{PROMPT}", max_new_tokens=3\nids = tracer.result')
    oracle = loaded._model.generate(
        **loaded.tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=3, do_sample=False
    )
    assert torch.equal(shell.user_ns["ids"], oracle)


def test_a_traced_cell_without_a_model_says_how_it_is_written(shell):
    with pytest.raises(NbsightError, match="%%trace model"):
        run(shell, "%%trace\npass")


def test_an_error_in_a_traced_cell_names_its_line(shell, capsys):
    result = shell.run_cell(
        f'%%trace model "{PROMPT}"\nx = 1\nmodel.transformer.h[99].output', store_history=True
    )
    assert isinstance(result.error_in_exec, NbsightError)
    assert "model.transformer.h[99].output" in plain_text(capsys)


def test_a_cell_is_indented_where_a_program_is():
    text = 'a = """\nx\n"""\nif a:\n\n    b = f"""\n{a}\n"""\n'
    expected = '    a = """\nx\n"""\n    if a:\n\n        b = f"""\n{a}\n"""\n'
    # before Python 3.12 an f-string is one token, from then on several
    assert indented(text) == expected


# -- %lens, %patch, %saved, %jobs, %nbsight ----------------------------------------------------


def test_lens_and_patch_are_the_functions(shell, loaded):
    lens = run(shell, f'%lens model "{PROMPT}" top_k=3')
    oracle = nbsight.logit_lens(loaded, PROMPT, top_k=3)
    assert (lens.top_ids == oracle.top_ids).all()
    clean, corrupted = PROMPT, "The capital of Italy is"
    result = run(shell, f'%patch model "{clean}" "{corrupted}" answers=(" Paris", " Rome") layers=[0, 5]')
    expected = nbsight.activation_patching(
        loaded, clean, corrupted, answers=(" Paris", " Rome"), layers=[0, 5]
    )
    assert torch.equal(torch.tensor(result.values), torch.tensor(expected.values))


def test_too_few_arguments_say_how_it_is_written(shell):
    with pytest.raises(NbsightError, match=r'%lens model "The capital'):
        run(shell, "%lens model")


def test_a_line_is_split_where_a_reader_would():
    assert split('model, "a b" top_k=5') == ["model", '"a b"', "top_k=5"]
    assert split("m x=(1, 2) y=[a, b]") == ["m", "x=(1, 2)", "y=[a, b]"]
    assert split(r'm "say \"no\", now"') == ["m", r'"say \"no\", now"']
    assert split("m it'") == ["m", "it'"]


def test_a_part_that_is_no_expression_is_said():
    with pytest.raises(NbsightError, match=r"`a\+` is no expression"):
        arguments("a+", {}, "%lens model")

    assert arguments("(x == y)", {"x": 1, "y": 1}, "") == ([True], {})


def test_saved_values_are_listed_and_freed(shell, capsys):
    run(shell, f'%%trace model "{PROMPT}"\nhidden = model.transformer.h[3].output[0].save()')
    table = run(shell, "%saved")
    assert len(table) == 1
    assert "hidden  (1, 5, 64)  float32" in repr(table)
    assert "<td" in table._repr_html_()
    run(shell, "%saved free hidden")
    assert "hidden" not in shell.user_ns
    assert len(run(shell, "%saved")) in (0, 1)
    with pytest.raises(NbsightError, match="nothing was freed"):
        run(shell, "%saved free hidden")


def test_jobs_are_listed_stopped_and_read(shell, capsys):
    job = jobs.Job("a long one", total=4)
    job.start()
    job.say("half way")
    assert f"{job.id}" in repr(run(shell, "%jobs"))
    run(shell, f"%jobs log {job.id}")
    assert "half way" in capsys.readouterr().out
    run(shell, f"%jobs cancel {job.id}")
    assert job.is_cancelled
    job.stopped()
    with pytest.raises(NbsightError, match="there is no job"):
        run(shell, "%jobs cancel job-nothing")


def test_the_state_and_the_settings(shell, capsys):
    run(shell, "%nbsight")
    said = capsys.readouterr().out
    assert "model: nbsight/demo" in said
    assert "receipts on" in said
    run(shell, "%nbsight receipts off")
    run(shell, "%config NbsightMagics.fold_errors = False")
    run(shell, "%nbsight")
    said = capsys.readouterr().out
    assert "receipts off, folded errors off" in said
    assert not hasattr(NbsightError, "_render_traceback_")
    assert "model" in repr(run(shell, "%nbsight memory"))
    with pytest.raises(NbsightError, match="receipts on"):
        run(shell, "%nbsight everything")


# -- receipts ----------------------------------------------------------------------------------


def receipt(shell, capsys, code):
    capsys.readouterr()
    run(shell, code)
    return [line for line in capsys.readouterr().out.splitlines() if "forward" in line]


def test_a_cell_that_saves_says_so_in_one_line(shell, capsys):
    said = receipt(
        shell,
        capsys,
        f"with model.trace({PROMPT!r}):\n"
        "    states = [h.output[0].save() for h in model.transformer.h]\n"
        "    logits = model.output.logits.save()",
    )
    values = [*shell.user_ns["states"], shell.user_ns["logits"]]
    size = sum(value.numel() * 4 for value in values)
    assert said == [f"1 forward · 5 tokens · {len(values)} values · {size / 1000:.1f} kB"]


def test_a_cell_that_saves_nothing_says_nothing(shell, capsys):
    assert receipt(shell, capsys, f"with model.trace({PROMPT!r}):\n    x = model.output.logits.shape") == []


def test_a_loop_says_one_line_of_what_is_left(shell, capsys):
    said = receipt(
        shell,
        capsys,
        f"for _ in range(20):\n    with model.trace({PROMPT!r}):\n        kept = model.lm_head.output.save()",
    )
    assert len(said) == 1
    assert said[0].startswith("20 forwards · 20 prompts · 100 tokens · 1 value · ")


def test_a_cell_that_fails_has_no_receipt_of_the_failed_trace(shell, capsys):
    shell.run_cell(f"with model.trace({PROMPT!r}):\n    model.lm_head.output.save()\n    1 / 0")
    assert "forward ·" not in capsys.readouterr().out


def test_containers_and_several_prompts_are_counted(shell, capsys):
    said = receipt(
        shell,
        capsys,
        "import nbsight\nwith model.trace() as tracer:\n"
        f"    with tracer.invoke({PROMPT!r}):\n        a = nbsight.save([model.lm_head.output, 1])\n"
        "    with tracer.invoke('Rome is'):\n        b = model.lm_head.output.save()\n",
    )
    tokens = len(shell.user_ns["model"].to_tokens(PROMPT)[0]) + len(
        shell.user_ns["model"].to_tokens("Rome is")[0]
    )
    assert said[0].startswith(f"1 forward · 2 prompts · {tokens} tokens · 2 values")


def test_receipts_can_be_switched_off(shell, capsys):
    run(shell, "%nbsight receipts off")
    assert receipt(shell, capsys, f"with model.trace({PROMPT!r}):\n    k = model.lm_head.output.save()") == []


# -- hover and completion ------------------------------------------------------------------------


def test_a_module_says_its_shape_and_its_meaning(shell, loaded):
    shapes_of(loaded, 60)
    text = shell.object_inspect_mime("model.transformer.ln_f")["text/plain"]
    assert "float32 (batch, position, d_model 64)" in COLOURS.sub("", text)
    assert "the stream, normalised for the unembedding" in text
    of_output = COLOURS.sub("", shell.object_inspect_mime("model.lm_head.output")["text/plain"])
    assert "(batch, position, d_vocab 1824)" in of_output
    whole = COLOURS.sub("", shell.object_inspect_mime("model")["text/plain"])
    assert "Submodules: transformer, lm_head" in whole


def test_other_things_say_what_they_always_said(shell):
    shell.user_ns.update(number=3, split=split)
    assert "int" in shell.object_inspect_mime("number")["text/plain"]
    assert "Source" in COLOURS.sub("", shell.object_inspect_mime("split", detail_level=1)["text/plain"])


def test_completion_says_what_class_a_module_has(shell):
    with provisionalcompleter():
        found = list(shell.Completer.completions("model.transformer.", 18))
    kinds = {one.text: one.type for one in found}
    assert (kinds["wte"], kinds["ln_f"]) == ("Embedding", "LayerNorm")


# -- errors ------------------------------------------------------------------------------------

BROKEN = f"""with model.trace({PROMPT!r}):
    model.transformer.h[2].output = torch.zeros(1, 5, 63)
    x = model.output.logits"""


def test_an_error_is_shown_short_and_whole_on_request(shell, capsys):
    shell.run_cell(BROKEN, store_history=True)
    short = plain_text(capsys)
    assert "torch.zeros(1, 5, 63)" in short
    run(shell, "%nbsight errors off")
    shell.run_cell(BROKEN, store_history=True)
    whole = capsys.readouterr().out
    assert len(short.splitlines()) <= len(whole.splitlines())


def test_a_failure_inside_the_model_is_folded(shell, capsys):
    code = f"""with model.trace({PROMPT!r}):
    model.transformer.h[2].input = 'text'
    x = model.output.logits"""
    shell.run_cell(code, store_history=True)
    short = plain_text(capsys)
    assert "%nbsight traceback" in short
    run(shell, "%nbsight traceback")
    whole = capsys.readouterr().out
    assert len(whole.splitlines()) > len(short.splitlines())


def test_errors_of_others_are_shown_as_ever(shell, capsys):
    shell.run_cell("1 / 0")
    assert "ZeroDivisionError" in capsys.readouterr().out


# -- unloading ---------------------------------------------------------------------------------


def attached(shell):
    """Everything of a shell and of this process that the extension may touch."""
    formatter = shell.display_formatter
    return {
        "magics": {kind: dict(named) for kind, named in shell.magics_manager.magics.items()},
        "registry": set(shell.magics_manager.registry),
        "configurables": list(shell.configurables),
        "matchers": list(shell.Completer.custom_matchers),
        "events": {name: list(hooks) for name, hooks in shell.events.callbacks.items()},
        "finders": list(capture.finders),
        "ended": list(alive.ended),
        "jobs": list(jobs.listeners),
        "bars": list(in_cell.presenters),
        "bundles": (
            dict(formatter.mimebundle_formatter.deferred_printers),
            dict(formatter.mimebundle_formatter.type_printers),
        ),
        "png": dict(formatter.formatters["image/png"].deferred_printers),
        "hover": dict(shell.inspector.mime_hooks),
        "errors": "_render_traceback_" in NbsightError.__dict__,
    }


@pytest.mark.parametrize("kind", ["plain", "with a kernel"])
def test_unloading_undoes_everything(plain, loaded, monkeypatch, kind):
    from tests.notebook.conftest import Comm, Kernel

    if kind != "plain":
        monkeypatch.setattr("comm.create_comm", Comm)
        monkeypatch.setattr(plain, "kernel", Kernel(), raising=False)
    plain.user_ns["model"] = loaded
    plain.register_magic_function(lambda line: "mine", "line", "lens")
    before = attached(plain)
    extension.load_ipython_extension(plain)
    assert attached(plain) != before
    run(plain, f"with model.trace({PROMPT!r}):\n    k = model.lm_head.output.save()")
    plain.run_cell(BROKEN.replace("torch.zeros(1, 5, 63)", "3"))
    extension.unload_ipython_extension(plain)
    assert attached(plain) == before
    assert run(plain, "%lens") == "mine"
    del plain.user_ns["k"]


def test_two_shells_do_not_disturb_each_other(plain, shell):
    assert shell is plain
    from IPython.core.interactiveshell import InteractiveShell

    other = InteractiveShell()
    extension.load_ipython_extension(other)
    extension.unload_ipython_extension(other)
    assert "lens" in shell.magics_manager.magics["line"]
    assert shell.events.callbacks["post_run_cell"]
