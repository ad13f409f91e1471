"""Large results: known by shape and size at once, fetched when they are used, resumed where they broke."""

from __future__ import annotations

import copy
import io
import itertools
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_safetensors

from nbsight import LanguageModel
from nbsight.errors import RemoteError
from nbsight.remote import addresses, jobs
from nbsight.remote import client as clients
from nbsight.wire.far import FarBlobs, FarTensor
from tests.server.running import KEYS, server

PROMPT = "The capital of France is"


class Elsewhere:
    """A file that is elsewhere, and what was read of it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.read: list[tuple[int, int]] = []

    def __call__(self, start: int, into: memoryview, *, tells: bool = False) -> None:
        self.read.append((start, len(into)))
        into[:] = self.content[start : start + len(into)]


def far(value: torch.Tensor) -> FarTensor:
    return FarTensor(value.shape, value.dtype, value.stride(), value.device, lambda: value)


def test_small_parts_come_at_once_and_large_ones_when_they_are_asked_for():
    tensors = {f"{n}": torch.randn(10, n + 1) for n in range(20)} | {"large": torch.randn(2**19)}
    content = b"before" + to_safetensors(tensors)
    elsewhere = Elsewhere(content)
    blobs = FarBlobs(6, len(content), elsewhere)
    assert len(elsewhere.read) <= 4  # two for the list, and one or two for all that is small
    assert sum(length for _, length in elsewhere.read) < 2**16
    assert all(torch.equal(blobs[name], value) for name, value in tensors.items() if name != "large")
    assert blobs.is_far("large")
    assert torch.equal(blobs["large"], tensors["large"])
    assert not blobs.is_far("large")


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\xff" * 16,
        (3).to_bytes(8, "little") + b"[1]",
        (2).to_bytes(8, "little") + b"{}"[:1] + b"x",
        (90).to_bytes(8, "little")
        + json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}).encode().ljust(90),
        (90).to_bytes(8, "little")
        + json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode().ljust(90),
        (90).to_bytes(8, "little")
        + json.dumps({"a": {"dtype": "F3", "shape": [0], "data_offsets": [0, 0]}}).encode().ljust(90),
    ],
)
def test_what_is_no_list_of_tensors_is_an_error_and_no_crash(broken):
    with pytest.raises(RemoteError, match="cannot be read"):
        FarBlobs(0, len(broken), Elsewhere(broken))


def test_what_the_shape_says_fetches_nothing():
    value = far(torch.randn(3, 5, dtype=torch.float64))
    assert (value.shape, value.dtype, value.ndim, len(value)) == ((3, 5), torch.float64, 2, 3)
    assert (value.numel(), value.bytes, value.nbytes, value.size(1), value.dim()) == (15, 120, 120, 5, 2)
    assert value.is_floating_point()
    assert isinstance(value, torch.Tensor)
    assert repr(value) == "<float64 (3, 5), 120 bytes, fetched when it is used>"
    assert not value.is_here


def test_every_use_gives_what_the_plain_tensor_gives():
    plain = torch.randn(3, 5)
    uses = [
        lambda x: x + 1,
        lambda x: 1 - x,
        lambda x: x @ x.T,
        lambda x: x[1, 2:],
        lambda x: torch.stack([x, x]),
        lambda x: torch.einsum("ij,kj->ik", x, x),
        lambda x: torch.nn.functional.softmax(x, dim=-1),
        lambda x: x.mean(0),
        lambda x: torch.from_numpy(np.asarray(x)),
        lambda x: torch.from_numpy(x.numpy()),
        lambda x: torch.tensor(x.tolist()),
        lambda x: torch.tensor(x[0, 0].item()),
        lambda x: torch.cat([row[None] for row in x]),
        lambda x: copy.deepcopy(x),
        lambda x: pickle.loads(pickle.dumps(x)),
        lambda x: torch.where(x > 0, x, 0),
        lambda x: x.to(torch.float16),
        lambda x: x.clone().detach(),
        lambda x: torch.zeros(3, 5).copy_(x),
    ]
    for use in uses:
        value = far(plain)
        found, expected = use(value), use(plain)
        assert type(found) is torch.Tensor
        assert torch.equal(found, expected)
        assert value.is_here
        assert repr(value) == repr(plain)
    file = io.BytesIO()
    torch.save(far(plain), file)
    file.seek(0)
    assert torch.equal(torch.load(file), plain)


def test_what_is_changed_stays_changed():
    value = far(torch.zeros(3))
    value[1] = 5
    value += 1
    assert value.tolist() == [1.0, 6.0, 1.0]
    held = far(torch.zeros(3))
    held.add_(2)
    assert held.tolist() == [2.0, 2.0, 2.0]


@pytest.fixture
def running(tmp_path, monkeypatch):
    monkeypatch.setenv("NBSIGHT_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(addresses, "_clients", {})
    monkeypatch.setattr(addresses, "_chosen", [])
    with server(tmp_path) as it:
        monkeypatch.setenv("NBSIGHT_HOST", it.url)
        monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
        yield it


def test_large_values_of_a_job_arrive_when_they_are_used(running, monkeypatch):
    model = LanguageModel("nbsight/demo")
    parts: list[int] = []
    read = clients.Client.read_result

    def counted(self, job, start, into, *more):
        parts.append(len(into))
        read(self, job, start, into, *more)

    monkeypatch.setattr(clients.Client, "read_result", counted)
    with model.trace(PROMPT, remote=True):
        small = model.transformer.h[3].output[0].save()
        ramp = torch.arange(6_000_000.0).save()
        half = ramp[::2].save()  # shares its memory
        rows = torch.ones(1500, 1500, dtype=torch.float64).T.save()
        logits = model.output.save()
        number = 3
    assert type(small) is torch.Tensor
    assert number == 3
    assert (ramp.shape, ramp.dtype, ramp.bytes) == ((6_000_000,), torch.float32, 24_000_000)
    assert (rows.shape, rows.dtype) == ((1500, 1500), torch.float64)
    assert sum(parts) < 2**20
    assert not ramp.is_here
    assert torch.equal(half[:3], torch.tensor([0.0, 2.0, 4.0]))
    assert torch.equal(ramp, torch.arange(6_000_000.0))
    assert sum(parts) < 24_000_000 + 2**20  # the memory that two share travels once
    assert rows.sum() == 1500 * 1500
    with model.trace(PROMPT):
        assert torch.allclose(logits, model.output, atol=1e-5)

    # A far value travels on in the next block, and an attached job has it too.
    with model.trace(PROMPT, remote=True, blocking=False) as job:
        total = rows.sum().item()
        large = torch.full((3_000_000,), 2.0).save()
    again = jobs[job.id].result()
    assert again["total"] == 1500 * 1500
    assert isinstance(again["large"], FarTensor)
    assert again["large"].mean() == 2
    late = job.result()["large"]
    job.forget()
    with pytest.raises(RemoteError, match=r"no job|not|no longer"):
        late.sum()


def test_outputs_keep_their_ways_when_they_arrive_late(running):
    model = LanguageModel("nbsight/demo")
    ids = torch.ones(64, 128, dtype=torch.long)
    with model.trace(ids, remote=True):
        state = model.transformer.h[3].output.save()
        logits = model.output.save()
    assert isinstance(logits, FarTensor)
    assert logits.shape[:2] == (64, 128)
    with model.trace(ids):
        expected_state = model.transformer.h[3].output[0]
        expected = model.output.logits
    assert torch.allclose(state[0], expected_state, atol=1e-4)
    assert torch.allclose(logits.logits, expected, atol=1e-4)
    assert torch.allclose(logits[0, -1], expected[0, -1], atol=1e-4)
    assert state[0].shape == (64, 128, 64)


def test_a_download_that_breaks_goes_on_where_it_was(running, monkeypatch):
    model = LanguageModel("nbsight/demo")
    with model.trace(PROMPT, remote=True):
        ramp = torch.arange(6_000_000.0).save()
    asked: list[str] = []
    send = clients.Client._send

    def breaking(self, method, path, **options):
        response = send(self, method, path, **options)
        asked.append(options.get("headers", {}).get("Range", ""))
        if len(asked) <= 3:
            pieces = response.iter_content

            def some(size):
                for number, piece in enumerate(pieces(size)):
                    if number == 5:
                        raise clients.requests.ConnectionError("cut")
                    yield piece

            response.iter_content = some
        return response

    monkeypatch.setattr(clients.Client, "_send", breaking)
    assert torch.equal(ramp, torch.arange(6_000_000.0))
    starts = [int(part.removeprefix("bytes=").split("-")[0]) for part in asked]
    assert len(starts) == 4
    steps = [after - before for before, after in itertools.pairwise(starts)]
    assert steps == [5 * clients._PIECE] * 3
