"""`%%trace`, `%lens`, `%patch`, `%saved`, `%jobs` and `%nbsight`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from traitlets import Bool

from nbsight.display.numbers import bytes_text
from nbsight.errors import InputError
from nbsight.notebook import state
from nbsight.notebook.memory import free_name, holders
from nbsight.notebook.tables import Table
from nbsight.notebook.trace_cell import LAST, trace_cell
from nbsight.notebook.words import arguments, split

if TYPE_CHECKING:
    from nbsight.notebook.extension import Loaded

__all__ = ["NbsightMagics"]

USAGE = {
    "trace": '%%trace model "The capital of France is"',
    "lens": '%lens model "The capital of France is" top_k=5',
    "patch": '%patch model "clean prompt" "corrupted prompt" answers=(" Paris", " Rome")',
}


@magics_class
class NbsightMagics(Magics):
    """What `%load_ext nbsight` adds; `%config NbsightMagics` lists the settings."""

    receipts = Bool(True, help="Say in one line what the traces of a cell did and saved.").tag(config=True)
    fold_errors = Bool(True, help="Show errors of nbsight on one screen, the rest folded.").tag(config=True)

    def __init__(self, shell: Any, loaded: Loaded) -> None:
        self._loaded = loaded
        super().__init__(shell)

    # -- running -------------------------------------------------------------------------------

    @cell_magic
    def trace(self, line: str, cell: str) -> Any:
        """Run the cell in a trace: `%%trace model "prompt"`; `--generate` generates instead.

        The cell's names are ordinary names afterwards; in it, `tracer` is the trace. Further
        arguments are those of `model.trace`.
        """
        parts = split(line)
        verb = "generate" if "--generate" in parts else "trace"
        parts = [part for part in parts if part != "--generate"]
        if not parts:
            raise InputError(f"`%%trace` names a model and its input: `{USAGE['trace']}`.")
        opening = f"with {parts[0]}.{verb}({', '.join(parts[1:])}) as tracer:"
        code, has_value = trace_cell(self.shell, opening, cell)
        namespace = self.shell.user_ns
        try:
            exec(code, namespace)  # the user's cell
            return namespace.get(LAST) if has_value else None
        finally:
            namespace.pop(LAST, None)

    @line_magic
    def lens(self, line: str) -> Any:
        """The logit lens of a prompt: `%lens model "prompt"`; arguments as of `nbsight.logit_lens`."""
        from nbsight.analysis.lens import logit_lens

        values, named = self._arguments("lens", line, 2)
        return logit_lens(*values, **named)

    @line_magic
    def patch(self, line: str) -> Any:
        """Activation patching: `%patch model "clean" "corrupted" answers=(" Paris", " Rome")`."""
        from nbsight.analysis.patching import activation_patching

        values, named = self._arguments("patch", line, 3)
        return activation_patching(*values, **named)

    def _arguments(self, name: str, line: str, least: int) -> tuple[list[Any], dict[str, Any]]:
        values, named = arguments(line, self.shell.user_ns, USAGE[name])
        if len(values) < least:
            raise InputError(f"`%{name}` was given {len(values)} of {least} arguments: `{USAGE[name]}`.")
        return values, named

    # -- looking -------------------------------------------------------------------------------

    @line_magic
    def saved(self, line: str) -> Any:
        """What was saved and is still there; `%saved free NAME` deletes a name and its value."""
        words = line.split()
        if words[:1] == ["free"] and len(words) == 2:
            try:
                print(free_name(self.shell, words[1]))
            except LookupError as error:
                raise InputError(f"nothing was freed: {error.args[0]}") from None
            return None
        if words:
            raise InputError("`%saved` lists what was saved; `%saved free NAME` deletes one name.")
        rows = [
            [
                row["name"] or "(no name)",
                f"({', '.join(map(str, row['shape']))})",
                row["dtype"],
                bytes_text(row["bytes"]),
                row["path"] or "",
                row["where"],
            ]
            for row in state.saved(self.shell, self._loaded.keys)
        ]
        return Table(("name", "shape", "dtype", "size", "from", "saved at"), rows, "Nothing is saved.")

    @line_magic
    def jobs(self, line: str) -> Any:
        """Sweeps and other work that takes a while; `%jobs cancel ID` stops one, `%jobs log ID` its log."""
        from nbsight.core.jobs import find, jobs

        words = line.split()
        if len(words) == 2 and words[0] in ("cancel", "log"):
            try:
                job = find(words[1])
            except LookupError as error:
                raise InputError(str(error)) from None
            if words[0] == "log":
                print("\n".join(job.log) or "It said nothing.")
            else:
                job.cancel()
            return None
        if words:
            raise InputError("`%jobs` lists them; `%jobs cancel job-3` and `%jobs log job-3` are the others.")
        if getattr(self.shell, "kernel", None) is not None:
            from nbsight.widgets.jobs import JobsWidget

            return JobsWidget()
        rows = [
            [
                job.id,
                job.title,
                job.model,
                job.state,
                f"{job.done}" + (f" of {job.total}" if job.total is not None else ""),
                f"{job.seconds:.1f} s",
            ]
            for job in jobs()
        ]
        return Table(("job", "what", "model", "state", "done", "time"), rows, "There are no jobs.")

    @line_magic
    def nbsight(self, line: str) -> Any:
        """What is there and what is set; `%nbsight receipts off`, `%nbsight memory`, `%nbsight traceback`."""
        words = line.split()
        settings = {"receipts": "receipts", "errors": "fold_errors"}
        if not words:
            print(self._status())
        elif len(words) == 2 and words[0] in settings and words[1] in ("on", "off"):
            setattr(self, settings[words[0]], words[1] == "on")
            self._loaded.apply()
        elif words == ["memory"]:
            return self._memory()
        elif words[0] == "serve":
            self._serve(words[1:])
        elif words == ["traceback"]:
            print(self._loaded.folding.last or "No error was shortened.")
        else:
            raise InputError(
                "`%nbsight` says what is there; the others are `%nbsight receipts on|off`, "
                "`%nbsight errors on|off` (folded or whole), `%nbsight memory`, `%nbsight traceback` and "
                "`%nbsight serve MODEL...`."
            )
        return None

    def _serve(self, words: list[str]) -> None:
        """`%nbsight serve gpt2`: a server for this notebook; `%nbsight serve stop` ends it."""
        from nbsight.notebook.serving import serve, stop

        if words == ["stop"]:
            print("the server has ended" if stop() else "this kernel has started no server")
        else:
            print(serve(words))

    def _status(self) -> str:
        named = state.named_models(self.shell)
        rows = state.models(named, self._loaded.keys)
        lines = [f"nbsight {self._loaded.version}, {self._loaded.where()}"]
        for row in rows:
            place = ", ".join(row["devices"]) if row["loaded"] else "weights not loaded yet"
            check = row["verified"]
            names = "names not checked yet" if check is None else check["text"].splitlines()[0]
            lines.append(
                f"  {row['expression'] or '(no name)'}: {row['label']}, {bytes_text(row['bytes'])} "
                f"{row['dtype']}, {place}; {names}"
            )
        if not rows:
            lines.append("  no models yet")
        on = {True: "on", False: "off"}
        lines.append(f"  receipts {on[self.receipts]}, folded errors {on[self.fold_errors]}")
        return "\n".join(lines)

    def _memory(self) -> Table:
        rows = [
            [row["label"], row["kind"], bytes_text(row["bytes"]), str(row["count"])]
            for row in holders(self.shell, state.named_models(self.shell))
        ]
        return Table(("holder", "kind", "size", "arrays"), rows, "Nothing large is held.")
