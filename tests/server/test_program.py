"""The `program` tier: what it computes, and what it refuses to whoever writes his own messages."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nbsight
from nbsight.errors import PathError, RemoteError
from nbsight.models.language_model import LanguageModel
from nbsight.remote.job import RemoteJob, Sender
from nbsight.server.programs.expressions import Scope
from nbsight.server.programs.sizes import OverBudget
from nbsight.server.programs.statements import Interpreter
from nbsight.server.worker import Worker
from nbsight.wire.jobs import pack_job
from nbsight.wire.messages import frame
from nbsight.wire.source import parse_text
from tests.server.running import KEYS

PROMPT = "The capital of France is"


class Keep:
    """A backend that keeps the parcel."""

    def run(self, job):
        self.job = job
        self.parcel = pack_job(job)
        return {}


@pytest.fixture(scope="module")
def keep():
    keep = Keep()
    model = LanguageModel("nbsight/demo")
    given = 3
    with model.trace(PROMPT, remote=keep) as tracer:
        x = given + torch.zeros(1).sum().item() + len(model.transformer.h) + nbsight.save([1])[0]
        nothing = tracer
    return keep


@pytest.fixture
def there(program_server, keep):
    """Runs a source on the server, past all checks of the client's; returns the names that it bound."""

    def run(source: str, **changes) -> dict:
        header = json.loads(keep.parcel.header)
        names = sorted({word for word in ["x", "y", "z", "w", "out", "h"] if word in source})
        header["program"] |= {"source": source, "line": 1, "stores": names}
        header["withheld"] = {}
        for key, value in changes.items():
            header[key] = header[key] | value if isinstance(header.get(key), dict) else value
        data = frame(json.dumps(header).encode(), keep.parcel.blob)
        client = program_server.client()
        stream = client.submit(data)
        job = RemoteJob(
            client, next(stream).data["id"], Sender(keep.job.model, {}, keep.parcel.files), stream
        )
        return job.result(30, verbose=False)

    return run


# -- it computes what Python computes --------------------------------------------------------------

# fmt: off
# ruff: noqa: E501
SAME = [
    "x = 1 + 2 * 3 - 4 // 3 ** 2 % 5\ny = 7 / 2",
    "x = [i * i for i in range(10) if i % 2]\ny = {k: v for k, v in zip('abc', range(3))}\nz = {1, 2} | {3}",
    "x = 0\nfor i in range(10):\n    if i == 3:\n        continue\n    if i == 7:\n        break\n    x += i\nelse:\n    x = -1",
    "x = 10\nwhile x > 3:\n    x -= 2\nelse:\n    y = 'done'",
    "def f(a, b=2, *c, d, e=5, **g):\n    return a, b, c, d, e, g\nx = f(1, d=4)\ny = f(1, 2, 3, 4, d=5, h=6)",
    "def make(n):\n    def add(m):\n        return n + m\n    return add\nx = make(3)(4)",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\nx = fib(10)",
    "x = (lambda a, b=3: a * b)(4)\ny = sorted(['bb', 'a'], key=len)\nz = sorted([3, 1], key=lambda v: -v)",
    "a, *b, c = range(5)\n(d, e), z = (1, 2), 3\nx, y = b, (a, c, d, e)",
    "x = f'{3.14159:.2f} {42:>5} {\"a\"!r} {1 + 1}'\ny = 'a-b'.split('-')\nz = ' '.join(y).upper()",
    "x = [0] * 3\nx[1] = 5\nx[-1] += 2\ny = x[::-1]\ndel x[0]\nz = {'a': 1}\nz['b'] = 2\nw = z.get('c', 9)",
    "x = 1 < 2 < 3\ny = not (1 in [2] or 3 not in (3,))\nz = None is None and 5 or 6",
    "x = [y := 5, y ** 2]\nassert x, 'no'",
    "x = list(map(abs, [-1, 2]))\ny = list(filter(None, [0, 1]))\nz = max([1, 5, 3])\nw = min(4, 2)",
    "x = [[i + j for j in range(i)] for i in range(3)]\ny = any(v > 1 for v in [1, 2])\nz = sum(x[2])",
    "import math\nfrom math import sqrt\nx = math.floor(sqrt(10)) + math.pi\ny = isinstance(x, (int, float))",
    "x = {**{'a': 1}, 'b': 2}\ny = [*range(3), *'ab']\nz = dict(c=3)\nw = (1, 2, 3)[1:]",
    "x = [1, 2]\ny = x\ny += [3]\nz = x",
]  # fmt: skip


