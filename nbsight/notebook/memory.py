"""Who holds what: the memory of models, of the user's names and of IPython's history; and freeing it.

Bytes are counted by storage: two tensors that look at the same numbers count once, for whoever
comes first. Numbers of numpy count as well, since results hold those.
"""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

from nbsight.display.numbers import bytes_text
from nbsight.notebook.keys import Keys
from nbsight.notebook.names import Survey, survey, users_names, values_in

__all__ = ["free_name", "free_output", "free_value", "holders", "memory"]

MOST_HOLDERS = 60
MOST_OUTPUTS = 200  # outputs of cells that are looked at, the newest
SMALLEST = 1000  # bytes; a name that holds less is not listed


def memory(ip: Any, named: list[tuple[str | None, Any]], known: Survey | None = None) -> dict[str, Any]:
    """What the process and its accelerators use, and who holds it."""
    rows = holders(ip, named, known)
    return {"process": _process_bytes(), "devices": _devices(), "holders": rows[:MOST_HOLDERS]}


def holders(
    ip: Any, named: list[tuple[str | None, Any]], known: Survey | None = None
) -> list[dict[str, Any]]:
    """Models, names and outputs of cells that hold numbers, the largest first."""
    counted: set[Any] = set()
    rows = []
    for name, model in named:
        tensors = [*model._module.parameters(), *model._module.buffers()]
        rows.append(_row("model", name or type(model._module).__name__, tensors, counted, name or ""))
    for name, held in (survey(ip.user_ns) if known is None else known).items():
        arrays = [found.value for found in held if _holds_numbers(found.value)]
        rows.append(_row("name", name, arrays, counted, name))
    for number, value in list(ip.user_ns.get("_oh", {}).items())[-MOST_OUTPUTS:]:
        arrays = [item for item in values_in(value) if _holds_numbers(item)]
        rows.append(_row("output", f"Out[{number}]", arrays, counted, str(number)))
    rows = [row for row in rows if row["bytes"] >= SMALLEST]
    return sorted(rows, key=lambda row: -row["bytes"])


def _row(kind: str, label: str, arrays: list[Any], counted: set[Any], name: str) -> dict[str, Any]:
    size = count = 0
    for array in arrays:
        key, bytes_ = _storage(array)
        count += 1
        if key not in counted:
            counted.add(key)
            size += bytes_
    return {"kind": kind, "label": label, "name": name, "bytes": size, "count": count}


def _holds_numbers(value: Any) -> bool:
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    return (torch is not None and isinstance(value, torch.Tensor)) or (
        numpy is not None and isinstance(value, numpy.ndarray)
    )


def _storage(array: Any) -> tuple[Any, int]:
    """What tells an array's memory apart, and its size in bytes."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(array, torch.Tensor):
        base = array
        while getattr(base, "base", None) is not None and hasattr(base.base, "nbytes"):
            base = base.base
        return id(base), int(base.nbytes)
    try:
        if array.device.type == "meta":
            return id(array), 0
        storage = array.untyped_storage()
        return (str(array.device), storage.data_ptr()), int(storage.nbytes())
    except (RuntimeError, NotImplementedError):  # sparse, quantised: no one block of memory
        return id(array), array.numel() * array.element_size()


def _process_bytes() -> int | None:
    try:
        import psutil  # ipykernel needs it, so it is there in a notebook
    except ImportError:
        return None
    return int(psutil.Process().memory_info().rss)


def _devices() -> list[dict[str, Any]]:
    """The accelerators that this process has touched."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        allocated = int(torch.cuda.memory_allocated(index))
        found.append({"name": f"cuda:{index}", "used": allocated, "taken": total - free, "total": total})
    return found


# -- freeing -----------------------------------------------------------------------------------


def free_name(ip: Any, name: str) -> str:
    """Delete a name and what IPython remembers of its value.

    Returns:
        What was done, as a sentence.

    Raises:
        LookupError: there is no such name of the user's.
    """
    if name not in users_names(ip.user_ns):
        raise LookupError(f"there is no `{name}` in this notebook any more.")
    watched = _watch(ip.user_ns[name])
    _forget(ip, ip.user_ns.pop(name))
    ip.user_ns_hidden.pop(name, None)
    return _freed(f"Deleted `{name}`", watched)


def free_output(ip: Any, number: str) -> str:
    """Drop what IPython remembers as the output of a cell.

    Raises:
        LookupError: nothing is remembered of that cell.
    """
    history = ip.user_ns.get("_oh", {})
    if not number.isdigit() or int(number) not in history:
        raise LookupError(f"Out[{number}] is not remembered any more.")
    watched = _watch(history[int(number)])
    _forget(ip, history[int(number)])
    return _freed(f"Dropped Out[{number}]", watched)


def free_value(ip: Any, keys: Keys, key: str) -> str:
    """Delete the name, or the item of a dictionary, that holds a saved value.

    Args:
        ip: The shell.
        keys: What the page calls things.
        key: The value's key. (Not the value: it would be held by whoever is to free it.)

    Raises:
        LookupError: the user has no name for it, or one that is part of something larger.
    """
    name, item = _holder(ip, keys.find(key))
    if item is None:
        return free_name(ip, name)
    held = ip.user_ns[name]
    watched = _watch(held[item[0]])
    _forget(ip, held.pop(item[0]))
    return _freed(f"Deleted `{name}[{item[0]!r}]`", watched)


def _holder(ip: Any, value: Any) -> tuple[str, tuple[Any] | None]:
    """The name that holds a value, and the key if it is an item of a dictionary."""
    if value is None:
        raise LookupError("this value is gone already.")
    names = users_names(ip.user_ns)
    for name, held in names.items():
        if held is value:
            return name, None
    for name, held in names.items():
        if isinstance(held, dict):
            for key, item in held.items():
                if item is value:
                    return name, (key,)
    raise LookupError(
        "no name of this notebook holds this value by itself; it is part of something larger, or only "
        "IPython's history has it. See Memory."
    )


def _watch(value: Any) -> tuple[list[Any], int]:
    """Weak references to the numbers in a value, and their bytes."""
    arrays = [item for item in values_in(value) if _holds_numbers(item)]
    sizes = dict(_storage(array) for array in arrays)
    return [weakref.ref(array) for array in arrays], sum(sizes.values())


def _forget(ip: Any, value: Any) -> None:
    """Remove a value from IPython's history of outputs, and its three last results."""
    history = ip.user_ns.get("_oh", {})
    for number in [number for number, held in history.items() if held is value]:
        del history[number]
    for namespace in (ip.user_ns, ip.user_ns_hidden):  # IPython writes its own names into both
        for name in [name for name, held in namespace.items() if held is value]:
            if name.strip("_").isdigit():
                del namespace[name]
            elif not name.strip("_"):
                namespace[name] = ""
    for name in ("_", "__", "___"):
        if getattr(ip.displayhook, name, None) is value:
            setattr(ip.displayhook, name, "")
    last = getattr(ip, "last_execution_result", None)
    if last is not None and last.result is value:
        last.result = None


def _freed(what: str, watched: tuple[list[Any], int]) -> str:
    references, size = watched
    gc.collect()
    held = sum(reference() is not None for reference in references)
    if not references:
        return f"{what}."
    if held:
        return f"{what}; {held} of its {len(references)} values are still held by something else."
    return f"{what}: {bytes_text(size)} freed."
