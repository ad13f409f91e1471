"""Whatever happens in a block or in the model, and whenever: the state is clean afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import pickle
import sys

import pytest
import torch
from torch import nn

import nbsight
from nbsight.core import context
from nbsight.core.model import wrap
from tests.core.small import Chain, Counter, Shared, build, close, has_gates, hooked, rows, same

X, Y = rows(1, seed=1), rows(1, seed=2)
OWN = os.path.dirname(nbsight.__file__) + os.sep
TORCHS_BACKWARD = torch.Tensor.backward


def is_clean(model):
    """No gate, no open trace, torch's own switches and methods, and the next trace is right."""
    assert not has_gates(model._module)
    assert context.current_tracer() is None
    assert torch.is_grad_enabled()
    assert torch.Tensor.backward is TORCHS_BACKWARD
    assert torch._C._len_torch_function_stack() == torch._C._len_torch_dispatch_stack() == 0
    with model.trace(X):
        hidden = model.h[1].output
        final = model.output
    want = hooked(model._module, (X,))
    assert same([hidden, final], [want["h.1.output"][0], want[""][0]])
    return True


# -- an error at every call of a module, inside and in between -------------------------------------


def whole(model):
    with model.trace(X) as tracer:
        for block in model.h:
            block.lin.output *= 2
            block.output
        model.output


def batched(model):
    with model.trace() as tracer:
        with tracer.invoke(X):
            donor = model.h[1].output
        with tracer.invoke(Y):
            model.h[2].output[:] = donor
            model.output
        with tracer.invoke():
            model.output


def watched(model):
    with model.trace(X) as tracer:
        cache = tracer.cache(include_inputs=True)
        model.h[2].skip(model.h[2].input)


def with_gradients(model):
    x = X.clone().requires_grad_()
    with model.trace(x, grad=True):
        hidden = model.h[1].output
        with model.output.sum().backward():
            hidden.grad


def edited(model):
    with model.edit() as other:
        model.h[0].output *= 2
    with other.trace(X):
        other.h[3].output


def sources(model):
    with model.trace(X):
        model.h[1].source.plain_0.output  # the forward that the test puts there
        model.output


def held(model):
    with model.start(X) as run:
        while run.step() is not None:
            pass


def scanned(model):
    with model.scan(X):
        model.output


WAYS = [whole, batched, watched, with_gradients, edited, sources, held, scanned]


@pytest.mark.parametrize("way", WAYS)
def test_an_error_in_the_forward_of_any_module_leaves_everything_clean(way, monkeypatch):
    net = build(Chain)
    model = wrap(net)
    failing = [None]

    def watch(path, plain):
        def forward(*args, **kwargs):
            if failing[0] == (path, "before"):
                raise failing_with("before")
            value = plain(*args, **kwargs)
            if failing[0] == (path, "after"):
                raise failing_with("after")
            return value

        return forward

    for path, module in net.named_modules():
        if type(module) is not nn.ModuleList:
            module.forward = watch(path, module.forward)
    paths = [path for path, module in net.named_modules() if "forward" in vars(module)]
    kept = {path: vars(net.get_submodule(path))["forward"] for path in paths}
    way(model)
    reached = 0
    for failing_with in (ValueError, KeyboardInterrupt):
        for path in paths:
            for when in ("before", "after"):
                failing[0] = (path, when)
                with contextlib.suppress(failing_with):
                    way(model)
                    reached -= 1
                reached += 1
                failing[0] = None
                # The forwards of the user's own are there again, and none of ours.
                assert {path: vars(net.get_submodule(path))["forward"] for path in paths} == kept
                assert context.current_tracer() is None
    assert reached >= 8
    for path in paths:
        del vars(net.get_submodule(path))["forward"]
    assert is_clean(model)


# -- an interrupt at every call that we make ---------------------------------------------------------


class Interrupt:
    """A profile function that raises at the n-th call in our own files: where an interrupt may come."""

    def __init__(self, number):
        self.number = number
        self.seen = 0
        self.where = None

    def __call__(self, frame, event, argument):
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(OWN):
            return
        if "<genexpr>" in frame.f_code.co_name or frame.f_code.co_name == "running":
            return  # an error while a generator is being dropped is only printed
        inner = frame
        while inner is not None:
            if inner.f_code.co_name == "__exit__" and inner.f_code.co_filename.startswith(OWN):
                return  # the cleaning itself
            inner = inner.f_back
        self.seen += 1
        if self.seen == self.number:
            self.where = (event, frame.f_code.co_name, frame.f_lineno)
            raise KeyboardInterrupt("in between")


@pytest.mark.parametrize("way", [whole, watched, with_gradients])
def test_an_interrupt_at_any_call_of_ours_leaves_everything_clean(way):
    net = build(Chain)
    used = wrap(net)
    way(used)
    number, interrupted = 1, 0
    while True:
        # By turns a model that was used before, with gates and habits to spare, and a new one.
        model = used if number % 2 else wrap(net)
        interrupt = Interrupt(number)
        before = sys.getprofile()
        sys.setprofile(interrupt)
        try:
            way(model)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.setprofile(before)
        if interrupt.where is None:
            break
        assert is_clean(model), interrupt.where
        number += 5
    assert interrupted >= 30


