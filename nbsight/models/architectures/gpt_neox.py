"""GPT-NeoX and Pythia: parallel unless the configuration says otherwise; two norms either way."""

from nbsight.models.architectures.base import Architecture, always

ARCHITECTURES = (
    Architecture(
        name="gpt_neox",
        model_types=("gpt_neox",),
        ln_final="final_layer_norm",
        attn="attention",
        mix="attention.dense",
        down="mlp.dense_4h_to_h",
        # What is added has passed the dropout, which matters in training mode.
        attn_out="post_attention_dropout.output",
        mlp_out="post_mlp_dropout.output",
        is_parallel=lambda config: bool(config.use_parallel_residual),
        qkv="attention.query_key_value",
        is_grouped=always,
        attends=lambda config: ("attention_interface", "GPTNEOX_ATTENTION_FUNCTION"),
        up="mlp.dense_h_to_4h",
        gate=None,
    ),
)
