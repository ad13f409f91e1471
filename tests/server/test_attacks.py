"""A review of the `program` tier by somebody who wants to break it: each line here was tried.

Those under ESCAPES and LEAKS got through once. What is refused is refused before it is done, which the
time limit of these tests says too: none of them may take as long as the operation would.
"""

from __future__ import annotations

import os
import time

import pytest
import torch
from safetensors.torch import save

from nbsight.errors import PathError, RemoteError
from nbsight.models.language_model import LanguageModel
from nbsight.server.programs import growth, names, surface
from nbsight.server.programs.limits import OverBudget
from nbsight.server.programs.texts import repr_of, without_paths
from nbsight.server.programs.values import check_value
from tests.server.attacking import Attacker

REFUSED = (RemoteError, PathError, NameError, TypeError)


@pytest.fixture(scope="module")
def attack(local_model: LanguageModel) -> Attacker:
    return Attacker(local_model)


@pytest.fixture(autouse=True)
def _model_as_before(local_model: LanguageModel):
    """Whatever was tried, the next owner has the same model."""
    state = {name: value.clone() for name, value in local_model._module.state_dict().items()}
    config = local_model._module.config.to_dict()
    yield
    for name, value in local_model._module.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert local_model._module.config.to_dict() == config
    assert not local_model._module.training
    assert all(
        not part._forward_hooks and not part._forward_pre_hooks for part in local_model._module.modules()
    )


# -- out of the interpreter ------------------------------------------------------------------------


def alias(name: str) -> dict:
    return {"model": {"aliases": {name: "transformer"}}}


IMAGE = "[{'role': 'user', 'content': [{'type': 'image', 'url': 'file:///etc/passwd'}]}]"


def through(method: str, argument: str) -> str:
    """Calls a raw method by way of a `map` in a `map`, which gives back what it returns."""
    return f"x = list(list(map(map, [model.{method}], [[{argument}]]))[0])"


