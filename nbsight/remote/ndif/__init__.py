"""`remote="ndif"`: blocks that run on NDIF, which speaks nnsight's wire and not ours.

    shapes    the block's text, written so that block outputs have the shape that is promised here
    twin      the model as nnsight has it, and the block's values in its terms
    service   NDIF over HTTP, with the methods of `nbsight.remote.client.Client`
    records   the jobs that were sent, in a file: NDIF lists none
    job       a job there

The wire is a pickle of nnsight's own classes, so nnsight itself writes it (`pip install "nbsight[ndif]"`);
it is imported when a block is first sent there, and without what it puts on every object and on torch.
A job is always sent as one that nobody waits for and then asked after, so it can be attached to again.
"""
