"""The kernel's end of the sidebar: a message in, a message out, and the values checked beside it."""

from __future__ import annotations

import gc
import json
import time
import weakref

import pytest
import torch

import nbsight
from nbsight.core import alive
from nbsight.core.jobs import Job
from nbsight.notebook import names
from nbsight.notebook.session import PROTOCOL
from nbsight.notebook.shapes import shapes_of
from tests.notebook.conftest import Comm

PROMPT = "The capital of France is"
TRACE = f"""\
with model.trace({PROMPT!r}):
    hidden = model.transformer.h[3].output[0].save()
    kept = {{"logits": model.lm_head.output.save()}}
"""


@pytest.fixture(scope="module")
def loaded():
    return nbsight.LanguageModel("nbsight/demo", dispatch=True)


@pytest.fixture
def model(notebook, loaded):
    notebook.user_ns["model"] = loaded
    loaded.clear_edits()
    alive.models.add(loaded)
    yield loaded
    loaded.clear_edits()


def run(notebook, code):
    result = notebook.run_cell(code, store_history=True)
    result.raise_error()


def section(notebook, name):
    return notebook.comm.get()["state"][name]


def test_the_kernel_opens_with_everything_and_says_its_version(notebook):
    opened = notebook.comm.opened
    assert opened["op"] == "state"
    assert opened["protocol"] == PROTOCOL
    assert set(opened["state"]) == {"models", "saved", "edits", "runs", "jobs", "memory"}
    json.dumps(opened)


def test_a_model_is_a_card_with_what_torch_says_of_it(notebook, model):
    run(notebook, "pass")
    changed = notebook.comm.sent[-1]
    assert changed["op"] == "changed"
    (card,) = changed["sections"]["models"]
    plain = model._module
    assert card["expression"] == "model"
    assert card["label"] == "nbsight/demo"
    assert card["parameters"] == sum(one.numel() for one in plain.parameters())
    assert card["dtype"] == "float32"
    assert card["devices"] == ["cpu"]
    assert card["sizes"]["n_layers"] == len(plain.transformer.h)


def test_a_card_says_what_the_check_of_the_names_found(notebook):
    checked = notebook.user_ns["checked"] = nbsight.LanguageModel("nbsight/demo", dispatch=True)
    run(notebook, "pass")
    (card,) = [card for card in section(notebook, "models") if card["expression"] == "checked"]
    assert card["verified"] is None
    nbsight.verify(checked)
    run(notebook, "pass")
    (card,) = [card for card in section(notebook, "models") if card["expression"] == "checked"]
    assert card["verified"] == {"ok": True, "text": nbsight.verify(checked).summary}
    json.dumps(card)


def test_numbers_of_messages_have_no_gap(notebook, model):
    for value in range(3):
        run(
            notebook,
            f"x = model.trace; y{value} = torch" if value else "import torch\nbig = torch.zeros(9000)",
        )
        notebook.comm.get()
    numbered = [message["seq"] for message in notebook.comm.sent if "seq" in message]
    assert numbered == list(range(1, len(numbered) + 1))


def test_a_saved_value_is_listed_with_its_name_and_its_cell(notebook, model):
    run(notebook, TRACE)
    rows = {row["name"]: row for row in section(notebook, "saved")}
    row = rows["hidden"]
    value = notebook.user_ns["hidden"]
    assert row["shape"] == list(value.shape)
    assert row["bytes"] == value.numel() * 4
    assert row["path"] == "transformer.h.3.output"
    assert row["line"] == 2
    assert row["cell"] == notebook.execution_count - 1
    assert row["where"] == f"In [{row['cell']}], line 2"
    assert "kept['logits']" in rows
    assert all(row["freeable"] for row in rows.values())


