"""Which job runs next, where models are held, when another worker is worth its start.

    turns       whose job is next for a model
    places      machines, what is free on them, where a model fits
    scheduler   the decisions, from what is known now

Nothing here has a clock, a thread or a file: the time is an argument, what is decided is returned.
The server and the simulation (`benchmarks/scheduling.py`) call the same code.
"""
