"""What Shift+Tab and `?` say of a module: its class, the shape and meaning of what it makes, its parts.

IPython lets a hook replace what is shown of an object. Ours speaks of modules and of their `output`, and
leaves everything else, and `??`, as it is.
"""

from __future__ import annotations

from typing import Any

from nbsight.notebook.looking import parameters_text

__all__ = ["described"]

PATIENCE = 1.5  # seconds that a reader waits for the scan of a model
MOST_PARTS = 16


def described(data: Any) -> list[tuple[str, str]] | None:
    """Headings and texts for a module or its `output`; None for anything else.

    Args:
        data: IPython's `InspectorHookData`.
    """
    value = data.obj
    if isinstance(value, property):
        value = getattr(data.info, "parent", None)
    kind = type(value)
    if data.detail_level or not hasattr(kind, "_children_names") or not hasattr(value, "_root"):
        return None
    from nbsight.notebook.shapes import meaning_of, shapes_of

    root, path, module = value._root, value._path, value._module
    shapes = shapes_of(root, PATIENCE)
    shape = "" if shapes is None else shapes.outputs.get(path, "")
    parts = value._children_names()
    facts = [
        ("Module", value.path),
        ("Class", type(module).__name__),
        ("Output", shape or ("not known" if shapes is not None else "being found; ask again")),
        ("Meaning", meaning_of(root, path)),
        ("Parameters", "none" if next(module.parameters(), None) is None else parameters_text(module)),
        ("Submodules", ", ".join(parts[:MOST_PARTS]) + (" …" if len(parts) > MOST_PARTS else "")),
    ]
    return [(name, text) for name, text in facts if text]
