"""GPT-2 and GPT-BigCode: learned positions, one norm before each part."""

from nbsight.models.architectures.base import Architecture, never

ARCHITECTURES = (
    Architecture(
        name="gpt2",
        model_types=("gpt2", "gpt_bigcode"),
        layers="h",
        embed="wte.output",
        pos_embed="wpe.output",
        ln_final="ln_f",
        attn="attn",
        mix="attn.c_proj",
        down="mlp.c_proj",
        attn_out="attn.output",
        resid_mid="ln_2.input",
        mlp_out="mlp.output",
        qkv="attn.c_attn",
        is_grouped=lambda config: config.model_type == "gpt_bigcode" and not config.multi_query,
        is_rotary=never,
        up="mlp.c_fc",
        gate=None,
    ),
)
