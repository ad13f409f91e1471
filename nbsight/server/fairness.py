"""Who submits too fast."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

__all__ = ["Rates"]


@dataclass
class Rates:
    """A bucket of tokens per owner: `burst` at once, `rate` per second on average."""

    rate: float
    burst: int
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, owner: str, now: float | None = None) -> float:
        """Take a token; returns 0, or the seconds to wait for one."""
        now = time.monotonic() if now is None else now
        left, since = self._left.get(owner, (float(self.burst), now))
        left = min(float(self.burst), left + (now - since) * self.rate)
        if left < 1:
            self._left[owner] = (left, now)
            return (1 - left) / self.rate
        self._left[owner] = (left - 1, now)
        return 0.0