def _plainly(source: str) -> dict:
    names: dict = {}
    exec(source, names)
    return {name: names[name] for name in "xyzw" if name in names}


def _interpreted(source: str) -> dict:
    names: dict = {}
    interpreter = Interpreter()
    interpreter.run(parse_text(source, 1).body, Scope(names, None, "<test>"))
    return {name: names[name] for name in "xyzw" if name in names}


@pytest.mark.parametrize("source", SAME)
def test_python_is_python(source):
    assert _interpreted(source) == _plainly(source)


_numbers = st.integers(-20, 20) | st.floats(-9, 9, allow_nan=False) | st.booleans()
_expressions = st.recursive(
    _numbers.map(repr),
    lambda inner: st.tuples(
        st.sampled_from(
            ["+", "-", "*", "/", "//", "%", "**", "<<", "&", "|", "<", "<=", "==", "!=", "and", "or"]
        ),
        inner,
        inner,
    ).map(lambda parts: f"({parts[1]} {parts[0]} {parts[2]})"),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(_expressions)
def test_arithmetic_gives_pythons_value_or_pythons_error(expression):
    def outcome(run):
        try:
            return repr(run(f"x = {expression}")["x"])
        except Exception as error:
            return type(error)

    found = outcome(_interpreted)
    assert found is OverBudget or found == outcome(_plainly)


TORCH = [
    "x = torch.arange(6.0).reshape(2, 3) @ torch.ones(3, 2)\ny = torch.softmax(x, dim=-1).topk(1).indices",
    "x = torch.zeros(3)\nx[1:] += 2\nx[0] = -1\ny = (x * 3).mean(dim=0, keepdim=True)\nz = x.clone().add_(1)",
    "x = torch.nn.functional.layer_norm(torch.arange(4.0), (4,))\ny = torch.linalg.norm(x)\nz = x.to(torch.float64)",
    "x = torch.einsum('ij,kj->ik', torch.eye(3), torch.ones(2, 3))\ny = torch.stack([x, x]).sum(0)[0, -1].item()",
    "x = torch.cat([torch.ones(2), torch.zeros(2)])\ny = torch.where(x > 0, x, -x).argmax()\nz = x.shape\nw = x.dtype",
]  # fmt: skip


@pytest.mark.parametrize("source", TORCH)
def test_torch_is_torch(source):
    found, wanted = _interpreted(f"import torch\n{source}"), _plainly(f"import torch\n{source}")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        same = torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
        assert same, name


def test_a_block_reads_and_edits_the_model(there, local_model):
    source = (
        "model.transformer.h[2].mlp.output[:] = 0\n"
        "h = model.transformer.h[3].output[0].save()\n"
        "out = model.layers[4].resid_post.norm().item()\n"
        "y = model.tokenizer.decode(model.output[0, -1].argmax(-1).item())\n"
        "z = model.lm_head(model.transformer.ln_f(h))[0, -1].argmax().item()\n"
    )
    with local_model.trace(PROMPT):
        local_model.transformer.h[2].mlp.output[:] = 0
        wanted = local_model.transformer.h[3].output[0].save()
        norm = local_model.layers[4].resid_post.norm().item()
        text = local_model.tokenizer.decode(local_model.output[0, -1].argmax(-1).item())
    found = there(source)
    assert torch.equal(found["h"], wanted)
    assert (found["out"], found["y"]) == (norm, text)


# -- what it refuses -------------------------------------------------------------------------------

TOO_MUCH = [
    "x = 10**10**8",
    "x = 2 ** (2 ** 40)",
    "x = 1 << 10**12",
    "x = 3\nwhile True:\n    x = x * x",
    "x = 'a' * 10**12",
    "x = 10**12 * [0]",
    "x = (0,) * 10**12",
    "x = 'a'\nwhile True:\n    x = x + x",
    "x = [0]\nwhile True:\n    x.extend(x)",
    "x = [0]\nwhile True:\n    x += x",
    "x = list(range(10**12))",
    "x = round(5, -10**9)",
    "x = sum(range(10**12))",
    "x = f'{1:>1000000000}'",
    "x = f'{1.0:.999999999f}'",
    "x = torch.zeros(10**12)",
    "x = torch.zeros((10**6, 10**6))",
    "x = torch.ones(size=(10**9, 10**9))",
    "x = torch.full((10**12,), 1.0)",
    "x = torch.arange(10**12)",
    "x = torch.linspace(0, 1, 10**12)",
    "x = torch.eye(10**6)",
    "x = torch.randn(10**5, 10**5)",
    "x = torch.randint(0, 2, (10**12,))",
    "x = torch.ones(4).repeat(10**12)",
    "x = torch.ones(4).repeat_interleave(10**12)",
    "x = torch.ones(4).new_zeros(10**12)",
    "x = torch.tile(torch.ones(4), (10**12,))",
    "x = torch.nn.functional.one_hot(torch.tensor([0]), 10**12)",
    "x = torch.nn.functional.pad(torch.ones(1), (0, 10**12))",
    "x = torch.outer(torch.ones(10**6), torch.ones(10**6))",
    "x = torch.ones(10**6, 1) * torch.ones(10**6)",
    "x = torch.ones(10**6, 1) @ torch.ones(1, 10**6)",
    "x = torch.bincount(torch.tensor([10**12]))",
    "x = torch.ones(10**7).tolist()",
    "x = list(torch.ones(10**7))",
    "x = 'aaaa' * 10**6\ny = x.replace('a', x)",
    "import math\nx = math.factorial(10**7)",
    "def f(n):\n    return f(n)\nx = f(1)",
    "x = (lambda f: f(f))(lambda f: f(f))",
    "x = []\nfor i in range(10**7):\n    x = [x]\n    y = i\nwhile True:\n    y += 1",
]  # fmt: skip


@pytest.mark.parametrize("source", TOO_MUCH)
def test_what_would_take_too_much_is_refused_before_it_is_done(there, program_server, source):
    pids, began = program_server.workers(), time.monotonic()
    with pytest.raises(RemoteError) as caught:
        there(f"import torch\n{source}")
    limited = "while True" in source
    assert time.monotonic() - began < (20 if limited else 3)
    assert limited or program_server.workers() == pids
    message = (
        "longer than it may" if limited and "[x]" in source else "are the most here|60 deep|format|1,000"
    )
    assert re.search(message, str(caught.value))


FORBIDDEN = [
    "x = ().__class__",
    "x = ().__class__.__bases__[0].__subclasses__()",
    "x = model._module",
    "x = model.__class__",
    "x = (lambda: 0).__globals__",
    "x = torch.__dict__",
    "x = nbsight.save.__globals__",
    "x = print.__self__",
    "x = __builtins__",
    "x = __import__('os')",
    "import os",
    "import os.path as x",
    "import torch.hub",
    "from os import system",
    "from torch import load",
    "from torch import hub",
    "from . import x",
    "x = open('/etc/passwd').read()",
    "x = eval('1')",
    "x = exec('1')",
    "x = compile('1', '', 'eval')",
    "x = globals()",
    "x = locals()",
    "x = vars(model)",
    "x = dir(model)",
    "x = getattr(model, '_module')",
    "x = setattr(model, 'x', 1)",
    "x = type(1)",
    "x = object()",
    "x = super()",
    "x = input()",
    "x = breakpoint()",
    "x = memoryview(b'1')",
    "x = '{0.__class__}'.format(1)",
    "x = '%s' % model",
    "x = torch.load('/etc/passwd')",
    "x = torch.save(1, '/tmp/x')",
    "x = torch.hub.load('a', 'b')",
    "x = torch.ops.aten",
    "x = torch.classes.load_library('x')",
    "x = torch.utils.cpp_extension",
    "x = torch.jit.script",
    "x = torch.compile",
    "x = torch.from_file('/etc/passwd')",
    "x = torch.set_default_dtype(torch.float64)",
    "x = torch.set_num_threads(1000)",
    "x = torch.empty(10)",
    "x = torch.empty_like(torch.ones(10))",
    "x = torch.ones(1).new_empty(10)",
    "x = torch.Tensor(10)",
    "x = torch.Tensor.apply_",
    "x = torch.ones(1).apply_(print)",
    "x = torch.ones(1).map_(torch.ones(1), print)",
    "x = torch.ones(1).numpy()",
    "x = torch.ones(1).data",
    "x = torch.ones(1).data_ptr()",
    "x = torch.ones(1).storage()",
    "x = torch.ones(1).untyped_storage()",
    "x = torch.ones(1).as_strided((100,), (1,))",
    "x = torch.ones(1).set_(torch.ones(2))",
    "x = torch.ones(1).resize_(100)",
    "x = torch.ones(1).register_hook(print)",
    "x = torch.ones(1).share_memory_()",
    "x = torch.ones(1).grad_fn",
    "x = torch.ones(1).to('cuda:0')",
    "x = torch.ones(1).cuda()",
    "x = torch.ones(1)\nx.data = torch.ones(2)",
    "x = torch.ones(1)\nx.shape = 3",
    "x = model.transformer.wte.weight",
    "x = model.transformer.h[0].attn.bias",
    "x = model.transformer.wte.parameters()",
    "x = model.state_dict()",
    "x = model.to('meta')",
    "x = model.train()",
    "x = model.edit()",
    "x = model.start('a')",
    "x = model.modules()",
    "x = model.get('transformer')",
    "x = model.root",
    "x = model.transformer.h[0].source",
    "model.transformer = 1",
    "model.anything = 1",
    "model.tokenizer = 1",
    "x = model.tokenizer.save_pretrained('/tmp/nbsight-escape')",
    "x = model.tokenizer.from_pretrained('/etc')",
    "x = model.tokenizer.backend_tokenizer",
    "x = model.tokenizer.name_or_path",
    "x = model.tokenizer('a', padding='max_length', max_length=10**12)",
    "x = model.config.save_pretrained('/tmp/nbsight-escape')",
    "x = model.config.to_dict()",
    "x = tracer.root",
    "x = tracer.frame",
    "x = tracer.run",
    "x = tracer.args",
    "x = tracer.cache()",
    "x = print('a', file=model)",
    "x = sorted([1], key=open)",
    "x = list(map(print.__call__, [1]))",
    "with open('/tmp/x', 'w') as x:\n    pass",
    "with model.edit() as x:\n    pass",
    "class x:\n    pass",
    "try:\n    x = 1\nexcept Exception:\n    pass",
    "raise ValueError",
    "global x",
    "def f():\n    nonlocal x",
    "def f():\n    yield 1\nx = f()",
    "async def f():\n    pass",
    "@print\ndef f():\n    pass",
    "match 1:\n    case 1:\n        pass",
    "x = [y async for y in z]",
    "x = 1 .__add__(2)",
    "def __nbsight_body__(x):\n    pass",
    "import math as __builtins__",
    "x = dict(__class__=1)",
    "x = model.transformer['_module']",
    "x = model.transformer.h['__class__']",
    f"x = 0x{'f' * 2000}",
    "x = slice(1).__reduce__()",
    "for x in model.tokenizer:\n    pass",
    "x = model.tokenizer[0]",
    "x = model['_module']",
    "x = tracer.iter.tracer",
    "del model.transformer",
    "x = torch.ones(1)(2)",
    "x = 'abc'()",
    "x = torch()",
    "x = model.generate('a', custom_generate='/tmp/x')",
    "with model.generate('a', custom_generate='/tmp/x') as x:\n    pass",
    "with model.generate('a', **{'custom_generate': '/tmp/x'}) as x:\n    pass",
    "with model.trace('a', cache_dir='/tmp/x') as x:\n    pass",
    "with model.generate('a', max_new_tokens=10**9) as x:\n    pass",
    "with model.trace() as y:\n    with y.invoke('a', custom_generate='/tmp/x'):\n        pass",
]  # fmt: skip


@pytest.mark.parametrize("source", FORBIDDEN)
def test_what_reaches_further_than_a_program_is_refused(there, program_server, source):
    pids = program_server.workers()
    with pytest.raises((RemoteError, PathError, NameError, ImportError, TypeError)):
        there(f"{source}\n")
    assert not os.path.exists("/tmp/nbsight-escape")
    assert program_server.workers() == pids


MESSAGES = [
    {"captures": {"x": {"$name": "torch:load"}}},
    {"captures": {"x": {"$name": "builtins:open"}}},
    {"captures": {"x": {"$name": "builtins:getattr"}}},
    {"captures": {"x": {"$name": "torch:Tensor.numpy"}}},
    {"captures": {"x": {"$name": "os:system"}}},
    {"captures": {"x": {"$module": "os"}}},
    {"captures": {"x": {"$range": [0, {"$int": "0xffffffffffff"}, 1]}}},
    {"captures": {"x": {"$int": "0x" + "f" * 100_000}}},
    {"captures": {"__builtins__": 1}},
    {"captures": {"__nbsight_body__": 1}},
    {"spaces": [{"names": {"__builtins__": 1}, "shared": True}]},
    {"program": {"target": "__builtins__"}},
    {"program": {"line": 10**12}},
    {"program": {"line": -5}},
    {"captures": {"x": {"$module": "numpy"}}},
    {"captures": {"x": {"$method": "numpy", "of": 1}}},
    {"captures": {"x": {"$partial": [1, {"$tuple": []}, {"$dict": [], "id": 7}]}}},
    {"captures": {"x": {"$parameter": "transformer.wte.weight"}}},
    {"captures": {"x": {"$submodule": "transformer"}}},
    {"kwargs": {"custom_generate": "/tmp/x"}},
    {"kwargs": {"max_new_tokens": 10**9}, "method": "generate"},
    {"kwargs": {"cache_dir": "/tmp/x"}},
    {"method": "save_pretrained"},
    {"method": "__init__"},
]


@pytest.mark.parametrize("change", MESSAGES)
def test_what_a_message_brings_is_what_a_program_may_hold(there, change):
    with pytest.raises(RemoteError):
        there("y = 1", **change)


@pytest.mark.parametrize(
    "text", ["lambda: ().__class__", "def f():\n    import os\n", "@print\ndef f():\n    pass\n"]
)
def test_a_function_that_comes_along_is_a_program_too(there, keep, text):
    code = {
        "source": text, "filename": "x.py", "line": 1, "name": "<lambda>" if "lambda" in text else "f",
        "decorated": False, "free": [], "decorators": [], "space": 0, "values": {}, "defaults": None,
        "kwdefaults": None,
    }  # fmt: skip
    with pytest.raises(RemoteError):
        there("y = g()", captures={"g": {"$fn": code, "id": 99}}, spaces=[{"names": {}, "shared": False}])


def test_an_error_stands_on_the_users_line(program_server, monkeypatch, model):
    monkeypatch.setenv("NBSIGHT_HOST", program_server.url)
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])

    def half(x):
        return x / 0

    with pytest.raises(ZeroDivisionError) as caught:
        with model.trace(PROMPT, remote=True):
            h = model.transformer.h[1].output[0].save()
            x = half(3)
    lines = [str(entry.statement) for entry in caught.traceback if str(entry.path) == __file__]
    assert lines[-2:] == ["            x = half(3)", "        return x / 0"]


def test_a_block_that_is_no_program_is_named_before_it_is_sent(program_server, monkeypatch, model):
    monkeypatch.setenv("NBSIGHT_HOST", program_server.url)
    monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
    before = len(program_server.client().jobs(10_000))
    with pytest.raises(RemoteError, match=r"interprets blocks.*\n  line \d+: import os"):
        with model.trace(PROMPT, remote=True):
            import os

            x = os.getcwd()
    assert len(program_server.client().jobs(10_000)) == before


def test_a_weight_that_was_changed_all_the_same_is_noticed(local_model):
    worker = Worker(None)
    with worker._unchanged(local_model):
        with local_model.trace(PROMPT):
            local_model.transformer.h[0].output[:] = 0
    assert not worker.is_spoilt
    with worker._unchanged(local_model), torch.no_grad():
        local_model._module.transformer.wte.weight.add_(0)
    assert worker.is_spoilt


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.sampled_from("xyf()[]{}.:,=+*'\n 019_@\\%"), max_size=40))
def test_any_text_is_run_or_refused(there, program_server, text):
    pids = program_server.workers()
    with contextlib.suppress(Exception):  # whatever it is, the worker goes on
        there(text)
    assert program_server.workers() == pids
