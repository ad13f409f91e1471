"""The API is what its description says: schemathesis asks the real server for what it allows, and more."""

from __future__ import annotations

import copy

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Route

from nbsight.server.app import make_app
from nbsight.server.openapi import ROUTES, description
from nbsight.server.settings import Settings
from nbsight.server.store import Store
from nbsight.wire.messages import frame
from tests.server.attacking import a_parcel
from tests.server.running import KEYS

HEADERS = {"Authorization": f"Bearer {KEYS['ada']}"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    ignored_auth,
]


@pytest.fixture(scope="session")
def api(running):
    """The description with ids of real jobs, so that what is asked for is there now and then."""
    parcel = a_parcel()
    client, data = running.client(), frame(parcel.header, parcel.blob)
    ids = []
    for _ in range(3):
        stream = client.submit(data)
        ids.append(next(stream).data["id"])
        list(stream)
    foreign = next(running.client("bob").submit(data)).data["id"]
    described = copy.deepcopy(description())
    known = {
        "job": [*ids, ids[0][:8], foreign, "..", "%00", "ü", "a" * 300],
        "model": ["nbsight/demo", "none", "../x"],
    }
    for path in described["paths"].values():
        for operation in path.values():
            for parameter in operation["parameters"]:
                if parameter["in"] == "path":
                    parameter["schema"] = {"type": "string", "enum": known[parameter["name"]]}
    schema = schemathesis.openapi.from_dict(described)
    schema.config.update(base_url=running.url)
    return schema


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, *_ in ROUTES])
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_the_server_answers_as_described(api, method, path, mode):
    @settings(
        max_examples=8,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(api[path][method].as_strategy(generation_mode=mode))
    def ask(case):
        case.call_and_validate(checks=CHECKS, headers=HEADERS, timeout=30)

    try:
        ask()
    except Unsatisfiable:  # what takes nothing can be asked in one way only, and in no wrong one
        assert mode is GenerationMode.NEGATIVE


def test_every_route_is_described_and_no_other(tmp_path):
    store = Store(tmp_path)
    app = make_app(Settings((), tmp_path), store)
    there = {
        (method.lower(), route.path.replace(":path", ""))
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods - {"HEAD"}
    }
    store.close()
    assert there == {(method, path) for method, path, *_ in ROUTES}


def test_the_description_is_served_to_who_has_a_key(running):
    url = f"{running.url}/v1/openapi.json"
    assert requests.get(url, timeout=10).status_code == 401
    described = requests.get(url, headers=HEADERS, timeout=10).json()
    assert described == description()
    assert described["openapi"] == "3.1.0"
    job = described["components"]["schemas"]["JobInfo"]
    assert {"id", "state", "error"} <= job["properties"].keys()


def test_counts_are_in_the_format_of_prometheus(running):
    import re

    text = requests.get(f"{running.url}/metrics", headers=HEADERS, timeout=10).text
    line = re.compile(r'[a-z_]+(\{[a-z]+="[A-Za-z_]+"(,[a-z]+="[^"]*")*\})? -?[0-9.e+]+')
    kind = re.compile(r"# (TYPE [a-z_]+ (gauge|counter)|HELP [a-z_]+ .*)")
    lines = text.splitlines()
    assert len(lines) > 3
    for found in lines:
        assert line.fullmatch(found) or kind.fullmatch(found), found
    assert 'nbsight_workers{state="idle"}' in text
