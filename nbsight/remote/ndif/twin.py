"""A model and a block as nnsight has them: what `RequestModel` would write of them, for NDIF to read."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import yaml

from nbsight.core.backend import Job
from nbsight.core.envoy import Envoy
from nbsight.core.saving import save
from nbsight.errors import RemoteError
from nbsight.models.outputs import BlockOutput, LogitsOutput
from nbsight.models.views import Attention, Layer, Layers, Mlp
from nbsight.remote.ndif.shapes import with_promised_shapes
from nbsight.wire.jobs import encode_job
from nbsight.wire.missing import NotHere
from nbsight.wire.source import block_text, parse_text

__all__ = ["Request", "is_installed", "request_of"]

#: The level at which NDIF's own client compresses.
_LEVEL = 6


class Request(NamedTuple):
    """A block on its way to NDIF.

    Args:
        key: The model, as NDIF names it.
        envelope: The JSON that says where the block goes.
        blob: The block and what it takes along, as nnsight writes it.
        filename: The name under which the block's text travels.
    """

    key: str
    envelope: str
    blob: bytes
    filename: str


def is_installed() -> bool:
    """Whether nnsight is there to write its wire."""
    return "nnsight" in sys.modules or importlib.util.find_spec("nnsight") is not None


def request_of(job: Job, deployed: list[str]) -> Request:
    """A job as NDIF takes it.

    Args:
        job: The job.
        deployed: The keys of the models that NDIF has at work.

    Raises:
        RemoteError: the block, or something it takes along, cannot travel there.
    """
    _check(job)
    _nnsight()
    from nnsight.intervention.serialization import code_reduce, dumps
    from nnsight.ndif import pull_env
    from nnsight.schema.request import RequestModel
    from zstandard import ZstdCompressor

    twin = _twin_of(job.model)
    pull_env()  # modules of the user's go along as source
    source, line = block_text(job.block, job.lines)
    tree = parse_text(source, line)
    blocks = {
        f"{twin.path}.{path}.{number}"
        for path in job.model._blocks
        for number in range(len(job.model._module.get_submodule(path)))
    }
    values = _Values(job.model, twin)
    variables = {name: values.of(value, name) for name, value in job.values.items() if name != job.target}
    tracer = _tracer(job, twin, values)
    if job.target is not None:
        variables[job.target] = tracer
    text = with_promised_shapes(source, tree, line, blocks, twin.path)
    # nnsight reads a file of one name once only, and a cell that was changed has the name it had.
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    filename = f"{os.path.basename(job.block.filename) or job.block.filename}#{digest}"
    code = SimpleNamespace(co_filename=filename, co_firstlineno=1, co_name="<module>")
    frame: Any = SimpleNamespace(f_locals=variables, f_globals={}, f_code=code)
    tracer.info = type(tracer).Info(frame, None)
    try:
        blob = dumps((tracer, code_reduce(text, {}, variables)))
    except Exception as error:  # pickle fails in as many ways as there are objects
        raise RemoteError(f"the block cannot be written as nnsight writes it for NDIF: {error}") from error
    key = _key(job.model, twin, deployed)
    envelope = RequestModel(model_key=key, compress=True, env=twin._remoteable_get_env())
    return Request(key, envelope.metadata(), ZstdCompressor(level=_LEVEL).compress(blob), filename)


def _check(job: Job) -> None:
    """Refuse what NDIF cannot be told.

    Raises:
        RemoteError: what is refused, and what to write instead.
    """
    if not is_installed():
        raise RemoteError(
            "NDIF speaks nnsight's wire, which nnsight itself writes, and that is not installed. "
            'Write `pip install "nbsight[ndif]"`, and run the cell again.'
        )
    if getattr(job.model, "_loader", None) is None or not hasattr(job.model, "_blocks"):
        raise RemoteError(
            "NDIF knows models by their names on the hub, and this one was made from a module of yours. "
            'Open it by name: `nbsight.LanguageModel("openai-community/gpt2")`.'
        )
    if any(edit.enabled for edit in job.model._edits):
        raise RemoteError(
            "this model has kept edits (`model.edit()`), and they do not travel to NDIF. Write them into the "
            "block, or use the model without them."
        )
    encode_job(job)  # what does not travel at all is named here, with its line


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While nnsight is imported: keep it from putting `.save` on every object and from changing torch."""
    given = os.environ.get("NNSIGHT_CONFIG")
    base = os.environ.get("XDG_CONFIG_HOME", "~/.config")
    own = Path(given or f"{base}/nnsight/config.yaml").expanduser()
    try:
        config = yaml.safe_load(own.read_text())
    except (OSError, yaml.YAMLError):  # no file of the user's
        config = None
    config = config if isinstance(config, dict) else {}
    config["APP"] = {**(config.get("APP") or {}), "PYMOUNT": False, "DISABLE_CPP_BACKTRACE": False}
    backward = torch.Tensor.backward
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(yaml.safe_dump(config))
        os.environ["NNSIGHT_CONFIG"] = str(path)
        try:
            yield
        finally:
            torch.Tensor.backward = backward
            if given is None:
                del os.environ["NNSIGHT_CONFIG"]
            else:
                os.environ["NNSIGHT_CONFIG"] = given


