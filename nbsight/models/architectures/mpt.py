"""MPT: its MLP returns the stream with the contribution added, which the last matrix gives alone."""

from nbsight.models.architectures.base import Architecture, never

ARCHITECTURES = (
    Architecture(
        name="mpt",
        model_types=("mpt",),
        layers="blocks",
        embed="blocks.0.input",
        ln_final="norm_f",
        attn="attn",
        mix="attn.out_proj",
        down="ffn.down_proj",
        attn_out="resid_attn_dropout.output",
        resid_mid="norm_2.input",
        mlp_out="ffn.down_proj.output",
        why_no_positions="positions are biases on the attention scores (ALiBi)",
        qkv="attn.Wqkv",
        is_rotary=never,
        attends=lambda config: (),
        mlp="ffn",
        up="ffn.up_proj",
        gate=None,
    ),
)