def test_a_value_is_freed_and_its_memory_goes(notebook, model):
    run(notebook, TRACE + "hidden")
    before = {row["name"]: row["id"] for row in section(notebook, "saved")}
    watched = weakref.ref(notebook.user_ns["hidden"])
    reply = notebook.comm.ask("free", value=before["hidden"])
    assert reply["ok"], reply
    assert "Deleted `hidden`" in reply["result"]
    gc.collect()
    assert "hidden" not in notebook.user_ns
    assert watched() is None
    assert [row["name"] for row in section(notebook, "saved")] == ["kept['logits']"]
    item = notebook.comm.ask("free", value=before["kept['logits']"])
    assert "kept['logits']" in item["result"]
    assert notebook.user_ns["kept"] == {}


def test_a_value_inside_a_list_is_not_freed_alone(notebook, model):
    run(
        notebook,
        f"with model.trace({PROMPT!r}):\n    both = [h.output.save() for h in model.transformer.h[:2]]",
    )
    rows = section(notebook, "saved")
    assert {row["name"] for row in rows} == {"both[0]", "both[1]"}
    assert not any(row["freeable"] for row in rows)
    reply = notebook.comm.ask("free", value=rows[0]["id"])
    assert not reply["ok"]
    assert "part of something larger" in reply["error"]
    assert len(notebook.user_ns["both"]) == 2
    assert notebook.comm.ask("free", name="both")["ok"]
    assert "both" not in notebook.user_ns


def test_names_of_the_system_are_not_freed(notebook):
    for name in ("In", "Out", "__name__", "no_such_name", "get_ipython"):
        assert not notebook.comm.ask("free", name=name)["ok"]
    assert "Out" in notebook.user_ns


def test_the_tree_is_the_models_own(notebook, model):
    card = section(notebook, "models")[0]
    rows = notebook.comm.ask("children", model=card["id"], path="transformer.h.0")["result"]["rows"]
    block = model._module.transformer.h[0]
    assert [row["name"] for row in rows] == [name for name, _ in block.named_children()]
    attention = next(row for row in rows if row["name"] == "attn")
    assert attention["expression"] == "model.transformer.h[0].attn"
    assert attention["parameters"] == sum(one.numel() for one in block.attn.parameters())
    assert attention["children"] == len(list(block.attn.children()))
    assert attention["meaning"] == "what the attention of block 0 adds to the stream"


def test_shapes_in_the_tree_are_those_of_a_run(notebook, model):
    card = section(notebook, "models")[0]
    deadline = time.monotonic() + 30
    while True:
        found = notebook.comm.ask("children", model=card["id"], path="transformer.h.0")["result"]
        if not found["pending"] or time.monotonic() > deadline:
            break
    shapes = {row["name"]: row["shape"] for row in found["rows"]}
    with model.trace(PROMPT):
        attention = model.transformer.h[0].attn.output[0].shape
    assert shapes["attn"] == f"float32 (batch, position, d_model {attention[-1]})"


def test_the_scan_for_shapes_runs_none_of_the_users_code(notebook, loaded):
    own = nbsight.LanguageModel("nbsight/demo")
    calls = []
    with own.edit(inplace=True):
        calls.append(1)
    found = shapes_of(own, 60)
    assert found.outputs["transformer.h.0"] == "float32 (batch, position, d_model 64)"
    assert calls == []
    assert not own.dispatched
    assert [model for model in alive.models if model._family is own] == [own]
    del own


def test_modules_are_found_by_words(notebook, model):
    card = section(notebook, "models")[0]
    found = notebook.comm.ask("find", model=card["id"], text="h[3] c_fc")["result"]
    assert [row["path"] for row in found["rows"]] == ["transformer.h.3.mlp.c_fc"]
    every = notebook.comm.ask("find", model=card["id"], text="layernorm")["result"]
    oracle = [
        path for path, module in model._module.named_modules() if isinstance(module, torch.nn.LayerNorm)
    ]
    assert [row["path"] for row in every["rows"]] == oracle


