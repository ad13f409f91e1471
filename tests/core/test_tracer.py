"""The trace itself: where it ends, what it leaves behind, and how it can be left."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import signal

import pytest
import torch
from torch import nn

from nbsight.core.context import current_tracer
from nbsight.core.model import wrap
from nbsight.errors import InputError, OutsideTraceError
from tests.core.small import Block, Chain, Counter, build, has_gates, hooked, rows, same

X, Y = rows(seed=1), rows(seed=2)


class Logged(nn.Module):
    """Writes down each part that has run, and fills a cache if one is given."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = Block(), Block(), Block()
        self.log: list[str] = []

    def forward(self, x, past_key_values=None):
        for name in "abc":
            x = getattr(self, name)(x)
            self.log.append(name)
            if past_key_values is not None:
                past_key_values.append(name)
        return x


@pytest.fixture
def logged():
    return wrap(build(Logged))


# -- where it ends ---------------------------------------------------------------------------------


def test_layers_after_the_last_read_are_not_run(logged):
    with logged.trace(X):
        logged.a.output
        logged.b.lin.output
    assert logged._module.log == ["a"]


def test_nothing_runs_when_nothing_is_read(logged):
    with logged.trace(X):
        pass
    assert logged._module.log == []


def test_the_run_goes_on_only_as_far_as_each_line_needs(logged):
    with logged.trace(X):
        assert logged._module.log == []
        logged.a.output
        assert logged._module.log == []
        logged.c.input
        assert logged._module.log == ["a", "b"]


def test_reading_the_models_own_output_runs_all(logged):
    with logged.trace(X):
        logged.output
    assert logged._module.log == ["a", "b", "c"]


def test_finish_runs_to_the_end(logged):
    with logged.trace(X, finish=True):
        logged.a.output
    assert logged._module.log == ["a", "b", "c"]


def test_finish_runs_to_the_end_with_invokes(logged):
    with logged.trace(finish=True) as tracer:
        with tracer.invoke(X):
            logged.a.output
        with tracer.invoke(Y):
            pass
    assert logged._module.log == ["a", "b", "c"]


def test_train_mode_runs_to_the_end(logged):
    logged._module.train()
    with logged.trace(X):
        logged.a.output
    assert logged._module.log == ["a", "b", "c"]


def test_train_mode_of_one_part_runs_to_the_end():
    net = build(lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(3)))
    net[1].train()
    before = net[1].running_mean.clone()
    model = wrap(net)
    with model.trace(X):
        model[0].output
    assert not torch.equal(net[1].running_mean, before)


def test_a_cache_that_was_passed_in_is_filled_to_the_end(logged):
    cache: list[str] = []
    with logged.trace(X, past_key_values=cache):
        logged.a.output
    assert cache == ["a", "b", "c"]


def test_a_cache_that_an_invoke_passed_in_is_filled_to_the_end(logged):
    cache: list[str] = []
    with logged.trace() as tracer:
        with tracer.invoke(X, past_key_values=cache):
            logged.a.output
    assert cache == ["a", "b", "c"]


def test_the_result_is_what_the_call_returned(logged):
    with logged.trace(X) as tracer:
        hidden = logged.a.output
        result = tracer.result
    want = hooked(logged._module, (X,))
    assert same([hidden, result], [want["a.output"][0], want[""][0]])


def test_the_result_shows_edits():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X) as tracer:
        model.output = model.output * 0
        result = tracer.result
    assert result.eq(0).all()


def test_the_result_can_be_read_after_the_block_if_the_run_went_to_its_end():
    model = wrap(build(Counter))
    with model.generate(X, steps=2) as tracer:
        pass
    assert same(tracer.result, hooked(model._module, (X,), {"steps": 2}, method="generate")[""][0])


def test_the_result_of_a_run_that_was_ended_early_is_not_silently_none(logged):
    with logged.trace(X) as tracer:
        logged.a.output
    with pytest.raises(ValueError, match="finish"):
        tracer.result


# -- stop ------------------------------------------------------------------------------------------


def test_stop_leaves_the_block_and_keeps_what_was_read(logged):
    after = False
    with logged.trace(X) as tracer:
        hidden = logged.b.output
        tracer.stop()
        after = True
    assert not after
    assert same(hidden, hooked(logged._module, (X,))["b.output"][0])
    assert not has_gates(logged._module)


def test_stop_before_anything_was_read_runs_nothing(logged):
    with logged.trace(X) as tracer:
        tracer.stop()
    assert logged._module.log == []


def test_stop_passes_through_the_users_own_except_and_finally(logged):
    done = []
    with logged.trace(X) as tracer:
        try:
            logged.a.output
            tracer.stop()
        except Exception:
            done.append("except")
        finally:
            done.append("finally")
    assert done == ["finally"]


