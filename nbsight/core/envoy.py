"""Envoys: the tree of modules as the user sees it.

An envoy stands for one `nn.Module`. It has the module's children under their own names, and inside
a trace the module's values as `.output`, `.input` and `.inputs`. Everything else that is asked of
it comes from the module. It holds no values and no state of a run.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from sys import _getframe
from types import FrameType
from typing import Any

import torch
from torch import nn

from nbsight.core.callee import is_compiled
from nbsight.core.context import _stack, tracer_of
from nbsight.core.held import held_tracer
from nbsight.core.older import find
from nbsight.core.source import Source, source_of
from nbsight.core.watched import call_watched
from nbsight.errors import OutsideTraceError, PathError

__all__ = ["Envoy"]


class Envoy:
    """The stand-in for one module of a model.

    Args:
        module: The module.
        path: Its name within the model, as in `named_modules()`; the root's is "".
        parent: The envoy above; None for the root.
    """

    #: Whether it stands for a module (and not for an operation inside a forward).
    _is_module = True
    #: Whether values are shown as they are: a class that overrides `_show` says no.
    _is_literal = True
    #: Whether everything later depends on the module's output alone: a decoder block's.
    _holds_state = False
    _module: nn.Module
    _path: str
    _name: str
    _parent: Envoy | None
    _root: Envoy
    _children: dict[str, Envoy]
    #: Whether it is indexed by numbers.
    _is_list: bool

    def __init__(self, module: nn.Module, path: str = "", parent: Envoy | None = None) -> None:
        set_ = object.__setattr__
        set_(self, "_module", module)
        set_(self, "_path", path)
        set_(self, "_name", path.rpartition(".")[2])
        set_(self, "_parent", parent)
        set_(self, "_root", self if parent is None else parent._root)
        set_(self, "_children", {})
        set_(self, "_gated", None)
        set_(self, "_is_list", isinstance(module, (nn.ModuleList, nn.Sequential)))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._is_literal = cls._show is Envoy._show

    # -- values --------------------------------------------------------------------------------

    @property
    def output(self) -> Any:
        """What the module returned, held before anything else sees it; assign to replace it."""
        frame = _getframe(1)
        stack = _stack.get()
        if stack is not None:
            tracer = stack[0]
            # The common cases, without a search: the block itself asks, or something that it calls
            # (a comprehension, up to Python 3.11) and no other trace is open.
            if tracer.root is self._root and (
                tracer.frame is frame or (stack[1] is None and tracer.answers_anywhere)
            ):
                return tracer.read_output(self, frame)
        return self._tracer("output", frame).read(self, "output", frame)

    # The setters are reached through `__setattr__`, so the user's frame is one further up.

    @output.setter
    def output(self, value: Any) -> None:
        frame = _getframe(2)
        self._tracer("output", frame).write(self, "output", value, frame)

    @property
    def input(self) -> Any:
        """The module's first argument; assign to replace it."""
        frame = _getframe(1)
        return self._tracer("input", frame).read(self, "input", frame)

    @input.setter
    def input(self, value: Any) -> None:
        frame = _getframe(2)
        self._tracer("input", frame).write(self, "input", value, frame)

    @property
    def inputs(self) -> Any:
        """All the module's arguments, `(args, kwargs)`; assign a pair to replace them."""
        frame = _getframe(1)
        return self._tracer("inputs", frame).read(self, "inputs", frame)

    @inputs.setter
    def inputs(self, value: Any) -> None:
        frame = _getframe(2)
        self._tracer("inputs", frame).write(self, "inputs", value, frame)

    def skip(self, value: Any) -> None:
        """Do not run the module in this run; go on with `value` as its output."""
        frame = _getframe(1)
        self._tracer("skip", frame).skip(self, value, frame)

    @property
    def source(self) -> Source:
        """The operations inside the module's forward; print it to see their names."""
        return source_of(self, _getframe(1))

    def _tracer(self, what: str, frame: FrameType) -> Any:
        tracer = tracer_of(self._root, frame)
        if tracer is None:
            tracer = held_tracer(self._root._family, frame)
        if tracer is None:
            place = f"{self._path}.{what}" if self._path else what
            raise OutsideTraceError(
                f"`{place}` was asked for where no model is running. Values exist inside a trace: "
                f"`with model.trace(prompt): x = model.{place}"
                + (".save()`." if what != "skip" else "(...)`.")
            )
        return tracer

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Trace this module alone: `with model.h[3].trace(hidden): ...`."""
        return self._root._trace_part(self, args, kwargs)

    # -- what subclasses may change ------------------------------------------------------------

    def _show(self, kind: str, value: Any) -> Any:
        """What the user sees for what the module produced; `kind` is "output" or "input"."""
        return value

    def _accept(self, kind: str, current: Any, assigned: Any) -> Any:
        """What the model goes on with when the user writes `assigned` where `current` was."""
        return assigned

    # -- the tree ------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The module's place in the model, as in `model.transformer.h.0`."""
        return f"model.{self._path}" if self._path else "model"

    def _child(self, name: str) -> Envoy:
        child = self._children.get(name)
        if child is None:
            module = self._module._modules[name]
            assert module is not None
            child = self._children[name] = self._root._envoy_of(
                module, f"{self._path}.{name}" if self._path else name, self
            )
        return child

    def _children_names(self) -> list[str]:
        return [name for name, module in self._module._modules.items() if module is not None]

    def __getattr__(self, name: str) -> Any:
        # Only reached when the envoy itself has no such attribute.
        if name.startswith("__"):
            raise AttributeError(name)
        module = self._module
        if _part(module, name) is not None:
            child = self._child(name)
            self.__dict__[name] = child  # found without this method from now on
            return child
        if name.startswith("E_") and _part(module, name[2:]) is not None:
            return self._child(name[2:])
        try:
            value = getattr(module, name)
            if isinstance(value, nn.Module):
                # A shell hands out what is in the module that it is around; a property, a part.
                path = self._root._paths.get(id(value))
                return value if path is None else self._root._at(path)
            return value
        except AttributeError:
            if self._follow():
                return getattr(self, name)
            if hasattr(type(module), name):
                raise  # a property of the module failed inside; its own message is the better one
            older = find(self, name, _getframe(1))
            if older is not None:
                return older
            raise PathError(self._unknown(name)) from None

    def _unknown(self, name: str) -> str:
        names = self._children_names()
        own = f"`{self._path}`" if self._path else f"the model ({type(self._module).__name__})"
        close = difflib.get_close_matches(name, [*names, "output", "input", "inputs"], 1, 0.5)
        there = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
        text = f"{own} has no `{name}`"
        if names:
            text += f"; its submodules are {there}"
        else:
            text += f"; it is a {type(self._module).__name__} and has no submodules"
        if close:
            place = f"{self._path}.{close[0]}" if self._path else close[0]
            text += f". Did you mean `{place}`?"
        return text + ("" if close else ".")

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        elif isinstance(value, nn.Module) or hasattr(self._module, name):
            setattr(self._module, name, value)
            self._children.pop(name, None)
            self.__dict__.pop(name, None)
        else:
            raise PathError(
                f"cannot set `{name}`: " + self._unknown(name) + " Values of a running model are "
                "set through `.output`, `.input` or `.inputs`; a new nn.Module can be attached "
                "under any name."
            )

    def __getitem__(self, key: int | slice | str | Any) -> Any:
        if type(key) is int and key >= 0:  # the common case first: a block by its number
            name = str(key)
            child = self._children.get(name)
            if child is not None and self._is_list and self._module._modules.get(name) is child._module:
                return child
        names = self._children_names()
        if isinstance(key, str):
            if key in self._module._modules:
                return self._child(key)
            if self._follow():
                return self[key]
            raise PathError(self._unknown(key))
        # In graphs and scripts a list has become a plain module with numbers for names.
        is_numbered = bool(names) and all(map(str.isdigit, names))
        if is_numbered or isinstance(self._module, (nn.ModuleList, nn.Sequential)):
            if isinstance(key, slice):
                return [self._child(name) for name in names[key]]
            if isinstance(key, int):
                if -len(names) <= key < len(names):
                    return self._child(names[key])
                if self._follow():
                    return self[key]
                raise PathError(
                    f"`{self._path}` has {len(names)} entries, 0 to {len(names) - 1}; there is no "
                    f"{key}. For the last one write `{self._path}[-1]`."
                )
        if self._follow():
            return self[key]
        if is_compiled(self._module):
            return self._child("_orig_mod")[key]
        here = self._path or "model"
        raise PathError(
            f"`{here}` is a module ({type(self._module).__name__}), not a value or a list, so "
            f"[{key!r}] means nothing. For its value inside a trace write `{here}.output`"
            + (f"; its submodules are {', '.join(names[:12])}." if names else ".")
        )

    def __iter__(self) -> Iterator[Envoy]:
        if is_compiled(self._module):
            return iter(self._child("_orig_mod"))
        if not isinstance(self._module, (nn.ModuleList, nn.Sequential, nn.ModuleDict)):
            raise TypeError(
                f"`{self._path or 'model'}` is a {type(self._module).__name__}: only lists of "
                "modules can be looped over; for all submodules write `.modules()`."
            )
        return iter([self._child(name) for name in self._module._modules])

    def __len__(self) -> int:
        if is_compiled(self._module):
            return len(self._child("_orig_mod"))
        if not isinstance(self._module, (nn.ModuleList, nn.Sequential, nn.ModuleDict)):
            raise TypeError(f"`{self._path or 'model'}` is a module and has no length.")
        return len(self._module)

    def __bool__(self) -> bool:
        return True

    def __call__(self, *args: Any, hook: bool = False, **kwargs: Any) -> Any:
        """Apply the module, inside a trace or outside; the running model does not notice.

        Args:
            args: What its forward takes.
            hook: Whether a running trace takes the call for one of its own, so that the module's values can
                be read, changed and kept there.
            kwargs: What its forward takes by name.
        """
        if hook:
            return call_watched(self, args, kwargs, _getframe(1))
        return self._module(*args, **kwargs)

    @property
    def parent(self) -> Envoy | None:
        """The envoy above; None at the root. (A submodule of that name is `E_parent`.)"""
        return self._parent

    @property
    def root(self) -> Envoy:
        """The model's own envoy. (A submodule of that name is `E_root`.)"""
        return self._root

    def modules(self, include_fn: Callable[[Envoy], bool] | None = None, names: bool = False) -> list[Any]:
        """This envoy and all below it, in the order of torch's `named_modules()`, each module once.

        Args:
            include_fn: Keeps only the envoys for which it returns true.
            names: Gives pairs of path and envoy.
        """
        pairs = self.named_modules(include_fn)
        return pairs if names else [envoy for _, envoy in pairs]

    def named_modules(self, include_fn: Callable[[Envoy], bool] | None = None) -> list[tuple[str, Envoy]]:
        """Pairs of path and envoy for this module and all below it.

        Args:
            include_fn: Keeps only the envoys for which it returns true.
        """
        pairs = []
        for name, _ in self._module.named_modules():
            envoy = self._at(name)
            if include_fn is None or include_fn(envoy):
                pairs.append((envoy._path, envoy))
        return pairs

    def get(self, path: str) -> Any:
        """The envoy at a dotted path below this one; a last `.output` reads the value."""
        envoy: Any = self
        for part in path.split("."):
            envoy = envoy._child(part) if part in envoy._module._modules else getattr(envoy, part)
        return envoy

    def _at(self, path: str) -> Envoy:
        envoy = self
        for part in path.split(".") if path else ():
            envoy = envoy._child(part)
        return envoy

    def _gates(self) -> list[nn.Module]:
        """The modules that must be gated for a run to stop here: this one and those above it."""
        if self._parent is not None:
            # Adapters are put into a model by replacing its modules: follow the tree as it is now.
            now = _part(self._parent._module, self._name)
            if now is not None and now is not self._module:
                self._stand_for(now)
        if self._gated is None:
            object.__setattr__(self, "_gated", self._root._way_to(self))
        return self._gated

    def _stand_for(self, module: nn.Module) -> None:
        """Stand for the module that has taken this one's place."""
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_is_list", isinstance(module, (nn.ModuleList, nn.Sequential)))
        object.__setattr__(self, "_gated", None)
        for name in self._children:
            self.__dict__.pop(name, None)
        self._children.clear()

    def _follow(self) -> bool:
        """Stand for what is in the model now, from the top down; say whether anything was replaced."""
        if self._parent is None:
            return False
        replaced = self._parent._follow()
        now = _part(self._parent._module, self._name)
        if now is not None and now is not self._module:
            self._stand_for(now)
            return True
        return replaced

    @property
    def device(self) -> torch.device:
        """The device of the module's first parameter (cpu when it has none)."""
        for tensor in (*self._module.parameters(), *self._module.buffers()):
            return tensor.device
        return torch.device("cpu")

    @property
    def devices(self) -> set[torch.device]:
        """The devices of the module's parameters and buffers."""
        return {tensor.device for tensor in (*self._module.parameters(), *self._module.buffers())}

    def to(self, *args: Any, **kwargs: Any) -> Envoy:
        """Move the module, as `torch.nn.Module.to` does; returns this envoy."""
        self._root._load()
        self._module.to(*args, **kwargs)
        return self

    def cpu(self) -> Envoy:
        """Move the module to the cpu; returns this envoy."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Envoy:
        """Move the module to a gpu; returns this envoy."""
        return self.to("cuda" if device is None else device)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._parent is None:
            return super().__reduce_ex__(protocol)
        return (_at, (self._root, self._path))  # a copied envoy belongs to a copied model

    def __dir__(self) -> list[str]:
        public = [name for name in dir(type(self)) if not name.startswith("_")]
        return [*self._children_names(), *public]

    def __repr__(self) -> str:
        return repr(self._module)


def _part(module: nn.Module, name: str) -> nn.Module | None:
    modules = module._modules
    return modules[name] if name in modules else None  # noqa: SIM401 - a scripted module's has no `get`


def _at(root: Envoy, path: str) -> Envoy:
    return root._at(path)
