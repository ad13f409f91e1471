"""`nbsight serve`: a job server for blocks that are written elsewhere.

    cli         the `nbsight` command           settings    what a server was told, and what it refuses to be
    app         HTTP: routes, streams of events  access     keys, owners, the `Host` and `Origin` of a request
    store       jobs on disk                    fairness    who submits too fast
    dispatch    jobs to workers, and what comes back        endings     how a job ends
    scheduling  which job, which worker, which machine: decided without clock or files
    engines     where workers run: processes here, a Ray cluster, Slurm
    worker      one worker process, seen from inside: holds a model and runs jobs
    programs    the interpreter of the `program` tier

The server process imports neither torch nor transformers: whatever a job does, it does in a worker.
"""
