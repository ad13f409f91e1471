"""The first NaN or Inf, watched for: where it came up, out of what, and what had been changed before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbsight.core.model import wrap
from nbsight.errors import NbsightError, NotFiniteError
from nbsight.models.language_model import LanguageModel
from tests.core.small import WIDTH, Block, Chain, Constant, Counter, build, has_gates, hooked, rows, same

X, Y = rows(seed=1), rows(seed=2)
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def net():
    return build(Chain)


@pytest.fixture
def model(net):
    return wrap(net)


class Softmaxed(nn.Module):
    """Scores, a mask, and a softmax in between that belongs to no module."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(WIDTH, WIDTH)
        self.masked = nn.Identity()
        self.soft = nn.Softmax(-1)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.power = 1.0

    def forward(self, x, mask=None):
        scores = self.scores(x) * self.power
        if mask is not None:
            scores = scores + mask
        pattern = self.soft(self.masked(scores))
        return self.out(pattern / pattern.sum(-1, keepdim=True))


def first_bad(net, x):
    """By plain hooks: the first module whose output is not finite though its input is, and how much."""
    found, handles = [], []
    for path, sub in net.named_modules():

        def after(_, given, value, path=path):
            if not value.isfinite().all() and all(item.isfinite().all() for item in given):
                found.append((path, int((~value.isfinite()).sum())))

        handles.append(sub.register_forward_hook(after))
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return found[0] if found else None


def failure(model, *args, block=lambda: None, **options):
    """The message with which a trace that watches ends."""
    with pytest.raises(NotFiniteError) as caught, model.trace(*args, check_finite=True, **options):
        block()
    assert not has_gates(model._module)
    return str(caught.value)


# -- where it comes up -----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_the_first_module_is_the_one_that_hooks_find(net, model, layer):
    net.h[layer].lin.weight.data[2, 3] = NAN
    path, count = first_bad(net, X)
    assert path == f"h.{layer}.lin"
    text = failure(model, X)
    assert f"`{path}` (Linear) made NaN: " in text
    assert f"in {count} of 18 elements, first at [0, 0, 2] (row 0, position 0)" in text
    assert "its output, float32 (1, 3, 6)" in text
    assert "Its input was finite: float32 (1, 3, 6). Its `weight` is not." in text


def test_it_is_an_arithmetic_error_and_one_of_ours(net, model):
    net.h[1].lin.bias.data[0] = NAN
    for kind in (NotFiniteError, NbsightError, FloatingPointError, ArithmeticError):
        with pytest.raises(kind), model.trace(X, check_finite=True):
            pass


def test_without_the_flag_nothing_is_watched(net, model):
    net.h[1].lin.bias.data[0] = NAN
    with model.trace(X):
        final = model.output
    assert final.isnan().any()


def test_finite_values_are_what_they_were(net, model):
    with model.trace(X, check_finite=True):
        model.h[1].output[:, 0] = 2
        middle = model.h[2].output
        final = model.output

    def two(value):
        value[:, 0] = 2

    want = hooked(net, (X,), edit={"h.1": two})
    assert same(middle, want["h.2.output"][0])
    assert same(final, want[""][0])


def test_plus_infinity_made_of_finite_numbers_is_found(net, model):
    net.h[1].lin.weight.data.fill_(1e38)
    path, _ = first_bad(net, X * 100)
    text = failure(model, X * 100)
    assert path == "h.1.lin"
    assert "`h.1.lin` (Linear) made " in text


def test_what_comes_up_between_two_modules_names_both():
    net = build(Softmaxed)
    model = wrap(net)
    text = failure(model, X, torch.full((WIDTH,), -INF))  # a row of nothing but -Inf
    # The softmax is a module here: -Inf went in, NaN came out.
    assert "`soft` (Softmax) made NaN" in text
    assert "`masked` had returned -Inf before that" in text
    net.soft = nn.Identity()
    net.power = 0.0
    text = failure(wrap(net), X)  # 0 / 0
    assert text.startswith(
        "NaN came up in the own forward of `model`, before it called `out`: the input of that, "
        "float32 (1, 3, 6), has it in 18 of 18 elements, first at [0, 0, 0] (row 0, position 0).\n"
        "`print(model.source)`"
    )


