"""How far a held run has come: what it has passed, and how many of the model's blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from nbsight.core.source import Operation

if TYPE_CHECKING:
    from nbsight.core.envoy import Envoy
    from nbsight.core.run import Run
    from nbsight.core.sites import Site

__all__ = ["Trail", "find_blocks"]

#: A progress bar longer than this is drawn to scale.
_WIDEST = 48


class Trail:
    """What a run leaves behind, place by place.

    Args:
        root: The model.
        run: Its run, which has not begun.
        is_once: Whether the run calls the model once. Then a place that it has passed is past for
            good, so all modules are watched; otherwise only the blocks are.

    Attributes:
        given: The arguments of the model's present call.
    """

    def __init__(self, root: Any, run: Run, *, is_once: bool) -> None:
        self.root = run.root
        self.envoys: dict[Any, Envoy] = dict(_envoys(root))
        self.blocks = [block for block in find_blocks(root._module) if block in self.envoys]
        self.given: tuple[Any, Any] = ((), {})
        self._number = {block: number for number, block in enumerate(self.blocks)}
        self._block_of = {
            module: number for block, number in self._number.items() for module in block.modules()
        }
        self._called: set[Any] = set()
        self._returned: set[Any] = set()
        self._operations: set[Any] = set()
        watched = list(self.envoys) if is_once else [self.root, *self.blocks]
        for module in watched:
            run.open([module] if is_once else self.envoys[module]._gates())
            self._watch(run, module)

    def _watch(self, run: Run, place: Any) -> None:
        run.watch((place, "input"), self._note_call)
        run.watch((place, "output"), self._note_return)

    def _note_call(self, site: Site) -> None:
        if site.module is self.root:  # the next pass of a generation
            self._called.clear()
            self._returned.clear()
            self.given = site.value
        self._called.add(site.module)

    def _note_return(self, site: Site) -> None:
        self._returned.add(site.module)

    def watch_operations(self, run: Run, source: Any) -> bool:
        """Watch the operations inside a forward as well.

        Returns:
            False if that forward has begun without being watched: it cannot be any more.
        """
        if source in self._operations:
            return True
        outer = source._owner if isinstance(source._owner, Operation) else None
        if outer is not None and not self.watch_operations(run, outer._view):
            return False
        if self.has_passed(source._module, "input"):
            return False
        run.open(source._gates())
        self._operations.add(source)
        for operation in source:
            self._watch(run, operation)
        return True

    def envoy_of(self, place: Any) -> Any:
        """The envoy of a module; an operation is its own."""
        return self.envoys.get(place, place)

    def has_passed(self, place: Any, kind: str) -> bool:
        """Whether the run has been at this place in this pass and has gone on."""
        return place in (self._returned if kind == "output" else self._called)

    # -- how far -------------------------------------------------------------------------------

    def block_at(self, place: Any) -> int | None:
        """The number, from 0, of the block that a module or operation is or lies in."""
        home = getattr(place, "_home", None)  # an operation's
        return self._block_of.get(place if home is None else home._module)

    def progress(self, site: Site | None) -> str:
        """A bar and a phrase: `[####........] block 4 of 12`."""
        total = len(self.blocks)
        done = sum(block in self._returned for block in self.blocks)
        at = None if site is None else self.block_at(site.module)
        stands_after = site is not None and site.kind == "output" and site.module in self._number
        if stands_after:
            done += 1
        bar = _bar(done, total, half=at is not None and not stands_after)
        if at is not None:
            return f"{bar} {'block' if stands_after else 'in block'} {at + 1} of {total}"
        return f"{bar} {done} of {total} blocks done"


def _bar(done: int, total: int, *, half: bool) -> str:
    width = min(total, _WIDEST)
    full = done * width // max(total, 1)
    mark = ">" if half and full < width else ""
    return f"[{'#' * full}{mark}{'.' * (width - full - len(mark))}]"


def _envoys(root: Any) -> Iterator[tuple[nn.Module, Envoy]]:
    """The modules that can be called and their envoys; a compiled module counts as one."""
    compiled: list[str] = []
    for path, envoy in root.named_modules():
        module = envoy._module
        if any(path.startswith(above) for above in compiled):
            continue
        if type(module).__name__ == "OptimizedModule":
            compiled.append(f"{path}." if path else "")
        if type(module).forward is not nn.Module.forward:  # bare lists of modules are never called
            yield module, envoy


def find_blocks(module: nn.Module) -> list[nn.Module]:
    """The steps in which a model is gone through, in the order of its text.

    The entries of its outermost lists of modules; without lists, of its outermost sequences;
    without those, its children.
    """
    kinds: tuple[type[nn.Module], ...] = (nn.ModuleList, nn.Sequential)
    for kind in kinds:
        found: list[nn.Module] = []
        _outermost(module, kind, found)
        if len(found) > 1:
            return found
    children = list(module.children())
    while len(children) == 1 and list(children[0].children()):
        children = list(children[0].children())
    return children


def _outermost(parent: nn.Module, kind: type[nn.Module], found: list[nn.Module]) -> None:
    if isinstance(parent, kind):
        found.extend(parent.children())
        return
    for child in parent.children():
        _outermost(child, kind, found)
