"""Programs and messages as an attacker writes them, past every check of the client's."""

from __future__ import annotations

import json
from typing import Any

import torch

import nbsight
from nbsight.models.language_model import LanguageModel
from nbsight.server.programs.execute import answer_program
from nbsight.server.worker import _memory
from nbsight.wire.jobs import Parcel, pack_job
from nbsight.wire.messages import JobHeader, unpack
from nbsight.wire.results import decode_names

PROMPT = "The capital of France is"


class Keep:
    """A backend that keeps the parcel."""

    parcel: Parcel

    def run(self, job: Any) -> dict[str, Any]:
        self.parcel = pack_job(job)
        return {}


def a_parcel() -> Parcel:
    """A job that takes everything along that a program may have."""
    keep = Keep()
    model = LanguageModel("nbsight/demo")
    given = 3
    with model.trace(PROMPT, remote=keep) as tracer:
        x = given + torch.zeros(1).sum().item() + len(model.transformer.h) + nbsight.save([1])[0]
        nothing = tracer
    return keep.parcel


class Attacker:
    """Runs programs on a model in this process, as a worker would."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.parcel = a_parcel()

    def __call__(self, source: str, *, blob: bytes | None = None, **changes: Any) -> dict[str, Any]:
        """The names that a program binds; `changes` are merged into its header."""
        header = json.loads(self.parcel.header)
        names = sorted({name for name in ("x", "y", "z", "w", "out") if name in source})
        header["program"] |= {"source": source, "line": 1, "stores": names}
        header["withheld"] = {}
        for key, value in changes.items():
            header[key] = header[key] | value if isinstance(header.get(key), dict) else value
        head = unpack(json.dumps(header).encode(), JobHeader)
        with _memory(4 * 2**30):  # as in a worker
            answer = answer_program(head, self.parcel.blob if blob is None else blob, self.model)
        return decode_names(*answer)
