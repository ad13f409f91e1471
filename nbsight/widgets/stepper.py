"""A forward held open, live: step, run to a block, change what is there, go on; and the same as code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from nbsight.analysis.lens import one_row, token_words
from nbsight.analysis.unembedding import Unembedding, hidden_state, last_blocks, unembedding_of
from nbsight.errors import InputError, NbsightError
from nbsight.models.language_model import LanguageModel
from nbsight.models.provenance import provenance
from nbsight.models.tokens import str_tokens
from nbsight.widgets.base import Widget
from nbsight.widgets.code import name_of
from nbsight.widgets.desk import Answer, Command
from nbsight.widgets.payload import Payload, encode, texts_of
from nbsight.widgets.places import place_in
from nbsight.widgets.tops import tops_of
from nbsight.widgets.worker import Job, worker_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nbsight.core.paused import PausedRun

__all__ = ["StepperWidget"]


@dataclass(frozen=True)
class Action:
    """One thing that was done to the run: go on to a place, or multiply positions of the value there."""

    what: str
    place: str = ""
    positions: tuple[int, ...] = ()
    factor: float = 1.0


class StepperWidget(Widget):
    """A debugger for a forward: it waits at a block until you let it go on.

    The run lives on the model's worker from its first step to its last, so cells may use the model
    meanwhile. Going back runs the forward anew to the step before.

    Args:
        model: A language model.
        prompt: One prompt.

    Attributes:
        result: What the model returned; None before the run has ended.
        selection: `(block, position)` that was chosen, or None.
        state: `positions` that the next change is for, and its `factor`.
    """

    view = "stepper"
    axes: ClassVar[tuple[str, ...]] = ("block", "position")
    defaults: ClassVar[Mapping[str, Any]] = {"positions": [], "factor": 0.5}

    def __init__(self, model: LanguageModel, prompt: Any, **kwargs: Any) -> None:
        self._model, self._prompt = model, prompt
        self._ids = one_row(model, prompt)
        self._blocks = [block._path for block in last_blocks(model)]
        self._tokens = str_tokens(model.tokenizer, self._ids[0].tolist())
        self._outcome: Any = None
        self._unembedding: Unembedding | None = None
        with contextlib.suppress(NbsightError):  # the view goes without what each block would say
            self._unembedding = unembedding_of(model, self._ids)
        with model.trace(self._ids, grad=False):
            logits = model.output.logits[:, -1].clone()
        self._plain = logits
        self._actions: list[Action] = []
        self._run: PausedRun | None = None
        self._forget()
        super().__init__(self._payload(), worker_for(model), owner=model, **kwargs)

    @property
    def result(self) -> Any:
        return self._outcome

    def commands(self) -> dict[str, Command]:
        return {
            "step": self._step,
            "until": self._until,
            "edit": self._edit,
            "finish": self._finish,
            "back": self._back,
        }

    def chosen(self, selection: Any) -> tuple[int, int]:
        return place_in(selection, (len(self._blocks), len(self._tokens)), rows="blocks")

    def close(self) -> None:
        """Give the run up, on the thread that it belongs to."""
        run, self._run = self._run, None
        if run is not None:
            try:
                worker_for(self._model).submit(run.close, Job())
            except RuntimeError:  # Python is ending, and its threads with it
                run.close()
        super().close()

    # --- what the page asks: all on the worker, to which the run belongs ------------------------------

    def _step(self, params: dict[str, Any], job: Job) -> Answer:
        """To the end of the next block, or of the next module however small."""
        here = self._open().step(into=bool(params.get("into")))
        if here is None or here.path in ("", "model"):
            return self._do(Action("finish"))
        return self._note(Action("until", f"{here.path}.{here.kind}"))

    def _until(self, params: dict[str, Any], job: Job) -> Answer:
        """To the output of a block."""
        return self._do(Action("until", f"{self._blocks[int(params['block'])]}.output"))

    def _edit(self, params: dict[str, Any], job: Job) -> Answer:
        """Multiply positions of the value on which the model waits."""
        positions = tuple(sorted({int(position) for position in params["positions"]}))
        if not positions:
            raise InputError("no position is chosen; click tokens first.")
        return self._do(Action("edit", "", positions, float(params["factor"])))

    def _finish(self, params: dict[str, Any], job: Job) -> Answer:
        return self._do(Action("finish"))

    def _back(self, params: dict[str, Any], job: Job) -> Answer:
        """Run anew to where the run was before the last thing, or from the start."""
        kept = [] if params.get("all") else self._actions[:-1]
        self._restart()
        for action in kept:
            self._perform(action)
        return self._shown()

    def _do(self, action: Action) -> Answer:
        self._perform(action)
        return self._shown()

    def _note(self, action: Action) -> Answer:
        """An action that was done already."""
        self._actions.append(action)
        self._look()
        return self._shown()

    def _perform(self, action: Action) -> None:
        if self._outcome is not None:
            raise InputError("this run has ended. Go back, or start it anew.")
        run = self._open()
        if action.what == "until":
            run.until(action.place)
        elif action.what == "edit":
            here = run.here
            if here is None:
                raise InputError("the run has not begun; take a step first.")
            value: Any = here.value
            target = value[0] if self._is_block(here.path) or isinstance(value, tuple) else value
            target[:, list(action.positions)] *= action.factor
        else:
            self._outcome = run.finish()
        self._actions.append(action)
        self._look()

    # --- the run ------------------------------------------------------------------------------------

    def _open(self) -> PausedRun:
        if self._run is None:
            self._run = self._model.start(self._ids)
        return self._run

    def _restart(self) -> None:
        if self._run is not None:
            self._run.close()
        self._run = None
        self._actions = []
        self._forget()

    def _forget(self) -> None:
        shape = len(self._blocks), len(self._tokens)
        self._norms = np.full(shape, np.nan, np.float32)
        self._probs = np.full(shape, np.nan, np.float32)
        self._words = np.full(shape, "", object)
        self._outcome = None
        self._at: dict[str, Any] = {"path": "", "block": -1, "text": "", "progress": ""}

    def _is_block(self, path: str) -> bool:
        return path in self._blocks

    def _look(self) -> None:
        """Keep what can be seen where the run stands."""
        here = None if self._run is None else self._run.here
        if here is None:
            ended = self._outcome is not None
            self._at = {
                "path": "end" if ended else "",
                "block": len(self._blocks) if ended else -1,
                "text": "",
                "progress": "the run has ended" if ended else "",
            }
            return
        block = -1 if here.block is None else here.block
        self._at = {
            "path": f"{here.path}.{here.kind}",
            "block": block,
            "text": " × ".join(map(str, here.shape or ())),
            "progress": here.progress,
        }
        if not self._is_block(here.path) or here.kind != "output":
            return
        row = self._blocks.index(here.path)
        stream = hidden_state(here.value)[0].detach()
        self._norms[row] = stream.float().norm(dim=-1).cpu().numpy()
        if self._unembedding is not None:
            with torch.no_grad():
                probs, ids = self._unembedding.top(stream.clone(), 1)
            self._probs[row] = probs[:, 0].float().cpu().numpy()
            self._words[row] = token_words(self._model, ids)[:, 0]

    def _shown(self) -> Answer:
        self.show(self._payload())
        return {}, []

    def _payload(self) -> Payload:
        runs = {"plain": self._plain}
        if self._outcome is not None:
            runs["this run"] = self._outcome.logits[:, -1].detach()
        return encode(
            "stepper",
            {
                "model": str(self._model._name),
                "tokens": list(self._tokens),
                "blocks": list(self._blocks),
                "at": dict(self._at),
                "ended": self._outcome is not None,
                "words": [list(map(str, row)) for row in self._words],
                "actions": [_words(action) for action in self._actions],
                "tops": tops_of(self._model, runs),
                "code": self._code(),
                "provenance": texts_of(provenance(self._model)),
                "live": True,
            },
            {"norms": self._norms.copy(), "probs": self._probs.copy()},
        )

    # --- copies ---------------------------------------------------------------------------------------

    def _code(self) -> str:
        """What was done to the run, as a cell."""
        model = name_of(self._model, "model")
        prompt = self._prompt if isinstance(self._prompt, str) else self._ids.tolist()
        lines = [f"run = {model}.start({prompt!r})"]
        place = ""
        for action in self._actions:
            if action.what == "until":
                place = action.place
                lines.append(f"run.until({action.place!r})")
            elif action.what == "edit":
                path, _, kind = place.rpartition(".")
                target = "run.here.value" + ("[0]" if self._is_block(path) and kind == "output" else "")
                if target == "run.here.value":
                    lines += [
                        "value = run.here.value",
                        "value = value[0] if isinstance(value, tuple) else value",
                    ]
                    target = "value"
                lines.append(f"{target}[:, {list(action.positions)}] *= {action.factor!r}")
        if self._outcome is not None:
            lines += [
                "output = run.finish()",
                "probs = output.logits[0, -1].float().softmax(-1)",
                "for token in probs.topk(6).indices.tolist():",
                f'    print(f"{{probs[token]:.3f}} {{{model}.to_string(token)!r}}")',
            ]
        else:
            lines.append("print(run)")
        return "\n".join(lines)

    def to_code(self) -> str:
        return str(self.header["code"])

    def figure(self) -> Figure:
        from nbsight.display.figures import token_grid_figure

        return token_grid_figure(
            columns=self._tokens,
            rows=list(range(len(self._blocks))),
            labels=self._words,
            values=np.nan_to_num(self._probs),
            title=f"Held run · {self._model._name}",
            column_title="input token",
            row_title="block",
            value_title="probability of the top token, if the run stopped here",
        )

    def still_text(self) -> str:
        where = f"{self._at['path'] or 'not begun'} {self._at['progress']}".rstrip()
        return f"Held run of {self._model._name}: {where}"

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        return ("block", "position", "token", "prediction", "probability", "norm"), (
            (
                block,
                position,
                token,
                self._words[block, position],
                float(self._probs[block, position]),
                float(self._norms[block, position]),
            )
            for block in range(len(self._blocks))
            for position, token in enumerate(self._tokens)
            if np.isfinite(self._norms[block, position])
        )


def _words(action: Action) -> str:
    if action.what == "until":
        return f"run to {action.place}"
    if action.what == "edit":
        places = ", ".join(map(str, action.positions))
        return f"multiply position{'s' * (len(action.positions) > 1)} {places} by {action.factor:g}"
    return "finish"
