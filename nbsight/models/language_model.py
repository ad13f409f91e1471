"""`LanguageModel`: a Hugging Face model by name, with text as its input."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from nbsight.core.batching import Rows
from nbsight.core.context import current_tracer
from nbsight.core.envoy import Envoy
from nbsight.core.generation import Generation
from nbsight.core.mentions import KEYS_AND_VALUES, topics
from nbsight.errors import EditError, InputError
from nbsight.models.adapters import check_adapter
from nbsight.models.axes import axis_names, ids_in
from nbsight.models.generating import Generates
from nbsight.models.generation import Generator, TokenGeneration, generating_part
from nbsight.models.inputs import Prompt, has_input, read_prompt, refuse_tokenizer_options
from nbsight.models.joining import join_prompts
from nbsight.models.limits import has_learned_positions, read_limits, text_config
from nbsight.models.loading import Loader, load_tokenizer
from nbsight.models.named import NamedParts
from nbsight.models.names import find_blocks
from nbsight.models.outputs import accept_block, accept_logits, show_block, show_logits
from nbsight.models.renaming import AliasedEnvoy, Rename, chosen_envoy
from nbsight.models.sizing import check_room_for
from nbsight.models.tokens import Encoder, describe_lengths, single_token, str_tokens
from nbsight.models.wrapped import NNsight

__all__ = ["BlockEnvoy", "LanguageModel"]

SIDE_WAYS = (
    *("blt", "cohere_compass", "cosmos3", "dia", "diffusion_gemma", "embedding_gemma2", "gemma3n", "gemma4"),
    *("granite4_vision", "granite_docling", "mistral_large4", "mllama", "qwen3_omni", "qwen3_vl", "zamba"),
)
"""Architectures that hand tokens or early values to later blocks past the hidden state."""

REMEMBERED = 16
"""Prompts of this thread that are kept, to say which two do not line up."""


class BlockEnvoy(AliasedEnvoy):
    """The envoy of a decoder or encoder block; its output is a `BlockOutput`."""

    @cached_property
    def _holds_state(self) -> bool:  # type: ignore[override]
        config = self._root.config  # a decoder looks at what its encoder made, too
        kind = str(getattr(config, "model_type", ""))
        return not (getattr(config, "is_encoder_decoder", False) or kind.startswith(SIDE_WAYS))

    def _show(self, kind: str, value: Any) -> Any:
        return show_block(value) if kind == "output" else value

    def _accept(self, kind: str, current: Any, assigned: Any) -> Any:
        if kind != "output":
            return assigned
        try:
            return accept_block(current, assigned)
        except EditError as error:
            donor = assigned[0] if isinstance(assigned, tuple) and assigned else assigned
            more = self._root._explain_mismatch(show_block(current), donor)
            raise EditError(f"{error}\n{more}" if more else str(error)) from None


class LanguageModel(Generates, NamedParts, NNsight):
    """A language model whose inside can be read and changed.

    Its tree is there at once; the weights are loaded when they are first needed.

        model = LanguageModel("nbsight/demo")
        with model.trace("The capital of France is"):
            hidden = model.transformer.h[3].output[0].save()   # (batch, position, d_model)
            logits = model.output.save()                       # (batch, position, d_vocab)

    Args:
        name_or_module: "nbsight/demo" (ships with the package), a folder, a hub id, or a loaded module.
        tokenizer: A tokenizer or the name of one; by default the model's own.
        config: A configuration to use instead of the model's own.
        device_map: Where the weights go: "auto", "cpu", "cuda", or a map, as in transformers.
        dtype: The weights' dtype; `torch_dtype` is accepted too.
        revision: A branch, tag or commit of a hub id.
        attn_implementation: "eager", "sdpa", ...
        trust_remote_code: Whether code that comes with the model may run; off by default.
        dispatch: Whether to load the weights at once.
        adapter: A LoRA or another adapter of peft's, by folder or hub id.
        check_memory: Whether to refuse to load weights that are larger than the free memory.
        rename: Other names for modules.
        envoys: Classes for the envoys of some modules.
        tokenizer_kwargs: What `AutoTokenizer.from_pretrained` takes, such as `padding_side`.
        load_kwargs: Everything else that `from_pretrained` takes.

    Raises:
        ModelLoadError: the model cannot be had.
    """

    def __init__(
        self,
        name_or_module: str | nn.Module,
        *,
        tokenizer: Any = None,
        config: Any = None,
        device_map: Any = None,
        dtype: Any = None,
        revision: str | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        dispatch: bool = False,
        check_memory: bool = True,
        adapter: str | None = None,
        rename: Rename | None = None,
        envoys: Any = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        **load_kwargs: Any,
    ) -> None:
        dtype = load_kwargs.pop("torch_dtype", None) if dtype is None else dtype
        self._loader: Loader | None = None
        self._begin_afresh()
        if isinstance(name_or_module, nn.Module):
            module: nn.Module | None = name_or_module
            self._refuse_loading_options(
                device_map, dtype, revision, attn_implementation, adapter, load_kwargs
            )
        else:
            if device_map is not None:
                load_kwargs["device_map"] = device_map
            self._loader = Loader(
                name_or_module,
                config=config,
                revision=revision,
                dtype=dtype,
                attn_implementation=attn_implementation,
                trust_remote_code=trust_remote_code,
                options=load_kwargs,
                kind=self._auto_class(),
                adapter=adapter,
            )
            module = self._loader.tree()
        self._checks_memory = check_memory
        self._dispatched = self._loader is None or module is None or dispatch
        if module is None or (dispatch and self._loader is not None):
            if module is not None:
                self._check_room(module)
            assert self._loader is not None
            module = self._loader.weights()
        super().__init__(module, rename=rename, envoys=envoys)
        self._name = name_or_module if isinstance(name_or_module, str) else type(module).__name__
        used = config or getattr(module, "config", None)
        self._blocks = find_blocks(module, used)
        self._limits = read_limits(module, used)
        self._fills_cache = self._limits.takes("use_cache") and _uses_cache(used)
        self._learns_positions = has_learned_positions(module, self._limits)
        self._encoder = self._find_tokenizer(tokenizer, tokenizer_kwargs or {})

    def _begin_afresh(self) -> None:
        """What belongs to this very object and is not copied with it."""
        self._lock = threading.Lock()
        self._seen = threading.local()
        self._embedding: tuple[nn.Module, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: state[name] for name in state if name not in ("_lock", "_seen", "_embedding", "_std")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin_afresh()

    def _auto_class(self) -> Any:
        """The class of transformers that makes the model; None lets its configuration say."""
        return None

    def _refuse_loading_options(self, *options: Any) -> None:
        if any(options):
            raise InputError(
                "device_map, dtype, revision, attn_implementation and the like say how to load a model by "
                "name; here the module is loaded already. Load it as you want it, then write "
                "`LanguageModel(module, tokenizer=...)`."
            )

    def _find_tokenizer(self, tokenizer: Any, kwargs: dict[str, Any]) -> Encoder:
        if tokenizer is not None and not isinstance(tokenizer, str):
            return Encoder(tokenizer)
        if self._loader is not None:
            return Encoder(*self._loader.tokenizer(tokenizer, **kwargs))
        if tokenizer is None:
            return Encoder(None, "it was made from a loaded module, without `tokenizer=`")
        return Encoder(*load_tokenizer(tokenizer, **kwargs))

    def __getattr__(self, name: str) -> Any:
        if name == "generator" and name not in self._module._modules:
            return Generator(self)
        return super().__getattr__(name)

    # -- what it is ----------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, or None."""
        return self._encoder.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._encoder = Encoder(tokenizer)

    @property
    def config(self) -> Any:
        """The model's Hugging Face configuration."""
        return self._module.config

    @property
    def dispatched(self) -> bool:
        """Whether the weights are loaded."""
        return self._dispatched

    def dispatch(self) -> None:
        """Load the weights now; does nothing if they are loaded."""
        self._load()

    def _load(self) -> None:
        if self._dispatched:
            return
        with self._lock:
            if not self._dispatched:
                assert self._loader is not None
                self._check_room(self._module)
                self._point_at(self._loader.weights())
                self._dispatched = True

    def _check_room(self, tree: nn.Module) -> None:
        assert self._loader is not None
        if self._loader.adapter is not None:
            check_adapter(self._loader.adapter, tree, self._loader.name)
        if self._checks_memory:
            check_room_for(self._loader, tree)

    # -- tokens --------------------------------------------------------------------------------

    def to_tokens(self, prompt: Any) -> torch.Tensor:
        """The ids that a trace of `prompt` runs on, int64, (row, position).

        Args:
            prompt: Whatever `trace` takes; prompts of different lengths are padded.
        """
        prepared = self._prepare((prompt,), {})
        call, _ = self._joined([prepared], "forward", torch.device("cpu"))
        return call["input_ids"]

    def to_str_tokens(self, prompt: Any) -> list[str] | list[list[str]]:
        """The text of each token, leading blanks included; a list for each row if there are several.

        Args:
            prompt: Whatever `trace` takes.
        """
        prepared = self._prepare((prompt,), {})
        tokenizer = self._need_tokenizer("to_str_tokens")
        rows = [str_tokens(tokenizer, ids) for ids in prepared.fields["input_ids"]]
        return rows[0] if len(rows) == 1 else rows

    def to_string(self, ids: Any) -> str | list[str]:
        """The text of token ids; a list of texts for ids of shape (row, position).

        Args:
            ids: One id, a list, or a tensor.
        """
        tokenizer = self._need_tokenizer("to_string")
        values = ids.tolist() if hasattr(ids, "tolist") else ids
        if isinstance(values, int):
            return str_tokens(tokenizer, [values])[0]
        if values and not isinstance(values[0], int):
            return [tokenizer.decode(list(row), clean_up_tokenization_spaces=False) for row in values]
        return tokenizer.decode(list(values), clean_up_tokenization_spaces=False)

    def to_single_token(self, text: str) -> int:
        """The id of a text that is one token, such as " Paris".

        Raises:
            InputError: it is several; the message shows them.
        """
        return single_token(self._need_tokenizer("to_single_token"), text)

    def _need_tokenizer(self, what: str) -> Any:
        if self.tokenizer is None:
            problem = f" ({self._encoder.problem})" if self._encoder.problem else ""
            raise InputError(
                f"`{what}` needs a tokenizer, and this model has none{problem}. Give one: "
                "`LanguageModel(..., tokenizer=...)`."
            )
        return self.tokenizer

    # -- what the core asks --------------------------------------------------------------------

    def _envoy_class(self, path: str, module: nn.Module) -> type[Envoy]:
        chosen = chosen_envoy(self._chosen_envoys, path, module)
        if chosen is not None:
            return chosen
        return BlockEnvoy if path.rpartition(".")[0] in self._blocks else AliasedEnvoy

    def _show(self, kind: str, value: Any) -> Any:
        if kind != "output":
            return value
        return show_logits(value, is_light=getattr(current_tracer(), "is_light", False))

    def _accept(self, kind: str, current: Any, assigned: Any) -> Any:
        return accept_logits(current, assigned) if kind == "output" else assigned

    def _generation(self, method: str, kwargs: dict[str, Any]) -> Generation:
        return TokenGeneration(self, kwargs) if method == "generate" else Generation()

    def _stepping(self, method: str) -> nn.Module:
        return generating_part(self._module) if method == "generate" else self._module

    def _has_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return has_input(args, kwargs)

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Prompt:
        return read_prompt(args, kwargs, self._encoder, self._limits)

    def _join(
        self, prepared: list[Prompt], method: str, options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[Rows]]:
        if len(prepared) == 1 and not options and method == "forward" and prepared[0].is_bare:
            # One prompt of ids is given to the model as it is, and nothing else with it.
            self._remember(prepared)
            ids: Any = prepared[0].fields["input_ids"]
            device = self._input_device()
            ids = ids if ids.device == device else ids.to(device)
            return (), {"input_ids": ids}, [Rows(0, prepared[0].size, prepared[0].size)]
        refuse_tokenizer_options(options)
        call, rows = self._joined(prepared, method, self._input_device())
        call.update(options)
        if method == "generate":
            self._complete_generation(call, max(prompt.width for prompt in prepared))
        self._remember(prepared)
        return (), call, rows

    def _lighten(self, call: dict[str, Any], spoken: int) -> bool:
        # The cache of one forward is a tenth of its time in a small model, and twice as large as all
        # its hidden states; who wants it says so.
        if not self._fills_cache or spoken & KEYS_AND_VALUES or "use_cache" in call:
            return False
        if any(topics(edit.block.code, edit.outer) & KEYS_AND_VALUES for edit in self._edits):
            return False
        if call.get("past_key_values") is not None:
            return False
        call["use_cache"] = False
        return True

    def _joined(
        self, prepared: list[Prompt], method: str, device: torch.device
    ) -> tuple[dict[str, Any], list[Rows]]:
        tokenizer = self.tokenizer
        side = getattr(tokenizer, "padding_side", "right")
        pad_id = getattr(tokenizer, "pad_token_id", None)
        if pad_id is None:
            pad_id = getattr(tokenizer, "eos_token_id", None) or 0
        generates = method == "generate"
        if generates and not getattr(self.config, "is_encoder_decoder", False):
            side = "left"  # the new tokens follow the last column
        return join_prompts(
            prepared,
            self._limits,
            side=side,
            pad_id=pad_id,
            device=device,
            positions=method not in ("generate", "features"),
            need_mask=generates,
        )

    def _input_device(self) -> torch.device:
        """Where the ids are needed: with a device map, where the embedding is."""
        module = self._module
        if self._embedding is None or self._embedding[0] is not module:
            try:
                found = module.get_input_embeddings()
            except (AttributeError, NotImplementedError):
                found = None
            self._embedding = (module, found)
        weight = getattr(self._embedding[1], "weight", None)
        device = self.device if weight is None else weight.device
        # A scan of weights that are not loaded: the ids are real all the same, since models look at them.
        return device if device.type != "meta" else torch.device("cpu")

    def _complete_generation(self, call: dict[str, Any], width: int) -> None:
        own = getattr(self._module, "generation_config", None)
        if "pad_token_id" not in call and getattr(own, "pad_token_id", None) is None:
            # Left out, transformers says so on every call.
            tokenizer = self.tokenizer
            pad_id = getattr(tokenizer, "pad_token_id", None)
            pad_id = getattr(own, "eos_token_id", None) if pad_id is None else pad_id
            if pad_id is not None:
                call["pad_token_id"] = pad_id[0] if isinstance(pad_id, list) else pad_id
        new, most = call.get("max_new_tokens"), self._limits.positions
        if self._learns_positions and isinstance(new, int) and most is not None and width + new > most:
            raise InputError(
                f"the prompt has {width} tokens and {new} more were asked for; this model has positions for "
                f"{most}. Write `max_new_tokens={max(most - width, 0)}` or less, or a shorter prompt."
            )

    # -- two prompts that do not line up -------------------------------------------------------

    def _remember(self, prepared: list[Prompt]) -> None:
        try:
            seen = self._seen.prompts
        except AttributeError:
            seen = self._seen.prompts = deque(maxlen=REMEMBERED)
        seen.extendleft(prepared)

    def _tokens_of(self, prepared: Prompt) -> list[str] | None:
        """The tokens of one prompt as text; None for several rows or without a tokenizer."""
        ids = prepared.fields.get("input_ids")
        if ids is None or len(ids) != 1 or self.tokenizer is None:
            return None
        return str_tokens(self.tokenizer, ids[0])

    def _tokens_in(self, given: tuple[Any, Any]) -> list[str] | None:
        ids = ids_in(given)
        if ids is None or len(ids) != 1 or self.tokenizer is None:
            return None
        return str_tokens(self.tokenizer, ids[0])

    def _axis_names(self, shape: tuple[int, ...], given: tuple[Any, Any]) -> tuple[str, ...] | None:
        return axis_names(shape, given, getattr(self._module, "config", None), self._limits.vocabulary)

    def _explain_mismatch(self, current: Any, assigned: Any) -> str | None:
        lengths = [_positions_in(current), _positions_in(assigned)]
        if None in lengths or lengths[0] == lengths[1]:
            return None
        rows = [
            row for prompt in getattr(self._seen, "prompts", ()) for row in prompt.fields.get("input_ids", ())
        ]
        found = [next((row.tolist() for row in rows if len(row) == length), None) for length in lengths]
        if found[0] is None or found[1] is None:
            return None
        return (
            f"{describe_lengths(self.tokenizer, found[0], found[1])}\n"
            "Prompts of different lengths do not line up position by position: patch the positions that "
            "correspond, such as `output[:, -1] = value[:, -1]`, or use prompts of equal length."
        )


def _uses_cache(config: Any) -> bool:
    return bool(getattr(text_config(config), "use_cache", False))


def _positions_in(value: Any) -> int | None:
    shape = getattr(value, "shape", value)
    return int(shape[1]) if isinstance(shape, Sequence) and len(shape) > 1 else None
