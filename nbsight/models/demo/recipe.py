"""Make the shipped model again, from nothing: `python -m nbsight.models.demo.recipe --out FOLDER`.

A quarter of an hour on two CPU cores. It needs torch 2.9 or newer, for one of its optimizers. It may be
interrupted: the same command goes on from the last checkpoint. The same seed gives the same text, the same
tokenizer and the same order of batches; the weights also depend, in their last digits, on torch's version and
the number of threads.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbsight.models.demo.batches import IGNORED, batch
from nbsight.models.demo.probes import measure
from nbsight.models.demo.tokenizer import END, build_tokenizer, save_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor
    from torch.optim import Optimizer
    from transformers import GPT2LMHeadModel

__all__ = ["export", "main", "train"]

STEPS = 2800
N_POSITIONS = 128
LEARNING_RATE = 1.5e-3
MATRIX_LEARNING_RATE = 0.01
"""Of the matrices in the blocks, whose updates Muon makes equally long in all directions."""
WARM_UP = 100
CHECKPOINT = "checkpoint.pt"
EVERY = 100
"""Steps between two lines of progress, each with a checkpoint."""


def new_model(vocabulary: int, end: int, seed: int) -> GPT2LMHeadModel:
    """Make the untrained model: twelve layers of GPT-2's architecture, 64 wide."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=N_POSITIONS,
        n_embd=64,
        n_layer=12,
        n_head=4,
        # The same function as GPT-2's "gelu_new", which export() writes, in one operation instead of eight.
        activation_function="gelu_pytorch_tanh",
        # So much text passes only once that dropout would only slow the learning.
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        # Three times the usual one, which is made for wider models. With AdamW for all weights and half the
        # learning rate, nine receivers of ten were found at step 1,500; with 0.02, none at 1,200, and layers
        # 2 to 8 stayed idle.
        initializer_range=0.06,
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPT2LMHeadModel(config)


def train(out: Path, *, seed: int = 0, steps: int = STEPS, stop_after: int | None = None) -> list[float]:
    """Train the model and write it, with its tokenizer, to a folder.

    Args:
        out: Folder to write; a checkpoint found there is continued.
        seed: Decides text, tokenizer and first weights.
        steps: Length of the whole schedule, in batches of about 3,072 tokens.
        stop_after: Step to stop at before the end, with what is learned by then.

    Returns:
        The loss of each step of this call, in nats per token.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(seed)
    end = tokenizer.get_vocab()[END]
    model = new_model(tokenizer.get_vocab_size(), end, seed)
    optimizers = _optimizers(model)
    start = _resume(out / CHECKPOINT, model, optimizers, seed, steps)
    last = min(steps, stop_after or steps)
    losses: list[float] = []
    began = time.monotonic()
    model.train()
    try:
        for step in range(start, last):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = optimizer.defaults["lr"] * _schedule(step, steps)
            losses.append(_step(model, optimizers, *batch(tokenizer, seed, step, end)))
            if (step + 1) % EVERY == 0:
                _checkpoint(out / CHECKPOINT, model, optimizers, seed, steps, step + 1)
                _report(
                    step + 1,
                    last,
                    losses[-EVERY:],
                    (time.monotonic() - began) / len(losses),
                )
    except KeyboardInterrupt:
        # The newest checkpoint is whole; the step that was interrupted may not be.
        print(f"Interrupted. The same command goes on from the checkpoint in {out}.")
        raise
    export(model, tokenizer, out)
    if last == steps:
        (out / CHECKPOINT).unlink(missing_ok=True)
    return losses


def _optimizers(model: GPT2LMHeadModel) -> list[Optimizer]:
    """Muon for the matrices in the blocks, AdamW for embeddings, biases and norms."""
    import torch

    if not hasattr(torch.optim, "Muon"):
        raise SystemExit(
            f"This recipe needs torch 2.9 or newer, for torch.optim.Muon; here is {torch.__version__}."
        )
    matrices = [weight for weight in model.transformer.h.parameters() if weight.ndim == 2]
    inside = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in inside]
    return [
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05, fused=True),
        # A loss of 1.4, when repetition and receivers are learned, comes at step 1,300; with AdamW for all
        # weights, it came at 1,900.
        torch.optim.Muon(matrices, lr=MATRIX_LEARNING_RATE, weight_decay=0.3),
    ]


def _step(model: GPT2LMHeadModel, optimizers: list[Optimizer], inputs: Tensor, targets: Tensor) -> float:
    import torch

    logits = model(input_ids=inputs, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    model.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: rise in a straight line, then fall along half a cosine to a fiftieth."""
    rise = min(1.0, (step + 1) / WARM_UP)
    fall = 0.51 + 0.49 * math.cos(math.pi * step / steps)
    return rise * fall


def _report(step: int, last: int, losses: list[float], pace: float) -> None:
    left = (last - step) * pace / 60
    print(
        f"step {step:5d} of {last}  loss {sum(losses) / len(losses):.3f}  {left:.1f} minutes left",
        flush=True,
    )


def _checkpoint(
    path: Path, model: GPT2LMHeadModel, optimizers: list[Optimizer], seed: int, steps: int, step: int
) -> None:
    import torch

    state = {
        "step": step,
        "seed": seed,
        "steps": steps,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    # Written beside and then moved, so that an interruption leaves the older one whole.
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def _resume(path: Path, model: GPT2LMHeadModel, optimizers: list[Optimizer], seed: int, steps: int) -> int:
    """Take up a checkpoint, if there is one, and return the step to go on with."""
    import torch

    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if (state["seed"], state["steps"]) != (seed, steps):
        raise SystemExit(
            f"{path} was made with --seed {state['seed']} --steps {state['steps']}, not with "
            f"--seed {seed} --steps {steps}. Give those, or another --out, or remove the file."
        )
    model.load_state_dict(state["model"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    print(f"Going on from step {state['step']}.")
    return int(state["step"])


def export(model: GPT2LMHeadModel, tokenizer: Tokenizer, out: Path) -> None:
    """Write the folder that `from_pretrained` reads; weights in half precision, computed with in float32."""
    import torch
    from safetensors.torch import save_file

    weights = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        # The unembedding is the embedding; only one of them is stored.
        if name != "lm_head.weight"
    }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    # float32 under both names: transformers 5 loads in the type that is named here, and versions before 4.56
    # read the older name.
    config = model.config.to_dict() | {
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    for passing in ("transformers_version", "_name_or_path"):
        config.pop(passing, None)
    _write_json(out / "config.json", config)
    end = tokenizer.get_vocab()[END]
    _write_json(
        out / "generation_config.json",
        {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end},
    )
    save_tokenizer(tokenizer, out, N_POSITIONS)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def report(out: Path) -> None:
    """Print what the model in a folder knows, as the table in `CARD.md` has it."""
    from transformers import AutoTokenizer, GPT2LMHeadModel

    model, tokenizer = (
        GPT2LMHeadModel.from_pretrained(out),
        AutoTokenizer.from_pretrained(out),
    )
    for probe, top, probability in measure(model, tokenizer):
        print(f"| {probe.prompt} | `{top}` | {probability:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the small model that ships with nbsight.")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the weights and the tokenizer",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        help=f"batches to train on (default {STEPS})",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    options = parser.parse_args()
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    train(options.out, seed=options.seed, steps=options.steps)
    report(options.out)


if __name__ == "__main__":
    main()
