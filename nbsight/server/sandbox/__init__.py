"""The tier `sandbox`: full Python of a block, in a process that can reach nothing but its model.

    worker (the weights)                          runner (the block), one for each job
    Host: runs the model, stops where asked  <->  Ghost: a model without weights, on which the core runs
          checks every message                    bubblewrap, Landlock, seccomp, limits

A zygote is started with the worker, inside the walls; it imports everything and then only forks. What
it forks is locked a second time, reads one job, answers, and is killed. Nothing that a runner says is
believed: `values.py` and `host.py` are written for one that lies.
"""

from nbsight.server.sandbox.report import Mechanism, missing, report

__all__ = ["Mechanism", "missing", "report"]
