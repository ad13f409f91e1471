"""NDIF as its clients see it, in a process of its own: nnsight's deserialiser, a tiny model, real HTTP.

    python -m tests.remote.fake_ndif FOLDER HUB_NAME

prints its address. Besides NDIF's routes there is `POST /behave`, which tests use to make it misbehave:
`{"as_tuple": true}` makes blocks return tuples, as with the transformers of some NDIFs.
"""

from __future__ import annotations

import asyncio
import email
import io
import json
import sys
import threading
import time
import traceback
import uuid
from typing import Any

import torch
import uvicorn
import zstandard
from nnsight.modeling.transformers import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.tracing import tracer as tracing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

KEY = "ndif-key"


class Ndif:
    """The service.

    Args:
        folder: Its model.
        name: The model's name on the hub.
    """

    def __init__(self, folder: str, name: str) -> None:
        torch.set_num_threads(1)
        self.model = TransformersModel(folder, task="text-generation", dispatch=True)
        where = "nnsight.modeling.transformers.TransformersModel"
        identity = json.dumps({"repo_id": name, "revision": None, "task": "text-generation"})
        self.key = f"{where}:{identity}"
        self.jobs: dict[str, dict[str, Any]] = {}
        self.results: dict[str, bytes] = {}
        self.behaviour: dict[str, Any] = {}
        self.seen: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        inside = self.model._module.transformer
        for block in inside.h:
            block.register_forward_hook(self._wrapped)
        for module in (*inside.h, inside.ln_f):
            module.register_forward_pre_hook(self._unwrapped)

    def _wrapped(self, module: Any, inputs: Any, output: Any) -> Any:
        if self.behaviour.get("as_tuple") and isinstance(output, torch.Tensor):
            return (output,)
        return None

    def _unwrapped(self, module: Any, inputs: Any) -> Any:
        return (inputs[0][0], *inputs[1:]) if isinstance(inputs[0], tuple) else None

    def note(self, job: str, status: str, description: str = "", data: Any = None) -> None:
        self.jobs[job] = {"id": job, "status": status, "description": description, "data": data}
        time.sleep(self.behaviour.get("pause", 0.0))

    def run(self, job: str, blob: bytes, compress: bool, url: str) -> None:
        """One job, from its bytes to its result."""
        with self.lock:
            for status in self.behaviour.get("before", ["QUEUED", "DISPATCHED"]):
                self.note(job, status, "1 in front" if status == "QUEUED" else "")
            self.note(job, "RUNNING")
            try:
                objects = self.model._remoteable_persistent_objects()
                saved = self.executed(RequestModel.deserialize(blob, objects, compress))
            except Exception as error:
                self.note(job, "ERROR", "".join(traceback.format_exception(error)))
                return
            file = io.BytesIO()
            torch.save(saved, file)
            content = file.getvalue()
            self.results[job] = zstandard.ZstdCompressor().compress(content) if compress else content
            self.note(job, "COMPLETED", data=f"{url}/results/{job}")

    def executed(self, tracer: Any) -> dict[str, Any]:
        """What the block saved."""
        tracing.inc()
        try:
            code, frame = tracer.info.code, tracer.info.frame
            tracer.execute(code)
            marked = tracing._saves()
            return {name: value for name, value in frame.f_locals.items() if id(value) in marked}
        finally:
            tracing.dec()


def app(ndif: Ndif) -> Starlette:
    async def submit(request: Request) -> Response:
        if request.headers.get("ndif-api-key") != KEY:
            return JSONResponse({"detail": "invalid API key"}, status_code=401)
        kind = request.headers["content-type"].encode()
        parts = email.message_from_bytes(b"Content-Type: " + kind + b"\r\n\r\n" + await request.body())
        form = {part.get_param("name", header="content-disposition"): part for part in parts.get_payload()}
        envelope = json.loads(form["data"].get_payload(decode=True))
        blob = form["blob"].get_payload(decode=True)
        if envelope["model_key"] != ndif.key:
            return JSONResponse({"detail": f"no such model: {envelope['model_key']}"}, status_code=400)
        job = str(uuid.uuid4())
        ndif.seen.append({"envelope": envelope, "bytes": len(blob), "headers": dict(request.headers)})
        ndif.note(job, "RECEIVED", "Your job has been received")
        received = dict(ndif.jobs[job])
        url = str(request.base_url).rstrip("/")
        threading.Thread(target=ndif.run, args=(job, blob, envelope["compress"], url), daemon=True).start()
        return JSONResponse(received)

    async def response(request: Request) -> Response:
        job = request.path_params["job"]
        if request.headers.get("ndif-api-key") != KEY:
            return JSONResponse({"detail": "invalid API key"}, status_code=401)
        if job not in ndif.jobs:
            return JSONResponse({"detail": "no such job"}, status_code=404)
        return JSONResponse(ndif.jobs[job])

    async def result(request: Request) -> Response:
        # As a presigned address: it wants no key, and whoever sends one has given it away.
        if "ndif-api-key" in request.headers and ndif.behaviour.get("elsewhere"):
            return JSONResponse({"detail": "the key was sent along"}, status_code=400)
        content = ndif.results[request.path_params["job"]]
        wanted = request.headers.get("range")
        if wanted:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            return Response(content[start:], 206)
        return Response(content)

    async def status(request: Request) -> Response:
        entry = {"model_key": ndif.key, "deployment_level": "HOT", "application_state": "RUNNING"}
        return JSONResponse({"deployments": {"replica-1": entry}})

    async def behave(request: Request) -> Response:
        ndif.behaviour = await request.json()
        return JSONResponse({"seen": ndif.seen})

    async def subscribe(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json({"session_id": "s"})
        await asyncio.sleep(3600)

    return Starlette(
        routes=[
            Route("/request", submit, methods=["POST"]),
            Route("/response/{job}", response),
            Route("/results/{job}", result),
            Route("/status", status),
            Route("/behave", behave, methods=["POST"]),
            WebSocketRoute("/subscribe", subscribe),
        ]
    )


def main() -> None:
    import socket

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    ndif = Ndif(sys.argv[1], sys.argv[2])
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app(ndif), log_level="warning")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
