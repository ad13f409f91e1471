"""How far nbsight and TransformerLens are apart on the same weights.

TransformerLens computes a model in code of its own (`HookedTransformer`), from weights that it converts. What
the two say of one model therefore agrees only if both are right about what the model does and about what the
names mean.

    python3 dev.py peers                 installs it beside the environment and runs the comparison
    python -m tests.peers.agreement      where it is installed: writes the table of docs/patching.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from nbsight.analysis.lens import logit_lens
from nbsight.analysis.patching import activation_patching
from nbsight.models.language_model import LanguageModel

LAYERS, WIDTH, HEADS, D_HEAD, D_MLP, VOCABULARY, CONTEXT = 3, 48, 6, 8, 80, 101, 64
CLEAN = torch.tensor([[7, 8, 9, 10, 11, 12, 13, 14, 15, 16]])
CORRUPTED = torch.tensor([[7, 8, 30, 31, 11, 12, 40, 14, 15, 16]])
ANSWERS = (5, 9)


PAGE = Path(__file__).parents[2] / "docs" / "patching.md"
BEGIN, END = "<!-- table: python -m tests.peers.agreement -->", "<!-- end of the table -->"


class Found(NamedTuple):
    """How far two sides are apart at most, and the largest value there is."""

    apart: float
    size: float


@dataclass(frozen=True)
class Family:
    """One architecture on both sides.

    Args:
        name: What it is called in the table.
        ours: Makes transformers' configuration.
        convert: The name of TransformerLens' function that converts its weights.
        theirs: What TransformerLens' configuration says beside the sizes.
        sites: What is patched.
    """

    name: str
    ours: Callable[[], Any]
    convert: str
    theirs: dict[str, Any]
    sites: tuple[str, ...] = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")

    def __str__(self) -> str:
        return self.name


SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": D_MLP,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
ROTARY = {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": False, "rotary_base": 10000}

FAMILIES = (
    Family(
        "GPT-2",
        lambda: transformers.GPT2Config(
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_inner=D_MLP,
            n_positions=CONTEXT,
            vocab_size=VOCABULARY,
            bos_token_id=0,
            eos_token_id=0,
        ),
        "convert_gpt2_weights",
        {"normalization_type": "LN", "act_fn": "gelu_new"},
    ),
    Family(
        "GPT-NeoX",
        lambda: transformers.GPTNeoXConfig(**SIZES, hidden_act="gelu"),
        "convert_neox_weights",
        {
            **ROTARY,
            "normalization_type": "LN",
            "act_fn": "gelu",
            "parallel_attn_mlp": True,
            "rotary_dim": D_HEAD // 4,
        },
        sites=("resid_pre", "resid_post", "attn_out", "mlp_out", "z"),  # parallel: there is no resid_mid
    ),
    Family(
        "Llama",
        lambda: transformers.LlamaConfig(**SIZES, num_key_value_heads=2, rms_norm_eps=1e-5),
        "convert_llama_weights",
        {
            **ROTARY,
            "normalization_type": "RMS",
            "act_fn": "silu",
            "n_key_value_heads": 2,
            "rotary_dim": D_HEAD,
            "gated_mlp": True,
            "final_rms": True,
        },
    ),
    Family(
        "Gemma-2",
        # The window is shorter than the prompts and the caps are low, so that they count.
        lambda: transformers.Gemma2Config(
            **SIZES,
            num_key_value_heads=3,
            head_dim=D_HEAD,
            query_pre_attn_scalar=D_HEAD,
            sliding_window=6,
            rms_norm_eps=1e-5,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        ),
        "convert_gemma_weights",
        {
            **ROTARY,
            "normalization_type": "RMS",
            "act_fn": "gelu_pytorch_tanh",
            "n_key_value_heads": 3,
            "rotary_dim": D_HEAD,
            "gated_mlp": True,
            "final_rms": True,
            "window_size": 6,
            "use_local_attn": True,
            "attn_types": ["local", "global", "local"],
            "attn_scores_soft_cap": 2.0,
            "output_logits_soft_cap": 3.0,
            "use_normalization_before_and_after": True,
        },
    ),
)


def make(family: Family) -> tuple[LanguageModel, Any]:
    """The same random weights as a `LanguageModel` and as a `HookedTransformer`."""
    import transformer_lens
    from transformer_lens.pretrained import weight_conversions

    torch.manual_seed(0)
    module = transformers.AutoModelForCausalLM.from_config(family.ours()).eval()
    with torch.no_grad():
        for parameter in module.parameters():  # as large as in a trained model, norms and biases as well
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    config = transformer_lens.HookedTransformerConfig(
        n_layers=LAYERS,
        d_model=WIDTH,
        n_heads=HEADS,
        d_head=D_HEAD,
        d_mlp=D_MLP,
        d_vocab=VOCABULARY,
        n_ctx=CONTEXT,
        eps=1e-5,
        device="cpu",
        **family.theirs,
    )
    hooked = transformer_lens.HookedTransformer(config)
    weights = getattr(weight_conversions, family.convert)(module, config)
    hooked.load_and_process_state_dict(
        weights,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return LanguageModel(module), hooked.eval()


def differences(family: Family) -> dict[str, Found]:
    """How far each quantity is apart."""
    model, hooked = make(family)
    with torch.no_grad():
        logits, cache = hooked.run_with_cache(CLEAN)
    found: dict[str, Found] = {}

    def note(name: str, ours: Any, theirs: Any) -> None:
        ours, theirs = (torch.as_tensor(value).double() for value in (ours, theirs))
        assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape)
        known = found.get(name, Found(0.0, 0.0))
        apart, size = float((ours - theirs).abs().max()), float(theirs.abs().max())
        found[name] = Found(max(known.apart, apart), max(known.size, size))

    ours = _values(model, family)
    for (name, layer), value in ours.items():
        if layer is None:
            note(name, value, logits)
        else:
            hook = f"blocks.{layer}.attn.hook_z" if name == "z" else f"blocks.{layer}.hook_{name}"
            note(name, value, cache[hook])
    _compare_lens(model, hooked, cache, note)
    _compare_patching(model, hooked, family, note)
    return found


def _values(model: LanguageModel, family: Family) -> dict[tuple[str, int | None], torch.Tensor]:
    found: dict[tuple[str, int | None], torch.Tensor] = {}
    with model.trace(CLEAN):
        for layer in range(LAYERS):
            for name in ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"):
                if name in family.sites:
                    found[name, layer] = model.std.get(name, layer).clone()
        found["logits", None] = model.logits.clone()
    return found


def _compare_lens(model: LanguageModel, hooked: Any, cache: Any, note: Callable[..., None]) -> None:
    lens = logit_lens(model, CLEAN, top_k=VOCABULARY, statistics=True)
    cap = hooked.cfg.output_logits_soft_cap
    with torch.no_grad():
        stream = torch.stack([cache[f"blocks.{layer}.hook_resid_post"][0] for layer in range(LAYERS)])
        logits = hooked.unembed(hooked.ln_final(stream))
        if cap > 0:
            logits = cap * torch.tanh(logits / cap)
    log_probs = logits.double().log_softmax(-1)
    ids = torch.as_tensor(lens.top_ids)
    note("lens: probability", lens.top_probs, log_probs.exp().gather(-1, ids))
    note("lens: entropy", lens.entropy, -(log_probs.exp() * log_probs).sum(-1))
    last = log_probs[-1:]
    note("lens: KL", lens.kl, (last.exp() * (last - log_probs)).sum(-1))


def _compare_patching(model: LanguageModel, hooked: Any, family: Family, note: Callable[..., None]) -> None:
    from transformer_lens import patching

    result = activation_patching(model, CLEAN, CORRUPTED, answers=ANSWERS, sites=family.sites, progress=False)
    right, wrong = ANSWERS

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, right] - logits[0, -1, wrong]

    with torch.no_grad():
        logits, cache = hooked.run_with_cache(CLEAN)
        base = hooked(CORRUPTED)
    note(
        "patching: clean and corrupted",
        [result.clean[0], result.corrupted[0]],
        [metric(logits), metric(base)],
    )
    for site in family.sites:
        if site == "z":
            run = patching.get_act_patch_attn_head_out_by_pos
            assert result.head_values is not None
            ours: Any = result.head_values[0]
        else:
            run = partial(
                patching.generic_activation_patch,
                patch_setter=patching.layer_pos_patch_setter,
                activation_name=site,
                index_axis_names=("layer", "pos"),
            )
            ours = result.values[0, result.sites.index(site)]
        with torch.no_grad():
            theirs = run(hooked, CORRUPTED, cache, metric)
        # What a patch changes: beside a large number nobody would miss a small one.
        note(f"patching: {site}", ours - result.corrupted[0], theirs - metric(base))


def table() -> str:
    """The largest differences of all families, in Markdown."""
    columns = {family.name: differences(family) for family in FAMILIES}
    names = list(dict.fromkeys(name for found in columns.values() for name in found))
    lines = ["| largest difference of | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for name in names:
        cells = [f"{found[name].apart:.0e}" if name in found else "–" for found in columns.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
