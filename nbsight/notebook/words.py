"""The line of a magic: `model "The capital of France is" top_k=5` as expressions and keywords."""

from __future__ import annotations

import ast
from typing import Any

from nbsight.errors import InputError

__all__ = ["arguments", "split"]

OPENING, CLOSING, QUOTES = "([{", ")]}", "'\""


def split(line: str) -> list[str]:
    """The expressions of a line: separated by spaces or commas that are in no brackets or quotes."""
    parts, current, depth, quote = [], "", 0, ""
    index = 0
    while index < len(line):
        char = line[index]
        if quote:
            current += char
            if char == "\\":
                index += 1
                current += line[index : index + 1]
            elif char == quote:
                quote = ""
        elif char in QUOTES:
            quote = char
            current += char
        elif depth == 0 and (char.isspace() or char == ","):
            parts.append(current)
            current = ""
        else:
            depth += (char in OPENING) - (char in CLOSING)
            current += char
        index += 1
    parts.append(current)
    return [part for part in parts if part]


def arguments(line: str, namespace: dict[str, Any], usage: str) -> tuple[list[Any], dict[str, Any]]:
    """Evaluate the expressions of a line in the user's namespace.

    Args:
        line: What stands after the name of the magic.
        namespace: The user's names.
        usage: How the magic is written, for the message.

    Raises:
        InputError: a part is no expression.
    """
    values: list[Any] = []
    named: dict[str, Any] = {}
    for part in split(line):
        name, equals, rest = part.partition("=")
        is_named = bool(equals) and name.isidentifier() and not rest.startswith("=")
        text = rest if is_named else part
        try:
            code = compile(ast.parse(text, mode="eval"), "<magic>", "eval")
        except SyntaxError:
            raise InputError(
                f"`{part}` is no expression. Write `{usage}`, with brackets around an expression that has "
                "spaces in it."
            ) from None
        value = eval(code, namespace)  # what the user wrote, in the user's own namespace
        if is_named:
            named[name] = value
        else:
            values.append(value)
    return values, named