def test_stop_ends_a_generation(logged):
    model = wrap(build(Counter))
    calls = []
    handle = model._module.b.register_forward_hook(lambda *_: calls.append(1))
    seen = []
    with model.generate(X, steps=50) as tracer:
        for step in tracer.iter[:]:
            seen.append(model.b.output)
            if step == 2:
                tracer.stop()
    handle.remove()
    assert len(seen) == 3
    assert len(calls) <= 3


def test_stop_of_an_outer_trace_leaves_the_outer_block():
    outer, inner = wrap(build(Chain)), wrap(build(Chain, seed=1))
    after = False
    with outer.trace(X) as tracer:
        outer.h[0].output
        with inner.trace(Y):
            inner.h[0].output
            tracer.stop()
        after = True
    assert not after
    assert not has_gates(outer._module)
    assert not has_gates(inner._module)


# -- ways of leaving -------------------------------------------------------------------------------


class _Odd(BaseException):
    pass


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, _Odd])
def test_an_exception_of_the_users_comes_out_as_it_is_and_leaves_nothing(kind, logged):
    raised = kind("mine")
    with pytest.raises(kind) as caught, logged.trace(X):
        logged.b.output
        raise raised
    assert caught.value is raised
    assert not has_gates(logged._module)
    assert logged._module.log == ["a"]
    with logged.trace(X):
        again = logged.output
    assert same(again, hooked(logged._module, (X,))[""][0])


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, _Odd])
@pytest.mark.parametrize("waiting", ["output", "result", "exit"])
def test_an_exception_in_the_model_comes_out_in_the_users_block(kind, waiting):
    class Failing(Chain):
        fails = True

        def forward(self, x):
            x = self.h[0](x)
            if self.fails:
                raise kind("from the model")
            return self.h[1](x)

    net = build(Failing)
    model = wrap(net)
    with pytest.raises(kind, match="from the model"):
        with model.trace(X, finish=True) as tracer:
            hidden = model.h[0].output
            if waiting == "output":
                model.output
            elif waiting == "result":
                tracer.result
    assert not has_gates(net)
    net.fails = False
    assert same(hidden, net.h[0](X))
    with model.trace(X):
        again = model.output
    assert same(again, hooked(net, (X,))[""][0])


@pytest.mark.parametrize("where", ["model", "block", "body"])
def test_an_interrupt_from_the_keyboard_leaves_a_clean_model(where):
    class Interrupted(Chain):
        def forward(self, x):
            x = self.h[0](x)
            if armed and where == "model":
                signal.raise_signal(signal.SIGINT)
            return self.h[1](x)

    net = build(Interrupted)
    model = wrap(net)
    for _ in range(3):
        armed = True
        with pytest.raises(KeyboardInterrupt):
            with model.trace() as tracer:
                with tracer.invoke(X):
                    model.h[0].output
                    if where == "body":
                        signal.raise_signal(signal.SIGINT)
                    model.output
                with tracer.invoke(Y):
                    model.output
                if where == "block":
                    signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            with model.trace(X):
                model.h[0].output
                if where != "model":
                    signal.raise_signal(signal.SIGINT)
                model.output
        assert not has_gates(net)
        armed = False
        with model.trace(X):
            again = model.output
        assert same(again, hooked(net, (X,))[""][0])


def test_a_user_may_catch_a_models_error_inside_the_block():
    class Failing(Chain):
        def forward(self, x):
            self.h[0](x)
            raise KeyError("boom")

    model = wrap(build(Failing))
    with model.trace(X):
        hidden = model.h[0].output
        try:
            model.output
        except KeyError as error:
            text = str(error)
        else:
            text = ""
    assert "boom" in text
    assert same(hidden, model._module.h[0](X))


def test_return_continue_and_break_leave_a_plain_block(logged):
    def by_return():
        with logged.trace(X):
            return logged.a.output

    want = hooked(logged._module, (X,))["a.output"][0]
    assert same(by_return(), want)
    seen = []
    for turn in range(4):
        with logged.trace(X):
            if turn == 1:
                continue
            if turn == 3:
                break
            seen.append(logged.a.output)
    assert same(seen, [want, want])
    assert not has_gates(logged._module)


def test_a_block_may_yield_its_values_while_the_model_is_held(logged):
    def layers(x):
        with logged.trace(x):
            for name in "abc":
                yield logged.get(name).output

    want = hooked(logged._module, (X,))
    got = list(layers(X))
    assert same(got, [want[f"{name}.output"][0] for name in "abc"])
    assert not has_gates(logged._module)


