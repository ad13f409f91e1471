"""Programs in nnsight's style: what a block may contain, and where it may stand.

nnsight refuses many of these; a plain trace here runs its block in place.
"""


# These programs are written as nnsight's users write them.

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
import torch

import nbsight as nnsight
from tests.compat import models
from tests.core.small import hooked, rows

X, Y = rows(2), rows(1, seed=4)


def wanted(chain, path="h.1.output", value=X):
    return hooked(chain._module, (value,))[path][0]


def test_functions_classes_and_comprehensions_in_a_block(chain):
    with chain.trace(X):

        def double(value):
            return value * 2

        class Kept:
            pass

        Kept.hidden = double(chain.h[1].output)
        means = [block.output.mean() for block in chain.h[2:]]
    assert torch.equal(Kept.hidden, wanted(chain) * 2)
    assert torch.equal(means[1], wanted(chain, "h.3.output").mean())


def test_values_are_read_in_a_function_that_the_block_calls(chain):
    def read(place):
        return chain.h[place].output

    with chain.trace(X):
        hidden = read(1).save()
    assert torch.equal(hidden, wanted(chain))


def test_try_first_and_a_body_on_the_same_line(chain):
    with chain.trace(X):
        try:
            chain.h[1].output[:, :, 99]
        except IndexError:
            hidden = chain.h[1].output.save()
    with chain.trace(X):
        same = chain.h[1].output.save()
    assert torch.equal(hidden, wanted(chain))
    assert torch.equal(same, hidden)


def test_return_and_continue_and_break_leave_a_block(chain):
    def returned():
        with chain.trace(X):
            return chain.h[1].output

    assert torch.equal(returned(), wanted(chain))
    found = []
    for place in range(4):
        with chain.trace(X):
            if place == 0:
                continue
            if place == 3:
                break
            found.append(chain.h[place].output)
    assert torch.equal(found[0], wanted(chain))
    assert torch.equal(found[1], wanted(chain, "h.2.output"))


def test_a_block_in_a_generator_yields(chain):
    def values():
        with chain.trace(X):
            for block in chain.h:
                yield block.output

    assert torch.equal(list(values())[1], wanted(chain))


def test_a_context_manager_around_a_trace(chain):
    @contextlib.contextmanager
    def scaled(factor):
        with chain.trace(X) as tracer:
            chain.h[0].output[:] *= factor
            yield tracer

    with scaled(2):
        out = chain.output.save()
    assert torch.equal(out, hooked(chain._module, (X,), edit={"h.0": lambda value: value * 2})[""][0])


def test_an_exit_stack_holds_a_trace(chain):
    with contextlib.ExitStack() as stack:
        stack.enter_context(chain.trace(X))
        hidden = chain.h[1].output.save()
    assert torch.equal(hidden, wanted(chain))


def test_a_trace_in_a_coroutine_that_waits(chain):
    async def read(value):
        with chain.trace(value):
            hidden = chain.h[1].output
            await asyncio.sleep(0)
            return hidden, chain.h[2].output

    async def both():
        return await asyncio.gather(read(X), read(Y))

    (a, _), (_, b) = asyncio.run(both())
    assert torch.equal(a, wanted(chain))
    assert torch.equal(b, wanted(chain, "h.2.output", Y))


def test_super_works_in_a_method(chain):
    class Base:
        def layer(self):
            return 1

    class Probe(Base):
        def read(self):
            with chain.trace(X):
                return chain.h[super().layer()].output

    assert torch.equal(Probe().read(), wanted(chain))


def test_code_without_a_file_can_trace(chain):
    names = {"chain": chain, "X": X}
    exec("with chain.trace(X):\n    hidden = chain.h[1].output.save()", names)
    assert torch.equal(names["hidden"], wanted(chain))


def test_a_trace_inside_a_trace(chain):
    other = nnsight.NNsight(models.chain(2))
    with chain.trace(X):
        a = chain.h[0].output.save()
        with other.trace(Y):
            b = other.h[1].output.save()
        with chain.trace(Y):
            c = chain.h[1].output.save()
        d = chain.h[1].output.save()
    assert torch.equal(a, wanted(chain, "h.0.output"))
    assert torch.equal(b, hooked(other._module, (Y,))["h.1.output"][0])
    assert torch.equal(c, wanted(chain, "h.1.output", Y))
    assert torch.equal(d, wanted(chain))


def test_threads_share_a_wrapper(chain):
    found, values = {}, [rows(1, seed=place) for place in range(4)]

    def read(place):
        for _ in range(10):
            with chain.trace(values[place]):
                found[place] = chain.h[1].output.clone()

    threads = [threading.Thread(target=read, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place in range(4):
        assert torch.equal(found[place], wanted(chain, "h.1.output", values[place]))


def test_async_with_says_what_it_is_not(chain):
    async def read():
        async with chain.trace(X):
            pass

    with pytest.raises((TypeError, AttributeError)):
        asyncio.run(read())


@pytest.mark.parametrize("name", ["apply", "log", "local", "cond", "trace", "list"])
def test_names_that_nnsight_removed_are_not_here_either(name):
    with pytest.raises(AttributeError, match="public names"):
        getattr(nnsight, name)
