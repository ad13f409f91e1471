"""Edits that stay: blocks that are replayed in every later run of a model.

`with model.edit(inplace=True): ...` keeps its block and plays it, before anything else acts, in
every trace and generation of the model. Without `inplace` the model stays as it is and the block
belongs to a light copy (same modules, same weights), which the statement names.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from nbsight.core.capture import Block, BodySkipped, skip_body
from nbsight.core.captured import need_block
from nbsight.core.crew import Crew
from nbsight.core.scope import Names, frame_values, write_back
from nbsight.core.workers import Worker
from nbsight.errors import CaptureError

if TYPE_CHECKING:
    from nbsight.core.model import Model
    from nbsight.core.run import Run
    from nbsight.core.tracer import Tracer

__all__ = ["Edit", "EditContext", "replay"]


class Edit:
    """One kept block. Switch it off with `edit.enabled = False`, drop it with `edit.remove()`."""

    def __init__(self, block: Block, values: dict[str, Any], outer: dict[str, Any]) -> None:
        self.block = block
        self.values = values
        self.outer = outer
        self.enabled = True
        self.owner: Model | None = None

    @property
    def source(self) -> str:
        """Its text."""
        return self.block.source

    def explain(self, error: BaseException, names: dict[str, Any]) -> BaseException:
        """What to raise where the block raised an error; `names` are the block's."""
        return error

    def remove(self) -> None:
        """Take the edit off its model."""
        if self.owner is not None:
            self.owner._edits.remove(self)
            self.owner = None

    def __repr__(self) -> str:
        state = "on" if self.enabled else "off"
        first, *rest = self.source.splitlines() or [""]
        return f"Edit(line {self.block.line}, {state}: {first}{' …' if rest else ''})"


class EditContext:
    """`with model.edit(...)`; gives what `as` names: the edited model, or (tracer, edited model)."""

    def __init__(self, model: Model, inplace: bool) -> None:
        self.model = model
        self.inplace = inplace
        self._frame: FrameType | None = None
        self._edit: Edit | None = None
        self._undo: Any = None

    def __repr__(self) -> str:
        if self._edit is not None and self._frame is None:
            return repr(self._edit)
        return "an edit that has no block yet: `with model.edit() as edited:`"

    def __enter__(self) -> Any:
        __tracebackhide__ = True
        frame = sys._getframe(1)
        try:
            block = need_block(frame, "model.edit()")
        except CaptureError as error:
            error.__traceback__ = None  # our frames say nothing to the user
            raise error
        self._edit = Edit(block, frame_values(frame, block.loads), frame.f_globals)
        self._frame = frame
        self._undo = skip_body(frame)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        self._undo()
        edit, frame = self._edit, self._frame
        self._undo = self._frame = None
        if kind is not BodySkipped or edit is None or frame is None:
            return False
        target = self.model if self.inplace else self.model._light_copy()
        edit.owner = target
        target._edits.append(edit)
        names = edit.block.targets
        if len(names) == 2:
            write_back(frame, {names[0]: self, names[1]: target})
        elif names and not self.inplace:
            write_back(frame, {names[0]: target})
        elif names:
            write_back(frame, {names[0]: self})
        return True


def replay(tracer: Tracer, run: Run) -> Crew | None:
    """Let the model's edits act in a run; None when it has none."""
    edits = [edit for edit in tracer.root._edits if edit.enabled]
    if not edits:
        return None
    crew = Crew(run)
    for edit in edits:
        names = Names(edit.values, edit.outer, is_alone=True)
        # In the block, `as tracer` and `as edited` mean the run at hand.
        targets = edit.block.targets
        if len(targets) == 2:
            names.update({targets[0]: tracer, targets[1]: tracer.root})
        elif targets:
            owner = edit.owner
            names[targets[0]] = tracer.root if owner is not tracer.root._family else tracer
        worker = Worker(edit.block, names, None)
        worker.is_kept, worker.edit = True, edit
        worker.run = run
        worker.step = tracer.driver.step
        crew.add(worker)
    return crew
