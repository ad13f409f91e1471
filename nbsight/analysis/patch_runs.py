"""Single patched runs: places of one run get what places of another hold, and the prediction is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nbsight.analysis.growing import SITES, stored_values
from nbsight.analysis.metrics import Answers, Metric, metric_of
from nbsight.analysis.unembedding import last_blocks
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from nbsight.models.tokens import describe_lengths

__all__ = ["Patch", "PatchRuns"]


@dataclass(frozen=True)
class Patch:
    """One place of the patched run and where in the donor's run its content comes from.

    Args:
        layer: Index of the block.
        site: One of resid_pre, z, attn_out, resid_mid, mlp_out, resid_post.
        source: Position in the donor's prompt, counted from the first token; None for all.
        target: Position in the prompt that is run; None for all, where the prompts are of one length.
        head: At `z`, which head; None for all.
    """

    layer: int
    site: str
    source: int | None
    target: int | None
    head: int | None = None


class PatchRuns:
    """A pair of prompts whose runs can be patched, as often and in as many places as one likes.

    Args:
        model: A language model.
        clean: The prompt that is answered rightly.
        corrupted: The other; it may have another length, since each patch says where from and where to.
        answers: The right answer and the other one, each one token.
        metric: As for `activation_patching`.
    """

    def __init__(
        self,
        model: LanguageModel,
        clean: Any,
        corrupted: Any,
        *,
        answers: Answers | None = None,
        metric: Any = None,
    ) -> None:
        self.model, self.clean, self.corrupted = model, clean, corrupted
        self.answers, self.metric = answers, metric
        self.ids = {"clean": model.to_tokens(clean), "corrupted": model.to_tokens(corrupted)}
        # What a donor holds, (run, site) to layer to (position, …): read once for all patches of a site.
        self._held: dict[tuple[str, str], dict[int, torch.Tensor]] = {}
        self._logits: dict[str, torch.Tensor] = {}

    @property
    def n_layers(self) -> int:
        return len(last_blocks(self.model))

    def metric_named(self, name: str | None) -> Metric:
        """A metric by its name; None for the one that was given."""
        return metric_of(self.model, self.metric if name is None else name, self.answers, self.ids["clean"])

    def plain(self, which: str) -> torch.Tensor:
        """The last logits of the clean or the corrupted run, (1, d_vocab)."""
        if which not in self._logits:
            with self.model.trace(self.ids[which], grad=False):
                logits = self.model.output.logits[:, -1].clone()
            self._logits[which] = logits
        return self._logits[which]

    def run(self, patches: Sequence[Patch], direction: str = "denoise") -> torch.Tensor:
        """The last logits of one run with all these patches, (1, d_vocab).

        Args:
            patches: In any order. Later layers see what earlier ones changed; where two write the same
                place the later in the list counts.
            direction: "denoise" patches the corrupted run from the clean one, "noise" the other way.

        Raises:
            InputError: a layer, site, head or position that is not there.
        """
        donor, base = ("clean", "corrupted") if direction == "denoise" else ("corrupted", "clean")
        if not patches:
            return self.plain(base)
        for patch in patches:
            self._check(patch, donor, base)
        groups: dict[tuple[int, int], list[Patch]] = {}
        for patch in patches:
            groups.setdefault((patch.layer, SITES.index(patch.site)), []).append(patch)
        held = {site: self._donor(donor, site) for site in {patch.site for patch in patches}}
        with self.model.trace(self.ids[base], grad=False):
            for layer, site in sorted(groups):
                self._change(layer, SITES[site], groups[layer, site], held[SITES[site]][layer])
            logits = self.model.output.logits[:, -1].clone()
        return logits

    def forget(self) -> None:
        """Let go of what was read, for a model that has changed since."""
        self._held.clear()
        self._logits.clear()

    def _change(self, layer: int, site: str, patches: list[Patch], held: torch.Tensor) -> None:
        block = last_blocks(self.model)[layer]
        if site == "resid_pre":
            stream = block.input.clone()
        elif site == "resid_post":
            stream = block.output[0]
        else:
            stream = self.model.std.get(site, layer).clone()
        for patch in patches:
            there, here = (slice(None) if at is None else at for at in (patch.source, patch.target))
            where: Any = here if patch.head is None else (here, patch.head)
            from_: Any = there if patch.head is None else (there, patch.head)
            stream[0][where] = held[from_].to(stream)
        if site == "resid_pre":
            block.input = stream
        elif site != "resid_post":  # there it was written in place
            self.model.std.set(site, layer, stream)

    def _donor(self, which: str, site: str) -> dict[int, torch.Tensor]:
        if (which, site) not in self._held:
            stored, _ = stored_values(self.model, self.ids[which], (site,), range(self.n_layers))
            self._held[which, site] = {layer: value for (layer, _), value in stored.items()}
        return self._held[which, site]

    def _check(self, patch: Patch, donor: str, base: str) -> None:
        if patch.site not in SITES:
            raise InputError(f"there is no site {patch.site!r}; there are {', '.join(SITES)}.")
        if not 0 <= patch.layer < self.n_layers:
            raise InputError(
                f"the model has {self.n_layers} layers, 0 to {self.n_layers - 1}; there is no {patch.layer}."
            )
        if patch.head is not None:
            if patch.site != "z":
                raise InputError(f"{patch.site} has no heads; `z` has.")
            count = int(self.model.std.n_heads)
            if not 0 <= patch.head < count:
                raise InputError(f"the model has {count} heads, 0 to {count - 1}; there is no {patch.head}.")
        if (patch.source is None) != (patch.target is None) or (
            patch.source is None and self.ids[donor].shape != self.ids[base].shape
        ):
            raise InputError(
                "all positions of a run are patched from all of the other, so both prompts need as many "
                f"tokens: {self._lengths()}"
            )
        for position, which in ((patch.source, donor), (patch.target, base)):
            count = self.ids[which].shape[1]
            if position is not None and not 0 <= position < count:
                raise InputError(
                    f"the {which} prompt has {count} positions, 0 to {count - 1}; there is no {position}. "
                    + self._lengths()
                )

    def _lengths(self) -> str:
        both = self.ids["clean"][0].tolist(), self.ids["corrupted"][0].tolist()
        return describe_lengths(self.model.tokenizer, *both)
