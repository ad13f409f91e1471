"""What others call the standard names: TransformerLens's strings and nnterp's attributes."""

from __future__ import annotations

import difflib
import re

from nbsight.errors import PathError

__all__ = ["ROOT_VECTORS", "SIZE_NAMES", "VALUE_NAMES", "meaning_of"]

ROOT_VECTORS = {
    "resid_pre": "resid_pre",
    "resid_mid": "resid_mid",
    "resid_post": "resid_post",
    "attn_out": "attn_out",
    "mlp_out": "mlp_out",
    # nnterp
    "layers_input": "resid_pre",
    "layers_output": "resid_post",
    "attentions_output": "attn_out",
    "mlps_output": "mlp_out",
}
"""Attributes of the model that are indexed by a layer."""

VALUE_NAMES = {"token_embeddings": "embed"}
"""nnterp's names of values of the whole model."""

SIZE_NAMES = {
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "hidden_size": "d_model",
    "vocab_size": "d_vocab",
}
"""nnterp's names of sizes."""

_OF_LAYER = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_q": "q",
    "attn.hook_k": "k",
    "attn.hook_v": "v",
    "attn.hook_rot_q": "rot_q",
    "attn.hook_rot_k": "rot_k",
    "attn.hook_attn_scores": "scores",
    "attn.hook_pattern": "pattern",
    "attn.hook_z": "z",
    "attn.hook_result": "result",
    "mlp.hook_pre": "pre_of_gate",
    "mlp.hook_pre_linear": "pre",
    "mlp.hook_post": "post",
    # the same in TransformerLens's bridge
    "hook_in": "resid_pre",
    "hook_out": "resid_post",
    "ln2.hook_in": "resid_mid",
    "attn.hook_out": "attn_out",
    "mlp.hook_out": "mlp_out",
    "attn.q.hook_out": "q",
    "attn.k.hook_out": "k",
    "attn.v.hook_out": "v",
    "attn.o.hook_in": "z",
    "mlp.in.hook_out": "pre",
    "mlp.gate.hook_out": "gate",
    "mlp.out.hook_in": "post",
}

_OF_MODEL = {
    "hook_embed": "embed",
    "embed.hook_out": "embed",
    "hook_pos_embed": "pos_embed",
    "pos_embed.hook_out": "pos_embed",
    "ln_final.hook_normalized": "ln_final",
    "ln_final.hook_out": "ln_final",
    "unembed.hook_out": "unembed",
}

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def meaning_of(text: str) -> tuple[str, int | None]:
    """The standard name and the layer that a string of TransformerLens's means.

    Args:
        text: `blocks.5.hook_resid_post`, or the same without `hook_`.

    Raises:
        PathError: it means nothing here; the message lists what does.
    """
    found = _BLOCK.fullmatch(text)
    names, rest = (_OF_LAYER, found[2]) if found else (_OF_MODEL, text)
    short = rest.replace("attn.", "attn.hook_", 1).replace("mlp.", "mlp.hook_", 1)
    for name in (rest, f"hook_{rest}", short, short.replace("hook_scores", "hook_attn_scores")):
        if name in names:
            return names[name], int(found[1]) if found else None
    close = difflib.get_close_matches(rest, names, 1)
    hint = f" Did you mean {text.removesuffix(rest) + close[0]!r}?" if close else ""
    raise PathError(
        f"{text!r} is no name of this model.{hint} TransformerLens's strings are blocks.<layer>. with "
        f"{', '.join(_OF_LAYER)}; {', '.join(_OF_MODEL)}. Modules are attributes: `model.get(path)`."
    )
