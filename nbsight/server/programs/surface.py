"""The lists: which functions, methods and attributes there are for a program.

Each value's type has a table; a name that is not on it does not exist. Nothing here reads weights,
files or the clock, makes memory that was not written to, or takes a function that is not a wrapper.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from nbsight.core.envoy import Envoy
from nbsight.core.invokes import Invoker
from nbsight.core.loops import Loop, Loops
from nbsight.core.saving import save
from nbsight.core.session import Session
from nbsight.core.stacking import stack_steps
from nbsight.core.steps import Step, StepList
from nbsight.core.tracer import Tracer
from nbsight.errors import PathError, RemoteError
from nbsight.models.inputs import INPUT_NAMES, ROW_FIELDS
from nbsight.models.language_model import LanguageModel
from nbsight.models.layout import MODEL_NAMES, SIZES
from nbsight.models.outputs import LogitsOutput
from nbsight.models.views import Across, Attention, Layer, Layers
from nbsight.server.programs import names
from nbsight.server.programs.limits import OverBudget, check_letters
from nbsight.server.programs.sizes import CHECKS, SEQUENCE_CHECKS, torch_check
from nbsight.server.programs.texts import repr_of, text_of
from nbsight.server.programs.values import Allowed, Bound, Module

__all__ = [
    "BUILTINS",
    "ITERABLE",
    "MANAGERS",
    "MODULES",
    "attribute",
    "call_tokenizer",
    "check_aliases",
    "check_options",
    "function_at",
    "settable",
]


def _wrapped(
    home: Any, wanted: Iterable[str], prefix: str, checks: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Functions of a module; those of torch's are measured, others have the checks that are given."""
    found = {name: getattr(home, name) for name in wanted if hasattr(home, name)}
    return {
        name: Allowed(
            f"{prefix}.{name}",
            function,
            torch_check(name, function) if checks is None else checks.get(name),
        )
        for name, function in found.items()
    }


