"""Names: what a waiting body sees, and what comes back to the user's frame."""

# A name that only another invoke binds looks undefined to a linter.
# ruff: noqa: B023, F821

from __future__ import annotations

import linecache
import sys
import textwrap
import threading

import pytest
import torch

from nbsight.core.model import wrap
from nbsight.errors import CaptureError
from tests.core.small import Chain, build, close, hooked, rows, run_cell, same

NET = build(Chain)
MODEL = wrap(NET)
ONE, TWO = rows(1, seed=1), rows(1, seed=2)
FACTOR = 2.0


def patched(clean: torch.Tensor, corrupted: torch.Tensor, layer: int = 1) -> torch.Tensor:
    """Logits of `corrupted` with `clean`'s state after a layer: by hooks."""
    donor = hooked(NET, (clean,))[f"h.{layer}.output"][0]
    return hooked(NET, (corrupted,), edit={f"h.{layer}": lambda _: donor})[""][0]


# -- sharing between invokes -------------------------------------------------------------------


def test_a_later_invoke_reads_what_an_earlier_one_binds():
    with MODEL.trace() as tracer:
        with tracer.invoke(ONE):
            donor = MODEL.h[1].output
        with tracer.invoke(TWO):
            MODEL.h[1].output[:] = donor
            final = MODEL.output
    assert close(final, patched(ONE, TWO))


def test_a_loop_over_pairs_never_reads_a_stale_donor():
    pairs = [(rows(seed=seed), rows(seed=seed + 50)) for seed in range(4)]
    for clean, corrupted in pairs:
        with MODEL.trace() as tracer:
            with tracer.invoke(clean):
                donor = MODEL.h[1].output
            with tracer.invoke(corrupted):
                MODEL.h[1].output[:] = donor
                final = MODEL.output
        assert close(final, patched(clean, corrupted))


def test_several_pairs_in_one_trace_each_read_the_nearest_earlier_binder():
    pairs = [(rows(seed=seed), rows(seed=seed + 50)) for seed in range(4)]
    finals = []
    with MODEL.trace() as tracer:
        for clean, corrupted in pairs:
            with tracer.invoke(clean):
                donor = MODEL.h[1].output
            with tracer.invoke(corrupted):
                MODEL.h[1].output[:] = donor
                finals.append(MODEL.output)
    assert len(finals) == 4
    for final, pair in zip(finals, pairs, strict=True):
        assert close(final, patched(*pair))


def test_the_same_cell_run_twice_uses_this_runs_donor():
    source = textwrap.dedent("""
        with model.trace() as tracer:
            with tracer.invoke(clean):
                donor = model.h[1].output
            with tracer.invoke(corrupted):
                model.h[1].output[:] = donor
                final = model.output
    """)
    linecache.cache["<cell>"] = (len(source), None, source.splitlines(keepends=True), "<cell>")
    names = {"model": MODEL}
    code = compile(source, "<cell>", "exec", dont_inherit=True)
    for clean, corrupted in ((ONE, TWO), (TWO, ONE), (ONE, ONE)):
        names.update(clean=clean, corrupted=corrupted)
        exec(code, names)
        assert close(names["final"], patched(clean, corrupted))


def test_different_cells_that_use_the_same_names_do_not_mix():
    names = {"model": MODEL, "one": ONE, "two": TWO}
    for layer in (1, 2, 1):
        run_cell(
            f"""
            with model.trace() as tracer:
                with tracer.invoke(one):
                    donor = model.h[{layer}].output
                with tracer.invoke(two):
                    model.h[{layer}].output[:] = donor
                    final = model.output
            """,
            names,
        )
        assert close(names["final"], patched(ONE, TWO, layer))


def test_two_invokes_exchange_values_in_both_directions():
    for _ in range(3):
        with MODEL.trace() as tracer:
            with tracer.invoke(ONE):
                left = MODEL.h[1].output.clone()
                MODEL.h[1].output[:] = right
                a = MODEL.output
            with tracer.invoke(TWO):
                right = MODEL.h[1].output.clone()
                MODEL.h[1].output[:] = left
                b = MODEL.output
        assert close(a, patched(TWO, ONE))
        assert close(b, patched(ONE, TWO))


def test_an_exchange_in_a_loop_over_pairs_is_never_stale():
    for clean, corrupted in ((ONE, TWO), (TWO, rows(seed=7)), (rows(seed=8), ONE)):
        with MODEL.trace() as tracer:
            with tracer.invoke(corrupted):
                MODEL.h[2].output[:] = donor
                final = MODEL.output
            with tracer.invoke(clean):
                donor = MODEL.h[1].output.clone()
        want = hooked(NET, (clean,))["h.1.output"][0]
        assert close(final, hooked(NET, (corrupted,), edit={"h.2": lambda _: want})[""][0])


