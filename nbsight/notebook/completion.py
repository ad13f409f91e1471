"""Tab completion that lists a module's children before everything else it has."""

from __future__ import annotations

import ast
import re
from typing import Any

__all__ = ["child_completions", "envoy_matcher", "envoy_of"]

# the expression before the last dot, as far back as names, dots and plain indices go
BEFORE_DOT = re.compile(r"""([A-Za-z_]\w*(?:\.\w+|\[\s*(?:-?\d+|'[^']*'|"[^"]*")\s*\])*)\.(\w*)$""")


def child_completions(text: str, namespace: dict[str, Any]) -> tuple[str, list[str], list[str]] | None:
    """What may follow the dot at the end of `text`.

    Nothing is executed: names come from the namespace, and the path on from there is walked through
    children only, so that no property of a model is asked for its value.

    Returns:
        The part already typed, the children and the other names that begin with it; None when what
        stands before the dot is no envoy.
    """
    found = BEFORE_DOT.search(text)
    if found is None:
        return None
    envoy, typed = _envoy_before(text, namespace), found.group(2)
    if envoy is None:
        return None
    children = [name for name in envoy._children_names() if name.startswith(typed) and name.isidentifier()]
    others = [
        name
        for name in sorted(set(dir(envoy)) - set(children))
        if name.startswith(typed)
        and name.isidentifier()
        and (typed.startswith("_") or not name.startswith("_"))
    ]
    return typed, children, others


def _envoy_before(text: str, namespace: dict[str, Any]) -> Any:
    """The envoy that stands before the dot at the end of a text, else None."""
    found = BEFORE_DOT.search(text)
    return None if found is None else envoy_of(found.group(1), namespace)


def envoy_of(text: str, namespace: dict[str, Any]) -> Any:
    """The envoy that an expression means, else None; nothing is executed."""
    try:
        return _walk(ast.parse(text, mode="eval").body, namespace)
    except SyntaxError:
        return None


def kinds_of(envoy: Any, names: list[str]) -> dict[str, str]:
    """What stands beside a child in the list: its class. (There is room for a word; shapes are in `hover`.)

    Args:
        envoy: What the names are asked of.
        names: Children of it.
    """
    modules = getattr(getattr(envoy, "_module", None), "_modules", {})
    return {name: type(modules[name]).__name__ for name in names if modules.get(name) is not None}


def _walk(node: ast.expr, namespace: dict[str, Any]) -> Any:
    """The envoy that an expression of names, dots and constant indices stands for, else None."""
    if isinstance(node, ast.Name):
        value = namespace.get(node.id)
        return value if hasattr(type(value), "_children_names") else None
    if isinstance(node, ast.Attribute):
        parent = _walk(node.value, namespace)
        if parent is not None and node.attr in parent._children_names():
            return getattr(parent, node.attr)
    if isinstance(node, ast.Subscript):
        parent = _walk(node.value, namespace)
        try:
            return None if parent is None else parent[ast.literal_eval(node.slice)]
        except (LookupError, TypeError):
            return None  # no such child: nothing to offer
    return None


def envoy_matcher(namespace: dict[str, Any]) -> Any:
    """A matcher for IPython's completer over a namespace of the user's."""
    from IPython.core.completer import SimpleCompletion, context_matcher

    @context_matcher()
    def nbsight_children(context: Any) -> dict[str, Any]:
        found = child_completions(context.text_until_cursor, namespace)
        if found is None:
            return {"completions": [], "matched_fragment": "", "suppress": False}
        typed, children, others = found
        kinds = kinds_of(_envoy_before(context.text_until_cursor, namespace), children)
        completions = [SimpleCompletion(name, type=kinds.get(name) or "module") for name in children]
        completions += [SimpleCompletion(name, type="property") for name in others]
        # Jedi's are otherwise put before everybody's, in alphabetical order.
        return {
            "completions": completions,
            "matched_fragment": typed,
            "ordered": True,
            "suppress": bool(completions),
        }

    return nbsight_children
