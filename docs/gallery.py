"""Writes docs/errors.md: mistakes made on purpose, and what nbsight says to each.

    python -m docs.gallery

Each mistake is a cell that is run as it stands; its output is what a script would print, without the
frames that run the cell. `tests/docs/test_errors.py` renders the page again and compares.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import linecache
import re
import sys
import textwrap
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("errors.md")
LIMIT = 30

INTRODUCTION = """\
<!-- fmt: off -->

# Errors, made on purpose

Every cell below was run on the shipped model and its output captured by `python -m docs.gallery` (with
torch {torch}); a test keeps the page true. An error says what was asked, what is there and what to write
instead, shows your line, and fits on one screen (at most {limit} lines). The model works normally in the
next cell. Where frames of nbsight or torch stand between your line and the error, `…` stands for them.

The cells share these lines:

"""

SETUP = """\
import torch
import nbsight

model = nbsight.LanguageModel("nbsight/demo")
prompt = "The capital of France is"
"""


@dataclass(frozen=True)
class Mistake:
    """A cell, and what is wrong in it.

    Args:
        title: The mistake in a few words.
        code: The cell.
        line: The user's line that its output must show.
        remark: What to add below it.
    """

    title: str
    code: str
    line: str
    remark: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    mistakes: tuple[Mistake, ...]


SECTIONS = (
    Section(
        "Names",
        (
            Mistake("A typing error", "model.transformer.hh", "model.transformer.hh"),
            Mistake("An index beyond the end", "model.transformer.h[50]", "model.transformer.h[50]"),
            Mistake(
                "An index into a module",
                "with model.trace(prompt):\n    head = model.transformer.h[3].attn[0]",
                "head = model.transformer.h[3].attn[0]",
            ),
            Mistake(
                "A tuple's entry that is not there",
                "with model.trace(prompt):\n    weights = model.transformer.h[3].output[1]",
                "weights = model.transformer.h[3].output[1]",
            ),
            Mistake(
                "A misspelt value",
                "with model.trace(prompt):\n    model.transformer.h[3].outptu = 0",
                "model.transformer.h[3].outptu = 0",
            ),
        ),
    ),
    Section(
        "Standard names, tokens and positions",
        (
            Mistake("A layer beyond the end", "model.layers[12]", "model.layers[12]"),
            Mistake(
                "A standard name outside a trace",
                "mid = model.layers[3].resid_mid",
                "mid = model.layers[3].resid_mid",
            ),
            Mistake(
                "A string that means nothing here",
                'model["blocks.5.hook_resid_psot"]',
                'model["blocks.5.hook_resid_psot"]',
            ),
            Mistake(
                "A value of the wrong shape",
                """
                with model.trace(prompt):
                    model.layers[3].attn.z = model.layers[3].resid_pre
                """,
                "model.layers[3].attn.z = model.layers[3].resid_pre",
            ),
            Mistake(
                "A string that occurs twice",
                'tokens = model.tokens("Paris is Paris, and Rome is Rome")\ntokens.position("Rome")',
                'tokens.position("Rome")',
            ),
            Mistake(
                "A string that never occurs",
                'model.tokens(prompt).position("paris")',
                'model.tokens(prompt).position("paris")',
            ),
            Mistake(
                "Prompts that do not line up",
                'nbsight.align(model.tokens(prompt), model.tokens("The capital city of France is"))',
                'nbsight.align(model.tokens(prompt), model.tokens("The capital city of France is"))',
            ),
        ),
    ),
    Section(
        "Where and when values exist",
        (
            Mistake(
                "A value outside a trace",
                "hidden = model.transformer.h[3].output",
                "hidden = model.transformer.h[3].output",
            ),
            Mistake("Saving outside a trace", "torch.ones(3).save()", "torch.ones(3).save()"),
            Mistake(
                "Saving a list by its method",
                "with model.trace(prompt):\n    kept = [model.output].save()",
                "kept = [model.output].save()",
            ),
            Mistake(
                "Layers in the wrong order",
                """
                with model.trace(prompt):
                    late = model.transformer.h[5].output
                    early = model.transformer.h[2].output
                """,
                "early = model.transformer.h[2].output",
                "A notice of class `nbsight.errors.OrderNotice`, once for each line: nothing is kept "
                "unasked, so what has been passed takes a second forward. What follows in the model's "
                "order is read in the same one.",
            ),
            Mistake(
                "A block before what is inside it, where a second forward is not wanted",
                """
                with model.trace(prompt, strict_order=True):
                    block = model.transformer.h[5].output
                    mlp = model.transformer.h[5].mlp.output
                """,
                "mlp = model.transformer.h[5].mlp.output",
                "`model.strict_order = True` asks for this in all traces of a model.",
            ),
            Mistake(
                "A change of what the model has passed",
                """
                with model.trace(prompt):
                    late = model.transformer.h[5].output[0]
                    model.transformer.h[2].output = late
                    logits = model.output
                """,
                "model.transformer.h[2].output = late",
            ),
            Mistake(
                "The same in place",
                """
                with model.trace(prompt):
                    late = model.transformer.h[5].output[0]
                    early = model.transformer.h[2].output[0]
                    early[:] = 0
                    logits = model.output
                """,
                "early = model.transformer.h[2].output[0]",
            ),
            Mistake(
                "A value that is changed after the model has gone on",
                """
                with model.trace(prompt):
                    late = model.transformer.h[5].output[0]
                    early = model.transformer.h[2].output[0]
                    late[:] = early
                """,
                "late = model.transformer.h[5].output[0]",
            ),
            Mistake(
                "Layers in the wrong order on the way to a loss",
                """
                with model.trace(prompt, grad=True):
                    late = model.transformer.h[5].output[0]
                    early = model.transformer.h[2].output[0]
                """,
                "early = model.transformer.h[2].output[0]",
            ),
            Mistake(
                "A module that is never called",
                "with model.trace(prompt):\n    blocks = model.transformer.h.output",
                "blocks = model.transformer.h.output",
            ),
            Mistake(
                "A module inside a skipped one",
                """
                with model.trace(prompt):
                    block = model.transformer.h[5]
                    block.skip(block.input)
                    mlp = block.mlp.output
                """,
                "mlp = block.mlp.output",
            ),
            Mistake(
                "A step that has gone by",
                """
                with model.generate(prompt, max_new_tokens=3) as tracer:
                    for step in tracer.iter[:]:
                        logits = model.output
                        hidden = model.transformer.h[5].output
                """,
                "hidden = model.transformer.h[5].output",
            ),
            Mistake(
                "A value after the token of its step",
                """
                with model.generate(prompt, max_new_tokens=3) as tracer:
                    for step in tracer.iter[:]:
                        print(step.token)
                        hidden = model.transformer.h[5].output
                """,
                "hidden = model.transformer.h[5].output",
                "The token is known at the end of the step, and the model had to go on to there.",
            ),
            Mistake(
                "The token of one of several rows",
                """
                with model.generate([prompt, prompt], max_new_tokens=2) as tracer:
                    pass
                tracer.steps[0].token
                """,
                "tracer.steps[0].token",
            ),
            Mistake(
                "Steps that do not stack",
                """
                with model.generate(prompt, max_new_tokens=3, use_cache=False) as tracer:
                    nbsight.stack_steps([model.transformer.h[5].output[0] for step in tracer.iter[:]])
                """,
                "nbsight.stack_steps([model.transformer.h[5].output[0] for step in tracer.iter[:]])",
            ),
            Mistake(
                "The result of a run that was not finished",
                """
                with model.trace(prompt) as tracer:
                    hidden = model.transformer.h[5].output
                tracer.result
                """,
                "tracer.result",
            ),
        ),
    ),
    Section(
        "Generation and steering",
        (
            Mistake(
                "A stream that does not say when it ends",
                """
                for token in model.generate(prompt, stream=True):
                    print(token)
                """,
                "for token in model.generate(prompt, stream=True):",
            ),
            Mistake(
                "Probabilities of a beam search",
                "model.generate(prompt, 3, num_beams=2)",
                "model.generate(prompt, 3, num_beams=2)",
            ),
            Mistake(
                "A direction of another width",
                """
                with model.steer(torch.ones(768), layer=6):
                    result = model.generate(prompt, 3)
                """,
                "with model.steer(torch.ones(768), layer=6):",
            ),
            Mistake(
                "A direction at a layer that is not there",
                """
                with model.steer(torch.ones(64), layer=12):
                    result = model.generate(prompt, 3)
                """,
                "with model.steer(torch.ones(64), layer=12):",
            ),
            Mistake(
                "A direction that the model's dtype cannot hold",
                """
                with model.steer(torch.ones(64), layer=6, strength=1e39):
                    result = model.generate(prompt, 3)
                """,
                "with model.steer(torch.ones(64), layer=6, strength=1e39):",
            ),
            Mistake(
                "A position that the prompt does not have",
                """
                with model.steer(torch.ones(64), layer=6, positions=12):
                    result = model.generate(prompt, 3)
                """,
                "result = model.generate(prompt, 3)",
            ),
            Mistake(
                "Logits of another prompt",
                """
                from nbsight.analysis.distributions import log_probs
                with model.trace("The cat sat on the"):
                    logits = model.output.logits
                log_probs(model, "The cat sat", logits)
                """,
                'log_probs(model, "The cat sat", logits)',
            ),
        ),
    ),
    Section(
        "Prompts",
        (
            Mistake(
                "An empty prompt", 'with model.trace(""):\n    out = model.output', 'with model.trace(""):'
            ),
            Mistake(
                "A prompt longer than the model allows",
                'with model.trace("dog " * 500):\n    out = model.output',
                'with model.trace("dog " * 500):',
            ),
            Mistake(
                "More new tokens than there are positions",
                "with model.generate(prompt, max_new_tokens=5000) as tracer:\n    result = tracer.result",
                "with model.generate(prompt, max_new_tokens=5000) as tracer:",
            ),
            Mistake(
                "A trace without an input",
                "with model.trace():\n    hidden = model.transformer.h[3].output",
                "hidden = model.transformer.h[3].output",
            ),
            Mistake(
                "A prompt of the wrong kind",
                "with model.trace(3.5):\n    out = model.output",
                "with model.trace(3.5):",
            ),
            Mistake(
                "An answer that is several tokens",
                'model.to_single_token("Paris, France")',
                'model.to_single_token("Paris, France")',
            ),
        ),
    ),
    Section(
        "Edits",
        (
            Mistake(
                "A patch from a prompt of another length",
                """
                with model.trace("The quick brown fox jumps over the lazy dog"):
                    donor = model.transformer.h[5].output[0].save()
                with model.trace(prompt):
                    model.transformer.h[5].output[0][:] = donor
                    logits = model.output
                """,
                "model.transformer.h[5].output[0][:] = donor",
            ),
            Mistake(
                "The same by assignment",
                """
                with model.trace("The quick brown fox jumps over the lazy dog"):
                    donor = model.transformer.h[5].output[0].save()
                with model.trace(prompt):
                    model.transformer.h[5].output = donor
                    logits = model.output
                """,
                "model.transformer.h[5].output = donor",
            ),
            Mistake(
                "One vector where a whole state belongs",
                "with model.trace(prompt):\n    model.transformer.h[5].output = torch.zeros(64)",
                "model.transformer.h[5].output = torch.zeros(64)",
                "It would have replaced every position by the same vector. "
                "`model.transformer.h[5].output[:] = 0` says so.",
            ),
            Mistake(
                "A shape that the next module cannot take",
                """
                with model.trace(prompt):
                    model.transformer.h[5].mlp.output = torch.zeros(1, 5, 63)
                    logits = model.output
                """,
                "model.transformer.h[5].mlp.output = torch.zeros(1, 5, 63)",
            ),
            Mistake(
                "Another dtype",
                """
                with model.trace(prompt):
                    hidden = model.transformer.h[5].ln_1.output
                    model.transformer.h[5].ln_1.output = hidden.double()
                    logits = model.output
                """,
                "model.transformer.h[5].ln_1.output = hidden.double()",
            ),
            Mistake(
                "Another device",
                """
                with model.trace(prompt):
                    hidden = model.transformer.h[5].ln_1.output
                    model.transformer.h[5].ln_1.output = hidden.to("meta")
                    logits = model.output
                """,
                'model.transformer.h[5].ln_1.output = hidden.to("meta")',
            ),
            Mistake(
                "NaN, where it is watched for",
                """
                with model.trace(prompt, check_finite=True):
                    model.transformer.h[2].output[0][:, 1] = 1e20
                    logits = model.output
                """,
                "model.transformer.h[2].output[0][:, 1] = 1e20",
                "An `ArithmeticError` as well. Without `check_finite=True` nothing is watched. -Inf is let "
                "through, since masks are made of it.",
            ),
            Mistake(
                "Infinity that an edit writes",
                """
                with model.trace(check_finite=True) as tracer:
                    with tracer.invoke("The dog is"):
                        plain = model.output
                    with tracer.invoke(prompt):
                        model.transformer.h[2].mlp.output[:, -1] *= 1e39
                        logits = model.output
                """,
                "model.transformer.h[2].mlp.output[:, -1] *= 1e39",
            ),
            Mistake(
                "Writing into a tuple",
                """
                with model.trace(prompt):
                    model.transformer.h[5].attn.output[0] = torch.zeros(1, 5, 64)
                """,
                "model.transformer.h[5].attn.output[0] = torch.zeros(1, 5, 64)",
                "`attn` is no decoder block, so its output is the tuple that it returned.",
            ),
            Mistake(
                "A saved value that is changed later",
                """
                with model.trace(prompt):
                    hidden = model.transformer.h[5].output[0].save()
                    hidden[:] = 0
                    logits = model.output
                """,
                "hidden = model.transformer.h[5].output[0].save()",
                "A warning of class `nbsight.errors.EditWarning`, as those below; [edits](edits.md) has them "
                "all.",
            ),
            Mistake(
                "A patch that replaces everything",
                """
                with model.trace("The capital of Italy is"):
                    donor = model.transformer.h[5].output[0].save()
                with model.trace(prompt):
                    model.transformer.h[5].output[0][:] = donor
                    logits = model.output
                """,
                "model.transformer.h[5].output[0][:] = donor",
            ),
            Mistake(
                "An edit that changes nothing",
                """
                with model.trace(prompt):
                    model.transformer.h[5].output = model.transformer.h[5].output[0] * 1.0
                    logits = model.output
                """,
                "model.transformer.h[5].output = model.transformer.h[5].output[0] * 1.0",
            ),
            Mistake(
                "One vector that torch spreads over all positions",
                """
                with model.trace(prompt):
                    model.transformer.h[5].mlp.output = torch.zeros(64)
                    logits = model.output
                """,
                "model.transformer.h[5].mlp.output = torch.zeros(64)",
            ),
            Mistake(
                "A position of a prompt of another length",
                """
                with model.trace("The quick brown fox jumps over the lazy dog"):
                    donor = model.transformer.h[5].output[0].save()
                with model.trace(prompt):
                    model.transformer.h[5].output[0][:, 3] = donor[:, 3]
                    logits = model.output
                """,
                "model.transformer.h[5].output[0][:, 3] = donor[:, 3]",
            ),
        ),
    ),
    Section(
        "Invokes",
        (
            Mistake(
                "An invoke in a trace that has an input",
                """
                with model.trace(prompt) as tracer:
                    with tracer.invoke("The dog is"):
                        logits = model.output
                """,
                'with tracer.invoke("The dog is"):',
            ),
            Mistake(
                "A value that is made after the place where it is needed",
                """
                with model.trace() as tracer:
                    with tracer.invoke(prompt):
                        late = model.transformer.h[9].output[0]
                    with tracer.invoke(prompt):
                        model.transformer.h[2].output[0][:] = late
                        logits = model.output
                """,
                "model.transformer.h[2].output[0][:] = late",
            ),
            Mistake(
                "A donor of another length in the same run",
                """
                with model.trace() as tracer:
                    with tracer.invoke("The quick brown fox jumps over the lazy dog"):
                        donor = model.transformer.h[5].output[0]
                    with tracer.invoke(prompt):
                        model.transformer.h[5].output[0][:] = donor
                        logits = model.output
                """,
                "model.transformer.h[5].output[0][:] = donor",
            ),
            Mistake(
                "An edit of what all prompts share",
                """
                with model.trace() as tracer:
                    with tracer.invoke("The cat sat"):
                        model.transformer.wpe.output[:] = 0
                        logits = model.output
                    with tracer.invoke("The dog sat"):
                        other = model.output
                """,
                "model.transformer.wpe.output[:] = 0",
            ),
            Mistake(
                "Two blocks that wait for each other",
                """
                with model.trace() as tracer:
                    with tracer.invoke(prompt):
                        first = second + 1
                    with tracer.invoke(prompt):
                        second = first + 1
                """,
                "with model.trace() as tracer:",
            ),
            Mistake(
                "A block that leaves its function",
                """
                def logits_of(prompt):
                    with model.trace() as tracer:
                        with tracer.invoke(prompt):
                            return model.output
                logits_of(prompt)
                """,
                "with tracer.invoke(prompt):",
            ),
        ),
    ),
    Section(
        "Gradients",
        (
            Mistake(
                "A gradient of a run that recorded none",
                """
                with model.trace(prompt, grad=False):
                    hidden = model.transformer.h[5].output[0]
                    loss = model.output[0, -1].sum()
                    with loss.backward():
                        gradient = hidden.grad
                """,
                "with model.trace(prompt, grad=False):",
            ),
            Mistake(
                "A loss of many numbers",
                """
                with model.trace(prompt):
                    loss = model.output
                    with loss.backward():
                        pass
                """,
                "with loss.backward():",
            ),
            Mistake(
                "A gradient where the loss does not depend on it",
                """
                with model.trace(prompt):
                    copy = model.transformer.h[5].output[0].clone()
                    loss = model.output[0, -1].sum()
                    with loss.backward():
                        gradient = copy.grad
                """,
                "gradient = copy.grad",
            ),
        ),
    ),
    Section(
        "No mistakes at all",
        (
            Mistake(
                "Containers, counters and names without `.save()`",
                """
                norms, count = {}, 0
                with model.trace(prompt):
                    for layer in range(3):
                        norms[layer] = round(float(model.transformer.h[layer].output[0].norm()), 1)
                        count = count + 1
                print(count, sorted(norms))
                """,
                "3 [0, 1, 2]",
            ),
            Mistake(
                "The last token of a block's output",
                """
                with model.trace(prompt):
                    last = model.transformer.h[5].output[:, -1]
                    same = model.transformer.h[5].output[0][:, -1]
                print(last.shape, torch.equal(last, same))
                """,
                "torch.Size([1, 64]) True",
            ),
            Mistake(
                "Gradients in the order of the forward",
                """
                with model.trace(prompt):
                    early, late = [model.transformer.h[layer].output[0] for layer in (2, 9)]
                    loss = model.output[0, -1].max()
                    with loss.backward():
                        shapes = early.grad.shape, late.grad.shape
                print(shapes)
                """,
                "(torch.Size([1, 5, 64]), torch.Size([1, 5, 64]))",
            ),
            Mistake(
                "`backward()` without a block",
                """
                with model.trace(prompt):
                    hidden = model.transformer.h[5].output[0]
                    model.output[0, -1].max().backward()
                print(hidden.grad.shape)
                model._model.zero_grad()
                """,
                "torch.Size([1, 5, 64])",
            ),
            Mistake(
                "An open loop over steps, and statements after it",
                """
                tokens = []
                with model.generate(prompt, max_new_tokens=3, do_sample=False) as tracer:
                    for step in tracer.iter[:]:
                        tokens.append(int(model.output[0, -1].argmax()))
                    after = "reached"
                print(len(tokens), after)
                """,
                "3 reached",
            ),
            Mistake(
                "A donor from another invoke, without a barrier, twice",
                """
                pairs = [("The Eiffel Tower is in", "The Colosseum is in"), ("The dog is", "The cat is")]
                for prompts in pairs:
                    with model.trace() as tracer:
                        with tracer.invoke(prompts[0]):
                            donor = model.transformer.h[5].output[0][:, -1]
                        with tracer.invoke(prompts[1]):
                            model.transformer.h[5].output[0][:, -1] = donor
                            taken = model.transformer.h[5].output[0][:, -1]
                    with model.trace(prompts[0]):
                        alone = model.transformer.h[5].output[0][:, -1]
                    print(torch.allclose(taken, alone, atol=1e-5))
                """,
                "True\nTrue",
            ),
            Mistake(
                "A block on one line, one that begins with `try:`, one in `exec`",
                """
                with model.trace(prompt): one = model.output[0, -1].argmax()
                with model.trace(prompt):
                    try:
                        two = model.output[0, -1].argmax()
                    finally:
                        pass
                exec("with model.trace(prompt): three = model.output[0, -1].argmax()")
                print(model.tokenizer.decode([one, two, three]))
                """,
                "Paris Paris Paris",
            ),
        ),
    ),
    Section(
        "Runs held open",
        (
            Mistake(
                "A place where the run does not stand",
                """
                with model.start(prompt) as run:
                    run.step()
                    hidden = model.transformer.h[5].output
                """,
                "hidden = model.transformer.h[5].output",
                "Otherwise completion, a debugger or a slip of the hand would spend the forward.",
            ),
            Mistake(
                "A place that the run has passed",
                """
                with model.start(prompt) as run:
                    run.until(model.transformer.h[5].output)
                    early = run.until(model.transformer.h[2].output)
                """,
                "early = run.until(model.transformer.h[2].output)",
            ),
            Mistake(
                "A stop that the run has left",
                """
                with model.start(prompt) as run:
                    first = run.step()
                    run.step()
                    first.value = torch.zeros(1, 5, 64)
                """,
                "first.value = torch.zeros(1, 5, 64)",
            ),
            Mistake(
                "A value where a place is meant",
                """
                with model.start(prompt) as run:
                    hidden = run.step().value
                    run.until(hidden)
                """,
                "run.until(hidden)",
            ),
            Mistake(
                "A run that is over",
                """
                run = model.start(prompt)
                run.finish()
                hidden = run.until(model.transformer.h[5].output)
                """,
                "hidden = run.until(model.transformer.h[5].output)",
            ),
        ),
    ),
    Section(
        "Patching",
        (
            Mistake(
                "Prompts of different lengths to patch",
                """
                nbsight.activation_patching(
                    model,
                    "The Eiffel Tower is in the city of",
                    "Notre-Dame is in the city of",
                    answers=(" Paris", " Rome"),
                )
                """,
                "nbsight.activation_patching(",
            ),
            Mistake(
                "A span that is not in the prompt",
                """
                nbsight.activation_patching(
                    model, prompt, "The capital of Italy is", answers=(" Paris", " Rome"), positions=["Spain"]
                )
                """,
                "nbsight.activation_patching(",
            ),
            Mistake(
                "An answer of several tokens",
                """
                nbsight.activation_patching(
                    model, prompt, "The capital of Italy is", answers=(" Constantinople", " Rome")
                )
                """,
                "nbsight.activation_patching(",
            ),
            Mistake(
                "A metric that is one number for all runs",
                """
                nbsight.activation_patching(
                    model, prompt, "The capital of Italy is", metric=lambda logits: logits.max()
                )
                """,
                "nbsight.activation_patching(",
            ),
        ),
    ),
    Section(
        "Elsewhere",
        (
            Mistake(
                "A backend that is not there",
                'with model.trace(prompt, remote="nowhere"):\n    out = model.output.save()',
                'with model.trace(prompt, remote="nowhere"):',
            ),
            Mistake(
                "A value that cannot travel",
                """
                with open("/dev/null") as file:
                    with model.trace(prompt, remote="local"):
                        text = file.read()
                        logits = model.output.save()
                """,
                'with model.trace(prompt, remote="local"):',
            ),
            Mistake(
                "A failure in a block that ran elsewhere",
                """
                with model.trace(prompt, remote="local"):
                    hidden = model.transformer.h[3].output[0]
                    wrong = hidden @ hidden
                    logits = model.output.save()
                """,
                "wrong = hidden @ hidden",
            ),
            Mistake("What is no module", 'nbsight.wrap("gpt2")', 'nbsight.wrap("gpt2")'),
        ),
    ),
)


# -- running and showing ---------------------------------------------------------------------------

_numbers = itertools.count(1)


def run_cell(code: str, names: dict[str, Any]) -> tuple[str, int]:
    """Run a cell; return what it prints, warns and raises, and how many lines a script would print."""
    filename = f"cell{next(_numbers)}.py"
    linecache.cache[filename] = (len(code), None, code.splitlines(True), filename)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec(compile(code, filename, "exec"), names)
        except Exception as error:  # a mistake was asked for
            failure = _show(error)
            frames = traceback.extract_tb(error.__traceback__)
            hidden = 2 * sum(frame.filename != __file__ for frame in frames)
        else:
            failure, hidden = "", 0
    said = [
        f"{_place(item.filename, item.lineno)}\n{item.category.__name__}: {item.message}" for item in caught
    ]
    text = "\n".join(part for part in (printed.getvalue().rstrip(), *said, failure) if part)
    text = re.sub(r"0x[0-9a-f]{6,}", "0x…", text)
    shown = failure.count("  File ") * 2 + failure.count("  …\n")
    lines = text.count("\n") + 1 + max(hidden - shown, 0)
    return re.sub(r"\bcell\d+\.py", "cell.py", text), lines


def _show(error: BaseException) -> str:
    """The frames of the cell and everything below them, and the error."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__]
    lines = ["Traceback (most recent call last):"]
    for frame in own:
        ours = re.fullmatch(r"cell\d+\.py", frame.filename)
        place = _place(frame.filename, frame.lineno) if ours else "  …"
        if place != lines[-1]:
            lines.append(place)
    kind = type(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return "\n".join([*lines, f"{name}: {error}"])


def _place(filename: str, line: int | None) -> str:
    number = line or 0
    return f'  File "{filename}", line {number}\n    {linecache.getline(filename, number).strip()}'


def setup() -> dict[str, Any]:
    """The names that all cells share."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(SETUP, "setup.py", "exec"), names)
    return names


def text_of(mistake: Mistake) -> str:
    """The cell as it is run."""
    return textwrap.dedent(mistake.code).strip() + "\n"


def render(outputs: dict[str, str] | None = None) -> str:
    """The whole page.

    Args:
        outputs: What the cells gave, by title, as far as they have been run.
    """
    import torch

    outputs = dict(outputs or {})
    names = setup()
    for section in SECTIONS:
        for mistake in section.mistakes:
            if mistake.title not in outputs:
                outputs[mistake.title] = run_cell(text_of(mistake), dict(names))[0]
    version = torch.__version__.partition("+")[0]
    parts = [INTRODUCTION.format(torch=version, limit=LIMIT), _fenced(SETUP, "python")]
    for section in SECTIONS:
        parts.append(f"\n## {section.title}\n")
        for mistake in section.mistakes:
            parts.append(f"\n### {mistake.title}\n\n{_fenced(text_of(mistake), 'python')}")
            parts.append(f"\n{_fenced(outputs[mistake.title], 'text')}")
            if mistake.remark:
                parts.append(f"\n{mistake.remark}\n")
    return "".join(part if part.endswith("\n") else part + "\n" for part in parts)


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


def main() -> None:
    PAGE.write_text(render(), encoding="utf-8")
    print(f"{PAGE.name}: {sum(len(section.mistakes) for section in SECTIONS)} mistakes", file=sys.stderr)


if __name__ == "__main__":
    main()
