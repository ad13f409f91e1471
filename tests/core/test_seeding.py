"""Random numbers of a run's own, against torch's generators used by hand."""

from __future__ import annotations

import threading

import pytest
import torch

from nbsight.core.seeding import Numbers
from nbsight.errors import InputError


def drawn(seed, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand((), generator=generator).item() for _ in range(count)]


def test_each_side_draws_its_own_numbers():
    torch.manual_seed(1)
    mine, theirs = [], []
    numbers = Numbers(2, [torch.device("cpu")])
    for _ in range(3):
        with numbers:
            theirs.append(torch.rand(()).item())
        mine.append(torch.rand(()).item())
    assert mine == drawn(1)
    assert theirs == drawn(2)


def test_two_may_be_nested():
    torch.manual_seed(1)
    outer, inner = Numbers(2, []), Numbers(3, [])
    with outer:
        one = torch.rand(()).item()
        with inner:
            other = torch.rand(()).item()
        two = torch.rand(()).item()
    assert [one, two] == drawn(2, 2)
    assert [other] == drawn(3, 1)
    assert [torch.rand(()).item()] == drawn(1, 1)


def test_an_error_gives_the_numbers_back():
    torch.manual_seed(1)
    with pytest.raises(ZeroDivisionError), Numbers(2, []):
        1 / 0
    assert [torch.rand(()).item()] == drawn(1, 1)


def test_threads_do_not_mix_their_numbers():
    found = {}

    def draw(seed):
        numbers = Numbers(seed, [])
        values = []
        for _ in range(200):
            with numbers:
                values.append(torch.rand(()).item())
        found[seed] = values

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[seed] == drawn(seed, 200) for seed in range(4))


@pytest.mark.parametrize("seed", [-(2**63), 0, 2**64 - 1])
def test_every_seed_of_torch_is_one(seed):
    with Numbers(seed, []):
        assert torch.rand(()).item() == drawn(seed, 1)[0]


@pytest.mark.parametrize("seed", [None, 1.0, True, 2**64, "0"])
def test_other_things_are_none(seed):
    with pytest.raises(InputError, match=r"as torch.manual_seed takes it"):
        Numbers(seed, [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a gpu")
def test_the_gpu_has_numbers_of_its_own_too():
    device = torch.device("cuda")
    torch.manual_seed(1)
    wanted = torch.rand(3, device=device)
    torch.manual_seed(2)
    theirs = torch.rand(3, device=device)
    torch.manual_seed(1)
    numbers = Numbers(2, [device])
    with numbers:
        assert torch.equal(torch.rand(3, device=device), theirs)
    assert torch.equal(torch.rand(3, device=device), wanted)
