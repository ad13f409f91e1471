"""GPT-Neo: built like GPT-2."""

from nbsight.models.architectures.base import Architecture, never

ARCHITECTURES = (
    Architecture(
        name="gpt_neo",
        model_types=("gpt_neo",),
        layers="h",
        embed="wte.output",
        pos_embed="wpe.output",
        ln_final="ln_f",
        attn="attn",
        mix="attn.attention.out_proj",
        down="mlp.c_proj",
        attn_out="attn.output",
        resid_mid="ln_2.input",
        q="attn.attention.q_proj",
        k="attn.attention.k_proj",
        v="attn.attention.v_proj",
        is_rotary=never,
        attends=lambda config: ("self__attn",),
        up="mlp.c_fc",
        gate=None,
    ),
)
