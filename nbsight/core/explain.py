"""Errors on the user's own line: what was asked, what is there, what to write instead."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from torch import nn

from nbsight.core.participant import Reached, place_of
from nbsight.core.scan import NO_NUMBERS
from nbsight.core.sites import Line, Site, describe, locate, show_line
from nbsight.core.source import Operation
from nbsight.core.uncalled import is_script_part, why_uncalled
from nbsight.errors import (
    EditError,
    ModelRunError,
    NbsightError,
    NeverCalledError,
    NotFiniteError,
    OutOfOrderError,
)

if TYPE_CHECKING:
    from nbsight.core.asked import Asked
    from nbsight.core.envoy import Envoy
    from nbsight.core.participant import Participant
    from nbsight.core.run import Run

__all__ = [
    "check_inputs",
    "like",
    "missed",
    "model_failed",
    "order_of",
    "passed_in_step",
    "refuse_hopeless",
]


# -- a place that was not reached ------------------------------------------------------------------


def refuse_hopeless(run: Run, asked: Reached) -> None:
    """Raise for a place that no forward like this one can come to.

    Raises:
        OutOfOrderError: the model has failed.
        NeverCalledError: the place lies in what was skipped, or is nothing that can be called.
    """
    envoy, _, line = asked
    if run.failure is not None:
        raise OutOfOrderError(
            f"`{place_of(asked)}` was asked for, but the model failed earlier in this run: {run.failure}\n"
            f"  {show_line(line)}\nNothing after that place has a value."
        )
    for module, skipped in run.skipped.items():
        if envoy._module is not module and _lies_in(envoy, module):
            raise NeverCalledError(
                f"`{place_of(asked)}` was asked for, but `{run.name(module)}` was skipped, so nothing "
                f"inside it runs.\n  {show_line(line)}\nIt was skipped here:\n  {show_line(skipped)}"
            )
    home = _home(envoy)
    if home._follow():
        raise NeverCalledError(
            f"`{place_of(asked)}` was asked for, and a module on the way to it has been replaced since it "
            f"was last looked at.\n  {show_line(line)}\nThe new one is known now: run the block again."
        )
    # A shell's `generate` calls what is inside, and a script's parts are called out of Python's sight.
    is_shell = home._parent is None and home._module is not run.root and not run.was_called(home._module)
    if home._module not in home._gates() or is_shell or is_script_part(home):
        raise _never_called(run, asked)


def _never_called(run: Run, asked: Reached) -> NeverCalledError:
    """The error for a module that the forward does not call."""
    home = _home(asked[0])
    advice = (
        "Ask a module that the forward calls: its parent "
        f"`{home._parent._path or 'model' if home._parent else 'model'}` or its submodules."
    )
    return NeverCalledError(
        f"`{place_of(asked)}` was asked for, but this run never calls `{home._path or 'model'}` "
        f"({type(home._module).__name__}).\n  {show_line(asked[2])}\n" + (why_uncalled(run, home) or advice)
    )


def missed(
    run: Run,
    participant: Participant,
    asked: Reached,
    last: Reached | None,
    stood: Site | None,
    seen: Run | None,
    why: str = "",
) -> NbsightError:
    """The error for a place that the run ended without reaching.

    Args:
        run: The run.
        participant: Who asked.
        asked: The place and the line.
        last: What had been reached before.
        stood: Where the run stood when it was asked for.
        seen: A forward like that of the run with a gate at the place from its start, if there is one.
        why: Why a second forward would not give it.
    """
    envoy, _, line = asked
    home = _home(envoy)
    if seen is not None and not (run.was_called(home._module) or seen.was_called(home._module)):
        return _never_called(run, asked)
    if isinstance(envoy, Operation) and not run.was_called(envoy):
        return _operation_missed(envoy, asked, last, seen or run, why)
    text = f"`{place_of(asked)}` was asked for after the model had passed it.\n  {show_line(line)}\n"
    text += _stood_at(last)
    source = getattr(participant, "got_from", None)
    if source is not None and stood is not None:
        name, binder = source
        return OutOfOrderError(
            f"{text}`{name}`, which this block waited for, is made by the block on line "
            f"{binder.block.line}, at `{run.name(stood.module)}.{stood.kind}`: later than "
            f"`{place_of(asked)}`. That takes two traces: save `{name}` in the first and use it in the "
            "second."
        )
    return OutOfOrderError(text + _no_second(why) + order_of(line, last))


def _stood_at(last: Reached | None) -> str:
    """Where the model stood, and the line that had asked for that."""
    if last is None:
        return ""
    return f"By then the model stood at `{place_of(last)}`:\n  {show_line(last[2])}\n"


def order_of(line: Line, last: Reached | None) -> str:
    """The order of two lines that works."""
    rule = "in the order in which the model computes, inner modules first."
    if last is not None:
        (file, number), (other, before) = locate(line), locate(last[2])
        if file == other and number > before:
            return f"Put line {number} before line {before}: lines stand {rule}"
    return f"Write the lines {rule}"


def _no_second(why: str) -> str:
    return f"A second forward would not give it: {why}.\n" if why else ""


def _home(envoy: Any) -> Any:
    """The envoy of the module that must be called for a place to be reached."""
    return envoy._home if isinstance(envoy, Operation) else envoy


def _lies_in(envoy: Any, other: Any) -> bool:
    """Whether what an envoy stands for is inside a module or an operation that was skipped."""
    if isinstance(envoy, Operation):
        return envoy._lies_in(other)
    inner = other if isinstance(other, nn.Module) else other._submodule
    return inner is not None and any(envoy._module is sub for sub in inner.modules())


def _operation_missed(
    operation: Operation, asked: Reached, last: Reached | None, seen: Run, why: str
) -> NbsightError:
    """The error for an operation that did not run, or ran before anybody could see it."""
    line = asked[2]
    function = operation._owner_path or "model"
    if not seen.was_called(operation) and any(seen.was_called(other) for other in operation._view):
        return NeverCalledError(
            f"`{place_of(asked)}` was asked for, but this run does not get to it: the branch of "
            f"`{function}` that holds {operation._where()} was not taken.\n  {show_line(line)}\n"
            f"`print({operation._view._code})` shows its other operations."
        )
    return OutOfOrderError(
        f"`{place_of(asked)}` was asked for when the model had already begun `{function}` or gone past "
        f"it, so its operations can no longer be stopped at.\n  {show_line(line)}\n"
        + _stood_at(last)
        + _no_second(why)
        + "Ask for the operations before anything inside or after it, or let the block begin "
        f"with `source = {operation._view._code}` and use `source.{operation.name}` later."
    )


def passed_in_step(
    tracer: Asked, run: Run, participant: Participant, envoy: Envoy, what: str, line: Line
) -> NbsightError:
    """The error for a place that the present step of a generation had already passed."""
    asked = f"{envoy._path or 'model'}.{what}"
    last = participant.last
    generation = tracer.generation
    if generation is not None and generation.asked.get(participant) == participant.step:
        return OutOfOrderError(
            f"`{asked}` was asked for in step {participant.step}, after the token that this step chose; to "
            f"know that, the model had to end the step.\n  {show_line(line)}\n"
            "Ask for the token last in the body of the loop, or after the block: `tracer.steps[0].token`."
        )
    return OutOfOrderError(
        f"`{asked}` was asked for in step {participant.step}, after the model had passed it in that "
        f"step.\n  {show_line(line)}\n"
        + (f"By then it stood at `{place_of(last)}`:\n  {show_line(last[2])}\n" if last else "")
        + "Write the lines in the order in which the model computes; for later steps loop with "
        "`for step in tracer.iter[:]:`."
    )


# -- the model failed ------------------------------------------------------------------------------


def model_failed(run: Run, error: BaseException) -> BaseException:
    """The error for a failure inside the model, naming the module and the edit before it."""
    if isinstance(error, NotFiniteError):
        return error.with_traceback(None)  # where it was found is in its text
    if not isinstance(error, Exception) or isinstance(error, NbsightError):
        return error
    if isinstance(error, NO_NUMBERS):
        return like(error, ModelRunError)(
            f"`scan` cannot get past `{_where(run.model, error)}`: how it goes on depends on numbers "
            f"({getattr(error, 'func', error)}), and a scan has only shapes. Ask for what comes before it, "
            "or write `with model.trace(...)`."
        )
    lines = [f"the model failed in `{_where(run.model, error)}`: {type(error).__name__}: {error}"]
    for edit in run.edits[-3:]:
        lines.append(
            f"`{edit.path}.{edit.kind}` had been changed before that:\n  {show_line(edit.line)}\n"
            f"  {edit.before} -> {edit.after}"
        )
    if run.edits:
        lines.append("A value that replaces another needs its shape, dtype and device.")
    lines.append("The model's own traceback is in the error's `.original`.")
    failure = like(error, ModelRunError)("\n".join(lines))
    failure.original = error
    del error
    return failure


def like(error: BaseException, kind: Any) -> Any:
    """A class that is `kind` and also an error of the original's type: `except` still works."""
    original: Any = type(error)
    return kind if issubclass(kind, original) else _joined(kind, original)


@functools.lru_cache(maxsize=64)  # a class is a knot of references, so one is made once
def _joined(kind: Any, original: Any) -> Any:
    try:
        return type(kind.__name__, (kind, original), {"__module__": kind.__module__})
    except TypeError:  # the two layouts do not go together
        return kind


def _where(root: Any, error: BaseException) -> str:
    """The path of the innermost module on the traceback."""
    place, trace = "model", error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in root._paths:
            place = root._path_of(owner)
        trace = trace.tb_next
    return place


def check_inputs(envoy: Envoy, value: Any) -> Any:
    """The pair (args, kwargs) that a user wrote to `.inputs`.

    Raises:
        EditError: it is not such a pair.
    """
    if (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], (tuple, list))
        and isinstance(value[1], dict)
    ):
        return (tuple(value[0]), value[1])
    raise EditError(
        f"`{envoy._path}.inputs` is a pair (args, kwargs) and was set to {describe(value)}. Write "
        f"`{envoy._path}.inputs = ((x,), {{}})`, or set the first argument alone with "
        f"`{envoy._path}.input = x`."
    )
