"""A stream of tokens as the last line of a cell: the text grows as it is written.

IPython asks for this, so it is there; nobody else imports it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nbsight.display import html
from nbsight.display.numbers import plural

if TYPE_CHECKING:
    from nbsight.models.writing import Stream

__all__ = ["show_live"]

#: Seconds between two pictures; a page draws no more of them.
_EVERY = 0.1


def show_live(stream: Stream) -> None:
    """Write what is left of a stream where its cell shows results; an interrupt leaves what there is.

    Args:
        stream: The stream; once it is over, its result is shown.
    """
    from IPython import get_ipython
    from IPython.display import display

    shell = get_ipython()
    if getattr(shell, "kernel", None) is None:  # a terminal: what is printed there stays
        _print(stream)
        return
    handle: Any = display(_so_far(stream), raw=True, display_id=True)
    last = time.monotonic()
    try:
        for _ in stream:
            if time.monotonic() - last >= _EVERY:
                handle.update(_so_far(stream), raw=True)
                last = time.monotonic()
    except KeyboardInterrupt:
        stream.close()
    finally:  # after an error, too: what was written stays on the page
        result = stream.result
        handle.update({"text/html": result._repr_html_(), "text/plain": repr(result)}, raw=True)


def _so_far(stream: Stream) -> dict[str, str]:
    texts = stream.texts
    head = f"{plural(stream.count, 'token')} so far …"
    body = "\n".join(texts)
    return {
        "text/html": html.document(html.heading(head), html.preformatted(body)),
        "text/plain": f"{head}\n{body}",
    }


def _print(stream: Stream) -> None:
    try:
        for token in stream:
            if not isinstance(token, list):
                print(token, end="", flush=True)
    except KeyboardInterrupt:
        stream.close()
    print("\n".join(stream.texts) if len(stream.texts) > 1 else "")
