"""What a server was told, and what it refuses to be."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from nbsight.errors import NbsightError
from nbsight.wire.api import Limits

__all__ = ["EngineName", "RefusedToStart", "Settings", "Tier", "is_loopback"]

Tier = Literal["local", "program", "sandbox"]
EngineName = Literal["local", "ray", "slurm"]


class RefusedToStart(NbsightError, ValueError):
    """A server was asked to promise what it cannot keep."""


@dataclass(frozen=True)
class Settings:
    """One server.

    Args:
        models: Names or folders of the models that it loads at once.
        data: The folder that holds its jobs.
        host: The address it listens on.
        port: Its port; 0 takes a free one.
        public_url: The address under which a proxy lets others reach it, with the path that the proxy leaves
            in front.
        tier: What a job may do.
        keys: Owners by the SHA-256 of their keys, in hex.
        workers: Processes per model.
        loads: Whether it loads other models when a job asks for one.
        most_models: Models that are loaded at a time, where it does.
        options: What each model is opened with, such as `device_map`.
        limits: What a job and an owner may use.
        shares: What an owner may use beside the others, where they wait for each other; 1 if not named.
        engine: Where workers run.
        engine_options: What that engine is told, such as the address of a cluster.
        idle: Seconds without a job after which a worker of a cluster is ended.
        patience: Seconds that jobs wait for a place on a full cluster before a busy worker makes room.
        lease: Seconds without a sign of life after which a worker counts as lost.
        grace: Seconds that a job has to stop before its worker is ended.
    """

    models: tuple[str, ...]
    data: Path
    host: str = "127.0.0.1"
    port: int = 0
    public_url: str = ""
    tier: Tier = "local"
    keys: dict[str, str] = field(default_factory=dict)
    workers: int = 1
    loads: bool = False
    most_models: int = 3
    options: dict[str, Any] = field(default_factory=dict)
    limits: Limits = Limits()
    shares: dict[str, float] = field(default_factory=dict)
    engine: EngineName = "local"
    engine_options: dict[str, str] = field(default_factory=dict)
    idle: float = 600.0
    patience: float = 60.0
    lease: float = 60.0
    grace: float = 3.0

    @property
    def is_public(self) -> bool:
        """Whether others reach it through a proxy."""
        return bool(self.public_url) and not is_loopback(urlsplit(self.public_url).hostname or "")

    def check(self) -> None:
        """Refuse what cannot be kept.

        Raises:
            RefusedToStart: the tier does not fit the address, or is not there.
        """
        if self.tier == "sandbox":
            _check_walls()
        public = urlsplit(self.public_url)
        if self.public_url and (public.scheme not in ("http", "https") or not public.hostname):
            raise RefusedToStart(
                f"`--public-url {self.public_url}`: that is no address; write https://host/path."
            )
        if self.tier == "local" and self.is_public:
            raise RefusedToStart(
                f"in the `local` tier a block is Python that runs as you, and {self.public_url} is "
                "an address for others. Behind a proxy for others use `--tier program` or `--tier sandbox`."
            )
        if self.tier == "local" and not is_loopback(self.host):
            raise RefusedToStart(
                f"in the `local` tier a block is Python that runs as you: whoever reaches {self.host} and "
                "has a key could read your files, use your network and change the model. That tier "
                "listens on 127.0.0.1 only. For others use `--tier program`; for yourself, from another "
                "computer, an SSH tunnel (`ssh -L 8765:127.0.0.1:8765 this-machine`)."
            )
        if self.tier != "local" and self.loads:
            raise RefusedToStart(
                f"a `{self.tier}` server loads the models that it was started with and no others; leave out "
                "`--loads`."
            )


def _check_walls() -> None:
    from nbsight.server.sandbox import missing  # here, because it looks for what only Linux has

    gone = missing()
    if gone:
        reasons = "\n".join(f"  {mechanism.name}: {mechanism.why}" for mechanism in gone)
        raise RefusedToStart(
            "the tier `sandbox` keeps full Python away from files, network and other processes, and here it "
            f"cannot:\n{reasons}\nMend that (`apt install bubblewrap`, a newer kernel), or use "
            "`--tier program`, which interprets blocks and never executes them, or `--tier local` for "
            "yourself alone."
        )


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this computer alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
