"""What a held run says: where it stands and how far it has come, and why it cannot do as asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nbsight.core.displays import name_of
from nbsight.core.sites import Edit, Line, describe, show_line
from nbsight.core.source import as_code
from nbsight.errors import NbsightError, OutOfOrderError

if TYPE_CHECKING:
    from nbsight.core.holding import HeldTracer

__all__ = [
    "NEW",
    "begun",
    "changes_of",
    "describe_run",
    "not_there",
    "over",
    "passed",
    "ran_out",
    "shape_text",
]

#: How to get another run.
NEW = "`run = model.start(prompt)`"

#: Tokens of a prompt that are shown.
_MOST_TOKENS = 24


# -- what is there -----------------------------------------------------------------------------


def shape_text(tracer: HeldTracer, value: Any) -> str:
    """A value's dtype and shape, its axes named where the model knows them."""
    if isinstance(value, torch.Tensor) and value.ndim:
        names = tracer.root._axis_names(tuple(value.shape), tracer.trail.given)
        if names is not None:
            sizes = zip(names, value.shape, strict=True)
            axes = ", ".join(f"{name} {size}".lstrip() for name, size in sizes)
            dtype, _, rest = describe(value).partition(" (")
            return f"{dtype} ({axes}){rest.partition(')')[2]}"
    if isinstance(value, (tuple, list)):
        more = ", …" if len(value) > 4 else ""
        items = ", ".join(shape_text(tracer, item) for item in value[:4])
        return f"{type(value).__name__} of {items}{more}"
    return "None" if value is None else describe(value)


def describe_run(tracer: HeldTracer) -> str:
    """At most a few lines: the state, the progress, the value, the tokens, the edits."""
    what = {"forward": "run", "generate": "generation"}.get(tracer.method, f"`{tracer.method}`")
    title = f"{what} of {name_of(tracer.root)}"
    if tracer.state == "closed":
        return f"{title}, closed" + (f" at {tracer.last_place}" if tracer.last_place else "")
    if tracer.state == "failed":
        return f"{title}, failed{_failure(tracer)}"
    if tracer.state == "finished":
        return f"{title}, finished; run.result is {describe(tracer.outcome)}"
    site = tracer.run.site if tracer.run is not None else None
    place = tracer.place()
    lines = [f"{title}, held open " + (f"at {place}" if place else "before its first module")]
    lines.append(f"  {tracer.trail.progress(site)}" + _step(tracer))
    if site is not None:
        value = tracer.shown_here(tracer.trail.envoy_of(site.module))
        lines.append(f"  value: {shape_text(tracer, value)}")
    tokens = _tokens(tracer)
    if tokens:
        shown = " ".join(repr(token) for token in tokens[:_MOST_TOKENS])
        lines.append(f"  tokens: {shown}" + (" …" if len(tokens) > _MOST_TOKENS else ""))
    changed = list(dict.fromkeys(f"{edit.path}.{edit.kind}" for edit in changes_of(tracer)))
    if changed:
        lines.append(f"  edited: {', '.join(changed[:6])}" + (" …" if len(changed) > 6 else ""))
    return "\n".join(lines)


def _step(tracer: HeldTracer) -> str:
    if tracer.method == "forward" or tracer.run is None:
        return ""
    return f", step {max(tracer.run.passes - 1, 0)}"


def _tokens(tracer: HeldTracer) -> list[str] | None:
    """The tokens that the model is reading: the prompt's, or in a later step the new one."""
    if tracer.run is not None and tracer.run.passes > 1:
        return tracer.root._tokens_in(tracer.trail.given)
    return None if tracer.driver.tokens is None else tracer.driver.tokens()


def changes_of(tracer: HeldTracer) -> list[Edit]:
    """What was changed so far, what was changed in place where the run stands included."""
    run = tracer.run
    if run is None:
        return []
    site, done = run.site, list(run.edits)
    if site is not None and site.is_touched:
        what = describe(tracer.shown_here(tracer.trail.envoy_of(site.module)))
        done.append(Edit(run.name(site.module), site.kind, site.line, what, "changed in place"))
    return done


# -- why not -----------------------------------------------------------------------------------


def over(tracer: HeldTracer, line: Line | None) -> str:
    """A run was used that cannot go on."""
    shown = f"\n  {show_line(line)}" if line is not None else ""
    if tracer.state == "finished":
        return (
            f"this run has finished.{shown}\nWhat the model returned is `run.result`; for another run "
            f"write {NEW}."
        )
    if tracer.state == "failed":
        return f"the model failed in this run{_failure(tracer)}{shown}\nStart another: {NEW}."
    return f"this run is closed.{shown}\nStart another: {NEW}."


def _failure(tracer: HeldTracer) -> str:
    failure = tracer.run.failure if tracer.run is not None else None
    return f": {failure}" if failure else ""


def passed(tracer: HeldTracer, envoy: Any, what: str, line: Line | None) -> str:
    """A place was asked for that lies behind."""
    place = f"{envoy._path}.{what}".lstrip(".")
    return (
        f"this run has passed `{place}`.\n  {show_line(line)}\nIt stands at `{tracer.place()}` and stays "
        f"there: a run only goes forward. For `{place}` start another: {NEW}.\n"
        f'(If the model calls that module once more: `run.until("{place}", again=True)`.)'
    )


def begun(tracer: HeldTracer, envoy: Any, what: str, line: Line | None) -> str:
    """An operation was asked for in a forward that had begun before anybody watched its operations."""
    place = f"{envoy._path}.{what}".lstrip(".")
    return (
        f"`{place}` was asked for when the model had already begun `{envoy._owner_path or 'model'}`, so its "
        f"operations can no longer be stopped at.\n  {show_line(line)}\nThe run stands at `{tracer.place()}` "
        f"and stays there. Ask for an operation before the run goes into its module; for this one start "
        f"another: {NEW}."
    )


def not_there(tracer: HeldTracer, envoy: Any, what: str, line: Line) -> str:
    """A value was asked for, outside of `until`, where the run does not stand."""
    place = f"{envoy._path}.{what}".lstrip(".")
    code = as_code(envoy._path)
    stands = f"stands at `{tracer.place()}`" if tracer.place() else "is before its first module"
    text = (
        f"`{place}` was asked for, but the run that is held open {stands}.\n  {show_line(line)}\n"
        "Only `run.until(...)`, `run.step()` and `run.finish()` move it: "
    )
    if what == "skip":
        return f"{text}write `run.until({code}.input)`, then `{code}.skip(...)`."
    return f"{text}write `run.until({code}.{what})`.\n(For a run of its own: `with model.trace(prompt):`.)"


def ran_out(tracer: HeldTracer, envoy: Any, what: str, error: NbsightError) -> NbsightError:
    """The error for a place that the run did not come to before its end."""
    if tracer.state != "finished":
        return error
    end = "The run has finished meanwhile: `run.result` is what the model returned."
    if tracer.method != "forward" and isinstance(error, OutOfOrderError):
        place = f"{envoy._path}.{what}".lstrip(".")
        return OutOfOrderError(f"`{tracer.method}` ended before it came to `{place}` again. {end}")
    return type(error)(f"{error}\n{end}")