def test_the_parts_own_forward_is_named_and_its_source():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([Softmaxed()])

        def forward(self, x):
            return self.parts[0](x)

    net = build(Outer)
    net.parts[0].soft = nn.Identity()
    net.parts[0].power = 0.0
    text = failure(wrap(net), X)
    assert "the own forward of `parts.0`, before it called `parts.0.out`" in text
    assert "print(model.parts[0].source)" in text


def test_a_module_with_parts_made_it_in_its_own_forward():
    class Log(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Identity()

        def forward(self, x):
            return torch.sqrt(self.part(x))

    text = failure(wrap(build(lambda: nn.Sequential(Log(), Block()))), -X.abs())
    assert "`0` (Log) made NaN in its own forward" in text


def test_a_model_that_is_given_nan_is_told_so(model):
    x = X.clone()
    x[0, 1, 2] = NAN
    text = failure(model, x)
    assert text.startswith("the model was given NaN: its input, float32 (1, 3, 6), has it in 1 of 18")
    assert "[0, 1, 2] (row 0, position 1)" in text


def test_half_precision_overflow_is_found():
    net = build(Chain).half()
    net.h[1].lin.weight.data.fill_(1000.0)
    x = torch.full((1, 3, WIDTH), 100.0, dtype=torch.float16)
    assert first_bad(net, x)[0] == "h.1.lin"
    assert "`h.1.lin` (Linear) made +Inf: its output, float16 (1, 3, 6), has it in 18 of 18" in failure(
        wrap(net), x
    )


# -- what is no failure ----------------------------------------------------------------------------


def test_masks_with_minus_infinity_are_let_through():
    net = build(Softmaxed)
    model = wrap(net)
    mask = torch.tensor([0.0, 0.0, -INF, -INF, 0.0, -INF])
    with model.trace(X, mask, check_finite=True):
        scores = model.masked.output
        final = model.output
    want = hooked(net, (X, mask))
    assert scores.isneginf().any()
    assert same(final, want[""][0])
    with model.trace(X, mask=mask, check_finite=True):
        model.masked.output[..., 0] = -INF  # and an edit may write it
        final = model.output
    assert final.isfinite().all()


class Masks(nn.Module):
    """A module that makes a mask."""

    def forward(self, x):
        return torch.full((3, 3), -INF).triu(1)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.mask = Masks()
        self.lin = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return torch.softmax(x @ x.transpose(-1, -2) + self.mask(x), -1) @ self.lin(x)


def test_a_module_that_makes_a_mask_is_no_failure():
    net = build(Attending)
    with wrap(net).trace(X, check_finite=True):
        pass


def test_infinity_that_was_given_is_not_blamed_on_who_passes_it_on():
    class Clamped(nn.Module):
        def __init__(self):
            super().__init__()
            self.same = nn.Identity()
            self.clamp = nn.Hardtanh()

        def forward(self, x):
            return self.clamp(self.same(x))

    x = X.clone()
    x[0, 0, 0] = INF
    with wrap(build(Clamped)).trace(x, check_finite=True):
        pass


def test_integers_and_modules_without_tensors_are_let_through():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(4, WIDTH)
            self.constant = Constant()

        def forward(self, ids):
            return {"hidden": self.embed(ids) + self.constant(), "ids": ids, "none": None, "text": "x"}

    with wrap(build(Odd)).trace(torch.tensor([[1, 2, 3]]), check_finite=True):
        pass


@pytest.mark.parametrize(
    ("dtype", "large"),
    [(torch.float32, 3e38), (torch.float64, 1e308), (torch.float16, 6e4), (torch.bfloat16, 3e38)],
)
def test_large_numbers_whose_sum_overflows_are_finite(dtype, large):
    net = build(lambda: nn.Sequential(nn.Identity(), nn.Identity()))
    x = torch.full((1, 3, WIDTH), large, dtype=dtype)
    with wrap(net).trace(x, check_finite=True):
        pass
    x[0, 1, 2] = NAN
    assert "has it in 1 of 18 elements, first at [0, 1, 2]" in failure(wrap(net), x)


def test_complex_and_eight_bit_numbers_are_looked_at():
    net = build(lambda: nn.Sequential(nn.Identity()))
    for x in (torch.ones(2, 2, dtype=torch.complex64), torch.ones(2, 2).to(torch.float8_e5m2)):
        with wrap(net).trace(x, check_finite=True):
            pass
        bad = x.clone()
        bad.view(-1)[3] = NAN
        assert "has it in 1 of 4 elements, first at [1, 1]" in failure(wrap(net), bad)


def test_a_scan_has_no_numbers_to_watch(model):
    with model.scan(X, check_finite=True):
        shape = model.h[1].output.shape
    assert shape == (1, 3, WIDTH)


# -- edits -----------------------------------------------------------------------------------------


def test_an_edit_that_writes_it_is_named_itself(model):
    def block():
        model.h[0].output[:, 1] = 4
        model.h[1].output[0, 2, :3] = NAN

    text = failure(model, X, block=block)
    assert text.startswith("NaN was written to `h.1.output`: the value, float32 (1, 3, 6), has it in 3 of 18")
    assert "[0, 2, 0] (row 0, position 2).\n  line" in text
    assert "model.h[1].output[0, 2, :3] = NAN" in text
    assert "`h.0.output` had been changed before that:" in text
    assert text.count("model.h[1].output[0, 2, :3] = NAN") == 1


@pytest.mark.parametrize("value", [NAN, INF])
def test_an_assigned_value_an_input_and_a_skip_are_named(model, value):
    def assigned():
        model.h[1].lin.output = torch.full((1, 3, WIDTH), value)

    def an_input():
        model.h[2].act.input = torch.full((1, 3, WIDTH), value)

    def skipped():
        model.h[2].skip(torch.full((1, 3, WIDTH), value))

    name = "NaN" if value != value else "+Inf"
    assert failure(model, X, block=assigned).startswith(f"{name} was written to `h.1.lin.output`")
    assert failure(model, X, block=an_input).startswith(f"{name} was written to `h.2.act.input`")
    text = failure(model, X, block=skipped)
    assert text.startswith(f"{name} was put in the place of `h.2`: the value,")
    assert "model.h[2].skip(torch.full((1, 3, WIDTH), value))" in text


def test_what_an_edit_led_to_is_told_with_the_modules_between():
    net = build(Chain, 6)
    net.h[4].lin.weight.data.fill_(1e30)
    model = wrap(net)

    def block():
        model.h[0].output[:] = 1e10

    text = failure(model, X, block=block)
    assert "`h.4.lin` (Linear) made +Inf" in text
    assert "`h.0.output` had been changed before that:\n  line" in text
    assert "model.h[0].output[:] = 1e10\n  float32 (1, 3, 6) -> changed in place" in text
    assert text.endswith("Between that and `h.4.lin` ran `h.1`, `h.2`, `h.3`.")


def test_many_modules_between_are_shortened():
    net = build(Chain, 20)
    net.h[18].lin.weight.data[0, 0] = NAN
    model = wrap(net)

    def block():
        model.h[0].output[:] = 1

    text = failure(model, X, block=block)
    assert "ran `h.1`, `h.2`, `h.3`, … (11 more) …, `h.15`, `h.16`, `h.17`." in text
    assert len(text.splitlines()) < 10


def test_a_kept_edit_is_named(net, model):
    with model.edit(inplace=True):
        model.h[1].output[:] = NAN
    text = failure(model, X)
    assert "NaN was written to `h.1.output`" in text
    assert "model.h[1].output[:] = NAN" in text
    with pytest.raises(NotFiniteError):
        model.trace(X, trace=False, check_finite=True)


# -- invokes, steps, held runs, second forwards -----------------------------------------------------


def test_the_invoke_whose_rows_it_is_in_is_named(model):
    with pytest.raises(NotFiniteError) as caught, model.trace(check_finite=True) as tracer:
        with tracer.invoke(X):
            fine = model.output
        with tracer.invoke(Y):  # this one
            model.h[1].output[0, 2] = NAN
            late = model.output
    text = str(caught.value)
    assert "with tracer.invoke(Y):  # this one" in text
    assert "with tracer.invoke(X)" not in text
    assert "in its own count first at [0, 2, 0] (row 0, position 2)" in text


def test_positions_of_nothing_but_padding_do_not_count():
    demo = LanguageModel("nbsight/demo", dispatch=True)

    def run(position, check):
        with demo.trace(check_finite=check) as tracer:
            with tracer.invoke("The capital of France is"):
                long = demo.transformer.h[3].output[0]
            with tracer.invoke("The dog"):
                short = demo.transformer.h[3].output[0]
            with tracer.invoke():
                demo.transformer.h[11].output[0][1, position] = NAN
        return short

    width = run(0, False).shape[1]
    run(-1, True)  # the short prompt is padded on the right
    with pytest.raises(NotFiniteError, match=r'tracer.invoke\("The dog"\)'):
        run(width - 1, True)


def test_a_generation_names_the_step():
    net = build(Counter)
    model = wrap(net)
    with pytest.raises(NotFiniteError) as caught, model.generate(X, steps=5, check_finite=True) as tracer:
        for step in tracer.iter[:]:
            if step == 2:
                model.a.output[0, 0, 0] = 1e38
                model.b.lin.output = model.b.lin.output * 1e38
    text = str(caught.value)
    assert text.startswith("+Inf was written to `b.lin.output`")
    assert "That was in step 2." in text
    assert "`a.output` had been changed before that" in text
    with model.generate(X, steps=3, check_finite=True) as tracer:
        result = tracer.result
    assert same(result, hooked(net, (X,), {"steps": 3}, method="generate")[""][0])


def test_a_run_held_open_is_watched(net, model):
    net.h[2].lin.bias.data[0] = NAN
    run = model.start(X, check_finite=True)
    run.until(model.h[1].output)
    with pytest.raises(NotFiniteError, match=r"`h\.2\.lin`"):
        run.until(model.h[3].output)
    run.close()
    assert not has_gates(net)


@pytest.mark.filterwarnings("ignore::nbsight.errors.OrderNotice")
def test_a_second_forward_is_watched_too(net, model):
    with model.trace(X, check_finite=True):
        late = model.h[2].output
        early = model.h[1].output
    assert same(early, hooked(net, (X,))["h.1.output"][0])

    def block():
        model.h[2].output
        model.h[1].output
        model.h[3].output[:] = NAN

    assert failure(model, X, block=block).startswith("NaN was written to `h.3.output`")


def test_a_trace_that_records_gradients_is_watched(net, model):
    net.h[2].lin.bias.data[0] = NAN
    assert "`h.2.lin`" in failure(model, X, grad=True)
    net.h[2].lin.bias.data[0] = 0
    with model.trace(X, grad=True, check_finite=True):
        hidden = model.h[1].output
        model.output.sum().backward()
    assert hidden.grad is not None


def test_the_error_shows_the_users_line_and_no_frames_of_the_model(net, model):
    net.h[2].lin.bias.data[0] = NAN
    with pytest.raises(NotFiniteError) as caught, model.trace(X, check_finite=True):
        model.h[1].output
        final = model.output
    shown = [entry for entry in caught.traceback if "torch" in str(entry.path)]
    assert shown == []
    assert caught.traceback[0].statement.lines[0].strip() == "final = model.output"
