"""Where workers run.

base      what every engine is, and a worker as the server sees it
local     processes of this machine
distant   a worker behind an agent on another machine: requests and results travel in parts
agent     the other end of that: starts the worker there
rays      agents as actors of a Ray cluster
slurm     agents as jobs of Slurm
sizes     what a model will take, from its checkpoint
"""

from __future__ import annotations

from nbsight.server.engines.base import Engine
from nbsight.server.engines.local import LocalEngine
from nbsight.server.settings import Settings

__all__ = ["make_engine"]


def make_engine(settings: Settings) -> Engine:
    """The engine that a server was told to use."""
    if settings.engine == "ray":
        from nbsight.server.engines.rays import RayEngine

        return RayEngine(settings)
    if settings.engine == "slurm":
        from nbsight.server.engines.slurm import SlurmEngine

        return SlurmEngine(settings)
    return LocalEngine(settings)