def test_an_edit_is_switched_off_and_acts_no_more(notebook, model):
    run(notebook, "with model.edit(inplace=True):\n    model.transformer.h[0].output[0][:] = 0")
    (row,) = section(notebook, "edits")
    assert row["enabled"]
    assert row["models"] == ["model"]
    assert row["cell"] == notebook.execution_count - 1
    inputs = model.tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        plain = model._module(**inputs).logits
    edited = model.trace(PROMPT, trace=False).logits
    assert not torch.equal(edited, plain)
    assert notebook.comm.ask("toggle-edit", edit=row["id"], enabled=False)["ok"]
    assert torch.equal(model.trace(PROMPT, trace=False).logits, plain)
    (off,) = section(notebook, "edits")
    assert off["id"] == row["id"]
    assert not off["enabled"]
    assert notebook.comm.ask("toggle-edit", edit=row["id"], enabled=True)["ok"]
    assert torch.equal(model.trace(PROMPT, trace=False).logits, edited)
    assert notebook.comm.ask("remove-edit", edit=row["id"])["ok"]
    assert model.edits == []
    assert section(notebook, "edits") == []


def test_an_open_run_is_listed_and_can_be_closed(notebook, model):
    run(notebook, f"run = model.start({PROMPT!r})\nrun.step(); run.step()")
    (row,) = section(notebook, "runs")
    assert row["name"] == "run"
    assert row["place"] == "transformer.h.1.output"
    assert (row["done"], row["total"]) == (2, len(model._module.transformer.h))
    assert notebook.comm.ask("close-run", run=row["id"])["ok"]
    assert not notebook.user_ns["run"].is_open
    assert section(notebook, "runs") == []


def test_memory_says_who_holds_what_by_storage(notebook, model):
    run(notebook, "import torch\nwhole = torch.zeros(1000, 100)\npart = whole[:10]\nwhole * 1")
    holders = {row["label"]: row["bytes"] for row in section(notebook, "memory")["holders"]}
    tensors = [*model._module.parameters(), *model._module.buffers()]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    assert holders["model"] == sum(storages.values())
    assert holders["whole"] == 400_000
    assert "part" not in holders  # it looks at the same numbers
    assert holders[f"Out[{notebook.execution_count - 1}]"] == 400_000
    assert notebook.comm.ask("free", kind="output", name=str(notebook.execution_count - 1))["ok"]
    labels = [row["label"] for row in section(notebook, "memory")["holders"]]
    assert not any(label.startswith("Out") for label in labels)


def test_being_listed_keeps_nothing(notebook):
    notebook.user_ns["own"] = own = nbsight.wrap(torch.nn.Linear(300, 300))
    with own.trace(torch.zeros(1, 300)):
        notebook.user_ns["value"] = own.output.save()
    section(notebook, "saved")
    notebook.comm.ask("children", model=section(notebook, "models")[0]["id"], path="")
    watched = [weakref.ref(own), weakref.ref(notebook.user_ns["value"])]
    del own
    del notebook.user_ns["own"], notebook.user_ns["value"]
    gc.collect()
    assert [reference() for reference in watched] == [None, None]
    assert section(notebook, "models") == []


def test_what_is_gone_is_said(notebook, model):
    run(notebook, TRACE)
    key = section(notebook, "saved")[0]["id"]
    run(notebook, "del hidden, kept")
    gc.collect()
    assert "gone" in notebook.comm.ask("open", value=key)["error"]
    assert "gone" in notebook.comm.ask("children", model="model-999", path="")["error"]
    assert "does not know 'run-code'" in notebook.comm.ask("run-code", code="1")["error"]


def test_nothing_that_a_page_sends_is_run(notebook, model):
    key = section(notebook, "models")[0]["id"]
    hostile = "__import__('os').system('true')"
    for request in (
        {"op": "children", "model": key, "path": hostile},
        {"op": "free", "name": hostile},
        {"op": "open", "model": key, "path": hostile},
        {"op": "children", "model": key, "path": ["a"]},
        {"op": "find", "model": {}, "text": "a"},
    ):
        assert not notebook.comm.ask(**request)["ok"]


