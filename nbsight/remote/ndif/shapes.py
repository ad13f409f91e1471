"""A block's text, written so that outputs have the shapes that nbsight promises.

Whether `model.transformer.h[3].output` is a tensor or a tuple depends on NDIF's transformers. Here
`.output[0]` is the hidden state and `.output[:, -1]`, `.output.shape` work on it too, and `model.output`
may be used as the logits. So each `.output` goes through a function of one line that stands above the
block:

    h = model.transformer.h[3].output[0]     h = _nb_get(model.transformer.h[3])[_nb_key(...)]
    model.transformer.h[3].output = h        _nb_set(model.transformer.h[3], (h))

Only the changed places change: every statement stays on the user's line.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from typing import NamedTuple, TypeGuard

__all__ = ["with_promised_shapes"]

#: Of the model's output, what is read of the Hugging Face object and not of the logits.
_FIELDS = {
    *("logits", "loss", "past_key_values", "hidden_states", "attentions", "cross_attentions"),
    *("encoder_last_hidden_state", "last_hidden_state", "keys", "values", "items", "get", "to_tuple"),
}

_OPERATOR = re.compile(r"\s*(//|\*\*|<<|>>|[-+*/%@&|^])=")


def with_promised_shapes(source: str, tree: ast.Module, line: int, blocks: Collection[str], root: str) -> str:
    """The text of a block, padded so that its statements stand on the user's lines.

    Args:
        source: The block's lines; they may be indented.
        tree: What they parse to, with the line numbers they have at home.
        line: The number of the first of them.
        blocks: The paths of the model's decoder and encoder blocks, as nnsight writes them.
        root: The path of the model itself.
    """
    text = _Text(source, line)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            _assignment(node, text)
        elif isinstance(node, ast.AugAssign):
            _update(node, text)
    for parent in ast.walk(tree):
        for node in ast.iter_child_nodes(parent):
            _reading(node, parent, text)
    head = [_functions(sorted(blocks), root)]
    if source[:1] in " \t":
        head.append("if 1:")
    above = "\n" * max(line - 1 - len(head), 0)
    return above + "\n".join(head) + "\n" + text.changed()


def _functions(blocks: list[str], root: str) -> str:
    """The functions that the text calls, on one line; what they need is in their defaults."""
    return (
        "_nb_key = lambda x: slice(None) if getattr(x, '_nb_hidden', False) else 0; "
        "_nb_logits = lambda x: x if hasattr(x, 'dtype') else x.logits; "
        "_nb_mark = lambda x: (setattr(x, '_nb_hidden', True), x)[1] if hasattr(x, 'dtype') else x; "
        "_nb_is = lambda e, b=" + repr(set(blocks) or {""}) + ": getattr(e, 'path', None) in b; "
        f"_nb_root = lambda e: getattr(e, 'path', None) == {root!r}; "
        "_nb_get = lambda e, i=_nb_is, r=_nb_root, m=_nb_mark: (lambda v: "
        "m(v[0] if isinstance(v, tuple) else v) if i(e) else "
        "v.logits if r(e) and hasattr(v, 'logits') else v)(e.output); "
        "_nb_fit = lambda new, old: new if isinstance(new, tuple) == isinstance(old, tuple) else "
        "new[0] if isinstance(new, tuple) else (new,) + old[1:]; "
        "_nb_set = lambda e, x, i=_nb_is, f=_nb_fit: "
        "setattr(e, 'output', f(x, e.output) if i(e) else x)"
    )


def _assignment(node: ast.Assign, text: _Text) -> None:
    target = node.targets[0]
    if len(node.targets) > 1 or not _is_output(target, ast.Store):
        return
    start, end = text.span(target)
    stop = text.find(b"=", end)
    if text.data[end:stop].strip():
        return  # parentheses around the target: left to NDIF as it is
    text.insert(start, "_nb_set(")
    text.replace(text.dot(end), stop + 1, ", (")
    text.insert(text.span(node)[1], "))")


def _update(node: ast.AugAssign, text: _Text) -> None:
    if not _is_output(node.target, ast.Store):
        return
    start, end = text.span(node.target)
    operator = _OPERATOR.match(text.data[end:].decode())
    if operator is None:
        return
    dot = text.dot(end)
    envoy = text.data[start:dot].decode()
    text.insert(start, "_nb_set(")
    length = len(operator.group().encode())
    text.replace(dot, end + length, f", _nb_get({envoy}) {operator.group(1)} (")
    text.insert(text.span(node)[1], "))")


def _reading(node: ast.AST, parent: ast.AST, text: _Text) -> None:
    if isinstance(node, ast.Subscript) and _is_first(node.slice):
        value = node.value
        if isinstance(value, ast.Name) or _is_output(value, ast.Load):
            start, end = text.span(value)
            shown = text.data[start:end].decode()
            if not isinstance(value, ast.Name):
                shown = f"_nb_get({text.data[start : text.dot(end)].decode()})"
            text.replace(*text.span(node.slice), f"_nb_key({shown})")
    elif _is_output(node, ast.Load):
        if isinstance(parent, ast.Attribute) and parent.attr in _FIELDS:
            return
        start, end = text.span(node)
        text.insert(start, "_nb_get(")
        text.replace(text.dot(end), end, ")")
    elif _is_attribute(node, "logits", ast.Load) and isinstance(node.value, ast.Name):
        start, end = text.span(node)
        text.insert(start, "_nb_logits(")
        text.replace(text.dot(end), end, ")")


def _is_output(node: ast.AST, context: type[ast.expr_context]) -> TypeGuard[ast.Attribute]:
    return _is_attribute(node, "output", context)


def _is_attribute(node: ast.AST, name: str, context: type[ast.expr_context]) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, context)


def _is_first(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value == 0


class _Change(NamedTuple):
    start: int
    end: int
    order: int
    text: bytes


class _Text:
    """A text that is changed in several places, found by line and column."""

    def __init__(self, source: str, line: int) -> None:
        self.data = source.encode()
        self._line = line
        self._starts = [0]
        for row in self.data.split(b"\n"):
            self._starts.append(self._starts[-1] + len(row) + 1)
        self._changes: list[_Change] = []

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node begins and ends, in bytes."""
        at = node.__dict__
        return (
            self._starts[at["lineno"] - self._line] + at["col_offset"],
            self._starts[at["end_lineno"] - self._line] + at["end_col_offset"],
        )

    def dot(self, end: int) -> int:
        """Where the dot is of the attribute that ends there."""
        return self.data.rindex(b".", 0, end)

    def find(self, what: bytes, start: int) -> int:
        """Where something comes next."""
        return self.data.index(what, start)

    def insert(self, at: int, text: str) -> None:
        """Put text somewhere."""
        self.replace(at, at, text)

    def replace(self, start: int, end: int, text: str) -> None:
        """Put text in the place of other text; its line breaks stay."""
        kept = b"\n" * self.data[start:end].count(b"\n")
        self._changes.append(_Change(start, end, len(self._changes), kept + text.encode()))

    def changed(self) -> str:
        """The text with all changes."""
        parts, at = [], 0
        for change in sorted(self._changes):
            parts += [self.data[at : change.start], change.text]
            at = max(at, change.end)
        return b"".join([*parts, self.data[at:]]).decode()