@pytest.mark.parametrize("form", ["tuple", "number", "rebound"])
def test_an_exchange_is_not_stale_whatever_kind_of_value_it_is(form):
    for clean, corrupted in ((ONE, TWO), (TWO, rows(seed=7))):
        with MODEL.trace() as tracer:
            with tracer.invoke(corrupted):
                MODEL.h[2].output[:] = donor[0] if form == "tuple" else donor
                final = MODEL.output
            with tracer.invoke(clean):
                donor = MODEL.h[1].output
                if form == "tuple":
                    donor = (donor,)
                elif form == "number":
                    donor = float(donor.sum())
        hidden = hooked(NET, (clean,))["h.1.output"][0]
        want = torch.full_like(hidden, hidden.sum()) if form == "number" else hidden
        assert close(final, hooked(NET, (corrupted,), edit={"h.2": lambda _: want})[""][0])
        if form == "rebound":
            donor = donor.clone()


def test_an_exchange_in_two_threads_is_stale_in_neither():
    failures = []
    gate = threading.Barrier(2)

    def work(seed):
        for turn in range(6):
            clean, corrupted = rows(seed=seed + turn), rows(seed=seed + turn + 20)
            with MODEL.trace() as tracer:
                with tracer.invoke(corrupted):
                    MODEL.h[2].output[:] = donor
                    final = MODEL.output
                with tracer.invoke(clean):
                    donor = MODEL.h[1].output.clone()
            want = hooked_in_turn(clean)
            if not torch.allclose(donor, want, atol=1e-6):
                failures.append(("donor", turn))
            if not torch.allclose(final, after_layer_2(want), atol=1e-5):
                failures.append(("final", turn))
            gate.wait(30)

    def hooked_in_turn(x):
        with torch.no_grad():
            return NET.h[1](NET.h[0](x))

    def after_layer_2(state):
        with torch.no_grad():
            return NET.head(NET.h[3](state))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_outer_value_is_read_when_no_invoke_binds_the_name():
    donor = torch.full((1, 3, 6), 0.5)
    with MODEL.trace() as tracer:
        with tracer.invoke(ONE):
            MODEL.h[1].output[:] = donor * FACTOR
            a = MODEL.h[1].output
        with tracer.invoke(TWO):
            pass
    assert a.eq(1.0).all()


def test_an_outer_value_comes_before_what_a_later_invoke_binds():
    donor = torch.full((1, 3, 6), 0.5)
    with MODEL.trace() as tracer:
        with tracer.invoke(ONE):
            MODEL.h[2].output[:] = donor
            a = MODEL.h[2].output
        with tracer.invoke(TWO):
            donor = MODEL.h[1].output
    assert a.eq(0.5).all()
    assert close(donor, hooked(NET, (TWO,))["h.1.output"][0])


def test_a_body_that_rebinds_an_outer_name_reads_the_outer_value_first():
    total = torch.zeros(())
    count = 0
    with MODEL.trace() as tracer:
        for x in (ONE, TWO):
            with tracer.invoke(x):
                total = total + MODEL.output.sum()
                count += 1
    want = hooked(NET, (ONE,))[""][0].sum() + hooked(NET, (TWO,))[""][0].sum()
    assert count == 2
    assert torch.allclose(total, want, atol=1e-5)


def test_a_loop_variable_means_what_it_meant_in_that_turn():
    seen = []
    with MODEL.trace() as tracer:
        for layer in range(4):
            with tracer.invoke(rows(seed=layer)):
                seen.append((layer, MODEL.h[layer].output))
    for layer, value in seen:
        assert close(value, hooked(NET, (rows(seed=layer),))[f"h.{layer}.output"][0])


def test_a_name_that_is_bound_on_one_branch_only_is_taken_from_where_it_is_bound():
    for take in (True, False):
        chosen = "outer"
        with MODEL.trace() as tracer:
            with tracer.invoke(ONE):
                MODEL.h[0].output
                if take:
                    chosen = "inner"
            with tracer.invoke(TWO):
                seen = chosen
        assert seen == ("inner" if take else "outer")


def test_a_name_that_no_branch_bound_is_a_name_error_on_the_users_line():
    def go(flag):
        with MODEL.trace() as tracer:
            with tracer.invoke(ONE):
                if flag:
                    missing = 1
            with tracer.invoke(TWO):
                missing + 1

    with pytest.raises(NameError, match="missing"):
        go(False)
    go(True)


