"""OPT: its MLP is no module, and its tensors have rows and positions in one dimension; 350m is post-norm."""

from nbsight.models.architectures.base import Architecture, never

ARCHITECTURES = (
    Architecture(
        name="opt",
        model_types=("opt",),
        embed=("project_in.output", "embed_tokens.output"),
        pos_embed="embed_positions.output",
        ln_final="final_layer_norm",
        mix="self_attn.out_proj",
        down="fc2",
        resid_mid="final_layer_norm.input",
        mlp_out="fc2.output",
        is_post_norm=lambda config: not config.do_layer_norm_before,
        flat=frozenset({"resid_mid", "mlp_out"}),
        is_rotary=never,
        mlp=None,
        up="fc1",
        gate=None,
        first_position=2,
    ),
)
