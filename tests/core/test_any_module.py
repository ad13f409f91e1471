"""Modules of every kind are read and edited as plain hooks do it, or the error says why not."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, rnn

from nbsight.core.model import wrap
from nbsight.errors import InputError, NbsightWarning, NeverCalledError
from tests.core.small import WIDTH, Block, Chain, build, close, hooked, rows, same

X = rows(2)


def zero(value):
    value[:] = 0


# -- convolutions ----------------------------------------------------------------------------------


class Cnn(nn.Module):
    """Batch normalisation, and an activation that writes over its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu(self.norm(self.conv(image))).mean((2, 3)))


IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_value_is_seen_before_the_next_module_writes_over_it():
    net = build(Cnn)
    copies = {}
    net.norm.register_forward_hook(lambda module, given, out: copies.update(norm=out.clone()))
    want = hooked(net, (IMAGE,))
    model = wrap(net)
    with model.trace(IMAGE):
        normed = model.norm.output.clone()
        after = model.relu.output
        final = model.output
    assert normed.min() < 0 <= after.min()
    assert same([normed, after, final], [copies["norm"], want["relu.output"][0], want[""][0]])


def test_a_saved_value_that_the_next_module_writes_over_is_told_of():
    model = wrap(build(Cnn))

    def looks():
        with model.trace(IMAGE):
            model.norm.output.save()
            model.output

    with pytest.warns(NbsightWarning, match=r"from `norm\.output` was changed in place later"):
        looks()


def test_a_channel_is_silenced_as_by_a_hook():
    net = build(Cnn)

    def silence(value):
        value[:, 1] = 0

    model = wrap(net)
    with model.trace(IMAGE):
        model.norm.output[:, 1] = 0
        final = model.output
    assert same(final, hooked(net, (IMAGE,), edit={"norm": silence})[""][0])


def test_in_training_batch_normalisation_counts_a_trace_once():
    net, other = build(Cnn).train(), build(Cnn).train()
    with torch.no_grad():
        other(IMAGE)
    model = wrap(net)
    with model.trace(IMAGE):
        model.conv.output
    assert same(net.norm.running_mean, other.norm.running_mean)
    assert int(net.norm.num_batches_tracked) == 1