ESCAPES = [
    # Other names of modules, where the name is that of a method: the method itself came.
    (through("get", "'save_pretrained'"), alias("get")),
    (through("get", "'__dict__'"), alias("get")),
    (through("get", "'_module'"), alias("get")),
    ("x = sorted(['/tmp/nbsight-escape'], key=model.edit)", alias("edit")),
    ("x = sorted(['meta'], key=model.to)", alias("to")),
    ("x = max([1], key=model.modules)", alias("modules")),
    ("x = model.transformer.get", {"model": {"aliases": {"transformer.get": "transformer.h"}}}),
    ("x = model.source", alias("source")),
    ("x = model.a.b", {"model": {"aliases": {"a.__class__": "transformer"}}}),
    # Functions of Python's that call or go through what a program itself could not.
    ("x = list(map(list, [model.config]))", {}),
    ("x = list(map(dict, [model.config]))", {}),
    ("x = list(map(sorted, [model.config]))", {}),
    ("x = list(map(zip, [model.tokenizer], [model.config]))", {}),
    ("x = sorted([1, 2], key=model.config)", {}),
    ("x = list(filter(model.tokenizer.backend_tokenizer, [1]))", {}),
    ("x = torch.no_grad(print)", {}),
    ("x = torch.enable_grad(lambda: 0)", {}),
    ("x = torch.device('cpu')(print)", {}),
    ("x = torch.no_grad()(print)", {}),
    ("x = torch.float32(1)", {}),
    # Options that load code, inside an input that is a dict.
    ("with tracer.invoke({'input_ids': [[1]], 'custom_generate': 'a/b'}):\n    pass", {}),
    ("x = model.generate({'input_ids': torch.ones(1, 2).long(), 'custom_generate': '/tmp'})", {}),
    (f"x = model.generate({IMAGE})", {}),
    ("x = model.generate('a', penalty_alpha=0.6, top_k=4, trust_remote_code=True)", {}),
    ("x = model.generate('a', assistant_model='/tmp')", {}),
    ("x = model.generate('a', stopping_criteria=[print])", {}),
    ("x = model.generate('a', logits_processor=[print])", {}),
    ("x = model.generate('a', generation_config='/tmp')", {}),
    ("x = model.generate('a', streamer=print)", {}),
    ("x = model.generate('a', cache_implementation='static')", {}),
    ("x = model.generate('a', on_token=print)", {}),
    ("x = model.generate('a', chat_template='{{ 1 }}')", {}),
    # Memory and devices that are not the program's.
    ("x = torch.add(torch.ones(3), 1, out=torch.zeros(3))", {}),
    ("x = torch.sort(torch.ones(3), out=(torch.ones(3), torch.ones(3).long()))", {}),
    ("x = torch.mul(torch.ones(9), 2, out=model.transformer.h[0].output[0])", {}),
    ("x = torch.zeros(3, pin_memory=True)", {}),
    ("x = torch.zeros(3, device='meta')", {}),
    ("x = torch.zeros(3, device='cuda:7')", {}),
    ("x = torch.ones(3).to('meta')", {}),
    ("x = torch.ones(3).to(device='mps')", {}),
    ("x = torch.ones(3).new_zeros(3, device='meta')", {}),
    ("x = torch.tensor([1.], device='meta')", {}),
    ("x = torch.device('cuda:7')", {}),
    ("x = torch.randn(3, generator=model)", {}),
    # The rest of what one tries first.
    ("x = torch.autograd.Function", {}),
    ("x = torch.autograd.graph", {}),
    ("x = torch.nn.Linear(2, 2)", {}),
    ("x = torch.nn.functional.torch", {}),
    ("x = torch.fft.torch", {}),
    ("x = torch.linalg.torch", {}),
    ("x = math.__loader__", {}),
    ("x = nbsight.nbsight", {}),
    ("x = nbsight.LanguageModel('gpt2')", {}),
    ("x = torch.ones(1).__reduce_ex__(2)", {}),
    ("x = torch.ones(1).tofile('/tmp/nbsight-escape')", {}),
    ("x = torch.ones(1).dump('/tmp/nbsight-escape')", {}),
    ("x = torch.ones(1).unfold(0, 1, 1)", {}),
    ("x = torch.ones(1).as_strided_((9,), (1,))", {}),
    ("x = torch.ones(1).resize_as_(torch.ones(9))", {}),
    ("x = torch.ones(1).swap_tensors", {}),
    ("x = torch.as_strided(torch.ones(1), (9,), (1,))", {}),
    ("x = torch.frombuffer(b'a', dtype=torch.uint8)", {}),
    ("x = torch.Tensor.save", {}),
    ("x = torch.ones(1).output_nr", {}),
    ("x = torch.ones(1).untyped_storage", {}),
    ("x = torch.ones(1).module_load", {}),
    ("x = torch.ones(1).names", {}),
    ("x = model.transformer.h[0].register_forward_hook(print)", {}),
    ("x = model.transformer.h[0]._module", {}),
    ("x = model.layers[0]._native", {}),
    ("x = model.layers[0].native", {}),
    ("x = model.layers._std", {}),
    ("x = model.std", {}),
    ("x = model.device", {}),
    ("x = model.W_E", {}),
    ("x = model.unembed.weight", {}),
    ("x = model.layers[0].W_Q", {}),
    ("model.layers[0].attn = 1", {}),
    ("model.layers = 1", {}),
    ("model.lm_head = model.transformer.ln_f", {}),
    ("model.transformer.h[0] = model.transformer.h[1]", {}),
    ("model.transformer.drop.p = 1.0", {}),
    ("model.config.n_layer = 1", {}),
    ("model.tokenizer.pad_token = 'x'", {}),
    ("model.tokenizer.padding_side = 'right'", {}),
    ("x = model.tokenizer.add_tokens(['x'])", {}),
    ("x = model.tokenizer.get_vocab", {}),
    ("x = model.tokenizer.init_kwargs", {}),
    ("x = model.tokenizer('a', 'b')", {}),
    ("x = model.tokenizer('a', tokenizer_file='/etc/passwd')", {}),
    ("x = model.tokenizer('a', return_tensors='np')", {}),
    ("x = model.config.to_json_file('/tmp/nbsight-escape')", {}),
    ("x = model.config.name_or_path", {}),
    ("x = model.config._name_or_path", {}),
    ("x = model.config.update({})", {}),
    ("x = tracer.model", {}),
    ("x = (lambda: 0).scope", {}),
    ("x = (lambda: 0).interpreter", {}),
    ("x = print.function", {}),
    ("x = torch.softmax.check", {}),
    ("x = 'a'.join.value", {}),
    ("x = torch.names", {}),
    ("x = [].append.name", {}),
    ("x = 'a'.format(1)", {}),
    ("x = 'a'.format_map({})", {}),
    ("x = 'a'.encode()", {}),
    ("x = 'a'.translate({})", {}),
    ("x = '%1000000000d' % 1", {}),
    ("x = b'%1000000000d' % 1", {}),
    ("x = (1).to_bytes(10**9, 'big')", {}),
    ("x = slice(1).indices(1)", {}),
    ("x = [v for v in model.config]", {}),
    ("x = [*model.tokenizer]", {}),
    ("x = {**model.config}", {}),
    ("def f(**k):\n    return k\nx = f(**model.config)", {}),
    ("a, b = model.tokenizer", {}),
    ("with model.config as x:\n    pass", {}),
    ("with model.tokenizer as x:\n    pass", {}),
    ("with lambda: 0 as x:\n    pass", {}),
    ("for x in model.layers[0]:\n    pass", {}),
]  # fmt: skip


