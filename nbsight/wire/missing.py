"""What stands under a name whose value did not come back from where the block ran.

Binding nothing would leave what an earlier run of the cell had put there, and that would pass for
this run's result. So the name is bound to something that says, at every use, what to write.
"""

from __future__ import annotations

from typing import Any, NoReturn

from nbsight.errors import RemoteError

__all__ = ["NotHere"]


class NotHere:
    """Stands for a value that stayed where its block ran; every use of it is a `RemoteError`.

    Args:
        what: The name, or the place within it: `h` or `acts[3]`.
        why: What it was and what to write.
    """

    def __init__(self, what: str, why: str) -> None:
        self.__dict__.update(_what=what, _why=why)

    def __repr__(self) -> str:
        return f"<{self._what} is not here: {self._why}>"

    def __format__(self, spec: str) -> str:
        if spec:
            self._fail()
        return repr(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # protocols ask for these; they mean no use
            raise AttributeError(name)
        self._fail()

    def __setattr__(self, name: str, value: Any) -> None:
        self._fail()

    def _fail(self, *_: Any, **__: Any) -> NoReturn:
        raise RemoteError(f"`{self._what}` is not here: {self._why}")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        for value in (*args, *(kwargs or {}).values()):
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(item, NotHere):
                    item._fail()
        raise RemoteError("a value is used here that did not come back from where its block ran.")


def _use(self: NotHere, *_: Any, **__: Any) -> NoReturn:
    self._fail()


_OPERATORS = "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor"
_OTHERS = (
    "call getitem setitem delitem iter len contains bool eq ne lt le gt ge neg pos abs invert "
    "int float complex index round array enter exit"
)
for _name in _OPERATORS.split():
    for _form in (_name, f"r{_name}", f"i{_name}"):
        setattr(NotHere, f"__{_form}__", _use)
for _name in _OTHERS.split():
    setattr(NotHere, f"__{_name}__", _use)
NotHere.__hash__ = object.__hash__  # type: ignore[method-assign]