def _dtypes() -> dict[str, torch.dtype]:
    return {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


def _never(args: Any, kwargs: Any) -> None:
    raise PathError("this class is for `isinstance`; write `torch.tensor(...)` or `torch.zeros(...)`.")


_functional = Module(
    "torch.nn.functional", _wrapped(torch.nn.functional, names.FUNCTIONAL, "torch.nn.functional")
)
_torch = Module(
    "torch",
    {
        **_wrapped(torch, (*names.BOTH, *names.FUNCTIONS), "torch"),
        **_dtypes(),
        **{name: getattr(torch, name) for name in names.CONSTANTS if hasattr(torch, name)},
        "Tensor": Allowed("torch.Tensor", torch.Tensor, _never),
        "linalg": Module("torch.linalg", _wrapped(torch.linalg, names.LINALG, "torch.linalg")),
        "fft": Module("torch.fft", _wrapped(torch.fft, names.FFT, "torch.fft")),
        "nn": Module("torch.nn", {"functional": _functional}),
        "autograd": Module("torch.autograd", _wrapped(torch.autograd, ["grad"], "torch.autograd")),
    },
)

#: The modules of a program, by name.
MODULES: dict[str, Module] = {
    "torch": _torch,
    "torch.nn": _torch.names["nn"],
    "torch.nn.functional": _functional,
    "math": Module(
        "math",
        {
            **_wrapped(math, names.MATH, "math", CHECKS),
            **{name: getattr(math, name) for name in ["pi", "e", "inf", "nan", "tau"]},
        },
    ),
    "nbsight": Module(
        "nbsight", {"save": Allowed("save", save), "stack_steps": Allowed("stack_steps", stack_steps)}
    ),
}

# -- Python's own ----------------------------------------------------------------------------------

_PLAIN = names.words(
    "abs all any bool complex dict divmod enumerate float frozenset int len list range reversed round set "
    "slice sum tuple zip"
)
_CALLING = ["filter", "map", "max", "min", "sorted"]


def _print(*values: Any, sep: str = " ", end: str = "\n", flush: bool = False) -> None:
    print(*map(text_of, values), sep=text_of(sep), end=text_of(end))


def _builtins() -> dict[str, Any]:
    import builtins

    found = {name: Allowed(name, getattr(builtins, name), CHECKS.get(name)) for name in _PLAIN}
    found |= {name: Allowed(name, getattr(builtins, name), CHECKS.get(name), calls=True) for name in _CALLING}
    found["pow"] = Allowed("pow", pow, CHECKS["pow"])
    found |= {
        "str": Allowed("str", text_of),
        "print": Allowed("print", _print),
        "repr": Allowed("repr", repr_of),
    }
    return found


BUILTINS: dict[str, Any] = _builtins()

_TEXT = (
    "capitalize casefold count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric "
    "isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex "
    "rpartition rsplit rstrip split splitlines startswith strip swapcase title upper"
)
_LIST = "append clear copy count extend index insert pop remove reverse sort"
_DICT = "clear copy get items keys pop popitem setdefault update values"
_SET = (
    "add clear copy difference discard intersection isdisjoint issubset issuperset pop remove "
    "symmetric_difference union update"
)
_TOKENIZER = "encode decode batch_decode convert_ids_to_tokens convert_tokens_to_ids tokenize"
_TOKENIZER_DATA = (
    "eos_token_id bos_token_id pad_token_id eos_token bos_token pad_token unk_token unk_token_id vocab_size "
    "padding_side model_max_length"
)

#: Methods and data of types, in the order in which a value is looked at.
_TABLES: list[tuple[type | tuple[type, ...], str, str]] = [
    (str, _TEXT, ""),
    (Step, "", "is_prompt position tokens token_ids token token_id"),
    ((bool, int), "bit_length", "real imag"),
    (float, "is_integer", "real imag"),
    (complex, "conjugate", "real imag"),
    (torch.Size, "numel index count", ""),
    (tuple, "index count", ""),
    (list, _LIST, ""),
    (collections.deque, _LIST + " appendleft popleft", ""),
    (dict, _DICT, ""),
    ((set, frozenset), _SET, ""),
    (range, "index count", "start stop step"),
    (slice, "", "start stop step"),
    (StepList, "", ""),
    (Tracer, "all next invoke stop barrier", "iter steps result"),
    (Session, "", ""),
    (Loops, "", ""),
    (Invoker, "", ""),
    (Across, "", ""),
    (torch.dtype, "", "is_floating_point is_complex itemsize"),
    (torch.device, "", "type index"),
]

_GETTERS: dict[type | tuple[type, ...], tuple[frozenset[str], frozenset[str]]] = {
    kind: (frozenset(methods.split()), frozenset(data.split())) for kind, methods, data in _TABLES
}

#: Values that a `for`, a `*` or a comprehension may go through.
ITERABLE: tuple[Any, ...] = (
    *(
        str,
        bytes,
        list,
        tuple,
        dict,
        set,
        frozenset,
        range,
        collections.deque,
        torch.Tensor,
        StepList,
        Loop,
        Loops,
    ),
    *(
        Layers,
        Envoy,
        enumerate,
        zip,
        map,
        filter,
        reversed,
        type({}.keys()),
        type({}.values()),
        type({}.items()),
    ),
)

#: Values that a `with` may enter.
MANAGERS = (torch.no_grad, torch.enable_grad, Tracer, Session)

_ROOT_METHODS = frozenset(
    names.words("trace generate session to_tokens to_str_tokens to_string to_single_token single_token")
)
_RUNS = frozenset({"trace", "generate", "session"})
_VALUES = frozenset({"output", "input", "inputs"})

#: What a run may be given besides its input; nothing that calls, loads or remembers.
_OPTIONS = frozenset(
    names.words(
        "max_new_tokens min_new_tokens do_sample temperature top_k top_p num_beams num_return_sequences "
        "early_stopping repetition_penalty length_penalty no_repeat_ngram_size eos_token_id pad_token_id "
        "bos_token_id seed input_ids attention_mask position_ids token_type_ids labels output_attentions "
        "output_hidden_states use_cache strict_order check_finite receipts renormalize_logits "
        "typical_p min_p return_dict_in_generate output_scores output_logits grad finish remote "
        "blocking verbose"
    )
)

#: Fields of an input that is given as a dict, beside the options.
_FIELDS_IN = frozenset(
    (*INPUT_NAMES, *ROW_FIELDS, "return_dict", "logits_to_keep", "special_tokens_mask", "role", "content")
)

_MOST_TOKENS = 10_000

#: Rows of a generation times the tokens of each.
_MOST_IN_ALL = 1_000_000

_COUNTS = ("max_new_tokens", "min_new_tokens", "num_beams", "num_return_sequences", "top_k")


def check_options(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Refuse options of a run that are not on the list: some of `generate`'s load code.

    An input may be a dict, whose entries become options too. Where a run was to run is taken out: it is here.

    Raises:
        RemoteError: there is such a one.
    """
    given_here = args[1:] if args and isinstance(args[0], (Envoy, Tracer)) else args  # a method's own
    if len(given_here) > 1:
        raise RemoteError(
            "a run is given its input alone in a program on this server, and options by name, such as "
            "`max_new_tokens=20`."
        )
    for name in ("remote", "blocking"):
        kwargs.pop(name, None)
    given = [kwargs, *_mappings(args, 0)]
    wrong = sorted({str(name) for names in given for name in names} - _OPTIONS - _FIELDS_IN)
    if wrong:
        raise RemoteError(f"a run is not given {', '.join(wrong)} in a program on this server.")
    for options in given:
        _check_counts(options)
        # Not text would be a picture, say, by its address, which would be fetched.
        if not isinstance(options.get("content", ""), str):
            raise RemoteError("the content of a chat's message is text in a program on this server.")
    check_letters([*args, *(value for value in kwargs.values() if not isinstance(value, torch.Tensor))])


def _check_counts(options: Mapping[str, Any]) -> None:
    for name in _COUNTS:
        count = options.get(name)
        if count is not None and (type(count) is not int or count > _MOST_TOKENS):
            raise RemoteError(f"{name}={count!r}; a number up to {_MOST_TOKENS:,} is taken here.")
    rows = max(options.get("num_beams") or 1, options.get("num_return_sequences") or 1)
    tokens = rows * max(options.get("max_new_tokens") or 1, options.get("min_new_tokens") or 1)
    if tokens > _MOST_IN_ALL:
        raise OverBudget(f"this asks for {tokens:,} tokens, and {_MOST_IN_ALL:,} are the most here.")


def _mappings(values: Iterable[Any], deep: int) -> Iterator[Mapping[str, Any]]:
    """The dicts among values, and among those in lists."""
    for value in values:
        if isinstance(value, Mapping):
            yield value
        elif isinstance(value, (list, tuple)) and deep < 3:
            yield from _mappings(value, deep + 1)


def attribute(value: Any, name: str, get: Callable[[Any, str], Any]) -> Any:
    """An attribute of a value, if the table of its type has one of that name.

    Args:
        get: Reads it, from the user's line.

    Raises:
        PathError: it has none, for a program.
    """
    if isinstance(value, Module):
        if name in value.names:
            return value.names[name]
        raise PathError(f"`{value.name}.{name}` is not one of the functions that a program may use.")
    if isinstance(value, torch.Tensor):
        return _of_tensor(value, name, get)
    if isinstance(value, Envoy):
        return _of_envoy(value, name, get)
    if isinstance(value, (Layer, Attention)):
        own = name in value._names or name in _VALUES or (name == "attn" and isinstance(value, Layer))
        return get(value, name) if own else attribute(value._native, name, get)
    for kind, (methods, data) in _GETTERS.items():
        if isinstance(value, kind):
            if name in methods:
                return Bound(value, name, check_options if name == "invoke" else SEQUENCE_CHECKS.get(name))
            if name in data:
                return get(value, name)
            break
    found = _of_record(value, name, get)
    if found is not None:
        return found
    raise _absent(value, name)


def _absent(value: Any, name: str) -> PathError:
    kind = "function" if isinstance(value, (Allowed, Bound)) else type(value).__name__
    return PathError(f"`.{name}` of a value of type {kind} is not for programs on this server.")


def _of_tensor(value: torch.Tensor, name: str, get: Callable[[Any, str], Any]) -> Any:
    if name in names.DATA or (name == "logits" and isinstance(value, LogitsOutput)):
        return get(value, name)
    if name in names.TENSOR:
        return Bound(value, name, _TENSOR_CHECKS[name])
    if isinstance(value, LogitsOutput) and name in _FIELDS:
        return get(value, name)
    raise _absent(value, name)


def _of_envoy(value: Envoy, name: str, get: Callable[[Any, str], Any]) -> Any:
    root = value._root is value
    if name in value._module._modules or name in _VALUES or _is_alias(value, name):
        return get(value, name)
    if name == "skip":
        return Bound(value, name, None)
    if root and name in _ROOT_METHODS:
        return Bound(value, name, check_options if name in _RUNS else _letters)
    if root and name in ("tokenizer", "config", "layers", *MODEL_NAMES, *SIZES, "ln_final", "unembed"):
        return get(value, name)
    if name in value._module._parameters or name in value._module._buffers:
        raise PathError(f"`{name}` is a weight, and a program does not read weights.")
    raise PathError(f"`{value._path or 'model'}.{name}` is not there, or not for a program on this server.")


_TENSOR_CHECKS = {name: torch_check(name, getattr(torch.Tensor, name)) for name in names.TENSOR}


def _is_alias(value: Envoy, name: str) -> bool:
    path = f"{value._path}.{name}" if value._path else name
    return path in (value._root.__dict__.get("_aliases") or {}) and not hasattr(type(value), name)


def check_aliases(aliases: Mapping[str, str]) -> None:
    """Refuse other names for modules that are names of something else, as `rename=` does.

    Raises:
        PathError: there is such a one.
    """
    for path in aliases:
        name = path.rpartition(".")[2]
        if not name.isidentifier() or name.startswith("_") or hasattr(LanguageModel, name):
            raise PathError(f"{name!r} means something else, and no module of a job is called so.")


def _letters(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    check_letters((*args[1:], *kwargs.values()))


_FIELDS = frozenset(
    ["logits", "loss", "hidden_states", "attentions", "last_hidden_state", "encoder_last_hidden_state"]
)


def _of_record(value: Any, name: str, get: Callable[[Any, str], Any]) -> Any:
    """Tokenizers, configurations, the named tuples of torch and the records of transformers."""
    from transformers import PretrainedConfig, PreTrainedTokenizerBase
    from transformers.utils import ModelOutput

    if isinstance(value, PreTrainedTokenizerBase):
        if name in _TOKENIZER.split():
            return Allowed(name, functools.partial(_tokenize, value, name))
        return get(value, name) if name in _TOKENIZER_DATA.split() else None
    if isinstance(value, PretrainedConfig):
        found = value.__dict__.get(name)
        plain = isinstance(found, (bool, int, float)) or (isinstance(found, str) and "/" not in found)
        return found if plain else None
    if isinstance(value, ModelOutput) or type(value).__module__ == "torch.return_types":
        fields = value.keys() if isinstance(value, ModelOutput) else dir(type(value))
        return get(value, name) if name in fields and not name.startswith("n_") else None
    return None


_TOKENIZER_OPTIONS = frozenset({"return_tensors", "add_special_tokens", "skip_special_tokens", "truncation"})


def _tokenize(tokenizer: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    wrong = set(kwargs) - _TOKENIZER_OPTIONS
    if wrong or len(args) > 1:
        raise PathError(
            f"a tokenizer takes a text or ids and {', '.join(sorted(_TOKENIZER_OPTIONS))} here, not "
            f"{sorted(wrong)}."
        )
    if kwargs.get("return_tensors") not in (None, "pt"):
        raise PathError('a tokenizer gives lists, or tensors with `return_tensors="pt"`, here.')
    check_letters((*args, *kwargs.values()))
    made = getattr(tokenizer, name)(*args, **kwargs)
    return dict(made) if name == "__call__" else made


def call_tokenizer(tokenizer: Any, *args: Any, **kwargs: Any) -> Any:
    """`tokenizer(text)`."""
    return _tokenize(tokenizer, "__call__", *args, **kwargs)


def settable(value: Any, name: str) -> bool:
    """Whether a program may assign an attribute."""
    if isinstance(value, Envoy):
        return name in _VALUES or (value._root is value and name in MODEL_NAMES)
    if isinstance(value, (Layer, Attention)):
        return name in value._names or name in _VALUES
    if isinstance(value, LogitsOutput):
        return name == "logits"
    return isinstance(value, torch.Tensor) and name == "grad"


def function_at(name: Any) -> Any:
    """A function that a job names, "module:path"; None if a program has no such one."""
    home, _, path = str(name).partition(":")
    if home == "builtins":
        return BUILTINS.get(path)
    if path.startswith("Tensor."):
        return None
    if home in ("nbsight.core.saving", "nbsight.core.stacking"):
        return MODULES["nbsight"].names.get(path)
    found = MODULES.get(home)
    return None if found is None else found.names.get(path)
