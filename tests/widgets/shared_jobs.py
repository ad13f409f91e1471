"""The jobs that Python's and TypeScript's tests both read: js/tests/fixtures/jobs.json is their payload.

After a change of the payload write the file again: python -m tests.widgets.shared_jobs
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nbsight.core import jobs
from nbsight.core.jobs import Job
from nbsight.widgets.jobs import JobsWidget

FIXTURE = Path(__file__).parents[2] / "js" / "tests" / "fixtures" / "jobs.json"


class Found:
    """What comes of a job."""


def shared_jobs() -> tuple[JobsWidget, list[Any]]:
    """A sweep under way, one done, one that failed, one that was stopped, and a remote job that waits."""
    jobs._jobs.clear()
    failed = Job("ablation", total=12, model="nbsight/demo")
    failed.start()
    failed.advance(5)
    failed.fail(ValueError("the metric gave <b>nan</b> for the run changed at layer 3"))
    stopped = Job("patching", total=72, model="nbsight/demo")
    stopped.start()
    stopped.advance(24)
    stopped.stopped()
    kept = Found()
    done = Job("patching", total=72, model="nbsight/demo")
    done.start()
    done.advance(to=72)
    done.finish(kept)
    remote = Job("trace 3f97aa01", kind="remote", model="meta-llama/Llama-3.1-70B", is_detached=True)
    remote.code = 'from nbsight.remote import jobs\n\nresult = jobs["3f97aa01"].result()'
    remote.wait(place=3, eta=40.0, note="waits for a worker")
    running = Job("patching", total=72, model="nbsight/demo")
    running.start()
    running.advance(to=24)
    for line in ("loading", "layer 0 of 12", "<script>alert(1)</script>", "layer 1 of 12"):
        running.say(line)
    return JobsWidget(), [kept]


def content() -> dict[str, Any]:
    """The payload, with what is different in every run replaced."""
    widget, _ = shared_jobs()
    header = json.loads(json.dumps(widget.header))
    header["at"] = 1_700_000_000.0
    for row in header["jobs"]:
        row.update(began=1_700_000_000.0, seconds=3.0)
        if row["state"] == "running":
            row.update(rate=8.0, left=6.0)
    widget.close()
    jobs._jobs.clear()
    return {"header": header, "data": ""}


def as_json() -> str:
    numbers: dict[str, str] = {}

    def renumbered(found: re.Match[str]) -> str:
        return numbers.setdefault(found[0], f"job-{len(numbers) + 1}")

    return re.sub(r"job-\d+", renumbered, json.dumps(content(), indent=1, ensure_ascii=False)) + "\n"


if __name__ == "__main__":
    FIXTURE.write_text(as_json(), encoding="utf-8")