# -- copies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["module", "part", "wrapped"])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_a_copy_made_in_a_block_is_a_model_of_its_own(what, how):
    net = build(Chain)
    model = wrap(net)
    want = hooked(net, (X,))
    with model.trace(X):
        hidden = model.h[1].output
        assert has_gates(net)
        copied = how({"module": net, "part": net.h[1], "wrapped": model}[what])
        final = model.output
    assert same([hidden, final], [want["h.1.output"][0], want[""][0]])
    assert is_clean(model)
    plain = copied._module if what == "wrapped" else copied
    with torch.no_grad():
        for weight in net.parameters():  # a copy does not look at the original's weights
            weight.zero_()
        given = want["h.0.output"][0] if what == "part" else X
        expected = want["h.1.output"][0] if what == "part" else want[""][0]
        assert same(plain(given), expected)
    again = wrap(plain)
    for _ in range(2):
        with again.trace(given):
            inner = again.get("lin" if what == "part" else "h.1.lin").output
            final = again.output
        assert same([inner, final], [want["h.1.lin.output"][0], expected])
    assert again.source is not None


def test_a_copy_that_was_made_in_a_block_pickles_later():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X):
        model.h[1].output
        copied = copy.deepcopy(net)
    again = pickle.loads(pickle.dumps(copied))
    with torch.no_grad():
        assert same(again(X), net(X))


# -- tasks, threads of control, two models ---------------------------------------------------------


def test_asyncio_tasks_with_invokes_steps_and_cancellations_do_not_meet():
    net, counter = build(Chain), build(Counter)
    model, generating = wrap(net), wrap(counter)

    async def batches(seed):
        one, two = rows(seed=seed), rows(seed=seed + 100)
        for _ in range(3):
            with model.trace() as tracer:
                with tracer.invoke(one):
                    donor = model.h[1].output
                with tracer.invoke(two):
                    model.h[2].output[:] = donor
                    final = model.output
                await asyncio.sleep(0)
        kept = hooked(net, (one,))["h.1.output"][0]
        assert close(final, hooked(net, (two,), edit={"h.2": lambda _: kept})[""][0])

    async def steps(seed):
        x, seen = rows(seed=seed), []
        with generating.generate(x, steps=3) as tracer:
            for _ in tracer.iter[:]:
                seen.append(generating.a.output)
                await asyncio.sleep(0)
        assert same(seen, hooked(counter, (x,), {"steps": 3}, method="generate")["a.output"])

    async def given_up(seed):
        with model.trace(rows(seed=seed)):
            model.h[0].output
            await asyncio.sleep(30)

    async def main():
        doomed = [asyncio.create_task(given_up(seed)) for seed in range(5)]
        await asyncio.sleep(0)
        works = [asyncio.create_task(work(seed)) for seed in range(5) for work in (batches, steps)]
        await asyncio.sleep(0)
        for task in doomed:
            task.cancel()
        await asyncio.gather(*works)
        assert all(
            isinstance(e, asyncio.CancelledError)
            for e in await asyncio.gather(*doomed, return_exceptions=True)
        )

    asyncio.run(main())
    assert not has_gates(counter)
    assert is_clean(model)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_error_in_nested_traces_of_two_models_and_of_one_leaves_all_clean(kind):
    net, other = build(Chain), build(Shared)
    model, second = wrap(net), wrap(other)
    for depth in range(4):
        with pytest.raises(kind):
            with model.trace(X):
                hidden = model.h[0].output
                if depth == 0:
                    raise kind
                with second.trace(hidden):
                    second.a.output[:] = 0
                    if depth == 1:
                        raise kind
                    with model.trace(Y):
                        model.h[2].output
                        if depth == 2:
                            raise kind
                    second.b.output
                model.h[1].output
                raise kind
        assert not has_gates(other)
        assert is_clean(model)


def test_generators_closed_dropped_and_thrown_into_half_way_leave_everything_clean():
    model = wrap(build(Chain))

    def layers(x):
        with model.trace(x):
            for block in model.h:
                yield block.output

    closed, dropped, thrown = layers(X), layers(Y), layers(X)
    firsts = [next(generator) for generator in (closed, dropped, thrown)]
    assert same(firsts[0], firsts[2])
    closed.close()
    del dropped
    with pytest.raises(ZeroDivisionError):
        thrown.throw(ZeroDivisionError)
    assert is_clean(model)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_forked_inside_a_block_can_go_on_and_so_can_its_parent():
    net = build(Chain)
    model = wrap(net)
    want = hooked(net, (X,))
    with model.trace(X):
        hidden = model.h[1].output
        child = os.fork()
        if child == 0:
            try:
                right = same(model.h[2].output, want["h.2.output"][0])
                right = right and same(model.output, want[""][0])
                with model.trace(Y):
                    right = right and same(model.h[0].output, hooked(net, (Y,))["h.0.output"][0])
                os._exit(0 if right else 1)
            except BaseException:
                os._exit(2)
        final = model.output
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert same([hidden, final], [want["h.1.output"][0], want[""][0]])
    assert is_clean(model)
