"""Programs in nnsight's style: the operations inside a forward."""

# These programs are written as nnsight's users write them.
# ruff: noqa: B007

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

import nbsight as nnsight
from tests.compat import models
from tests.compat.models import PROMPT, ids_of
from tests.core.small import hooked, rows


def double(x: torch.Tensor) -> torch.Tensor:
    grown = x * 2
    return torch.tanh(grown)


class Worked(nn.Module):
    """A forward whose operations are easy to name."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.lin(x)
        z = double(y) + double(x)
        return torch.relu(z)


X = rows(2)


@pytest.fixture
def worked():
    return nnsight.NNsight(models.seeded(Worked))


def parts(module):
    y = module.lin(X)
    return y, double(y), double(X)


def test_the_source_lists_its_operations(worked):
    source = worked.source
    assert list(source.names) == ["self_lin_0", "y_0", "double_0", "double_1", "z_0", "torch_relu_0"]
    assert "double_0" in str(source)
    assert "torch.relu(z)" in str(source)
    assert "double_1" in str(worked.source.double_1)


def test_operations_are_read_in_the_order_in_which_they_run(worked):
    with worked.trace(X):
        y = worked.source.y_0.output.save()
        one = worked.source.double_0.output.save()
        given = worked.source.double_1.input.save()
        two = worked.source.double_1.output.save()
        args, kwargs = worked.source.torch_relu_0.inputs
        out = worked.output.save()
    wanted = parts(worked._module)
    assert torch.equal(y, wanted[0])
    assert torch.equal(one, wanted[1])
    assert torch.equal(given, X)
    assert torch.equal(two, wanted[2])
    assert torch.equal(args[0], wanted[1] + wanted[2])
    assert kwargs == {}
    assert torch.equal(out, torch.relu(wanted[1] + wanted[2]))


def test_operations_are_written_and_skipped(worked):
    with worked.trace(X):
        worked.source.double_0.output = worked.source.double_0.output * 0
        worked.source.double_1.skip(X)
        out = worked.output.save()
    assert torch.equal(out, torch.relu(X))


def test_an_operation_is_opened_in_its_turn(worked):
    with worked.trace(X):
        grown = worked.source.double_0.source.grown_0.output.save()
        out = worked.output.save()
    assert torch.equal(grown, worked._module.lin(X) * 2)
    assert torch.equal(out, worked._module(X))


def call_of_attention(source):
    """The call is the last of its name; how many assignments come before it differs between releases."""
    return getattr(source, [name for name in source.names if name.startswith("attention_interface")][-1])


def test_attention_weights_are_found_inside_eager_attention():
    config = transformers.LlamaConfig(
        **models.TINY, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=40, attn_implementation="eager",
    )  # fmt: skip
    module = models.seeded(lambda: transformers.LlamaForCausalLM(config))
    llama = nnsight.LanguageModel(module)
    ids = torch.tensor([[5, 6, 7, 8]])
    with llama.trace(ids):
        attention = call_of_attention(llama.model.layers[1].self_attn.source).source
        softmaxed = next(name for name in attention.names if name.startswith("nn_functional_softmax"))
        pattern = getattr(attention, softmaxed).output.save()
    wanted = module(ids, output_attentions=True).attentions[1]
    assert torch.allclose(pattern, wanted, atol=1e-6)


def test_an_attention_call_is_read_on_a_language_model(model):
    with model.trace(PROMPT):
        mixed = call_of_attention(model.transformer.h[2].attn.source).output[0].save()
        out = model.transformer.h[2].attn.output[0].save()
    attn = model._model.transformer.h[2].attn
    assert torch.allclose(attn.c_proj(mixed.reshape(out.shape)), out, atol=1e-5)
    assert torch.equal(
        out, hooked(model._model, (ids_of(model, PROMPT),))["transformer.h.2.attn.output"][0][0]
    )


def test_operations_have_rows_in_a_batch(worked):
    with worked.trace() as tracer:
        with tracer.invoke(X):
            a = worked.source.double_0.output.save()
        with tracer.invoke(X[:1] * 3):
            worked.source.double_0.output[:] = 0
            b = worked.output.save()
    assert torch.allclose(a, parts(worked._module)[1], atol=1e-6)
    assert torch.allclose(b, torch.relu(double(X[:1] * 3)), atol=1e-6)


def test_operations_are_counted_over_steps(model):
    with model.generate(PROMPT, max_new_tokens=2, do_sample=False) as tracer:
        shapes = []
        for step in tracer.iter[:]:
            shapes.append(tuple(model.transformer.h[0].attn.source.query_states_1.output.shape))
    width = ids_of(model, PROMPT).shape[1]
    assert [shape[2] for shape in shapes] == [width, 1]


def test_wrong_names_and_forwards_without_a_text_say_so(worked):
    with pytest.raises(AttributeError, match="double_0"):
        worked.source.double_7
    with pytest.raises(nnsight.SourceNotAvailable, match="lin"):
        with worked.trace(X):
            worked.source.self_lin_0.source
    with pytest.raises(nnsight.SourceNotAvailable, match="is not available"):
        with worked.trace(X):
            worked.source.torch_relu_0.source