@pytest.mark.parametrize(("source", "changes"), ESCAPES, ids=range(len(ESCAPES)))
def test_no_way_leads_out_of_a_program(attack, source, changes):
    with pytest.raises((*REFUSED, AttributeError)):
        attack(f"{source}\n", **changes)
    assert not os.path.exists("/tmp/nbsight-escape")


MESSAGES = [
    {"args": [{"$dict": [["input_ids", {"$list": [1], "id": 91}], ["custom_generate", "a/b"]], "id": 90}]},
    {"args": [{"$list": [{"$dict": [["trust_remote_code", True]], "id": 91}], "id": 90}]},
    {"model": {"aliases": {"": "transformer"}}},
    {"model": {"aliases": {"transformer.__dict__": "transformer"}}},
    {"model": {"aliases": {"h.generate": "transformer"}}},
    {"captures": {"x": {"$device": "cuda:7"}}, "source": "y = torch.ones(1).to(x)"},
]


@pytest.mark.parametrize("change", MESSAGES)
def test_no_message_brings_what_a_program_may_not_have(attack, change):
    change = dict(change)
    source = change.pop("source", "y = 1")
    for method in ("generate", "forward"):
        with pytest.raises((RemoteError, PathError, RuntimeError)):
            attack(source, **change, method=method)


@pytest.mark.parametrize(
    "spec",
    [
        {"blob": "0", "dtype": "float32", "shape": [10**12], "strides": [0]},
        {"blob": "0", "dtype": "float32", "shape": [2**20, 2**20], "strides": [0, 0]},
        {"blob": "0", "dtype": "uint8", "shape": [64], "device": "meta"},
        {"blob": "0", "dtype": "float32", "shape": [100], "strides": [1]},
        {"blob": "0", "dtype": "float32", "shape": [2], "strides": [1], "offset": 61},
        {"blob": "0", "dtype": "float32", "shape": [2], "strides": [-1]},
        {"blob": "0", "dtype": "float32", "shape": [2**40, 2**40], "strides": [2**40, 2**40]},
        {"blob": "0", "dtype": "|O", "shape": [8], "kind": "array"},
        {"blob": "1", "dtype": "uint8", "shape": [64]},
        {"blob": "0", "dtype": "load", "shape": [64]},
    ],
)
def test_no_tensor_is_more_than_its_bytes(attack, spec):
    with pytest.raises(RemoteError):
        attack(
            "y = x.sum()",
            tensors=[spec],
            captures={"x": {"$tensor": 0, "id": 90}},
            blob=save({"0": torch.zeros(64, dtype=torch.uint8)}),
        )


