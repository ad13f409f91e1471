"""The same hundred blocks in this process, `local`, on a `program` server and in a sandbox: equal bits.

Twenty blocks, of the kinds that papers and tutorials are made of, at five layers each.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from nbsight.models.language_model import LanguageModel
from tests.server.running import KEYS, RunningServer

LAYERS = (0, 3, 5, 8, 11)

HEAD = {
    "trace": "with model.trace(PROMPT, remote=where) as tracer:",
    "batch": "with model.trace(remote=where) as tracer:",
    "generate": "with model.generate(PROMPT, max_new_tokens=4, remote=where) as tracer:",
    "session": "with model.session(remote=where):",
}

BLOCKS = {
    "read a residual stream": ("trace", "out = model.transformer.h[L].output[0].save()"),
    "read an input": ("trace", "out = model.transformer.h[L].input.save()"),
    "read a neuron": ("trace", "out = model.transformer.h[L].mlp.output[0, -1, :8].save()"),
    "zero an MLP": ("trace", "model.transformer.h[L].mlp.output[:] = 0\nout = model.output.save()"),
    "mean-ablate attention": (
        "trace",
        (
            "attn = model.transformer.h[L].attn.output[0]\n"
            "attn[:] = attn.mean(dim=1, keepdim=True)\nout = model.output[:, -1].save()"
        ),
    ),
    "steer": (
        "trace",
        (
            "vector = torch.linspace(-1, 1, 64)\n"
            "model.transformer.h[L].output[0][:, -1] += 3 * vector / vector.norm()\n"
            "out = model.output[:, -1].softmax(-1).save()"
        ),
    ),
    "the logit lens by hand": (
        "trace",
        (
            "hidden = model.transformer.h[L].output[0]\n"
            "out = model.lm_head(model.transformer.ln_f(hidden)).softmax(-1).topk(5).values.save()"
        ),
    ),
    "patch one position from another prompt": (
        "batch",
        (
            "with tracer.invoke(PROMPT):\n    clean = model.transformer.h[L].output[0][:, -1]\n"
            "with tracer.invoke(OTHER):\n    model.transformer.h[L].output[0][:, -1] = clean\n"
            "    out = model.output[:, -1].save()"
        ),
    ),
    "compare two prompts": (
        "batch",
        (
            "with tracer.invoke(PROMPT):\n    a = model.transformer.h[L].output[0][0, -1].save()\n"
            "with tracer.invoke(OTHER):\n    b = model.transformer.h[L].output[0][0, -1].save()\n"
            "    out = torch.cosine_similarity(a, b, dim=0).save()"
        ),
    ),
    "project a direction out": (
        "trace",
        (
            "hidden = model.transformer.h[L].output[0]\nunit = hidden[0, 0] / hidden[0, 0].norm()\n"
            "hidden[:, 1:] -= (hidden[:, 1:] @ unit)[..., None] * unit\nout = model.output[:, -1].save()"
        ),
    ),
    "swap two heads": (
        "trace",
        (
            "z = model.transformer.h[L].attn.c_proj.input\nmixed = z.clone()\n"
            "mixed[..., :16], mixed[..., 16:32] = z[..., 16:32], z[..., :16]\n"
            "model.transformer.h[L].attn.c_proj.input = mixed\nout = model.output[:, -1].save()"
        ),
    ),
    "norms of all layers from one on": (
        "trace",
        (
            "norms = []\nfor layer in range(L, 12):\n"
            "    norms.append(model.transformer.h[layer].output[0].norm(dim=-1))"
            "\nout = torch.stack(norms).save()"
        ),
    ),
    "a function of one's own": (
        "trace",
        (
            "def centre(x):\n    return x - x.mean(-1, keepdim=True)\n"
            "out = centre(model.transformer.h[L].output[0]).save()"
        ),
    ),
    "clamp": (
        "trace",
        (
            "model.transformer.h[L].mlp.output = model.transformer.h[L].mlp.output.clamp(-0.5, 0.5)\n"
            "out = model.output.save()"
        ),
    ),
    "the entropy of the output after an edit": (
        "trace",
        (
            "model.transformer.h[L].output[0][:, 0] *= 0.5\nlogs = model.output[0, -1].log_softmax(-1)\n"
            "out = (-(logs.exp() * logs).sum()).save()"
        ),
    ),
    "generate and read each step": (
        "generate",
        (
            "found = []\nfor step in tracer.iter[:]:\n"
            "    found.append(model.transformer.h[L].output[0][:, -1])\nout = torch.cat(found).save()"
        ),
    ),
    "generate with steering": (
        "generate",
        (
            "for step in tracer.iter[:]:\n    model.transformer.h[L].output[0][:, -1, :8] += 2.0\n"
            "out = tracer.result.save()"
        ),
    ),
    "a loop of traces": (
        "session",
        (
            "found = []\nfor scale in (0.0, 0.5, 1.0):\n    with model.trace(PROMPT):\n"
            "        model.transformer.h[L].mlp.output[:] *= scale\n"
            "        found.append(model.output[0, -1].max())"
            "\nout = torch.stack(found).save()"
        ),
    ),
    "one trace feeds the next": (
        "session",
        (
            "with model.trace(PROMPT):\n    donor = model.transformer.h[L].output[0][:, -1].save()\n"
            "with model.trace(OTHER):\n    model.transformer.h[L].output[0][:, -1] = donor\n"
            "    out = model.output[:, -1].save()"
        ),
    ),
    "covariance and its singular values": (
        "trace",
        (
            "hidden = model.transformer.h[L].output[0][0]\nhidden = hidden - hidden.mean(0)\n"
            "out = torch.linalg.svdvals(hidden.T @ hidden).save()"
        ),
    ),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The blocks as a module: they travel as text, so they need some."""
    lines = ["import torch", 'PROMPT = "The capital of France is"', 'OTHER = "The capital of Italy is"']
    for number, (kind, text) in enumerate(BLOCKS.values()):
        for layer in LAYERS:
            lines += [f"def block_{number}_{layer}(model, where):", f"    {HEAD[kind]}"]
            lines += [
                f"        {line}".replace("[L]", f"[{layer}]").replace("(L,", f"({layer},")
                for line in text.split("\n")
            ]
            lines += ["    return out"]
    path = tmp_path_factory.mktemp("blocks") / "blocks.py"
    path.write_text("\n".join(lines))
    spec = importlib.util.spec_from_file_location("blocks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::nbsight.errors.EditWarning")  # some are made to replace or to spread
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_gives_the_same_bits_in_every_tier(
    written: Any,
    local_model: LanguageModel,
    program_server: RunningServer,
    sandbox_server: RunningServer,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    layer: int,
):
    block = getattr(written, f"block_{list(BLOCKS).index(name)}_{layer}")
    here = block(local_model, None)
    found = {"local": block(local_model, "local")}
    for tier, there in (("program", program_server), ("sandbox", sandbox_server)):
        monkeypatch.setenv("NBSIGHT_HOST", there.url)
        monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
        found[tier] = block(local_model, True)
    for tier, value in found.items():
        assert value.dtype == here.dtype, tier
        assert torch.equal(value, torch.as_tensor(here)), tier