class Skips(nn.Module):
    """Down, middle and up, with connections that skip the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)])
        self.mid = nn.Sequential(nn.Conv2d(4, 4, 1), nn.SiLU())
        self.up = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(8, 3, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
        x = self.mid(x)
        for block in self.up:
            x = block(torch.cat([x, kept.pop()], 1))
        return x


def test_an_edit_goes_along_a_connection_that_skips_modules():
    net = build(Skips)
    model = wrap(net)
    with model.trace(IMAGE):
        model.down[0].output[:] = 0
        middle = model.mid[1].output
        final = model.output
    want = hooked(net, (IMAGE,), edit={"down.0": zero})
    assert same([middle, final], [want["mid.1.output"][0], want[""][0]])
    with model.trace(IMAGE):
        model.down[0].output = torch.zeros_like(model.down[0].output)
        final = model.output
    assert same(final, hooked(net, (IMAGE,), edit={"down.0": torch.zeros_like})[""][0])


# -- recurrent layers ------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.rnn = kind(WIDTH, 5, num_layers=2, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x, state=None):
        out, state = self.rnn(x, state)
        last = state[0] if isinstance(state, tuple) else state
        if isinstance(out, rnn.PackedSequence):
            out, _ = rnn.pad_packed_sequence(out, batch_first=True)
        return self.head(out) + self.head(last[-1])[:, None]


KINDS = [nn.LSTM, nn.GRU, nn.RNN]


def last_state(output):
    return output[1][0] if isinstance(output[1], tuple) else output[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_recurrent_layers_sequence_and_state_are_read_and_edited(kind):
    net = build(Recurrent, kind)
    want = hooked(net, (X,))
    model = wrap(net)
    with model.trace(X):
        output = model.rnn.output
        final = model.output
    assert same([output, final], [want["rnn.output"][0], want[""][0]])

    def edit(value):
        value[0][:, 1] = 0
        last_state(value)[-1] *= 2

    with model.trace(X):
        model.rnn.output[0][:, 1] = 0
        last_state(model.rnn.output)[-1] *= 2
        final = model.output
    assert same(final, hooked(net, (X,), edit={"rnn": edit})[""][0])


@pytest.mark.parametrize("kind", KINDS)
def test_an_invoke_has_its_own_rows_of_the_state_though_they_are_in_the_second_dimension(kind):
    net = build(Recurrent, kind)  # two layers and two rows: the first dimension is as long as the batch
    alone = [hooked(net, (X[row : row + 1],)) for row in (0, 1)]
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            one = model.rnn.output
            last_state(model.rnn.output)[-1] = 0
            first = model.output
        with tracer.invoke(X[1:]):
            two = model.rnn.output
            second = model.output
    assert last_state(one).shape == (2, 1, 5)
    assert close(last_state(two), last_state(alone[1]["rnn.output"][0]))
    assert close(two[0], alone[1]["rnn.output"][0][0])

    def silence(value):
        last_state(value)[-1] = 0

    assert close(first, hooked(net, (X[:1],), edit={"rnn": silence})[""][0])
    assert close(second, alone[1][""][0])


@pytest.mark.parametrize("kind", KINDS)
def test_an_invoke_may_replace_its_rows_of_sequence_and_state(kind):
    net = build(Recurrent, kind)

    def double(value):
        out, state = value
        return out * 2, tuple(part * 3 for part in state) if isinstance(state, tuple) else state * 3

    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            model.rnn.output = double(model.rnn.output)
            first = model.output
        with tracer.invoke(X[1:]):
            second = model.output
    assert close(first, hooked(net, (X[:1],), edit={"rnn": double})[""][0])
    assert close(second, hooked(net, (X[1:],))[""][0])


def test_the_state_that_goes_in_and_the_cache_have_an_invokes_rows_too():
    net = build(Recurrent, nn.GRU)
    model = wrap(net)
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            cache = tracer.cache(modules=[model.rnn], include_inputs=True)
            model.output
        with tracer.invoke(X[1:]):
            given = model.rnn.inputs
    assert given[0][0].shape == (1, 3, WIDTH)
    assert cache.rnn.output[1].shape == (2, 1, 5)
    assert close(cache.rnn.output[1], hooked(net, (X[:1],))["rnn.output"][0][1])


def test_packed_sequences_are_read_edited_and_cached():
    net = build(Recurrent)
    packed = rnn.pack_padded_sequence(X, [3, 2], batch_first=True)
    want = hooked(net, (packed,))
    model = wrap(net)
    with model.trace(packed) as tracer:
        cache = tracer.cache()
        given, output, final = model.rnn.input, model.rnn.output, model.output
    assert type(given) is type(output[0]) is type(cache.rnn.output[0]) is rnn.PackedSequence
    assert same([output, cache.rnn.output], [want["rnn.output"][0]] * 2)
    assert same(final, want[""][0])

    def silence(value):
        value[0].data[:] = 0

    with model.trace(packed):
        model.rnn.output[0].data[:] = 0
        final = model.output
    assert same(final, hooked(net, (packed,), edit={"rnn": silence})[""][0])


def test_inputs_are_not_joined_for_a_model_whose_batch_is_in_the_second_dimension():
    model = wrap(build(lambda: nn.LSTM(WIDTH, 5)))
    with pytest.raises(InputError, match=r"`model` \(LSTM, batch_first=False\).*batch_first=True"):
        with model.trace() as tracer:
            with tracer.invoke(X[:1]):
                model.output
            with tracer.invoke(X[1:]):
                model.output
    with model.trace() as tracer:
        with tracer.invoke(X):
            output = model.output
    assert same(output, hooked(model._module, (X,))[""][0])


# -- torch's own transformers ----------------------------------------------------------------------

WORDS = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(3))


def encoder(**options) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2, **options)


def has_fast_path(net, *args, **kwargs):
    """Whether torch calls a kernel for the whole layer: then no module inside is called."""
    called = []
    linear = net.layers[0].linear1
    linear.forward = lambda x: called.append(1) or nn.Linear.forward(linear, x)
    with torch.no_grad():
        net(*args, **kwargs)
    del linear.forward
    return not called


def test_the_inside_of_an_encoder_layer_is_read_though_torch_has_a_kernel_for_the_whole():
    net = build(encoder)
    assert has_fast_path(net, WORDS)
    want = hooked(net, (WORDS,))  # hooks make torch go module by module
    model = wrap(net)
    with model.trace(WORDS):
        hidden = [layer.linear1.output for layer in model.layers]
        final = model.output
    assert close(final, want[""][0])
    assert all(map(close, hidden, [want[f"layers.{n}.linear1.output"][0] for n in (0, 1)]))
    with model.trace(WORDS):
        model.layers[0].linear1.output[:] = 0
        final = model.output
    assert close(final, hooked(net, (WORDS,), edit={"layers.0.linear1": zero})[""][0])
    assert has_fast_path(net, WORDS)
    assert net.layers[0].activation_relu_or_gelu == 1


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_with_padding_shows_padded_tensors_inside_and_changes_nothing_where_nobody_looks():
    net = build(encoder)
    padding = torch.tensor([[False, False, False], [False, False, True]])
    call = {"src_key_padding_mask": padding}
    with torch.no_grad():
        plain = net(WORDS, **call)
    assert has_fast_path(net, WORDS, **call)
    slow = copy.deepcopy(net)
    slow.use_nested_tensor = False
    want = hooked(slow, (WORDS,), call)
    model = wrap(net)
    with model.trace(WORDS, **call):
        hidden = model.layers[1].linear1.output
        final = model.output
    assert hidden.shape == (2, 3, 16)
    real = ~padding
    assert torch.allclose(hidden[real], want["layers.1.linear1.output"][0][real], atol=1e-5)
    assert torch.allclose(final[real], plain[real], atol=1e-5)
    with model.trace(WORDS, **call):
        final = model.output
    assert same(final, plain)
    assert net.use_nested_tensor


def test_a_run_that_is_left_inside_an_encoder_leaves_torchs_own_way_open():
    net = build(encoder)
    model = wrap(net)
    with model.trace(WORDS):
        model.layers[0].linear1.output
    held = model.start(WORDS)
    held.until("layers.0.linear1.output")
    with model.trace(WORDS):
        model.layers[1].linear2.output
    held.close()
    assert has_fast_path(net, WORDS)


def test_attention_is_read_and_its_unused_projection_says_what_to_ask():
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.tail = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

        def forward(self, x):
            return self.tail(self.attn(x, x, x, need_weights=True, average_attn_weights=False)[0])

    net = build(Attends)
    want = hooked(net, (WORDS,))
    model = wrap(net)
    with model.trace(WORDS):
        mixed, weights = model.attn.output
        final = model.output
    assert weights.shape == (2, 2, 3, 3)
    assert same([(mixed, weights), final], [want["attn.output"][0], want[""][0]])
    with pytest.raises(NeverCalledError, match=r"uses the weights of its `out_proj`.*`attn\.output\[0\]`"):
        with model.trace(WORDS):
            model.attn.out_proj.output


def test_encoder_and_decoder_of_nn_transformer():
    net = build(lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True))
    given = (WORDS, WORDS[:, :2])
    want = hooked(net, given)
    model = wrap(net)
    with model.trace(*given):
        encoded = model.encoder.layers[0].linear2.output
        crossed = model.decoder.layers[0].multihead_attn.output[0]
        final = model.output
    assert close(encoded, want["encoder.layers.0.linear2.output"][0])
    assert close(crossed, want["decoder.layers.0.multihead_attn.output"][0][0])
    assert close(final, want[""][0])


# -- weights that are not plain --------------------------------------------------------------------


def test_parametrised_weights_are_modules_that_can_be_read_and_edited():
    net = build(Chain)
    parametrizations.weight_norm(net.h[1].lin)
    parametrizations.spectral_norm(net.h[2].lin)
    want = hooked(net, (X,))
    model = wrap(net)
    with model.trace(X):
        weight = model.h[1].lin.parametrizations.weight.output
        hidden = model.h[2].lin.output
        final = model.output
    assert same(weight, want["h.1.lin.parametrizations.weight.output"][0])
    assert same([hidden, final], [want["h.2.lin.output"][0], want[""][0]])


def test_an_edit_of_a_parametrised_weight_reaches_the_layer():
    class Upper(nn.Module):
        def forward(self, weight):
            return weight.triu()

    net = build(Chain)
    parametrize.register_parametrization(net.h[1].lin, "weight", Upper())
    place = "h.1.lin.parametrizations.weight.0"
    model = wrap(net)
    with model.trace(X):
        part = model.h[1].lin.parametrizations.weight[0]
        part.output = part.output * 2
        final = model.output
    assert same(final, hooked(net, (X,), edit={place: lambda weight: weight * 2})[""][0])


def test_tied_weights_are_tied_in_a_trace():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, WIDTH), nn.Linear(WIDTH, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    net, ids = build(Tied), torch.tensor([[1, 2, 3]])
    want = hooked(net, (ids,))
    model = wrap(net)
    with model.trace(ids):
        embedded, final = model.embed.output, model.output
    assert same([embedded, final], [want["embed.output"][0], want[""][0]])
    assert model.head.weight is model.embed.weight


def test_dynamically_quantised_layers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch moves this to torchao
        quantised = torch.ao.quantization.quantize_dynamic(build(Chain), {nn.Linear}, dtype=torch.qint8)
    assert type(quantised.h[0].lin) is not nn.Linear
    want = hooked(quantised, (X,))
    model = wrap(quantised)
    with model.trace(X):
        hidden, final = model.h[1].lin.output, model.output
    assert same([hidden, final], [want["h.1.lin.output"][0], want[""][0]])
    with model.trace(X):
        model.h[1].lin.output[:] = 0
        final = model.output
    assert same(final, hooked(quantised, (X,), edit={"h.1.lin": zero})[""][0])


# -- shells, graphs and scripts --------------------------------------------------------------------


def test_a_module_that_another_hands_out_is_an_envoy():
    class Shell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Chain()

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inner"), name)

        @property
        def last(self):
            return self.inner.h[3]

        def forward(self, x):
            return self.inner(x)

    net = build(Shell)
    want = hooked(net, (X,))
    model = wrap(net)
    assert model.h[1] is model.inner.h[1]
    assert model.last is model.inner.h[3]
    with model.trace(X):
        hidden, last = model.h[1].output, model.last.output
    assert same([hidden, last], [want["inner.h.1.output"][0], want["inner.h.3.output"][0]])


def test_data_parallel_on_one_device():
    net = build(Chain)
    want = hooked(net, (X,))
    model = wrap(nn.DataParallel(net))
    with model.trace(X):
        hidden, final = model.module.h[1].lin.output, model.output
    assert same([hidden, final], [want["h.1.lin.output"][0], want[""][0]])


def test_a_graph_of_torch_fx_is_read_edited_and_shows_its_source():
    net = torch.fx.symbolic_trace(build(Chain))
    want = hooked(net, (X,))
    model = wrap(net)
    with model.trace(X):
        hidden = model.h[1].lin.output.clone()
        model.h[1].lin.output[:] = 0
        final = model.output
    assert same(hidden, want["h.1.lin.output"][0])
    assert same(final, hooked(net, (X,), edit={"h.1.lin": zero})[""][0])
    assert "def forward(self, x" in str(model.source)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_an_exported_program_says_that_it_has_no_modules_and_unflattened_it_has():
    net = build(Chain)
    program = torch.export.export(net, (X,))
    want = hooked(net, (X,))
    model = wrap(program.module())
    with model.trace(X):
        final = model.output
    assert close(final, want[""][0])
    with pytest.raises(NeverCalledError, match=r"exported program.*torch\.export\.unflatten"):
        with model.trace(X):
            model.head.output
    model = wrap(torch.export.unflatten(program))
    with model.trace(X):
        hidden = model.h[1].output
        final = model.output
    assert close(hidden, want["h.1.output"][0])
    assert close(final, want[""][0])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, (X,))])
def test_a_script_is_read_from_outside_and_says_that_its_parts_are_not_called(make):
    # A script takes no hooks: what it is made of does.
    want = hooked(build(Chain), (X,), edit={"h.1": lambda value: value * 2})
    net = build(Chain)
    net.h[1] = make(net.h[1])
    model = wrap(net)
    for _ in range(2):
        with model.trace(X):
            model.h[1].output[:] *= 2
            hidden = model.h[1].output
            final = model.output
        assert close(hidden, want["h.1.output"][0])
        assert close(final, want[""][0])
    with pytest.raises(NeverCalledError, match=r"TorchScript.*Ask for `h\.1\.output`"):
        with model.trace(X):
            model.h[1].lin.output
    plain = build(Block)
    root = wrap(make(plain))
    with root.trace(X):
        output = root.output
    assert close(output, hooked(plain, (X,))[""][0])
    with pytest.raises(NeverCalledError, match=r"Ask for `model\.output`"):
        with root.trace(X):
            root.lin.output
    assert not [module for module in net.modules() if hasattr(module.forward, "_nbsight_gate")]


# -- hooks of the user's ---------------------------------------------------------------------------


def test_a_users_hooks_act_around_what_a_trace_sees():
    net = build(Chain)
    part = net.h[1]
    part.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    part.register_forward_hook(lambda module, given, out: out * 3)
    with torch.no_grad():
        before = net.h[0](X) + 1
        inside = Block.forward(part, before)
    model = wrap(net)
    with model.trace(X):
        given = model.h[1].input
        out = model.h[1].output
        after = model.h[2].input
    assert same([given, out, after], [before, inside, inside * 3])
    with model.trace(X):
        model.h[1].output = torch.ones_like(model.h[1].output)
        after = model.h[2].input
    assert same(after, torch.full_like(after, 3))


def test_hooks_for_all_modules_and_hooks_on_gradients_fire_once():
    calls = []
    net = build(Chain)
    handles = [
        nn.modules.module.register_module_forward_hook(lambda module, given, out: calls.append("all")),
        net.h[1].register_full_backward_hook(lambda module, given, out: calls.append("gradient")),
    ]
    x = X.clone().requires_grad_()
    try:
        net(x).sum().backward()
        plain, calls[:] = list(calls), []
        want, x.grad = x.grad, None
        with wrap(net).trace(x, grad=True) as tracer:
            tracer.result.sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    assert calls == plain
    assert calls.count("gradient") == 1
    assert close(x.grad, want)
