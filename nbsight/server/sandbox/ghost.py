"""A model without weights whose forwards are run by the worker; the core runs blocks on it as on any model.

Each module's `forward` asks the worker. When the worker's model has come to a place where somebody here
waits, the modules on the way are called here in the same order, so that the core's gates see what they
would see of a real forward, and what they make of a value goes back to the worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from greenlet import getcurrent
from torch import nn

from nbsight.core.callee import has_forward
from nbsight.core.greenlets import Carrier
from nbsight.errors import RemoteError
from nbsight.server.sandbox import messages
from nbsight.server.sandbox.memory import Region, Space
from nbsight.server.sandbox.values import Absent, Handle, Reader, Writer, flat, record_class
from nbsight.wire.failures import exception_of

__all__ = ["Ghost", "take_weights"]

_encode = msgspec.json.Encoder().encode
_answer = msgspec.json.Decoder(messages.Answer).decode

_GRADIENTS = (
    "in the tier `sandbox` a block's gradients end where the model begins: `backward` through the model "
    "needs the graph, which stays with the weights. Use a server of the tier `program` or `local` for this "
    "block."
)


def take_weights(module: nn.Module) -> None:
    """Replace every parameter and buffer by one without numbers."""
    known: dict[int, Absent] = {}
    for part in module.modules():
        for home in (part._parameters, part._buffers):
            for name, tensor in home.items():
                if tensor is not None:
                    if id(tensor) not in known:
                        known[id(tensor)] = Absent(tensor.to("meta"), requires_grad=False)
                    home[name] = known[id(tensor)]


class Ghost:
    """The worker's model, as it is here.

    Args:
        module: The model without weights.
        line: The descriptor over which the worker is asked.
        theirs: The memory that the worker writes.
        ours: The memory that is written here.
    """

    def __init__(self, module: nn.Module, line: int, theirs: Region, ours: Region) -> None:
        self.module = module
        self.modules = [part for _, part in module.named_modules()]
        self.numbers = {part: number for number, part in enumerate(self.modules)}
        self.line = line
        self.theirs, self.ours = flat(theirs), flat(ours)
        self.replays: dict[Any, _Replay] = {}
        self.calls = 0
        self._random = torch.get_rng_state()

    def install(self) -> None:
        """Let the model's modules ask the worker."""
        for part in self.modules:
            if has_forward(part):
                part.forward = self._forward(part)
        generate = getattr(self.module, "generate", None)
        if callable(generate):
            object.__setattr__(self.module, "generate", self._generate(generate))

    def _forward(self, part: nn.Module) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            replay = self.replays.get(getcurrent())
            if replay is not None and replay.entering is part:
                return replay.inside(args, kwargs)
            return self.call(part, "forward", args, kwargs)

        forward.__wrapped__ = part.forward  # type: ignore[attr-defined]  # signatures are looked at
        return forward

    def _generate(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def generate(*args: Any, **kwargs: Any) -> Any:
            return self.call(self.module, "generate", args, kwargs)

        generate.__wrapped__ = plain  # type: ignore[attr-defined]
        return generate

    def call(self, part: nn.Module, method: Any, args: Any, kwargs: Any) -> Any:
        """Have the worker call a module, or `generate`."""
        current = getcurrent()
        run = current.model_run if type(current) is Carrier else None
        asks = (run is not None and run.grad) or _needs_gradient(args, kwargs)
        before = self.replays.get(current)
        replay = self.replays[current] = _Replay(self, run, torch.is_grad_enabled() and asks)
        try:
            return replay.begin(part, method, args, kwargs)
        finally:
            if before is None:
                del self.replays[current]
            else:
                self.replays[current] = before

    # -- the wire ------------------------------------------------------------------------------

    def ask(self, question: Any) -> messages.Answer:
        """One question, one answer."""
        messages.write_frame(self.line, _encode(question))
        answer = _answer(messages.read_frame(self.line))
        if answer.random is not None:
            state = self.theirs[answer.random : answer.random + len(self._random)].clone()
            torch.set_rng_state(state)
            self._random = state
        return answer

    def writer(self, known: Any) -> tuple[Writer, Space]:
        """What writes values for one question."""
        space = Space(len(self.ours))
        return Writer(self.ours, space.take, _refuse, known), space

    def random(self, space: Space) -> int | None:
        """Where the state of random numbers lies, if a block has drawn or seeded some."""
        state = torch.get_rng_state()
        if torch.equal(state, self._random):
            return None
        self._random = state
        place = space.take(len(state))
        self.ours[place : place + len(state)].copy_(state)
        return place

    def reader(self, has_edge: bool) -> Reader:
        """What reads an answer; with an edge, who goes backward through its tensors is told."""
        edge = _to_edge if has_edge else None
        return Reader(self.theirs, 2**62, Handle, record_class, keep_views=True, dress=edge)


class _Edge(torch.autograd.Function):
    """Where the graph of a block ends and that of the model would begin."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """The value, as something that was computed."""
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Says that there is no more."""
        raise RemoteError(_GRADIENTS)


def _to_edge(value: torch.Tensor) -> torch.Tensor:
    if not value.is_floating_point():
        return value
    with torch.enable_grad():
        made: torch.Tensor = _Edge.apply(value, torch.zeros((), requires_grad=True))
    return made


class _Replay:
    """A call of the worker's model, repeated here module by module.

    Attributes:
        entering: The module that is being called here because it was called there.
    """

    def __init__(self, ghost: Ghost, run: Any, has_edge: bool) -> None:
        self.ghost, self.run, self.has_edge = ghost, run, has_edge
        ghost.calls += 1
        self.id = ghost.calls
        self.entering: nn.Module | None = None
        self._trail: deque[int] = deque()
        self._event: messages.Event | None = None
        self._known: list[Any] = []
        #: Whether the worker's model waits before the module that is entered, or after the one that was left.
        self._waits_before = self._waits_after = False
        self._is_over = False
        self._criteria: list[Callable[..., Any]] = []

    def begin(self, part: nn.Module, method: Any, args: Any, kwargs: Any) -> Any:
        """Make the call."""
        if method == "generate" and kwargs.get("stopping_criteria") is not None:
            kwargs = dict(kwargs)
            given = kwargs.pop("stopping_criteria")
            self._criteria = list(given) if isinstance(given, (list, tuple)) else [given]
        writer, space = self.ghost.writer(())
        given = writer.write((tuple(args), dict(kwargs)))
        call = messages.Call(
            self.id,
            *self._stops(),
            self.ghost.random(space),
            self.ghost.numbers[part],
            method,
            given,
            bool(self._criteria),
        )
        try:
            self._take(self.ghost.ask(call))
            return self._follow()
        finally:
            if not self._is_over:
                self._is_over = True
                self.ghost.ask(messages.Drop(self.id))

    def inside(self, args: Any, kwargs: Any) -> Any:
        """The forward of the module that is entered."""
        self.entering = None
        if self._waits_before:
            self._waits_before = False
            self._go((tuple(args), dict(kwargs)))
        return self._follow()

    def _follow(self) -> Any:
        """Repeat what the worker's model did, until it leaves the module in which it is here."""
        while True:
            if self._trail:
                mark = self._trail.popleft()
                if mark < 0:
                    return None  # nobody here looks at it
                self._enter(mark, ((), {}))
                continue
            event, self._event = self._event, None
            assert event is not None
            if event.kind == "raised":
                self._is_over = True
                raise self._error(event)
            value = self._read(event)
            if event.kind == "returned":
                self._is_over = True
                return value
            if event.kind == "leave":
                self._waits_after = True
                return value
            if event.kind == "choose":
                self._go(self._choose(value))
            else:
                self._waits_before = True
                self._enter(event.module, value)

    def _enter(self, number: int, given: Any) -> None:
        module = self.entering = self.ghost.modules[number]
        args, kwargs = given
        value = module(*args, **kwargs)
        if self.entering is module:  # the block has said what it returns
            self.entering, self._waits_before = None, False
            self._go(value, skip=True)
        elif self._waits_after:
            self._waits_after = False
            self._go(value)

    def _choose(self, ids: torch.Tensor) -> Any:
        stops: Any = False
        for criterion in self._criteria:
            said = criterion(ids, None)
            stops = (
                stops | said
                if isinstance(said, torch.Tensor) or isinstance(stops, torch.Tensor)
                else stops or bool(said)
            )
        return ids, stops

    # -- the wire ------------------------------------------------------------------------------

    def _go(self, value: Any, skip: bool = False) -> None:
        writer, space = self.ghost.writer(self._known)
        code = writer.write(value)
        stops = self._stops()
        random = self.ghost.random(space)
        self._known = []
        self._take(self.ghost.ask(messages.Go(self.id, *stops, random, code, skip)))

    def _take(self, answer: messages.Answer) -> None:
        self._trail, self._event = deque(answer.trail), answer.event

    def _read(self, event: messages.Event) -> Any:
        reader = self.ghost.reader(self.has_edge)
        value = reader.read(event.value)
        self._known = reader.views
        return value

    def _error(self, event: messages.Event) -> BaseException:
        if event.error is None:
            return RemoteError("the model failed and did not say how.")
        return exception_of(event.error, {})

    def _stops(self) -> tuple[list[int], list[int], list[int]]:
        """The modules whose calls the run looks at, and those before and after which it stops."""
        run, numbers = self.run, self.ghost.numbers
        if run is None:
            return [], [], []
        gated = [numbers[module] for module in run.gated if module in numbers]
        before, after = (self._wanted(run, kind) for kind in ("input", "output"))
        before |= {self._number(module) for module in run.rewrites}
        if run.wanted["pass"]:
            before.add(numbers[run.root])
        return gated, sorted(before - {-1}), sorted(after - {-1})

    def _wanted(self, run: Any, kind: str) -> set[int]:
        watched = [*run.watchers.get(kind, ()), *run.watchers.get(f"early {kind}", ())]
        return {self._number(module) for module in (*run.wanted[kind], *watched)}

    def _number(self, module: Any) -> int:
        # Some of the places of a run are no modules: operations, the choice of a token.
        return self.ghost.numbers.get(module, -1) if isinstance(module, nn.Module) else -1


def _needs_gradient(args: Any, kwargs: Any) -> bool:
    return any(isinstance(value, torch.Tensor) and value.requires_grad for value in (*args, *kwargs.values()))


def _refuse(value: Any) -> Any:
    raise RemoteError(
        f"a {type(value).__name__} cannot be given to the model in the tier `sandbox`; tensors and plain "
        "data can."
    )
