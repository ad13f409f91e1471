"""The worker's end of a sandboxed job: runs the model, answers the runner, believes none of its words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import nn

from nbsight.server.sandbox import messages
from nbsight.server.sandbox.calls import HeldCall, Reply
from nbsight.server.sandbox.memory import NoRoom, Region, Space
from nbsight.server.sandbox.messages import WireError
from nbsight.server.sandbox.values import Reader, Writer, arguments, flat
from nbsight.wire.api import ErrorRecord
from nbsight.wire.failures import record_of
from nbsight.wire.messages import HEADER, ResultHeader, unpack

__all__ = ["BlockFailed", "Host"]

_CALLS, _HANDLES, _LINES = 64, 100_000, 100_000
_TEXT = 20_000

#: What a runner may say that went wrong; the rest is for the server to say.
_CODES = frozenset({"block_failed", "refused", "memory_limit"})

_question = msgspec.json.Decoder(messages.Question)
_encode = msgspec.json.Encoder().encode


class BlockFailed(Exception):
    """The block failed, and this is what the runner says of it."""

    def __init__(self, record: ErrorRecord) -> None:
        super().__init__(record.message)
        self.record = record


class Host:
    """One job.

    Args:
        module: The model.
        line: The descriptor over which the runner speaks.
        ours: The memory that this side writes.
        theirs: The memory that the runner writes.
        job: Header and blob.
        say: Takes what the block prints.
        most: Bytes of the result, at most.
        allowed: Raises for arguments of a run that a stranger may not give.
    """

    def __init__(
        self,
        module: nn.Module,
        line: int,
        ours: Region,
        theirs: Region,
        job: tuple[bytes, bytes],
        say: Callable[..., None],
        most: int,
        allowed: Callable[[Any, Any], None],
    ) -> None:
        self.modules = [part for _, part in module.named_modules()]
        self._numbers = {part: number for number, part in enumerate(self.modules)}
        self._line, self._say, self._most, self._allowed = line, say, most, allowed
        self._region, self._ours, self._theirs = ours, flat(ours), flat(theirs)
        self._space = Space(ours.size)
        self._header, self._job, self._told = len(job[0]), memoryview(b"".join(job)), 0
        self._calls: dict[int, _Conversation] = {}
        self._handles: list[Any] = []
        self._handle_numbers: dict[int, int] = {}
        self._records: dict[str, type] = {}
        self._loose: list[int] = []
        self._result = bytearray()
        self._lines = 0
        self._random = torch.get_rng_state()
        self._fixed = {
            tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())
        }
        first = next(module.parameters(), None)
        self._device = torch.device("cpu") if first is None else first.device

    def serve(self) -> tuple[bytes, bytes]:
        """Answer until the runner has a result.

        Returns:
            Its header and blob.

        Raises:
            BlockFailed: the block did.
            WireError: the runner does not keep to the rules.
            LineEnded: it is gone.
        """
        try:
            with torch.no_grad():
                while True:
                    question = self._hear()
                    if isinstance(question, messages.Done):
                        return self._finish(question.header)
                    answer = self._answer(question)
                    if answer is not None:
                        messages.write_frame(self._line, _encode(answer))
        finally:
            for call in self._calls.values():
                with contextlib.suppress(Exception):  # the model is only unwound
                    call.held.close()

    def _hear(self) -> Any:
        data = messages.read_frame(self._line)
        try:
            return _question.decode(data)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise WireError(f"a message that is not well formed: {str(error)[:200]}") from None

    def _answer(self, question: Any) -> messages.Answer | None:
        kind = type(question)
        if kind in (messages.Log, messages.Progress):
            self._print(question)
            return None
        if kind is messages.Failed:
            raise BlockFailed(_checked(question.error))
        self._space.free(self._loose)
        self._loose = []
        if kind is messages.Ready:
            return self._next_part()
        if kind is messages.Part:
            return self._take_part(question.size)
        if kind is messages.Drop:
            call = self._calls.pop(question.id, None)
            if call is None:
                raise WireError("a call was dropped that is not there")
            self._space.free(call.places)
            call.held.close()
            return messages.Answer()
        return self._call(question) if kind is messages.Call else self._go(question)

    # -- the job and its result ----------------------------------------------------------------

    def _next_part(self) -> messages.Answer:
        if self._told > 0 and self._told >= len(self._job):
            raise WireError("the job was asked for twice")
        size = min(len(self._job) - self._told, self._region.size)
        place = self._space.take(size)
        if place:
            raise WireError("the job was asked for while the model runs")
        self._loose.append(place)
        self._region.view[:size] = self._job[self._told : self._told + size]
        self._told += size
        job = messages.Job(size, len(self._job) - self._told, self._header)
        return messages.Answer(job=job)

    def _take_part(self, size: int) -> messages.Answer:
        if not 0 < size <= len(self._theirs):
            raise WireError("a part of a result that lies outside of the memory that is shared")
        if len(self._result) + size > self._most + HEADER:
            raise BlockFailed(
                ErrorRecord(
                    "result_too_large",
                    f"the result has more than {self._most:,} bytes, the most that this server sends. Save "
                    "less: a mean, one position, or half precision (`.half()`).",
                )
            )
        self._result += memoryview(self._theirs[:size].numpy())
        return messages.Answer()

    def _finish(self, header: int) -> tuple[bytes, bytes]:
        if not 0 < header <= min(len(self._result), HEADER):
            raise WireError("a result without a header")
        whole = memoryview(self._result)
        head = bytes(whole[:header])
        unpack(head, ResultHeader)
        return head, bytes(whole[header:])

    def _print(self, word: Any) -> None:
        self._lines += 1
        if self._lines > _LINES:
            raise BlockFailed(ErrorRecord("block_failed", f"the block printed more than {_LINES:,} times."))
        fields = msgspec.structs.asdict(word)
        fields = {name: item[:_TEXT] if isinstance(item, str) else item for name, item in fields.items()}
        if type(word) is messages.Log and not 0 <= word.line < 10**7:
            fields["line"] = 0
        self._say("log" if type(word) is messages.Log else "progress", **fields)

    # -- the model -----------------------------------------------------------------------------

    def _call(self, question: messages.Call) -> messages.Answer:
        if question.id in self._calls or len(self._calls) >= _CALLS:
            raise WireError(f"more than {_CALLS} calls at a time, or two under one number")
        module = self._module(question.module)
        args, kwargs = arguments(self._reader(()).read(question.given))
        function: Callable[[HeldCall], Any]
        own: nn.Module | None = module
        if question.method == "generate":
            if question.module != 0 or not callable(getattr(module, "generate", None)):
                raise WireError("`generate` of what has none")
            own = None
            self._allowed(args, kwargs)

            def function(held: HeldCall) -> Any:
                if question.chooses:
                    kwargs["stopping_criteria"] = [_Choice(held, self._vocabulary())]
                return module.generate(*args, **kwargs)
        else:

            def function(held: HeldCall) -> Any:
                return module(*args, **kwargs)

        held = HeldCall(function, own, self._numbers)
        self._calls[question.id] = call = _Conversation(held)
        self._look(call, question)
        return self._advance(question.id, call, None)

    def _go(self, question: messages.Go) -> messages.Answer:
        call = self._calls.get(question.id)
        if call is None or call.held.stood is None:
            raise WireError("a call goes on that is not there, or does not wait")
        kind = call.held.stood[0]
        if question.skip and kind != "enter":
            raise WireError("a module is skipped that has been run")
        value = self._reader(call.sent).read(question.value)
        if kind == "enter" and not question.skip:
            value = arguments(value)
        if kind == "choose":
            value = _choice(value)
        self._look(call, question)
        self._space.free(call.places)
        call.places, call.sent = [], []
        return self._advance(question.id, call, Reply(value, question.skip))

    def _advance(self, number: int, call: _Conversation, reply: Reply | None) -> messages.Answer:
        held = call.held
        held.go(reply)
        trail = held.trail
        if not held.is_over:
            assert held.stood is not None
            kind, module, value = held.stood
            event = self._event(kind, module, value, call)
        elif held.error is not None:
            if isinstance(held.error, WireError):
                raise held.error
            event = messages.Event("raised", error=record_of(held.error))
        else:
            event = self._event("returned", -1, held.result, call)
        if event.kind in ("returned", "raised"):
            del self._calls[number]
            self._loose += call.places
            held.close()
        state = torch.get_rng_state()
        random = None
        if not torch.equal(state, self._random):
            random = self._space.take(len(state))
            self._loose.append(random)
            self._ours[random : random + len(state)].copy_(state)
            self._random = state
        return messages.Answer(trail, event, random=random)

    def _event(self, kind: Any, module: int, value: Any, call: _Conversation) -> messages.Event:
        try:
            return messages.Event(kind, module, self._write(value, call))
        except NoRoom as error:
            return messages.Event("raised", error=record_of(error))

    def _look(self, call: _Conversation, question: messages.Call | messages.Go) -> None:
        modules = [self._module(number) for number in question.gated]
        stops = frozenset(question.before), frozenset(question.after)
        call.held.look_at(modules, *stops)
        if question.random is None:
            return
        begin, size = question.random, len(self._random)
        if not 0 <= begin <= len(self._theirs) - size:
            raise WireError("a state of random numbers outside of the memory that is shared")
        state = self._theirs[begin : begin + size].clone()
        try:
            torch.set_rng_state(state)
        except RuntimeError:
            raise WireError("a state of random numbers that is none") from None
        self._random = state

    def _module(self, number: int) -> nn.Module:
        if not 0 <= number < len(self.modules):
            raise WireError("a module that the model does not have")
        return self.modules[number]

    # -- values --------------------------------------------------------------------------------

    def _reader(self, sent: Any) -> Reader:
        return Reader(
            self._theirs,
            len(self._theirs),
            self._handle_at,
            self._record_at,
            place=lambda tensor: tensor.to(self._device),
            known=sent,
            overwrite=self._overwrite,
        )

    def _write(self, value: Any, call: _Conversation) -> Any:
        def take(size: int) -> int:
            place = self._space.take(size)
            call.places.append(place)
            return place

        writer = Writer(self._ours, take, self._keep)
        try:
            return writer.write(value)
        finally:
            call.sent = writer.tensors
            self._records |= writer.records

    def _keep(self, value: Any) -> Any:
        number = self._handle_numbers.get(id(value))
        if number is None:
            number = len(self._handles)
            if number >= _HANDLES:
                raise WireError(f"more than {_HANDLES:,} things of the model at a time")
            self._handles.append(value)  # it is kept, so that its `id` stays its own
            self._handle_numbers[id(value)] = number
        return {"h": number, "c": type(value).__name__}

    def _handle_at(self, number: Any, _: str) -> Any:
        if type(number) is not int or not 0 <= number < len(self._handles):
            raise WireError("something of the model that was not shown")
        return self._handles[number]

    def _record_at(self, name: Any) -> Any:
        if name not in self._records:
            raise WireError("an output of a class that was not shown")
        return self._records[name]

    def _overwrite(self, there: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """A change in place, unless that would change a weight: then the module gets a copy."""
        new = new.to(there.device)
        if there.untyped_storage().data_ptr() in self._fixed or there.requires_grad:
            return new
        return there.copy_(new)

    def _vocabulary(self) -> int:
        config = getattr(self.modules[0], "config", None)
        get = getattr(config, "get_text_config", None)
        size = getattr(get() if callable(get) else config, "vocab_size", None)
        return size if type(size) is int else 2**31


class _Conversation:
    """A call, and what was said of it last."""

    def __init__(self, held: HeldCall) -> None:
        self.held = held
        self.sent: list[torch.Tensor] = []
        self.places: list[int] = []


class _Choice:
    """Stands among the stopping criteria of transformers and lets the runner see what was chosen."""

    def __init__(self, held: HeldCall, vocabulary: int) -> None:
        self._held, self._vocabulary = held, vocabulary

    def __call__(self, ids: torch.Tensor, scores: Any = None, **_: Any) -> torch.Tensor | bool:
        new, stops = self._held.stop("choose", -1, ids).value
        if new.shape != ids.shape or new.dtype != ids.dtype:
            raise WireError("tokens of another shape")
        if new is not ids:
            ids.copy_(new)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self._vocabulary:
            raise WireError("tokens that the model does not have")
        if isinstance(stops, torch.Tensor) and (stops.dtype != torch.bool or stops.shape != ids.shape[:1]):
            raise WireError("stops of another shape")
        return stops


def _choice(value: Any) -> tuple[torch.Tensor, torch.Tensor | bool]:
    is_pair = type(value) is tuple and len(value) == 2
    if (
        not is_pair
        or not isinstance(value[0], torch.Tensor)
        or not isinstance(value[1], (bool, torch.Tensor))
    ):
        raise WireError("a choice that is none")
    return value


def _checked(record: ErrorRecord) -> ErrorRecord:
    """What a runner says of an error, as far as it may say it."""
    args = record.args
    if args is not None and any(type(arg) not in (str, int, float, bool, type(None)) for arg in args[:100]):
        args = None
    return ErrorRecord(
        record.code if record.code in _CODES else "block_failed",
        record.message[:_TEXT],
        record.kind[:200],
        None if args is None or len(args) > 100 or len(str(args)) > _TEXT else args,
        [frame for frame in record.frames[:50] if len(frame.filename) < 500 and len(frame.name) < 500],
        record.hint[:_TEXT],
    )
