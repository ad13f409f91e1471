"""Recipes: an intervention as data, that is saved, shared, done again with the same numbers, printed as code.

A recipe is a JSON file, its vectors a safetensors file beside it. Nothing in either is run: reading a
stranger's recipe is safe, and every step is checked before the model is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nbsight.analysis.patch_runs import Patch as Place
from nbsight.analysis.patch_runs import PatchRuns
from nbsight.analysis.recipe_code import recipe_code
from nbsight.analysis.recipe_steps import (
    SITES,
    Add,
    Mean,
    Patch,
    Prompt,
    Scale,
    Site,
    Steer,
    Step,
    Zero,
    decode,
)
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.steering import Steering

__all__ = ["Recipe"]

FORMAT = 1


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the JSON file holds; `vectors` has a fingerprint for each tensor of the file beside it."""

    format: int
    model: str
    prompt: Prompt
    steps: list[Step]
    vectors: dict[str, str] = {}


@dataclass(frozen=True, eq=False)
class Recipe:
    """An intervention: what is changed where while a model reads a prompt.

        recipe = Recipe("The capital of France is", [Zero("z", 4, heads=[1])])
        logits = recipe.run(model)
        recipe.save("ablation.json")

    Args:
        prompt: The prompt that is run: text or token ids.
        steps: Any of `Zero`, `Scale`, `Mean`, `Add`, `Patch`, `Steer`. They are done in the order of the
            forward; of two at one place the later in the list comes second. A `Steer` acts before them.
        vectors: What `Add` and `Steer` name.
        model: The name of the model that it was made with.

    Raises:
        InputError: a step names a vector that is not there, or there are no steps.
    """

    prompt: Prompt
    steps: Sequence[Step]
    vectors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    model: str = ""

    def __post_init__(self) -> None:
        order = list(SITES)
        steers = [step for step in self.steps if isinstance(step, Steer)]
        sites = [step for step in self.steps if isinstance(step, Site)]
        if len(steers) + len(sites) < len(self.steps) or not self.steps:
            kinds = ", ".join(type(step).__name__ for step in self.steps) or "nothing"
            raise InputError(
                f"a recipe's steps are Zero, Scale, Mean, Add, Patch and Steer, at least one; it was {kinds}."
            )
        sites.sort(key=lambda step: (step.layer, order.index(step.site)))
        object.__setattr__(self, "steps", (*steers, *sites))
        named = {step.vector for step in self.steps if isinstance(step, (Add, Steer))}
        if missing := named - set(self.vectors):
            known = ", ".join(self.vectors) or "none"
            raise InputError(f"no vector is called {', '.join(sorted(missing))}; there are {known}.")
        kept = {name: self.vectors[name].detach().cpu().clone() for name in sorted(named)}
        object.__setattr__(self, "vectors", kept)

    # -- made from what is there ---------------------------------------------------------------

    @classmethod
    def of_steering(cls, prompt: Prompt, steerings: Steering | Sequence[Any]) -> Recipe:
        """The recipe of steerings, or of a model's kept edits that are steerings.

        Args:
            prompt: What is run.
            steerings: What `model.steer(...)` gives, a list of these, or `model.edits`.

        Raises:
            InputError: an edit is a block of code, which is no data.
        """
        listed = [steerings] if isinstance(steerings, Steering) else list(steerings)
        steps: list[Step] = []
        vectors = {}
        for number, one in enumerate(listed):
            if not isinstance(one, Steering):
                raise InputError(
                    "only `model.steer(...)` can be told as data; this edit is a block of code:\n"
                    f"{getattr(one, 'source', one)}\nSay it in steps: `Recipe(prompt, [Zero(...), ...])`."
                )
            if not getattr(one, "enabled", True):
                continue  # it does nothing now
            name = f"steering_{number}"
            vectors[name] = one.vector
            steps.append(
                Steer(name, list(one.layers), float(one.strength), _positions(one.positions), one.name)
            )
        return cls(prompt, steps, vectors, str(listed[0].model._name) if listed else "")

    @classmethod
    def of_patches(cls, runs: PatchRuns, patches: Sequence[Place], direction: str = "denoise") -> Recipe:
        """The recipe of a patched run, as the patching view makes them.

        Args:
            runs: The pair of prompts.
            patches: What is patched.
            direction: "denoise" patches the corrupted run from the clean one, "noise" the other way.
        """
        donor, base = ("clean", "corrupted") if direction == "denoise" else ("corrupted", "clean")
        ids = {name: runs.ids[name][0].tolist() for name in (donor, base)}
        texts = {name: getattr(runs, name) for name in (donor, base)}
        # Text says more than ids do, where that is what was given.
        prompts = {name: text if isinstance(text, str) else ids[name] for name, text in texts.items()}
        steps = [
            Patch(
                one.site,
                one.layer,
                None if one.target is None else [one.target],
                None if one.head is None else [one.head],
                prompt=prompts[donor],
                source=None if one.source is None else [one.source],
            )
            for one in patches
        ]
        return cls(prompts[base], steps, {}, str(runs.model._name))

    # -- done ----------------------------------------------------------------------------------

    def run(self, model: LanguageModel, prompt: Any = None) -> torch.Tensor:
        """Do it, and return the logits, (1, position, d_vocab).

        Args:
            model: A language model whose standard names are known.
            prompt: Another prompt than the recipe's own.

        Raises:
            InputError: a layer, position, head or vector that does not fit this model and prompt.
        """
        prompt = self.prompt if prompt is None else prompt
        ids = model.to_tokens(prompt)
        if len(ids) != 1:
            raise InputError(f"a recipe changes the run of one prompt, and {len(ids)} were given.")
        sites = [step for step in self.steps if isinstance(step, Site)]
        self._check(model, ids.shape[1])
        read = [_read(model, step) for step in sites]
        with self.steered(model), model.trace(prompt, grad=False):
            for step, known in zip(sites, read, strict=True):
                value = model.std.get(step.site, step.layer).clone()
                self._change(value, step, known)
                model.std.set(step.site, step.layer, value)
            logits = model.output.logits.clone()
        return logits

    @contextmanager
    def steered(self, model: LanguageModel) -> Iterator[None]:
        """While it lasts, the recipe's steerings act in everything that the model does: also generations."""
        with ExitStack() as stack:
            for step in self.steps:
                if isinstance(step, Steer):
                    steering = Steering(
                        model,
                        self.vectors[step.vector],
                        step.layers,
                        step.strength,
                        step.positions,
                        step.site,
                    )
                    stack.enter_context(steering)
            yield

    def _vector(self, step: Add, value: torch.Tensor) -> torch.Tensor:
        vector = self.vectors[step.vector]
        if vector.shape != value.shape[-1:]:
            raise InputError(
                f"{_said(step)}: values there have shape ({value.shape[-1]},), and this vector has "
                f"{tuple(vector.shape)}."
            )
        return (step.strength * vector).to(value)

    def _change(self, value: torch.Tensor, step: Site, known: torch.Tensor | None) -> None:
        at = step.index
        if isinstance(step, Zero):
            value[at] = 0
        elif isinstance(step, Scale):
            value[at] = value[at] * step.factor
        elif isinstance(step, Add):
            value[at] = value[at] + self._vector(step, value)
        elif isinstance(step, Mean):
            assert known is not None
            value[at] = (known if step.heads is None else known[step.heads]).to(value)
        elif isinstance(step, Patch):
            assert known is not None
            value[at] = _taken(known, step, value.shape[1]).to(value)

    def _check(self, model: LanguageModel, length: int) -> None:
        std = model.std
        for step in self.steps:
            if not isinstance(step, Site):
                continue
            std.place(step.site, std._index(step.layer))
            for position in step.positions or ():
                if not -length <= position < length:
                    raise InputError(
                        f"{_said(step)} is at position {position}, and the prompt has {length} tokens, 0 to "
                        f"{length - 1}."
                    )
            heads = _heads(model, step.site)
            for head in step.heads or ():
                if not 0 <= head < heads:
                    raise InputError(f"{_said(step)} is at head {head}; there are {heads}, 0 to {heads - 1}.")

    # -- as files, as code ---------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the recipe as JSON, and its vectors beside it as safetensors.

        Args:
            path: Where; `.json` is added if there is no ending.
        """
        path = Path(path)
        path = path if path.suffix else path.with_suffix(".json")
        if self.vectors:
            save_file({name: one.contiguous() for name, one in self.vectors.items()}, _beside(path))
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self._file()), indent=2) + b"\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read what `save` wrote.

        Raises:
            InputError: it is no recipe, of another format, or its vectors are missing or other ones.
        """
        path = Path(path)
        found: _File = decode(path.read_bytes(), _File, str(path))
        if found.format != FORMAT:
            raise InputError(f"{path} is of format {found.format}; this version reads format {FORMAT}.")
        vectors: dict[str, torch.Tensor] = {}
        if found.vectors:
            beside = _beside(path)
            if not beside.exists():
                raise InputError(f"{path} has vectors, and {beside.name} is not beside it.")
            try:
                vectors = load_file(beside)
            except SafetensorError as error:
                raise InputError(f"{beside} holds no tensors: {error}.") from None
        for name, print_ in found.vectors.items():
            if name not in vectors or _fingerprint(vectors[name]) != print_:
                raise InputError(
                    f"the vector {name!r} in {_beside(path).name} is not the one that {path.name} was saved "
                    "with. Copy both files together."
                )
        return cls(found.prompt, found.steps, vectors, found.model)

    def to_code(self, *, model: str = "model", vectors: str | Path = "recipe.safetensors") -> str:
        """The cell that does the same; its `logits` are equal to `run`'s, to the last bit.

        Args:
            model: The name of the model in the notebook.
            vectors: Where the file of the vectors is.
        """
        beside = str(vectors) if self.vectors else None
        return recipe_code(self.steps, self.prompt, model=model, vectors=beside)

    def _file(self) -> _File:
        prints = {name: _fingerprint(one) for name, one in self.vectors.items()}
        return _File(FORMAT, self.model, self.prompt, list(self.steps), prints)

    def __repr__(self) -> str:
        made = f" of {self.model}" if self.model else ""
        return "\n".join([f"Recipe for {self.prompt!r}{made}:", *(f"  {_said(step)}" for step in self.steps)])


