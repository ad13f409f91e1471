"""Whether a server can run a block, looked at before anything is sent."""

from __future__ import annotations

from typing import Any

from nbsight.core.backend import Job
from nbsight.errors import RemoteError
from nbsight.remote.client import Client
from nbsight.wire.api import ServerInfo
from nbsight.wire.jobs import fingerprint, tree_lines
from nbsight.wire.messages import PROTOCOL
from nbsight.wire.programs import why_no_program
from nbsight.wire.source import block_text, parse_text

__all__ = ["check_fits"]

#: Lines of a difference that are shown.
_SHOWN = 4


def check_fits(client: Client, info: ServerInfo, job: Job) -> None:
    """Raise if the server cannot run this job.

    Raises:
        RemoteError: it speaks another protocol, or has no such model.
    """
    if PROTOCOL not in info.protocols:
        raise RemoteError(
            f"the server at {client.url} (nbsight {info.nbsight}) reads messages of protocol "
            f"{', '.join(map(str, info.protocols))} and this nbsight writes {PROTOCOL}; install the same "
            "nbsight on both sides."
        )
    if info.tier == "program":
        _check_program(client, job)
    root = job.model
    loader = root.__dict__.get("_loader")
    if loader is None:
        raise RemoteError(
            "this model was made from a module of yours, and a server knows models by their names. Open it "
            "by "
            'name (`nbsight.LanguageModel("nbsight/demo")`), or save it to a folder that the server can read.'
        )
    if loader.given_config is not None:
        raise RemoteError(
            "this model was opened with a configuration of its own, which the server's does not have. "
            "Save it to a folder with that configuration and open it by the folder's name, on both sides."
        )
    name = str(root.__dict__.get("_name"))
    there = next((model for model in info.models if model.id == name), None)
    if there is None and not info.loads:
        known = ", ".join(f'"{model.id}"' for model in info.models) or "none"
        raise RemoteError(
            f'the server at {client.url} has no model "{name}"; it has {known}. Open one of those, or have '
            f"the server started with it: `nbsight serve {name}`."
        )
    if there is not None and there.tree and there.tree != fingerprint(root._module):
        raise RemoteError(_difference(client, info, name, root))


def _check_program(client: Client, job: Job) -> None:
    source, line = block_text(job.block, job.lines)
    why = why_no_program(parse_text(source, line), source, line)
    if why is not None:
        raise RemoteError(
            f"the server at {client.url} interprets blocks and does not execute them, and this one is not "
            f"of the kind that it takes: {why}"
        )


def _difference(client: Client, info: ServerInfo, name: str, root: Any) -> str:
    """How two module trees differ."""
    here, there = tree_lines(root._module), client.model(name).lines
    known_here, known_there = set(here), set(there)
    lines = [f'"{name}" has other modules on the server at {client.url} than here.']
    for side, own, other in (("here", here, known_there), ("there", there, known_here)):
        only = [line for line in own if line not in other]
        if only:
            more = f", and {len(only) - _SHOWN} more" if len(only) > _SHOWN else ""
            lines.append(f"  only {side}: {'; '.join(only[:_SHOWN])}{more}")
    lines.append(f"The server has transformers {info.transformers}; use the same on both sides.")
    return "\n".join(lines)
