"""What travels between a notebook and the place where a block runs: JSON and safetensors, no pickle.

    messages   the two messages, job and result, as checked records; framing
    tensors    tensors and arrays as one safetensors blob, shared storage kept
    encode     values to JSON          decode   JSON to values
    names      the modules and functions that travel by name
    functions  functions of the user's, which travel as source with what they read
    reads      which names a block needs from outside
    source     the text of a block, under the user's line numbers
    jobs       a `core.backend.Job` to bytes and back
    execute    a decoded job, run on the core
    results    what comes back: saved values, plain data, changed containers
    missing    what stands under a name whose value did not come back

Decoding a job makes functions from source, so it is for the place that runs blocks. Decoding a
result executes nothing: no source, no calls, only data and names from the list in `names`.
"""