def test_jobs_are_told_of_as_they_go_and_can_be_stopped(notebook):
    job = Job("sweep", total=5)
    job.start()
    for _ in range(3):
        job.advance()
    states = [message["job"] for message in notebook.comm.sent if message["op"] == "job"]
    assert states[0]["state"] == "queued"
    # three steps at once are not three messages
    assert len(states) < 4
    time.sleep(0.3)
    assert [message["job"]["done"] for message in notebook.comm.sent if message["op"] == "job"][-1] == 3
    assert notebook.comm.ask("cancel-job", job=job.id)["ok"]
    with pytest.raises(KeyboardInterrupt):
        job.check()
    job.stopped()
    assert notebook.comm.sent[-1]["job"]["state"] == "stopped"


def test_a_sweep_is_a_job_and_stopping_it_keeps_what_is_there(notebook, model):
    from nbsight.core import jobs

    def stop(job):
        if job.done >= 3:
            job.cancel()

    jobs.listeners.append(stop)
    try:
        with pytest.warns(nbsight.NbsightWarning, match="stopped after"):
            result = nbsight.activation_patching(
                model, PROMPT, "The capital of Italy is", answers=(" Paris", " Rome"), batch=3
            )
    finally:
        jobs.listeners.remove(stop)
    sent = [message["job"] for message in notebook.comm.sent if message["op"] == "job"]
    assert sent[-1]["state"] == "stopped"
    assert sent[-1]["model"] == "nbsight/demo"
    assert sent[-1]["total"] == 60
    known = int((~torch.isnan(torch.tensor(result.values))).sum())
    assert 0 < known < 60
    assert known == sent[-1]["done"]


def test_a_page_that_asks_before_anything_is_there_gets_an_answer(notebook):
    state = notebook.comm.get()["state"]
    assert state["models"] == []
    assert state["saved"] == []


def test_unloading_says_goodbye_and_closes(notebook, model):
    comm = notebook.comm
    notebook.run_line_magic(
        "unload_ext", "nbsight"
    ) if "nbsight" in notebook.extension_manager.loaded else None
    from nbsight.notebook.extension import unload_ipython_extension

    unload_ipython_extension(notebook)
    assert comm.sent[-1]["op"] == "bye"
    assert comm.is_closed
    before = len(comm.sent)
    Job("later").finish()
    run(notebook, TRACE)
    assert len(comm.sent) == before


def test_a_terminal_has_no_comm(plain, monkeypatch):
    monkeypatch.setattr("comm.create_comm", lambda **kwargs: pytest.fail("a terminal opened a comm"))
    from nbsight.notebook.extension import load_ipython_extension

    load_ipython_extension(plain)
    assert isinstance(Comm(), Comm)


def test_the_messages_that_the_page_is_tested_with_are_what_is_sent():
    from tests.notebook.shared_sidebar import FIXTURE, as_json

    assert FIXTURE.read_text(encoding="utf-8") == as_json()


def test_large_namespaces_are_looked_at_in_bounded_steps(notebook, model):
    for index in range(40):
        notebook.user_ns[f"numbers_{index}"] = list(range(50_000))
    notebook.user_ns["deep"] = deep = []
    for _ in range(50):
        deep.append([])
        deep = deep[0]
    notebook.user_ns["deep"].append(notebook.user_ns["deep"])  # holds itself
    notebook.user_ns["many"] = [[torch.zeros(1)] * 3 for _ in range(20_000)]
    found = names.survey(notebook.user_ns)
    assert "model" in found
    assert sum(map(len, found.values())) <= names.MOST
    assert len(found["many"]) <= names.MOST_OF_ONE
    run(notebook, TRACE)
    assert {"hidden", "kept['logits']"} <= {row["name"] for row in section(notebook, "saved")}


def test_looking_at_names_calls_nothing_of_the_users(notebook):
    class Loud:
        def __getattr__(self, name):
            raise AssertionError(f"{name} was read")

        def __iter__(self):
            raise AssertionError("it was looped over")

        def __eq__(self, other):
            raise AssertionError("it was compared")

        __hash__ = None

    notebook.user_ns["loud"] = [Loud(), {"a": Loud()}, (Loud(),)]
    assert names.survey(notebook.user_ns) == {}
