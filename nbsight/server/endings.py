"""How a job ends: its last state, and the error that says why."""

from __future__ import annotations

from typing import Any

import msgspec

from nbsight.wire.api import ErrorRecord

__all__ = ["STOPPED", "ended", "lost"]

#: Of a job that was told to stop, by the reason.
STOPPED = {
    "cancelled": ("CANCELLED", ErrorRecord("cancelled", "the job was cancelled.")),
    "time": (
        "FAILED",
        ErrorRecord(
            "time_limit", "the job ran for longer than it may.", hint="Ask for more: `timeout=seconds`."
        ),
    ),
}


def ended(say: str, message: dict[str, Any], why: str | None) -> tuple[str, ErrorRecord | None]:
    """The state and the error of a job whose worker says that it has ended.

    Args:
        say: "done", "stopped" or "failed".
        message: All that the worker says.
        why: Why it was told to stop, if it was.
    """
    if say == "done":
        return "COMPLETED", None
    if why is not None:
        return STOPPED[why]
    if say == "stopped":  # nobody asked: the block itself raised it
        return "FAILED", ErrorRecord("block_failed", "the block interrupted itself.")
    if "error" in message:
        return "FAILED", msgspec.convert(message["error"], ErrorRecord)
    return "FAILED", ErrorRecord("block_failed", "the block failed; its message is too long.")


def lost(what: str, attempts: int) -> ErrorRecord:
    """The error of a job whose workers were lost too often."""
    return ErrorRecord(
        "lost_worker",
        f"{what} ended while the job ran, {attempts} times.",
        hint="It may take more memory than there is; the server's own output says more.",
        retryable=True,
    )