def test_two_suspended_blocks_of_one_model_do_not_mix(logged):
    def layers(x):
        with logged.trace(x):
            for name in "abc":
                yield logged.get(name).output

    want = [hooked(logged._module, (x,)) for x in (X, Y)]
    for name, (one, two) in zip("abc", zip(layers(X), layers(Y), strict=True), strict=True):
        assert same(one, want[0][f"{name}.output"][0])
        assert same(two, want[1][f"{name}.output"][0])


def test_a_suspended_block_does_not_answer_for_code_outside_of_it(logged):
    def layers(x):
        with logged.trace(x):
            yield logged.a.output
            yield logged.b.output

    suspended = layers(X)
    next(suspended)
    try:
        with pytest.raises(OutsideTraceError):
            logged.b.output
        assert same(next(suspended), hooked(logged._module, (X,))["b.output"][0])
    finally:
        suspended.close()


def test_a_generator_closed_half_way_leaves_nothing(logged):
    def layers():
        with logged.trace(X):
            yield logged.a.output
            yield logged.b.output

    suspended = layers()
    next(suspended)
    assert has_gates(logged._module)
    suspended.close()
    assert not has_gates(logged._module)
    assert current_tracer() is None

    forgotten = layers()
    next(forgotten)
    del forgotten
    gc.collect()
    assert not has_gates(logged._module)
    assert current_tracer() is None


def test_a_block_that_ends_in_another_context_is_over_in_both(logged):
    def layers():
        with logged.trace(X):
            yield logged.a.output

    suspended = layers()
    next(suspended)
    contextvars.copy_context().run(suspended.close)
    assert not has_gates(logged._module)
    with pytest.raises(OutsideTraceError):
        logged.b.output


def test_a_context_manager_that_yields_inside_a_trace_works(logged):
    @contextlib.contextmanager
    def traced(x):
        with logged.trace(x) as tracer:
            yield tracer

    with traced(X) as tracer:
        hidden = logged.a.output
        logged.b.output[:] = 0
        result = tracer.result
    want = hooked(logged._module, (X,), edit={"b": lambda value: torch.zeros_like(value)})
    assert same([hidden, result], [want["a.output"][0], want[""][0]])


def test_an_exit_stack_can_hold_a_trace(logged):
    with contextlib.ExitStack() as stack:
        stack.enter_context(logged.trace(X))
        hidden = logged.b.output
    assert same(hidden, hooked(logged._module, (X,))["b.output"][0])
    assert not has_gates(logged._module)


def test_a_tracer_can_be_made_first_and_entered_later_and_again(logged):
    tracer = logged.trace(X)
    assert not has_gates(logged._module)
    got = []
    for _ in range(2):
        with tracer:
            got.append(logged.a.output)
    want = hooked(logged._module, (X,))["a.output"][0]
    assert same(got, [want, want])


def test_a_tracer_of_invokes_can_be_entered_again():
    model = wrap(build(Chain))
    tracer = model.trace()
    for x in (X, Y):
        with tracer:
            with tracer.invoke(x):
                hidden = model.h[0].output
        assert same(hidden, hooked(model._module, (x,))["h.0.output"][0])


def test_helper_functions_read_and_edit_for_the_block_that_calls_them(logged):
    def halve(envoy):
        envoy.output = envoy.output / 2

    def read(envoy):
        return envoy.output

    with logged.trace(X):
        halve(logged.a)
        seen = [read(logged.b) for _ in range(2)]
        final = (lambda: logged.output)()
    want = hooked(logged._module, (X,), edit={"a": lambda value: value / 2})
    assert same(seen, [want["b.output"][0]] * 2)
    assert same(final, want[""][0])


# -- traces in traces ------------------------------------------------------------------------------


def test_traces_of_two_models_can_be_nested_and_exchange_values():
    outer, inner = wrap(build(Chain)), wrap(build(Chain, seed=1))
    with outer.trace(X):
        first = outer.h[0].output
        with inner.trace(first):
            inner.h[1].output[:] = outer.h[1].output
            result = inner.output
            also = outer.h[2].output
        outer.h[3].output = torch.zeros_like(also)
        final = outer.output
    want = hooked(outer._module, (X,), edit={"h.3": lambda value: torch.zeros_like(value)})
    assert same(first, want["h.0.output"][0])
    donor = want["h.1.output"][0]
    theirs = hooked(inner._module, (first,), edit={"h.1": lambda _: donor})
    assert same(result, theirs[""][0])
    assert same([also, final], [want["h.2.output"][0], want[""][0]])


def test_a_trace_of_the_same_model_inside_a_trace_is_a_run_of_its_own():
    model = wrap(build(Chain))
    with model.trace(X):
        one = model.h[0].output
        with model.trace(Y):
            donor = model.h[1].output
            theirs = model.output
        model.h[1].output[:] = donor
        final = model.output
    want = hooked(model._module, (Y,))
    assert same([donor, theirs], [want["h.1.output"][0], want[""][0]])
    assert same(one, hooked(model._module, (X,))["h.0.output"][0])
    assert same(final, hooked(model._module, (X,), edit={"h.1": lambda _: donor})[""][0])
    assert not has_gates(model._module)