def _nnsight() -> ModuleType:
    if "nnsight" not in sys.modules:
        with _quiet():
            import nnsight
        version = tuple(int(part) for part in nnsight.__version__.split(".")[:2])
        if version != (0, 8):
            raise RemoteError(
                f"NDIF's wire is written by nnsight 0.8, and {nnsight.__version__} is installed. "
                'Write `pip install "nbsight[ndif]"`.'
            )
    return sys.modules["nnsight"]


_twins: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def _twin_of(root: Any) -> Any:
    """The same model, as nnsight opens it: on the meta device, of its configuration alone."""
    twin = _twins.get(root._module)
    if twin is None:
        from nnsight.modeling.transformers import TransformersModel

        loader = root._loader
        options = {name: loader.common[name] for name in ("trust_remote_code",) if loader.common.get(name)}
        twin = _twins[root._module] = TransformersModel(
            loader.source.path,
            task="text-generation",
            tokenizer=root.tokenizer,
            config=loader.config,
            revision=loader.common.get("revision"),
            **loader.attention,
            **options,
        )
    return twin


def _key(root: Any, twin: Any, deployed: list[str]) -> str:
    """The model's name at NDIF: that of a deployment of it, else the one that nnsight makes."""
    name = f'"repo_id": "{root._name}"'.lower()
    revision = root._loader.common.get("revision")
    for key in deployed:
        if name in key.lower() and (revision is None or f'"{revision}"' in key):
            return key
    try:
        return twin.to_model_key()
    except Exception as error:  # it asks the hub for the name's right spelling
        known = ", ".join(sorted(deployed)) or "none that is at work"
        raise RemoteError(
            f'NDIF has no "{root._name}" at work, and its full name cannot be asked of the hub: {error} '
            f"NDIF has {known}."
        ) from None


def _tracer(job: Job, twin: Any, values: _Values) -> Any:
    from nnsight.tracing.tracer import Tracer

    args = [values.of(value, f"argument {place + 1}") for place, value in enumerate(job.args)]
    kwargs = {name: values.of(value, f"argument `{name}`") for name, value in job.kwargs.items()}
    if job.kind == "session":
        return Tracer()
    if job.method == "generate":
        return twin.trace(*args, fn=twin.generate, **kwargs)
    return twin.trace(*args, **kwargs)


class _Values:
    """Values of a block in nnsight's terms.

    Args:
        root: The model here.
        twin: The model as nnsight has it.
    """

    def __init__(self, root: Any, twin: Any) -> None:
        self._root = root
        self._twin = twin
        self._known: dict[int, Any] = {}

    def of(self, value: Any, place: str) -> Any:
        """One of them.

        Raises:
            RemoteError: NDIF does not know such a thing.
        """
        if isinstance(value, Envoy):
            return self._envoy(value)
        if isinstance(value, (Layer, Layers, Attention, Mlp)):
            raise RemoteError(
                f"`{place}` is one of nbsight's own names (`model.layers[3]`), which NDIF does not know. "
                f"Write the module's own: `{self._example()}`."
            )
        if isinstance(value, NotHere):
            value._fail()
        if isinstance(value, ModuleType) and value.__name__ == "nbsight":
            return sys.modules["nnsight"]
        if value is save:
            return sys.modules["nnsight"].save
        if isinstance(value, (BlockOutput, LogitsOutput)):
            value = value._plain
        if isinstance(value, torch.Tensor):
            return value if value.is_leaf else value.detach()
        if value is self._root.tokenizer:
            return self._twin.tokenizer
        return self._container(value, place)

    def _container(self, value: Any, place: str) -> Any:
        kind = type(value)
        if kind not in (list, tuple, dict):
            return value
        if id(value) in self._known:
            return self._known[id(value)]
        if kind is dict:
            made: dict[Any, Any] = {}
            self._known[id(value)] = made
            made.update({key: self.of(item, f"{place}[{key!r}]") for key, item in value.items()})
            return made
        items: list[Any] = []
        if kind is list:
            self._known[id(value)] = items
        items += [self.of(item, f"{place}[{number}]") for number, item in enumerate(value)]
        return items if kind is list else tuple(items)

    def _envoy(self, envoy: Envoy) -> Any:
        found = self._twin
        for part in filter(None, envoy._path.split(".")):
            found = found[int(part)] if part.isdecimal() else getattr(found, part)
        return found

    def _example(self) -> str:
        blocks = self._root._blocks
        return f"model.{blocks[0]}[3]" if blocks else "model.transformer.h[3]"