# --- one step -------------------------------------------------------------------------------------


def _read(model: LanguageModel, step: Site) -> torch.Tensor | None:
    """What a step needs of other runs."""
    if isinstance(step, Patch):
        with model.trace(step.prompt, grad=False):
            donor = model.std.get(step.site, step.layer).clone()
        return donor
    if isinstance(step, Mean):
        rows = []
        for text in step.prompts:
            with model.trace(text, grad=False):
                row = model.std.get(step.site, step.layer)[0].float().clone()
            rows.append(row)
        return torch.cat(rows).mean(0)
    return None


def _taken(donor: torch.Tensor, step: Patch, length: int) -> torch.Tensor:
    if step.positions is None and donor.shape[1] != length:
        raise InputError(
            f"{_said(step)} is at all positions, and the prompts have {length} and {donor.shape[1]} tokens. "
            "Give `positions`, and `source` where they are others."
        )
    try:
        return donor[step.donor_index]
    except IndexError:
        raise InputError(
            f"{_said(step)} reads a position of a prompt of {donor.shape[1]} tokens that it does not have."
        ) from None


def _heads(model: LanguageModel, site: str) -> int:
    count = model.std.layout.size("n_kv_heads" if site in ("k", "v") else "n_heads")
    return int(model.std.n_heads) if count is None else int(count)


def _positions(positions: Any) -> str | list[int]:
    if isinstance(positions, str):
        return positions
    listed = list(positions) if isinstance(positions, (list, tuple, range)) else [positions]
    if any(isinstance(one, slice) for one in listed):
        raise InputError(
            f"a recipe counts positions, and this steering has slices of them: {positions!r}. Give numbers."
        )
    return listed


def _said(step: Any) -> str:
    """A step in one line."""
    values = msgspec.to_builtins(step)
    kind = values.pop("do")
    return f"{kind} " + ", ".join(f"{name} {value!r}" for name, value in values.items())


def _beside(path: Path) -> Path:
    return path.with_suffix(".safetensors")


def _fingerprint(tensor: torch.Tensor) -> str:
    data = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + data).hexdigest()[:16]