def test_a_deleted_name_is_gone_and_others_stay():
    keep, drop = 1, 2
    with MODEL.trace() as tracer:
        with tracer.invoke(ONE):
            drop = 3
            del drop
            keep = 4
        with tracer.invoke(TWO):
            pass
    assert keep == 4


# -- functions in bodies -----------------------------------------------------------------------


def test_functions_lambdas_and_comprehensions_in_bodies_see_the_bodys_names():
    scale = 3.0
    with MODEL.trace() as tracer:
        with tracer.invoke(ONE):
            base = MODEL.h[0].output

            def shifted(by):
                def inner():
                    return base * scale + by

                return inner()

            from_function = shifted(1)
            from_lambda = (lambda value: value * scale)(base)
            from_list = [base * factor for factor in (1, scale)]
            from_dict = {layer: base + layer for layer in range(2) if layer < scale}
            from_generator = sum(base * factor for factor in (1.0, scale))

            class Holder:
                kept = base
                double = lambda self: self.kept * 2

            from_class = Holder().double()
        with tracer.invoke(TWO):
            across = shifted(0)
            walrus = (doubled := base * 2).sum()
    want = hooked(NET, (ONE,))["h.0.output"][0]
    assert close(from_function, want * 3 + 1)
    assert close(from_lambda, want * 3)
    assert close(from_list[1], want * 3)
    assert close(from_dict[1], want + 1)
    assert close(from_generator, want * 4)
    assert close(from_class, want * 2)
    assert close(across, want * 3)
    assert torch.allclose(walrus, (want * 2).sum(), atol=1e-5)
    assert close(doubled, want * 2)
    # They are ordinary functions afterwards.
    assert close(shifted(5), want * 3 + 5)


def test_a_closure_of_the_enclosing_function_sees_the_rebound_name():
    hidden = None

    def look():
        return hidden

    with MODEL.trace() as tracer:
        with tracer.invoke(ONE):
            hidden = MODEL.h[0].output
        with tracer.invoke(TWO):
            pass
    assert close(look(), hooked(NET, (ONE,))["h.0.output"][0])


def test_a_nonlocal_name_is_written_where_it_belongs():
    def outer():
        kept = None

        def inner():
            nonlocal kept
            with MODEL.trace() as tracer:
                with tracer.invoke(ONE):
                    kept = MODEL.h[0].output
                with tracer.invoke(TWO):
                    pass

        inner()
        return kept

    assert close(outer(), hooked(NET, (ONE,))["h.0.output"][0])


def test_a_global_name_is_written_where_it_belongs():
    def go():
        global _kept_globally
        with MODEL.trace() as tracer:
            with tracer.invoke(ONE):
                _kept_globally = MODEL.h[0].output
            with tracer.invoke(TWO):
                pass

    globals().pop("_kept_globally", None)
    go()
    assert close(globals()["_kept_globally"], hooked(NET, (ONE,))["h.0.output"][0])


def test_a_name_known_only_to_a_string_is_found():
    scale = 3.0
    with MODEL.trace() as tracer:
        with tracer.invoke(ONE):
            base = MODEL.h[0].output
            scaled = base * eval("scale")
        with tracer.invoke(TWO):
            mine = sorted(locals())
    assert close(scaled, hooked(NET, (ONE,))["h.0.output"][0] * 3)
    assert scale == 3.0


def test_annotations_in_a_body_inside_a_function_are_not_evaluated():
    names = run_cell(
        """
        def go():
            with model.trace() as tracer:
                with tracer.invoke(one):
                    hidden: Float[Tensor, "batch position d_model"] = model.h[0].output
                with tracer.invoke(two):
                    pass
            return hidden
        """,
        {"model": MODEL, "one": ONE, "two": TWO},
    )
    assert close(names["go"](), hooked(NET, (ONE,))["h.0.output"][0])


class Keeper:
    """A user's class whose method traces."""

    def __init__(self) -> None:
        self.__factor = 2.0
        self.scaled = None

    def run(self):
        with MODEL.trace() as tracer:
            with tracer.invoke(ONE):
                self.scaled = MODEL.h[0].output * 2
                base = MODEL.h[0].output
            with tracer.invoke(TWO):
                pass
        return base

    def run_private(self):
        with MODEL.trace() as tracer:
            with tracer.invoke(ONE):
                scaled = MODEL.h[0].output * self.__factor
            with tracer.invoke(TWO):
                pass
        return scaled


def test_a_method_traces_and_sees_self():
    keeper = Keeper()
    base = keeper.run()
    assert same(keeper.scaled, base * 2)


