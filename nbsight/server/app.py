"""The HTTP side of a server: routes, errors, who may ask for what."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from nbsight.server.access import owner_of, wrong_origin
from nbsight.server.dispatch import Dispatcher
from nbsight.server.engines.base import Engine
from nbsight.server.engines.local import LocalEngine
from nbsight.server.fairness import Rates
from nbsight.server.openapi import description
from nbsight.server.receiving import Refused, accept
from nbsight.server.settings import Settings
from nbsight.server.store import JobRow, Store
from nbsight.server.streaming import stream_events
from nbsight.wire.api import API, FINAL, ErrorRecord, ServerInfo
from nbsight.wire.messages import PROTOCOL
from nbsight.wire.versions import version_of

__all__ = ["Service", "make_app"]

log = logging.getLogger("nbsight.server")

Handler = Callable[["Service", Request, str], Awaitable[Response]]


class Service:
    """What the routes share."""

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        self.settings = settings
        self.store = store
        self.dispatcher = Dispatcher(store, settings, engine)
        self.rates = Rates(settings.limits.rate, settings.limits.burst)
        #: Set when the server is told to end, so that streams of events end too.
        self.closing = asyncio.Event()
        #: How many jobs of each owner are on their way, and a place for whose header is being read.
        self.arriving: Counter[str] = Counter()
        self.reading = asyncio.Semaphore(2)

    def info(self) -> ServerInfo:
        """What this server is."""
        torch = next((about["torch"] for about in self.dispatcher.about.values()), version_of("torch"))
        return ServerInfo(
            nbsight=version_of("nbsight"),
            python=platform.python_version(),
            torch=torch,
            transformers=version_of("transformers"),
            api=API,
            protocols=[PROTOCOL],
            tier=self.settings.tier,
            loads=self.settings.loads,
            limits=self.settings.limits,
            models=self.dispatcher.models(),
        )


def make_app(settings: Settings, store: Store, engine: Engine | None = None) -> Starlette:
    """The application; its lifespan runs the dispatcher.

    Args:
        settings: What the server was told.
        store: Its jobs.
        engine: Where its workers run, opened; processes of this machine by default.
    """
    engine = engine or LocalEngine(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service = app.state.service = Service(settings, store, engine)
        task = asyncio.create_task(service.dispatcher.run())
        task.add_done_callback(_complain)
        try:
            yield
        finally:
            service.closing.set()
            task.cancel()
            service.dispatcher.close()
            store.close()

    job = "/v1/jobs/{job}"
    model = "/v1/models/{model:path}"
    routes = [
        _route("/health", _health, "GET"),
        _route("/metrics", _metrics, "GET"),
        _route("/v1/openapi.json", _openapi, "GET"),
        _route("/v1/info", _info, "GET"),
        _route("/v1/whoami", _whoami, "GET"),
        _route("/v1/models", _models, "GET"),
        _route(model + "/load", _load, "POST"),
        _route(model, _model, "GET"),
        _route("/v1/jobs", _submit, "POST"),
        _route("/v1/jobs", _jobs, "GET"),
        _route(job, _job, "GET"),
        _route(job, _delete, "DELETE"),
        _route(job + "/events", _events, "GET"),
        _route(job + "/result", _result, "GET"),
        _route(job + "/cancel", _cancel, "POST"),
    ]
    # A proxy that leaves its path in front finds the same routes there.
    prefix = urlsplit(settings.public_url).path.rstrip("/")
    behind = [Mount(prefix, routes=routes)] if prefix else []
    return Starlette(routes=[*behind, *routes], lifespan=lifespan)


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        raise SystemExit(f"the dispatcher failed: {task.exception()!r}") from task.exception()


def _route(path: str, handler: Handler, method: str) -> Route:
    async def guarded(request: Request) -> Response:
        service: Service = request.app.state.service
        problem = wrong_origin(request.headers, service.settings.host, service.settings.public_url)
        if problem is not None:
            return refusal(403, ErrorRecord("forbidden", problem))
        owner = owner_of(request.headers.get("authorization"), service.settings.keys)
        if owner is None:
            return refusal(401, _NO_KEY)
        began = time.monotonic()
        try:
            answer = await handler(service, request, owner)
            about = {"method": method, "path": request.url.path, "status": answer.status_code, "owner": owner}
            log.info("request", extra={**about, "seconds": round(time.monotonic() - began, 4)})
            return answer
        except Refused as refused:
            return refusal(refused.status, refused.record, refused.wait)
        except ClientDisconnect:
            return Response(status_code=400)
        except sqlite3.Error as error:  # a full or failing disk: this request fails, the server goes on
            log.error("the store failed", extra={"path": request.url.path, "why": str(error)})
            return refusal(507, ErrorRecord("no_space", f"the server cannot write: {error}.", retryable=True))
        except Exception:  # a mistake of ours, which the sender is told of and the log has in full
            log.exception("a request failed", extra={"path": request.url.path, "method": request.method})
            return refusal(500, ErrorRecord("internal", "the server made a mistake; its log says more."))

    return Route(path, guarded, methods=[method])


_NO_KEY = ErrorRecord(
    "unauthorized",
    "the server does not know this key.",
    hint="Give it one it knows: nbsight.connect(url, api_key), NBSIGHT_API_KEY, or `nbsight login URL`.",
)


def refusal(status: int, record: ErrorRecord, wait: float = 0.0) -> Response:
    """An error as a response."""
    headers = {"Retry-After": str(max(1, round(wait)))} if wait else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _json({"error": record}, status, headers)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


# -- about the server ------------------------------------------------------------------------------


async def _health(service: Service, request: Request, owner: str) -> Response:
    return _json({"ok": True, "workers": len(service.dispatcher.workers), "jobs": service.store.count()})


async def _metrics(service: Service, request: Request, owner: str) -> Response:
    lines = ["# TYPE nbsight_jobs gauge"]
    lines += [f'nbsight_jobs{{state="{state}"}} {count}' for state, count in service.store.count().items()]
    lines.append("# TYPE nbsight_workers gauge")
    states = [worker.state for worker in service.dispatcher.workers]
    lines += [f'nbsight_workers{{state="{state}"}} {states.count(state)}' for state in sorted(set(states))]
    for name, count in service.dispatcher.counts.items():
        lines += [f"# TYPE nbsight_{name}_total counter", f"nbsight_{name}_total {count}"]
    return PlainTextResponse("\n".join(lines) + "\n")


async def _openapi(service: Service, request: Request, owner: str) -> Response:
    return _json(description())


async def _info(service: Service, request: Request, owner: str) -> Response:
    return _json(service.info())


async def _whoami(service: Service, request: Request, owner: str) -> Response:
    return _json({"owner": owner})


async def _models(service: Service, request: Request, owner: str) -> Response:
    return _json(service.dispatcher.models())


def _known_model(service: Service, name: str) -> Any:
    for spec in [service.dispatcher.spec_of(name), *service.dispatcher.about]:
        if spec.id == name and (name in service.settings.models or spec in service.dispatcher.about):
            return spec
    if service.settings.loads:
        return service.dispatcher.spec_of(name)
    raise Refused(404, ErrorRecord("unknown_model", f"this server has no model {name!r}."))


async def _model(service: Service, request: Request, owner: str) -> Response:
    spec = _known_model(service, request.path_params["model"])
    return _json(service.dispatcher.model(spec, lines="lines" in request.query_params))


async def _load(service: Service, request: Request, owner: str) -> Response:
    spec = _known_model(service, request.path_params["model"])
    service.dispatcher.load(spec)
    return _json(service.dispatcher.model(spec), 202)


# -- jobs ------------------------------------------------------------------------------------------


async def _submit(service: Service, request: Request, owner: str) -> Response:
    row = await accept(service, request, owner)
    if "text/event-stream" in request.headers.get("accept", ""):
        return _stream(service, row, 0)
    return _json(row.info(service.dispatcher.place(row.id)), 202)


async def _jobs(service: Service, request: Request, owner: str) -> Response:
    try:
        limit = max(1, min(int(request.query_params.get("limit", "50")), 10_000))
    except ValueError:
        limit = 50
    return _json([row.info() for row in service.store.owned(owner, limit)])


def _find(service: Service, request: Request, owner: str) -> JobRow:
    name = request.path_params["job"]
    row = service.store.find(name, owner)
    if row is None:  # the same for a job of somebody else's
        raise Refused(404, ErrorRecord("unknown_job", f"you have no job {name[:40]!r} on this server."))
    return row


async def _job(service: Service, request: Request, owner: str) -> Response:
    row = _find(service, request, owner)
    return _json(row.info(service.dispatcher.place(row.id)))


async def _delete(service: Service, request: Request, owner: str) -> Response:
    row = _find(service, request, owner)
    if row.state not in FINAL:
        raise Refused(409, ErrorRecord("not_ended", f"job {row.id} is {row.state}; cancel it first."))
    service.store.delete(row.id)
    return Response(status_code=204)


async def _cancel(service: Service, request: Request, owner: str) -> Response:
    row = _find(service, request, owner)
    if row.state not in FINAL:
        service.dispatcher.cancel(row)
    return _json((service.store.get(row.id) or row).info(), 202)


async def _result(service: Service, request: Request, owner: str) -> Response:
    row = _find(service, request, owner)
    if row.state == "EXPIRED":
        raise Refused(410, ErrorRecord("expired", f"the result of job {row.id} is no longer kept."))
    path = service.store.result(row.id)
    if row.state != "COMPLETED" or not path.exists():
        raise Refused(409, ErrorRecord("no_result", f"job {row.id} is {row.state} and has no result."))
    return FileResponse(path, media_type="application/vnd.nbsight")


async def _events(service: Service, request: Request, owner: str) -> Response:
    row = _find(service, request, owner)
    after = request.headers.get("last-event-id", "")
    return _stream(service, row, int(after) if after.isdecimal() and len(after) < 18 else 0)


def _stream(service: Service, row: JobRow, after: int) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    content = stream_events(service.dispatcher, row.id, after, service.closing)
    return StreamingResponse(content, media_type="text/event-stream", headers=headers)
