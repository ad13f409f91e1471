"""The root envoy: a model that can be traced."""

from __future__ import annotations

import sys
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from nbsight.core.alive import models
from nbsight.core.batching import Rows
from nbsight.core.callee import has_forward, is_compiled
from nbsight.core.capture import enters_a_block
from nbsight.core.edits import Edit, EditContext
from nbsight.core.envoy import Envoy
from nbsight.core.generation import Generation
from nbsight.core.holding import HeldTracer
from nbsight.core.paused import PausedRun
from nbsight.core.recurrent import check_batch_first, narrow_at
from nbsight.core.session import Session
from nbsight.core.tracer import Tracer
from nbsight.errors import InputError

__all__ = ["Model", "wrap"]

_training = attrgetter("training")
_ALONE = Rows(0, 1, 1)


class Model(Envoy):
    """Any `nn.Module`, wrapped; its values are literally what its modules take and return.

    Args:
        module: The module to look into.
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise InputError(
                f"nbsight.wrap takes a torch.nn.Module and got {type(module).__name__}; for a "
                "model by name write nbsight.LanguageModel(name)."
            )
        super().__init__(module)
        object.__setattr__(self, "_envoys", {})
        object.__setattr__(self, "_spares", {})
        object.__setattr__(self, "_habits", {})
        object.__setattr__(self, "_edits", [])
        object.__setattr__(self, "_family", self)
        self._point_at(module)
        models.add(self)

    # -- running -------------------------------------------------------------------------------

    def trace(self, *args: Any, trace: bool = True, tracer_cls: type[Tracer] = Tracer, **kwargs: Any) -> Any:
        """Open a trace: `with model.trace(prompt): ...`.

        Args:
            args: The model's input. Without one, the block holds `tracer.invoke(...)` blocks.
            trace: False runs the model at once and returns its output.
            tracer_cls: A subclass of `Tracer` to make the tracer of.
            kwargs: `grad` (record gradients; by default when the code around the block speaks of
                them), `finish` (run to the end even if nobody can see it), `fn` (the name of
                another method to trace), `remote` (where to run), `strict_order` (a read of what the
                model has passed is an error and not one more forward), `check_finite` (the first NaN
                or Inf is an error); the rest goes to the tokenizer and the model.

        Returns:
            A tracer, to be used in a `with` statement.
        """
        fn = kwargs.pop("fn", None)
        if tracer_cls is not Tracer and not (isinstance(tracer_cls, type) and issubclass(tracer_cls, Tracer)):
            raise InputError(
                f"`tracer_cls` is a subclass of nbsight.core.tracer.Tracer, and was {tracer_cls!r}. A tracer "
                "of nnsight's runs its block by other means and cannot be used here."
            )
        if not trace and kwargs.get("remote"):
            raise InputError(
                "trace=False runs the model here and now; for a remote run write "
                "`with model.trace(prompt, remote=...) as tracer: output = model.output.save()`."
            )
        tracer = tracer_cls(self, _method_name(fn), args, kwargs)
        return tracer if trace else tracer.run_through()

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate: `with model.generate(prompt, max_new_tokens=5) as tracer: ...`.

        Without a `with` statement it runs at once (kept edits act) and returns what the model's
        own `generate` returns.

        Args:
            args: The prompt. Without one, the block holds `tracer.invoke(...)` blocks.
            kwargs: As for `trace`. A `LanguageModel` also takes `on_token` (called with each token as
                soon as it is chosen) and `seed` (sampling as after `torch.manual_seed(seed)`, without
                touching the random numbers of the block). The rest goes to the model's own `generate`.
        """
        tracer = Tracer(self, "generate", args, kwargs)
        return tracer if enters_a_block(sys._getframe(1)) else tracer.run_through()

    @property
    def strict_order(self) -> bool:
        """Whether a read of what the model has passed is always an error; set it for all traces."""
        return self.__dict__.get("_strict_order", False)

    @strict_order.setter
    def strict_order(self, strict: bool) -> None:
        self.__dict__["_strict_order"] = strict

    def scan(self, *args: Any, **kwargs: Any) -> Tracer:
        """Open a trace that computes shapes, dtypes and devices, and no numbers.

        The weights are not needed and not loaded; values in the block are torch's fake tensors. So it
        runs here even with `remote=`.
        """
        kwargs.pop("remote", None)
        return Tracer(self, "forward", args, {**kwargs, "_scan": True})

    def edit(self, *, inplace: bool = False) -> EditContext:
        """Keep a block that acts in every later run: `with model.edit() as edited: ...`.

        Args:
            inplace: Whether this model itself is edited; otherwise a light copy with the same
                modules is, and the statement names it (`as edited` or `as (tracer, edited)`).
        """
        return EditContext(self, inplace)

    @property
    def edits(self) -> list[Edit]:
        """The kept edits, oldest first; each has `.enabled` and `.remove()`."""
        return list(self._edits)

    def clear_edits(self) -> None:
        """Drop all kept edits."""
        self._edits.clear()

    def start(self, *args: Any, **kwargs: Any) -> PausedRun:
        """Start a forward and hold it open, to be stepped by hand: `run = model.start(prompt)`.

        Args:
            args: The model's input, as for `trace`.
            kwargs: As for `trace`: `grad`, `fn`, and what goes to the tokenizer and the model. With
                `max_new_tokens`, the run is a generation.

        Returns:
            The run, before its first module: `run.step()`, `run.until(...)`, `run.here`,
            `run.finish()`.
        """
        fn = kwargs.pop("fn", None)
        if fn is None and "max_new_tokens" in kwargs and hasattr(self._module, "generate"):
            fn = "generate"
        return PausedRun(HeldTracer(self, _method_name(fn), args, kwargs))

    def session(self, **kwargs: Any) -> Session:
        """Group several traces: `with model.session(): ...`; with `remote` they travel as one."""
        return Session(self, **kwargs)

    # -- what subclasses may change ------------------------------------------------------------

    def _envoy_class(self, path: str, module: nn.Module) -> type[Envoy]:
        """The class for the envoy of a submodule."""
        return Envoy

    def _has_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether these arguments hold an input (otherwise invokes follow)."""
        return bool(args) or bool(kwargs)

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One invoke's input, normalised."""
        return args, kwargs

    def _join(
        self, prepared: list[Any], method: str, options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[Rows]]:
        """The arguments of the one call that serves all invokes, and each invoke's rows."""
        if len(prepared) == 1:
            args, kwargs = prepared[0]
            return args, {**kwargs, **options}, [_ALONE]
        check_batch_first(self._module.modules(), self._path_of)
        return _concatenate(prepared, options)

    def _lighten(self, call: dict[str, Any], spoken: int) -> bool:
        """Leave out of one forward what the code around it cannot ask for; say whether anything is.

        Args:
            call: The keyword arguments of the forward, to be changed.
            spoken: The topics of that code (`nbsight.core.mentions`).
        """
        return False

    def _stepping(self, method: str) -> nn.Module:
        """The module whose calls are the steps of a run of this method."""
        module = self._module
        # What `torch.compile` returns hands every other method on to the module that it is around.
        is_shell = method != "forward" and is_compiled(module)
        return module._modules["_orig_mod"] if is_shell else module

    def _generation(self, method: str, kwargs: dict[str, Any]) -> Generation:
        """What knows about a generation by this method; takes what is for it out of the arguments."""
        return Generation()

    def _other_names(self) -> dict[str, str]:
        """Other names of modules: alias path to path."""
        return {}

    def _light_copy(self) -> Model:
        """The same model with edits of its own."""
        copy = object.__new__(type(self))
        own = {k: v for k, v in self.__dict__.items() if not isinstance(v, Envoy)}
        copy.__dict__.update(own, _children={}, _envoys={}, _spares={}, _habits={}, _root=copy, _parent=None)
        copy.__dict__.update(_edits=list(self._edits), _family=self._family)
        copy._point_at(self._module)
        models.add(copy)
        return copy

    def _trace_part(self, envoy: Envoy, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tracer:
        """Trace one module on its own, with its own literal input."""
        fn = _method_name(kwargs.pop("fn", None))
        return Tracer(_Part(envoy), fn, args, kwargs)  # type: ignore[arg-type]

    def _load(self) -> None:
        """Make the weights real; called before every run."""

    def _tokens_of(self, prepared: Any) -> Any:
        """The tokens of a prepared input, for messages."""
        return None

    def _tokens_in(self, given: tuple[Any, Any]) -> list[str] | None:
        """The tokens in the arguments of one call of the model, for displays."""
        return None

    def _axis_names(self, shape: tuple[int, ...], given: tuple[Any, Any]) -> tuple[str, ...] | None:
        """The names of a value's axes ("" for one without a name); None if they are not known.

        Args:
            shape: The value's.
            given: The arguments of the model's call in which it was made.
        """
        return None

    def _own_result(self, rows: Rows, result: Any) -> Any:
        """One invoke's part of what the call returned."""
        own = narrow_at(self._module, "output", rows, result)
        if rows.left_pad and isinstance(own, torch.Tensor) and own.ndim == 2:
            # Generated ids: longer than the padded prompt, so their columns were left alone.
            grown = rows.padded is not None and own.shape[1] > rows.padded
            return own[:, rows.left_pad :] if grown else own
        return own

    def _explain_mismatch(self, current: Any, assigned: Any) -> str | None:
        """More to say when a value of the wrong shape is written; shapes are given."""
        return None

    # -- the tree ------------------------------------------------------------------------------

    def _point_at(self, module: nn.Module) -> None:
        """Let this envoy and all below it stand for the modules of another, equal tree."""
        object.__setattr__(self, "_module", module)
        # A module that can be reached by two paths has one envoy, under its first path.
        paths: dict[int, str] = {}
        others: dict[int, list[str]] = {}
        for name, sub in module.named_modules(remove_duplicate=False):
            if paths.setdefault(id(sub), name) != name:
                others.setdefault(id(sub), []).append(name)
        object.__setattr__(self, "_paths", paths)
        object.__setattr__(self, "_other_paths", others)
        object.__setattr__(self, "_all", list(module.modules()))
        kept, envoys = [self, *self._envoys.values()], {}
        for envoy in kept:
            new = _submodule(module, envoy._path)
            object.__setattr__(envoy, "_module", new)
            object.__setattr__(envoy, "_gated", None)
            if envoy is not self:
                envoys[id(new)] = envoy
        object.__setattr__(self, "_envoys", envoys)
        self._spares.clear()
        self._habits.clear()

    def _envoy_of(self, module: nn.Module, path: str, parent: Envoy) -> Envoy:
        known = self._envoys.get(id(module))
        if known is not None and known._module is module:
            return known
        first = self._paths.get(id(module), path)
        if first != path and first:
            envoy = self._at(first)
            self._envoys[id(module)] = envoy
            return envoy
        envoy = self._envoy_class(path, module)(module, path, parent)
        self._envoys[id(module)] = envoy
        return envoy

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle needs: the module, and not what is derived from it."""
        derived = {
            "_children",
            "_envoys",
            "_spares",
            "_habits",
            "_family",
            "_paths",
            "_other_paths",
            "_all",
            "_root",
            "_source",
        }
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in derived and not isinstance(value, Envoy)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(
            state, _children={}, _envoys={}, _spares={}, _habits={}, _root=self, _parent=None
        )
        self.__dict__["_family"] = self
        self._point_at(state["_module"])

    def _is_training(self) -> bool:
        """Whether any module is in training mode (then the whole forward may leave traces)."""
        return any(map(_training, self._all))

    def _way_to(self, envoy: Envoy) -> list[nn.Module]:
        """The modules that may be running around a call of the envoy's module, and itself."""
        way: dict[nn.Module, None] = {}
        for path in (envoy._path, *self._other_paths.get(id(envoy._module), ())):
            module = self._module
            way[module] = None
            for name in path.split(".") if path else ():
                module = module._modules[name]
                # Bare lists of modules are never called.
                if has_forward(module):
                    way[module] = None
        return list(way)

    def _path_of(self, module: Any) -> str:
        if module is self._module:
            return "model"
        if not isinstance(module, nn.Module):  # an operation inside a forward
            return module._path
        return self._paths.get(id(module), type(module).__name__)

    @property
    def _model(self) -> nn.Module:
        """The wrapped module, its weights loaded."""
        self._load()
        return self._module


def _submodule(module: nn.Module, path: str) -> nn.Module:
    """`get_submodule`, which scripted modules do not have."""
    for name in path.split(".") if path else ():
        module = module._modules[name]
    return module


class _Part:
    """A submodule in the place of a root: its own input, everything else from the model."""

    _prepare = Model._prepare
    _join = Model._join
    _has_input = Model._has_input
    _stepping = Model._stepping
    _generation = Model._generation

    def __init__(self, envoy: Envoy) -> None:
        self._envoy = envoy

    @property
    def _module(self) -> nn.Module:
        return self._envoy._module

    def _show(self, kind: str, value: Any) -> Any:
        return self._envoy._show(kind, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._envoy._root, name)


def wrap(module: nn.Module) -> Model:
    """Wrap any `nn.Module` so that it can be traced; values are exactly what modules return.

    Args:
        module: Any module; it is not changed or copied.

    Returns:
        Its root envoy.
    """
    return Model(module)


def _method_name(fn: Any) -> str:
    if fn is None:
        return "forward"
    return fn if isinstance(fn, str) else fn.__name__


def _concatenate(
    prepared: list[Any], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], list[Rows]]:
    first_args, first_kwargs = prepared[0]
    for args, kwargs in prepared:
        if len(args) != len(first_args) or kwargs.keys() != first_kwargs.keys():
            raise InputError(
                "the invokes of one trace must be called alike; here one has "
                f"{len(first_args)} arguments and {sorted(first_kwargs)}, another "
                f"{len(args)} and {sorted(kwargs)}. Use one trace for each kind."
            )
    # By name: two calls may give the same keywords in another order.
    values = [(*args, *[kwargs[name] for name in first_kwargs]) for args, kwargs in prepared]
    sizes = [_height(row) for row in values]
    joined = [_cat([row[place] for row in values]) for place in range(len(values[0]))]
    rows, start, total = [], 0, sum(sizes)
    for size in sizes:
        rows.append(Rows(start, size, total))
        start += size
    count = len(first_args)
    kwargs = dict(zip(first_kwargs, joined[count:], strict=False))
    return tuple(joined[:count]), {**kwargs, **options}, rows


def _height(values: tuple[Any, ...]) -> int:
    if len(values) == 1 and isinstance(values[0], torch.Tensor) and values[0].ndim:
        return values[0].size(0)
    heights = {value.shape[0] for value in values if isinstance(value, torch.Tensor) and value.ndim}
    if len(heights) != 1:
        raise InputError(
            "several invokes are joined along the first dimension of their tensors; an invoke here "
            f"has tensors with {sorted(heights) or 'no'} rows. Give every tensor of an invoke the "
            "same number of rows."
        )
    return int(heights.pop())


def _cat(values: list[Any]) -> Any:
    if isinstance(values[0], torch.Tensor):
        shapes = {tuple(value.shape[1:]) for value in values}
        if len(shapes) != 1:
            raise InputError(
                f"invokes with rows of different shapes {sorted(shapes)} cannot share one forward; "
                "pad them to one shape or use a trace for each."
            )
        return torch.cat(values)
    if any(value != values[0] for value in values[1:]):
        raise InputError(f"invokes of one trace differ in an argument: {values[0]!r} and others.")
    return values[0]
