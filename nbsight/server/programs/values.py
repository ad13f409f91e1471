"""What a program can hold beside plain data, tensors and parts of the model: wrappers of ours.

No raw function is a value, so no function can be reached that is not on a list, whoever calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from nbsight.core.envoy import Envoy
from nbsight.errors import PathError
from nbsight.models.views import Attention, Layer, Mlp
from nbsight.server.programs.limits import check_parts

if TYPE_CHECKING:
    import ast

    from nbsight.server.programs.expressions import Scope
    from nbsight.server.programs.statements import Interpreter

__all__ = ["Allowed", "Bound", "Function", "Module", "check_value", "unwrapped"]


class Allowed:
    """A function or class from a list, which is asked for its size before it is called.

    Args:
        name: As errors call it.
        function: It.
        check: Looks at its arguments.
        calls: Whether it calls functions among its arguments.
    """

    __slots__ = ("calls", "check", "function", "name")

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        check: Callable[[Any, dict[str, Any]], None] | None = None,
        calls: bool = False,
    ) -> None:
        self.name = name
        self.function = function
        self.check = check
        self.calls = calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.check is not None:
            self.check(args, kwargs)
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<function {self.name}>"


class Bound:
    """A method from the table of its value's type."""

    __slots__ = ("check", "name", "value")

    def __init__(self, value: Any, name: str, check: Callable[[Any, dict[str, Any]], None] | None) -> None:
        self.value = value
        self.name = name
        self.check = check

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.check is not None:
            self.check((self.value, *args), kwargs)
        return getattr(self.value, self.name)(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<method {self.name}>"


class Module:
    """Some functions of a module."""

    __slots__ = ("name", "names")

    def __init__(self, name: str, names: dict[str, Any]) -> None:
        self.name = name
        self.names = names

    def __repr__(self) -> str:
        return f"<module {self.name}>"


class Function:
    """A function of the user's, which is interpreted when it is called."""

    def __init__(
        self,
        interpreter: Interpreter,
        name: str,
        parameters: ast.arguments,
        body: list[ast.stmt] | ast.expr,
        scope: Scope,
    ) -> None:
        self.interpreter = interpreter
        self.name = name
        self.parameters = parameters
        self.body = body
        self.scope = scope
        self.defaults: tuple[Any, ...] = ()
        self.keyword_defaults: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.interpreter.call_function(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<function {self.name}>"


def unwrapped(value: Any) -> Any:
    """A class for `isinstance`, as Python has it."""
    check_parts((value,), 100)
    if isinstance(value, tuple):
        return tuple(unwrapped(item) for item in value)
    return value.function if isinstance(value, Allowed) else value


#: What Python could call and a program may hold; whether a program may call it is asked when it does.
_CALLABLE = (
    *(Allowed, Bound, Function, Envoy, Layer, Attention, Mlp, PreTrainedTokenizerBase),
    *(torch.device, torch.no_grad, torch.enable_grad),
)


def check_value(value: Any) -> None:
    """Refuse what is no value of a program: anything that can be called and is not one of a few kinds.

    Asked of whatever an expression gives, so that a function, a class or a module of Python's own stays out
    of reach, however somebody came by it.
    """
    if callable(value) and not isinstance(value, _CALLABLE):
        raise PathError(f"a {type(value).__name__} is not a value of a program.")