# -- what it says ----------------------------------------------------------------------------------

LEAKS = [
    "x = str(model.tokenizer)",
    "x = repr([model.tokenizer, {'a': model.config}])",
    "x = f'{model.tokenizer} {model.config!r}'",
    "x = str((model.tokenizer,))",
    "print(model.tokenizer, model.config, sep=str(model.config))\nx = 1",
    "x = {}[model.tokenizer]",
    "x = [1].index(model.tokenizer)",
    "x = [model.tokenizer].index(3)",
    "assert False, model.tokenizer",
    "x = {model.tokenizer: 1}[model.config]",
    "x = str(model) + str(model.layers) + str(tracer) + str(model.transformer.h[0])",
    "x = model.tokenizer.decode(model.config)",
    "x = model.transformer(model.tokenizer)",
    "x = torch.zeros(model.tokenizer)",
    "x = model.layers[model.tokenizer]",
    "x = model.transformer.h[model.tokenizer]",
    "x = str({1: {2: [model.config]}})",
    "x = str({1}.union([model.tokenizer]))",
    "x = str({'a': model.tokenizer}.values())",
    "x = str(map(print, [1])) + str(print) + str(torch) + str((lambda: 0)) + str([].append)",
]


@pytest.mark.parametrize("source", LEAKS)
def test_neither_values_nor_errors_tell_of_folders(attack, capsys, source):
    try:
        said = str(attack(f"{source}\n").get("x"))
    except Exception as error:  # whatever it is: its words are what is looked at
        said = f"{error} {error.args}"
    said += capsys.readouterr().out
    for folder in (os.getcwd(), os.path.expanduser("~") + "/", attack.model.tokenizer.name_or_path, " at 0x"):
        assert folder not in said


def test_an_error_of_a_file_says_nothing_of_where_it_lies(local_model):
    folder = local_model.tokenizer.name_or_path
    said = without_paths(f"cannot open '{folder}/x.json' in {os.__file__}: no such file", local_model)
    assert folder not in said
    assert "cannot open" in said
    assert "no such file" in said


@pytest.mark.parametrize(
    "value",
    [
        [], (), {}, set(), frozenset(), (1,), [1, (2, 3), {"a": {1}}], "it's", ["it's", 'a"b'], b"x", 1.5,
        None, {(1, 2): [None, True]}, torch.ones(2), [torch.ones(2, 2)], range(3), frozenset([1]), 3 + 2j,
    ],
)  # fmt: skip
def test_values_look_as_python_writes_them(value):
    assert repr_of(value) == repr(value)


def test_a_list_in_itself_is_written_as_python_does():
    cycle: list = [1]
    cycle.append({"a": cycle})
    assert repr_of(cycle) == repr(cycle)


# -- how much --------------------------------------------------------------------------------------

