"""What a recipe may do to a run, as data: one kind of step for each operation, checked as it is made."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from nbsight.errors import InputError

__all__ = ["BY_HEAD", "SITES", "Add", "Mean", "Patch", "Scale", "Site", "Steer", "Step", "Zero"]

#: Where values are changed, in the order of the forward, as they are written below a layer.
SITES = {
    "resid_pre": "resid_pre",
    "q": "attn.q",
    "k": "attn.k",
    "v": "attn.v",
    "z": "attn.z",
    "attn_out": "attn_out",
    "resid_mid": "resid_mid",
    "post": "mlp.post",
    "mlp_out": "mlp_out",
    "resid_post": "resid_post",
}
BY_HEAD = ("q", "k", "v", "z")
WORDS = ("all", "prompt", "generated", "last")

#: A prompt in a recipe: text, or token ids.
Prompt = str | list[int]


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="do"):
    """Where a step acts.

    Args:
        site: One of `SITES`.
        layer: The layer, from 0.
        positions: Positions of the prompt; negative ones count from its end. None means all.
        heads: At q, k, v and z some heads; None means all.
    """

    site: str
    layer: int
    positions: list[int] | None = None
    heads: list[int] | None = None

    needs_vector: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise ValueError(f"there is no site {self.site!r}; there are {', '.join(SITES)}")
        if self.layer < 0:
            raise ValueError(f"layers count from 0; {self.layer} is none")
        if self.heads is not None and self.site not in BY_HEAD:
            raise ValueError(f"{self.site} has no heads; {', '.join(BY_HEAD)} have")
        for name in ("positions", "heads"):
            listed = getattr(self, name)
            if listed is not None and (not listed or len(set(listed)) < len(listed)):
                raise ValueError(f"`{name}` lists at least one, each once; it was {listed}")

    @property
    def index(self) -> tuple[Any, ...]:
        """Where it acts in a value of one row, (1, position, ...) or (1, position, head, d_head)."""
        return _index(self.positions, self.heads)


class Zero(Site, frozen=True, tag="zero"):
    """Put 0 there."""


class Scale(Site, frozen=True, kw_only=True, tag="scale"):
    """Multiply what is there.

    Args:
        factor: By how much.
    """

    factor: float


class Mean(Site, frozen=True, kw_only=True, tag="mean"):
    """Put there what the site holds on average, over all positions of some prompts.

    Args:
        prompts: The prompts; each is run when the recipe is.
    """

    prompts: list[Prompt]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompts:
            raise ValueError("a mean is over at least one prompt")


class Add(Site, frozen=True, kw_only=True, tag="add"):
    """Add a vector.

    Args:
        vector: Its name among the recipe's vectors; (d_model,) in the stream, (d_head,) at heads.
        strength: How many times.
    """

    vector: str
    strength: float = 1.0

    needs_vector: ClassVar[bool] = True


class Patch(Site, frozen=True, kw_only=True, tag="patch"):
    """Put there what another prompt's run holds at the same site.

    Args:
        prompt: The prompt to patch from.
        source: Its positions, one for each of `positions`; the same ones, if not given.
    """

    prompt: Prompt
    source: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source is not None and len(self.source) != len(self.positions or ()):
            raise ValueError("a patch has one `source` for each of `positions`")

    @property
    def donor_index(self) -> tuple[Any, ...]:
        """Where in the other run's value the content comes from."""
        return _index(self.positions if self.source is None else self.source, self.heads)


class Steer(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="do", tag="steer"
):
    """A steering, as `model.steer` makes it.

    Args:
        vector: Its name among the recipe's vectors, (d_model,) or (layer, d_model).
        layers: The layers.
        strength: How many times it is added.
        positions: One of the words that `model.steer` knows, or positions of the prompt.
        site: One of the places that `model.steer` knows.
    """

    vector: str
    layers: list[int]
    strength: float = 1.0
    positions: str | list[int] = "all"
    site: str = "resid_post"

    needs_vector: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.positions, str) and self.positions not in WORDS:
            raise ValueError(f"positions by name are {', '.join(WORDS)}; not {self.positions!r}")


Step = Zero | Scale | Mean | Add | Patch | Steer


def decode(text: bytes | str, kind: Any, what: str) -> Any:
    """A value of a kind from JSON; what does not fit is an `InputError` that says where."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{what} is no recipe: {error}.") from None


def _index(positions: list[int] | None, heads: list[int] | None) -> tuple[Any, ...]:
    if heads is None:
        return (0,) if positions is None else (0, positions)
    if positions is None:
        return (0, slice(None), heads)
    return (0, [[position] for position in positions], heads)
