"""What the server writes about itself: lines for people, or a JSON object a line for programs."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

__all__ = ["JsonLines", "set_up_logs"]

_OWN = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "color_message", "taskName"})


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, and whatever it was given beside."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up_logs(style: Literal["text", "json"]) -> None:
    """Send the server's and uvicorn's records to the standard error, in one of two styles."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if style == "json" else plain)
    for name in ("nbsight.server", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(logging.INFO if style == "json" and name == "nbsight.server" else logging.WARNING)