DOUBLED = "for i in range(60):\n    a = {what}\n"
TOO_MUCH = [
    "x = pow(exp=10**8, base=10)",
    "x = pow(10, exp=10**8)",
    "x = math.prod([2**60000] * 10**5)",
    "x = math.prod([3], start='a')\nx = math.prod([10**9], start=[0])",
    "x = sum([[0] * 10**6] * 10**6, [])",
    "x = sum([(0,) * 10**6] * 10**6, ())",
    "x = sum([torch.ones(10**5, 1), torch.ones(10**5)])",
    "x = math.fsum(torch.ones(10**8))",
    "x = math.prod(torch.ones(10**8))",
    "x = int('f' * 10**7, 16)",
    "x = int('1' * 10**7)",
    "x = float('1' * 10**7)",
    "x = list(map(int, ['f' * 10**7], [16]))",
    "x = sorted(['f' * 10**7], key=int)",
    "x = list(map(pow, [10], [10**9]))",
    "x = list(map(lambda v: 'a' * v, [10**12]))",
    "x = ','.join(map(lambda i: 'a' * 10**6, range(10**6)))",
    "x = ','.join('a' * 10**6 for i in range(10**5))",
    "x = [0]\nwhile True:\n    x[0:0] = x",
    "x = [0]\nwhile True:\n    x[len(x):] = x",
    "x = []\nx += torch.ones(10**8)",
    "x = []\nx[0:0] = torch.ones(10**8)",
    "for x in torch.ones(10**8):\n    pass",
    "a, *x = torch.ones(10**8)",
    "x = [*torch.ones(10**8)]",
    "x = [v for v in torch.ones(10**8)]",
    "x = list(map(len, torch.ones(10**8)))",
    "x = torch.ones(10**8).unbind()",
    "x = torch.ones(10**8).split(1)",
    "x = torch.ones(10**8).chunk(10**8)",
    "x = torch.ones(8).tensor_split(10**9)",
    "x = torch.unbind(dim=0, input=torch.ones(10**8))",
    # Values that are small, and endless when they are gone through.
    "a = [0]\n" + DOUBLED.format(what="[a, a]") + "x = str(a)",
    "a = [0]\n" + DOUBLED.format(what="[a, a]") + "x = f'{a}'",
    "a = [0]\n" + DOUBLED.format(what="[a, a]") + "print(a)",
    "a = [0]\n" + DOUBLED.format(what="[a, a]") + "x = torch.tensor(a)",
    "a = (0,)\n" + DOUBLED.format(what="(a, a)") + "x = {a: 1}",
    "a = (0,)\n" + DOUBLED.format(what="(a, a)") + "x = {a}",
    "a = (0,)\n" + DOUBLED.format(what="(a, a)") + "x = {v: 1 for v in [a]}",
    "a = (0,)\n" + DOUBLED.format(what="(a, a)") + "x = {}\nx[a] = 1",
    "a = (0,)\n" + DOUBLED.format(what="(a, a)") + "x = {}.get(a)",
    "a = (0,)\n" + DOUBLED.format(what="(a, a)") + "x = a in {1: 2}",
    "a = (0,)\n" + DOUBLED.format(what="(a, a)") + "x = set([a])",
    "a = (0,)\n" + DOUBLED.format(what="(a, a)") + "x = dict([(a, 1)])",
    "a = (0,)\n" + DOUBLED.format(what="(a, a)") + "x = isinstance(1, a)",
    "a = (0,)\n" + DOUBLED.format(what="(a, a)") + "x = a",
    "a = (0,)\nb = (0,)\nfor i in range(60):\n    a = (a, a)\n    b = (b, b)\nx = a == b",
    "a = (0,)\nb = (0,)\nfor i in range(60):\n    a = (a, a)\n    b = (b, b)\nx = a < b",
    "a = [0]\nb = [0]\nfor i in range(60):\n    a = [a, a]\n    b = [b, b]\nx = [a].index(b)",
    "a = [0]\nb = [0]\nfor i in range(60):\n    a = [a, a]\n    b = [b, b]\nx = sorted([a, b])",
    "a = 'a' * 10**6\nx = f'{a}" + "{a}" * 20 + "'",
    # Tensors: what grows, on the way or at the end.
    "x = torch.zeros(torch.tensor(10**12))",
    "x = torch.zeros((torch.tensor(10**12),))",
    "x = torch.arange(torch.tensor(10**12))",
    "x = torch.arange(0, 1, 1e-12)",
    "x = torch.linspace(0, 1, torch.tensor(10**12))",
    "x = torch.full(size=(10**12,), fill_value=1.0)",
    "x = torch.eye(n=10**6)",
    "x = torch.eye(torch.tensor(10**6))",
    "x = torch.ones(1).expand(10**12)",
    "x = torch.ones(1).expand(size=(10**12,))",
    "x = torch.ones(1, 1).expand_as(torch.ones(10**5, 10**4))",
    "x = torch.ones(1).expand(2**28).contiguous().expand(8, 2**28)",
    "x = torch.broadcast_tensors(torch.ones(10**6, 1), torch.ones(10**6))",
    "x = torch.ones(10**6, 1) < torch.ones(10**6)",
    "x = torch.ones(10**6, 1) == torch.ones(10**6)",
    "x = [torch.ones(10**6, 1)] == [torch.ones(10**6)]",
    "x = torch.ones(10**6, 1) in [torch.ones(10**6)]",
    "x = [torch.ones(10**6, 1)].index(torch.ones(10**6))",
    "x = max(torch.ones(10**6, 1), torch.ones(10**6))",
    "x = sorted([torch.ones(10**6, 1), torch.ones(10**6)])",
    "x = torch.ones(10**6, 1) in torch.ones(10**6)",
    "x = torch.atan2(torch.ones(10**6, 1), torch.ones(10**6))",
    "x = torch.where(torch.ones(10**6, 1) > 0, torch.ones(10**6), 1)",
    "x = torch.logaddexp(other=torch.ones(10**6, 1), input=torch.ones(10**6))",
    "x = torch.isclose(torch.ones(10**6, 1), torch.ones(10**6))",
    "x = torch.allclose(torch.ones(10**6, 1), torch.ones(10**6))",
    "x = torch.nn.functional.mse_loss(torch.ones(10**6, 1), torch.ones(10**6))",
    "x = torch.nn.functional.cosine_similarity(torch.ones(10**6, 1, 2), torch.ones(10**6, 2), -1)",
    "x = divmod(torch.ones(10**6, 1), torch.ones(10**6))",
    "x = torch.ones(10**4, 1, 1, 1) @ torch.ones(1, 10**5, 1, 1)",
    "x = torch.matmul(other=torch.ones(1, 10**6), input=torch.ones(10**6, 1))",
    "x = torch.ones(10**6, 1).mm(torch.ones(1, 10**6))",
    "x = torch.nn.functional.linear(torch.ones(10**6, 1), torch.ones(10**6, 1))",
    "x = torch.einsum('i,j->ij', torch.ones(10**6), torch.ones(10**6))",
    "a = torch.ones(10**3, 10**3)\nx = torch.einsum('ai,bj,ij->ab', a, a, a)",
    "x = torch.tensordot(torch.ones(10**5), torch.ones(10**5), 0)",
    "x = torch.cdist(torch.ones(10**5, 1), torch.ones(10**5, 1))",
    "x = torch.kron(torch.ones(10**5), torch.ones(10**5))",
    "x = torch.cov(torch.ones(10**5, 2))",
    "x = torch.corrcoef(torch.ones(10**5, 2))",
    "x = torch.inner(torch.ones(10**5, 1), torch.ones(10**5, 1))",
    "x = torch.meshgrid(torch.ones(10**5), torch.ones(10**5))",
    "x = torch.cartesian_prod(torch.ones(10**5), torch.ones(10**5))",
    "x = torch.addmm(torch.ones(1), torch.ones(10**6, 1), torch.ones(1, 10**6))",
    "a = torch.ones(1, 10**6, 1)\nx = torch.nn.functional.scaled_dot_product_attention(a, a, a, a > 0)",
    "x = torch.linalg.svd(torch.ones(10**6, 1))",
    "x = torch.linalg.qr(torch.ones(10**6, 1), mode='complete')",
    "x = torch.diag(torch.ones(10**6))",
    "x = torch.nn.functional.embedding(torch.zeros(10**6).long(), torch.ones(1, 10**4))",
    "x = torch.ones(1, 10**4)[torch.zeros(10**6).long()]",
    "x = torch.ones(1, 10**4)[[0] * 10**6]",
    "x = torch.ones(10**6)[torch.ones(10**6) > 0, None][:, torch.zeros(10**4).long()]",
    "x = torch.ones(10**5, 1)[torch.ones(10**5) > 0, torch.zeros(10**5, 1).long()]",
    "x = torch.ones(1, 10**4)\nx[torch.zeros(10**6).long()] = 1",
    "x = torch.ones(1, 10**4)\nx[torch.zeros(10**6).long()] += 1",
    "x = torch.ones(1, 10**4).index_select(0, torch.zeros(10**6).long())",
    "x = torch.ones(1, 10**4).take_along_dim(torch.zeros(10**6, 1).long(), 0)",
    "x = torch.gather(torch.ones(1).expand(10**5, 1), 1, torch.zeros(1, 1).long().expand(10**5, 10**5))",
    "x = torch.histc(torch.ones(3), bins=10**12)",
    "x = torch.ones(3).bincount(minlength=10**12)",
    "x = torch.fft.fft(torch.ones(3), n=10**12)",
    "x = torch.fft.rfftfreq(10**12)",
    "x = torch.fft.irfft(torch.ones(3), 10**12)",
    "x = torch.nn.functional.one_hot(torch.tensor([10**12]))",
    "x = torch.tensor([[[0] * 1000] * 1000] * 1000)",
    "x = torch.as_tensor([[0] * 10**5] * 10**5)",
    "x = torch.stack([torch.ones(10**6)] * 10**6)",
    "x = torch.cat([torch.ones(10**6)] * 10**6)",
    "x = torch.hstack([torch.ones(10**6)] * 10**4)",
    "x = torch.ones(10**4).repeat(repeats=(10**5,))",
    "x = torch.ones(10**4).repeat_interleave(torch.tensor(10**6))",
    # Tokenizers and generation.
    "x = model.tokenizer('a' * 5 * 10**6)",
    "x = model.tokenizer(['a' * 10**5] * 1000)",
    "x = model.tokenizer.decode([0] * 5 * 10**6)",
    "x = model.tokenizer.convert_ids_to_tokens([0] * 5 * 10**6)",
    "x = list(map(model.tokenizer, ['a' * 5 * 10**6]))",
    "x = sorted(['a' * 5 * 10**6], key=model.tokenizer)",
    "x = model.to_tokens('a' * 5 * 10**6)",
    "x = model.to_str_tokens('a' * 5 * 10**6)",
    "x = model.generate('a', max_new_tokens=10**4, num_return_sequences=10**4)",
    "x = model.generate('a', max_new_tokens=10**4, num_beams=10**3)",
    "x = model.generate({'input_ids': [[1]], 'max_new_tokens': 10**9})",
    # Texts of programs.
    "x = " + "-" * 100_000 + "1",
    "x = " + "not " * 100_000 + "1",
    "x = model" + ".a" * 100_000,
    "x = " + "(" * 5000 + ")" * 5000,
    "x = " + "[" * 150 + "]" * 150,
    "x = " + "lambda: " * 10_000 + "1",
    "x = 1" + " + 1" * 100_000,
    "x = '" + "a" * 600_000 + "'",
]  # fmt: skip


