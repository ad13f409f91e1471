"""The API in the words of OpenAPI 3.1, made from the records that the routes answer with."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from nbsight.wire.api import ErrorRecord, JobInfo, ModelInfo, ServerInfo
from nbsight.wire.versions import version_of

__all__ = ["ROUTES", "description"]


class Failure(msgspec.Struct, frozen=True):
    """What comes with every status from 400 on."""

    error: ErrorRecord


class Owner(msgspec.Struct, frozen=True):
    """Who is asking."""

    owner: str


class Health(msgspec.Struct, frozen=True):
    """That the server runs, its workers, and its jobs by state."""

    ok: bool
    workers: int
    jobs: dict[str, int]


_JOB = {"name": "job", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query(name: str, schema: dict[str, Any], about: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": about, "schema": schema}


def _header(name: str, schema: dict[str, Any], about: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": about, "schema": schema}


_TIMEOUT = _query("timeout", {"type": "number", "exclusiveMinimum": 0}, "Seconds that the job may run.")
_ONCE = _header("Idempotency-Key", {"type": "string", "maxLength": 200}, "Twice the same is one job.")
_LAST = _header("Last-Event-ID", {"type": "string"}, "Go on after this event.")
_RANGE = _header("Range", {"type": "string"}, "A part of the bytes, such as `bytes=100-`.")
_LIMIT = _query("limit", {"type": "integer", "minimum": 1, "maximum": 10_000}, "How many, newest first.")
_LINES = _query("lines", {"type": "string"}, "If it is there, the module tree comes as text.")

_STREAM = "text/event-stream"
_RESULT = "application/vnd.nbsight"

#: One event of a stream, of which each body of that type has many.
_EVENT = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("event", "data", "id")},
    "required": ["event", "data"],
}

#: Method, path, what it does, its parameters, what it answers with (status, type of a body or a record), and
#: the statuses beside those that every route has.
ROUTES: list[tuple[str, str, str, list[Any], dict[int, Any], tuple[int, ...]]] = [
    ("get", "/health", "Whether the server runs.", [], {200: Health}, ()),
    ("get", "/metrics", "Counts in the format of Prometheus.", [], {200: "text/plain"}, ()),
    ("get", "/v1/openapi.json", "This description.", [], {200: dict[str, Any]}, ()),
    ("get", "/v1/info", "What the server is, has and allows.", [], {200: ServerInfo}, ()),
    ("get", "/v1/whoami", "Whose key this is.", [], {200: Owner}, ()),
    ("get", "/v1/models", "The models.", [], {200: list[ModelInfo]}, ()),
    ("get", "/v1/models/{model}", "One model.", [_MODEL, _LINES], {200: ModelInfo}, (404,)),
    ("post", "/v1/models/{model}/load", "Begin to load a model.", [_MODEL], {202: ModelInfo}, (404,)),
    ("get", "/v1/jobs", "The caller's jobs, newest first.", [_LIMIT], {200: list[JobInfo]}, ()),
    (
        "post",
        "/v1/jobs",
        "Submit a framed job; the answer is its record, or the stream of its events if that is accepted.",
        [_TIMEOUT, _ONCE],
        {202: JobInfo, 200: _STREAM},
        (400, 404, 408, 409, 413, 429),
    ),
    ("get", "/v1/jobs/{job}", "One job, by its id or the beginning of it.", [_JOB], {200: JobInfo}, (404,)),
    ("delete", "/v1/jobs/{job}", "Forget an ended job and its result.", [_JOB], {204: None}, (404, 409)),
    (
        "get",
        "/v1/jobs/{job}/events",
        "Its events as they come: status, place, progress, log.",
        [_JOB, _LAST],
        {200: _STREAM},
        (404,),
    ),
    (
        "get",
        "/v1/jobs/{job}/result",
        "Its framed result.",
        [_JOB, _RANGE],
        {200: _RESULT, 206: _RESULT},
        (400, 404, 409, 410, 416),
    ),
    ("post", "/v1/jobs/{job}/cancel", "End a job.", [_JOB], {202: JobInfo}, (404,)),
]

#: What any route may answer with: no or a wrong key, a page of another site, a full disk, a mistake of ours.
_ALWAYS = (401, 403, 500, 507)


@cache
def description() -> dict[str, Any]:
    """The whole of it."""
    records = [Failure, *(body for *_, answers, _ in ROUTES for body in answers.values() if _is_record(body))]
    schemas, components = msgspec.json.schema_components(records, ref_template="#/components/schemas/{name}")
    by_record = {str(record): schema for record, schema in zip(records, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for method, path, about, parameters, answers, failures in ROUTES:
        responses = {str(status): _answer(body, by_record) for status, body in answers.items()}
        failed = _content("application/json", by_record[str(Failure)])
        for status in (*failures, *_ALWAYS):
            # A range that is none is answered by the file's own route, in plain text.
            plain = path.endswith("/result") and status in (400, 416)
            content = {"text/plain": {"schema": {"type": "string"}}} if plain else failed
            responses[str(status)] = {"description": _MEANS[status], "content": content}
        operation: dict[str, Any] = {
            "operationId": f"{method}{path.replace('/', '_').replace('{', '').replace('}', '')}",
            "summary": about,
            "parameters": parameters,
            "responses": responses,
        }
        if (method, path) == ("post", "/v1/jobs"):
            body = {"schema": {"type": "string", "format": "binary"}}
            operation["requestBody"] = {"required": True, "content": {"application/octet-stream": body}}
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "nbsight serve", "version": version_of("nbsight") or "0"},
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _is_record(body: Any) -> bool:
    return body is not None and not isinstance(body, str)


def _content(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {kind: {"schema": schema}}


def _answer(body: Any, schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if body is None:
        return {"description": "done; nothing comes"}
    if body == _STREAM:
        return {"description": "events, one after the other", "content": _content(_STREAM, _EVENT)}
    if isinstance(body, str):
        schema = {"type": "string"} if body.startswith("text/") else {"type": "string", "format": "binary"}
        return {"description": "what was asked for", "content": _content(body, schema)}
    return {"description": "what was asked for", "content": _content("application/json", schemas[str(body)])}


_MEANS = {
    400: "not well formed",
    401: "no key, or one that the server does not know",
    403: "asked by a page of another site, or under another name",
    404: "not there, or somebody else's",
    408: "the sender was too slow",
    409: "not as things stand: it has not ended, it has no result, or the models differ",
    410: "no longer kept",
    413: "too large",
    416: "a range that the result does not have",
    429: "too many, or too fast",
    500: "a mistake of the server's",
    507: "the server's disk is full",
}