def test_a_trace_inside_an_invoke_is_a_run_of_its_own():
    model = wrap(build(Chain))
    with model.trace() as tracer:
        with tracer.invoke(X):
            model.h[0].output
            with model.trace(Y):
                donor = model.h[1].output
            model.h[1].output[:] = donor
            final = model.output
        with tracer.invoke(Y):
            plain = model.output
    assert same(donor, hooked(model._module, (Y,))["h.1.output"][0])
    want = hooked(model._module, (X,), edit={"h.1": lambda _: donor})[""][0]
    assert torch.allclose(final, want, atol=1e-6)
    assert torch.allclose(plain, hooked(model._module, (Y,))[""][0], atol=1e-6)


def test_invokes_inside_a_trace_of_another_model_are_batched_as_ever():
    outer, inner = wrap(build(Chain)), wrap(build(Chain, seed=1))
    with outer.trace(X):
        steer = outer.h[1].output
        with inner.trace() as tracer:
            with tracer.invoke(X):
                inner.h[0].output[:] = steer
                a = inner.output
            with tracer.invoke(Y):
                b = inner.output
        final = outer.output
    want = hooked(inner._module, (X,), edit={"h.0": lambda _: steer})[""][0]
    assert torch.allclose(a, want, atol=1e-6)
    assert torch.allclose(b, hooked(inner._module, (Y,))[""][0], atol=1e-6)
    assert same(final, hooked(outer._module, (X,))[""][0])


def test_a_model_that_traces_another_inside_its_forward_can_be_traced():
    inner = wrap(build(Chain, seed=1))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            with inner.trace(x):
                hidden = inner.h[0].output
            return self.block(hidden)

    net = build(Outer)
    model = wrap(net)
    with model.trace(X):
        given = model.block.input
        final = model.output
    want = hooked(inner._module, (X,))["h.0.output"][0]
    assert same(given, want)
    with torch.no_grad():
        assert same(final, net.block(want))


# -- asyncio ---------------------------------------------------------------------------------------


def test_asyncio_tasks_trace_one_model_side_by_side(logged):
    async def work(seed):
        x = rows(seed=seed)
        got = []
        with logged.trace(x):
            for name in "abc":
                got.append(logged.get(name).output)
                await asyncio.sleep(0)
                if name == "a" and seed % 2:
                    got[0][:] = 0
        return got

    async def main():
        return await asyncio.gather(*(work(seed) for seed in range(4)))

    results = asyncio.run(main())
    for seed, got in enumerate(results):
        edit = {"a": lambda value: value * 0} if seed % 2 else {}
        want = hooked(logged._module, (rows(seed=seed),), edit=edit)
        # An edit counts while the model stands there.
        assert same(got, [want[f"{name}.output"][0] for name in "abc"])
    assert not has_gates(logged._module)


def test_a_cancelled_task_leaves_nothing(logged):
    async def main():
        started = asyncio.Event()

        async def work():
            with logged.trace(X):
                logged.a.output
                started.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await started.wait()
        assert has_gates(logged._module)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not has_gates(logged._module)


def test_an_async_generator_may_yield_inside_a_trace(logged):
    async def layers(x):
        with logged.trace(x):
            for name in "abc":
                yield logged.get(name).output
                await asyncio.sleep(0)

    async def main():
        return [value async for value in layers(X)]

    want = hooked(logged._module, (X,))
    assert same(asyncio.run(main()), [want[f"{name}.output"][0] for name in "abc"])


# -- asked in the wrong way ------------------------------------------------------------------------


def test_an_invoke_inside_a_trace_with_an_input_is_refused(logged):
    with pytest.raises(InputError, match="already has an input"), logged.trace(X) as tracer:
        with tracer.invoke(Y):
            logged.a.output
    assert not has_gates(logged._module)


def test_an_invoke_inside_an_invoke_is_refused(logged):
    with pytest.raises(InputError, match="invoke"), logged.trace() as tracer:
        with tracer.invoke(X):
            with tracer.invoke(Y):
                logged.a.output
    assert not has_gates(logged._module)


def test_barrier_is_accepted(logged):
    with logged.trace() as tracer:
        barrier = tracer.barrier(2)
        with tracer.invoke(X):
            donor = logged.a.output
            barrier()
        with tracer.invoke(Y):
            barrier()
            logged.a.output[:] = donor
            final = logged.output
    assert torch.allclose(final, hooked(logged._module, (X,))[""][0], atol=1e-6)