@pytest.mark.parametrize("source", TOO_MUCH, ids=range(len(TOO_MUCH)))
def test_what_would_take_too_much_is_refused_before_it_is_done(attack, source):
    began = time.monotonic()
    with pytest.raises((RemoteError, PathError, RecursionError, TypeError)) as caught:
        attack(f"import math\n{source}\n")
    assert time.monotonic() - began < 90  # on a busy machine; what was asked for would take hours
    if isinstance(caught.value, TypeError):  # Python refuses it itself
        assert "prod" in source or "map(" in source


def test_a_number_of_steps_is_the_end(attack, monkeypatch):
    from nbsight.server.programs import expressions

    monkeypatch.setattr(expressions, "STEPS", 10_000)
    for source in (
        "while True:\n    pass",
        "for i in range(10**6):\n    pass\nx = i",
        "x = [i for i in range(10**6)]",
    ):
        with pytest.raises(OverBudget, match="steps"):
            attack(f"{source}\n")


# -- what stays ------------------------------------------------------------------------------------


def test_nothing_of_one_job_is_there_for_the_next(attack, local_model):
    attack("zz = 1\ny = torch.manual_seed(5)\nx = model.transformer.h[0].output[0].sum().item()")
    with pytest.raises(NameError):
        attack("x = zz")
    with pytest.raises(NameError):
        attack("x = nbsight_body")
    before = attack("x = model.output.sum().item()")["x"]
    attack("model.transformer.h[0].output[:] = 0\nx = 1")
    attack("with torch.no_grad():\n    x = model.tokenizer('a', truncation=True)")
    assert attack("x = model.output.sum().item()")["x"] == before
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32


