"""GPT-J: parallel, one norm for both parts."""

from nbsight.models.architectures.base import Architecture

ARCHITECTURES = (
    Architecture(
        name="gptj",
        model_types=("gptj",),
        layers="h",
        embed="h.0.input",
        ln_final="ln_f",
        attn="attn",
        mix="attn.out_proj",
        down="mlp.fc_out",
        attn_out="attn.output",
        is_parallel=lambda config: True,
        q="attn.q_proj",
        k="attn.k_proj",
        v="attn.v_proj",
        attends=lambda config: ("self__attn",),
        up="mlp.fc_in",
        gate=None,
    ),
)