def test_a_private_name_of_a_class_is_found_in_a_body():
    assert close(Keeper().run_private(), hooked(NET, (ONE,))["h.0.output"][0] * 2)


def test_a_class_body_can_hold_a_trace():
    class Found:
        with MODEL.trace() as tracer:
            with tracer.invoke(ONE):
                hidden = MODEL.h[0].output
            with tracer.invoke(TWO):
                again = hidden + 0

    assert close(Found.hidden, hooked(NET, (ONE,))["h.0.output"][0])
    assert same(Found.again, Found.hidden)


def test_a_generator_function_can_hold_invokes():
    def go():
        yield "start"
        with MODEL.trace() as tracer:
            with tracer.invoke(ONE):
                hidden = MODEL.h[0].output
            with tracer.invoke(TWO):
                pass
        yield hidden

    _start, hidden = go()
    assert close(hidden, hooked(NET, (ONE,))["h.0.output"][0])


def test_an_import_in_a_body_binds_its_name():
    with MODEL.trace() as tracer:
        with tracer.invoke(ONE):
            import math as arithmetic

            size = arithmetic.floor(2.5)
        with tracer.invoke(TWO):
            pass
    assert (size, arithmetic.ceil(2.5)) == (2, 3)


# -- bodies that cannot wait -------------------------------------------------------------------


def _return_in_body():
    with MODEL.trace() as tracer, tracer.invoke(ONE):
        return 1


def _yield_in_body():
    with MODEL.trace() as tracer, tracer.invoke(ONE):
        yield 1


def _continue_in_body():
    for _ in range(2):
        with MODEL.trace() as tracer, tracer.invoke(ONE):
            continue


def _break_in_body():
    for _ in range(2):
        with MODEL.trace() as tracer, tracer.invoke(ONE):
            break


@pytest.mark.parametrize(
    "go", [_return_in_body, lambda: list(_yield_in_body()), _continue_in_body, _break_in_body]
)
def test_a_statement_that_cannot_wait_is_refused_with_its_line(go):
    with pytest.raises(
        CaptureError, match=r"(?s)line \d+: (return|yield|continue|break).*kept and run later"
    ):
        go()
    with MODEL.trace(ONE):
        again = MODEL.output
    assert same(again, hooked(NET, (ONE,))[""][0])


def test_blocks_that_wait_for_each_other_are_told_so():
    waiting = r"(?s)wait for each other:.*invoke\(ONE\): waits for `theirs`.*invoke\(TWO\): waits for `mine`"
    with pytest.raises(CaptureError, match=waiting):
        with MODEL.trace() as tracer:
            with tracer.invoke(ONE):
                MODEL.h[0].output[:] = theirs
                mine = MODEL.h[2].output
            with tracer.invoke(TWO):
                MODEL.h[0].output[:] = mine
                theirs = MODEL.h[2].output


def test_a_value_made_too_late_is_named_with_the_line_that_makes_it():
    with pytest.raises(ValueError, match="two traces") as caught:
        with MODEL.trace() as tracer:
            with tracer.invoke(ONE):
                late = MODEL.h[3].output
            with tracer.invoke(TWO):
                MODEL.h[1].output[:] = late
    assert "`late`" in str(caught.value)
    assert "h.3.output" in str(caught.value)


def test_a_write_to_a_place_that_was_passed_while_waiting_is_not_silent():
    with pytest.raises(ValueError, match="two traces"):
        with MODEL.trace() as tracer:
            with tracer.invoke(ONE):
                late = MODEL.h[3].output
            with tracer.invoke(TWO):
                early = MODEL.h[1].output
                early[:] = late


# -- names that a body deletes ---------------------------------------------------------------------


@pytest.mark.parametrize("where", ["cell", "function"])
def test_a_body_may_delete_a_name_from_around_it(where):
    body = """
    outer, kept = 1, 2
    with MODEL.trace() as tracer:
        with tracer.invoke(ONE):
            own = 3
            del outer, own
            try:
                outer
            except NameError as error:
                said = str(error)
            try:
                del own
            except NameError:
                twice = True
            del kept
            kept = 5
        with tracer.invoke(TWO):
            pass
    """
    names = {"MODEL": MODEL, "ONE": ONE, "TWO": TWO}
    if where == "cell":
        run_cell(body, names)
        found = names
    else:
        run_cell(f"def function():{textwrap.indent(body, '    ')}\n        return dict(locals())", names)
        found = names["function"]()
    assert found["said"] == "name 'outer' is not defined"
    assert found["twice"] is True
    assert found["kept"] == 5
    assert "own" not in found
    if where == "cell" or sys.version_info < (3, 13):  # later, a function's names cannot be unbound
        assert "outer" not in found