def test_a_weight_cannot_be_written_through_what_a_module_returns(attack, local_model):
    weights = [*local_model._module.parameters(), *local_model._module.buffers()]
    before = [weight._version for weight in weights]
    for path in (
        "transformer.wte",
        "transformer.wpe",
        "transformer.h[0]",
        "transformer.ln_f",
        "transformer.drop",
    ):
        with torch.no_grad():
            attack(f"h = model.{path}.output\nwith torch.no_grad():\n    h[:] = 3\n    h.mul_(2)\nx = 1")
    assert [weight._version for weight in weights] == before


# -- the lists -------------------------------------------------------------------------------------


def test_every_function_of_torch_is_measured_or_known_not_to_grow():
    """Names that are said not to grow, tried: what they give is no more than what they are given."""
    wide, tall = torch.rand(6, 1), torch.rand(5)
    square = torch.rand(4, 4) + torch.eye(4)
    for name in sorted(growth.POINTWISE & names.TENSOR):
        for second in (tall, tall > 0):
            try:
                made = getattr(wide.expand(6, 5).clone(), name)(second)
            except (RuntimeError, TypeError, IndexError):
                continue
            for value in growth._flat([made]):
                assert not isinstance(value, torch.Tensor) or value.numel() <= 30, name
    tried = 0
    for name in sorted(growth.SAME & names.TENSOR - {"to", "save", "backward"}):
        for arguments in ((), (1,), (0, 1), (2,)):
            try:
                made = getattr(square.clone(), name)(*arguments)
            except (RuntimeError, TypeError, IndexError, ValueError):
                continue
            tried += 1
            for value in growth._flat([made]):
                assert not isinstance(value, torch.Tensor) or value.numel() <= 32, name  # 2: view_as_real
    assert tried > 150


def test_a_measured_call_is_as_large_as_the_real_one():
    seen = []

    class Meter(growth._Meter):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = super().__torch_dispatch__(func, types, args, kwargs)
            seen.extend(value.numel() for value in growth._flat([made]) if isinstance(value, torch.Tensor))
            return made

    a, b = torch.rand(7, 3), torch.rand(5, 3)
    for function, args in [
        (torch.cdist, (a, b)),
        (torch.outer, (a[:, 0], b[:, 0])),
        (torch.nn.functional.linear, (a, b)),
        (torch.linalg.svd, (a,)),
        (torch.nn.functional.pad, (a, (1, 2))),
        (torch.stack, ([a, a],)),
        (torch.einsum, ("ij,kj->ik", a, b)),
        (torch.fft.fft, (a, 9)),
    ]:
        seen.clear()
        with Meter():
            function(*growth._shadow(list(args)))
        real = max(value.numel() for value in growth._flat([function(*args)]))
        assert max(seen) >= real, function


def test_no_function_of_pythons_is_a_value():
    """Every value that a program can name is plain, ours, or one of torch's that is not called."""
    stack = [*surface.BUILTINS.values(), *surface.MODULES.values()]
    while stack:
        value = stack.pop()
        if isinstance(value, surface.Module):
            stack += value.names.values()
        else:
            check_value(value)
