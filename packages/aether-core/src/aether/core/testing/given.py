"""Given what has happened, when this is asked for, then that happens: tests of deciders, without a store."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Generic, NoReturn, TypeVar, cast

from aether.core.encoding import decode_event, encode_event
from aether.core.event import Event
from aether.core.spi import Stored
from aether.core.state.decider import Decider
from aether.core.state.new_event import NewEvent
from aether.core.state.typed import EventTypes, new_event

State = TypeVar("State")
Command = TypeVar("Command")
Told = TypeVar("Told")

_ACTOR = "actor"


def given(decider: Decider[State, Command, Told], *history: Told | NewEvent) -> Given[State, Command, Told]:
    """Begin a test with what has happened to the actor.

    Every event goes through its encoding and back, as in a store, so a field that would come back as something else is
    found here. That neither `evolve` nor `decide` changes the state that it is given is checked, too.
    """
    return Given(decider, [_stored(decider.types, one, version) for version, one in enumerate(history, 1)])


def _stored(types: EventTypes[Any] | None, payload: object, version: int) -> Event:
    new = new_event(payload) if types is None else types.encode(payload)
    event = new.at(_ACTOR, version)
    back = decode_event(Stored(version, _ACTOR, version, encode_event(event)))
    if types is not None and not isinstance(payload, NewEvent):
        found = types.decode(back)
        if found != payload:
            raise AssertionError(f"the event does not come back as it was:\n  given: {payload!r}\n  found: {found!r}")
    return back


class Given(Generic[State, Command, Told]):
    """An actor with a history."""

    def __init__(self, decider: Decider[State, Command, Told], history: Sequence[Event]) -> None:
        self._decider = decider
        self._history = list(history)

    @property
    def state(self) -> State:
        """The state that the history leads to."""
        state = self._decider.initial()
        for event in self._history:
            types = self._decider.types
            told = cast("Told", event) if types is None else types.decode(event)
            state = _unchanged("evolve", state, self._decider.evolve, told)
        return state

    def when(self, command: Command) -> Then[State, Command, Told]:
        """Let the decider decide."""
        state = self.state
        try:
            told = _unchanged("decide", state, lambda before, asked: list(self._decider.decide(before, asked)), command)
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001  (then_raises looks at it)
            return Then(self._decider, self._history, command, [], error)
        return Then(self._decider, self._history, command, told, None)


def _unchanged(name: str, state: Any, function: Callable[[Any, Any], Any], argument: Any) -> Any:
    try:
        before = deepcopy(state)
    except TypeError:  # a state that cannot be copied cannot be compared either
        return function(state, argument)
    comparable = before == state
    result = function(state, argument)
    if comparable and before != state:
        raise AssertionError(f"{name} changed the state that it was given, {before!r}, to {state!r}")
    return result


class Then(Generic[State, Command, Told]):
    """What was decided. Each check returns an actor that goes on from there, for the next `when`."""

    def __init__(
        self,
        decider: Decider[State, Command, Told],
        history: Sequence[Event],
        command: Command,
        told: Sequence[Told | NewEvent],
        error: Exception | None,
    ) -> None:
        self._decider = decider
        self._history = history
        self._command = command
        self._told = list(told)
        self._error = error

    def then(self, *expected: Told | NewEvent) -> Given[State, Command, Told]:
        """Exactly these events, in this order. Of a `NewEvent` type, data and metadata are compared."""
        if self._error is not None:
            self._fail(f"{_list(expected)}", f"{type(self._error).__name__}: {self._error}", self._error)
        if [_comparable(one) for one in self._told] != [_comparable(one) for one in expected]:
            self._fail(_list(expected), _list(self._told))
        return self._next()

    def then_nothing(self) -> Given[State, Command, Told]:
        """No event, and no error."""
        return self.then()

    def then_raises(self, error: type[Exception], match: str | None = None) -> Given[State, Command, Told]:
        """An error of this class, in whose text the regular expression `match` is found."""
        wanted = error.__name__ + (f" matching {match!r}" if match else "")
        if self._error is None:
            self._fail(wanted, _list(self._told))
        if not isinstance(self._error, error) or (match and not re.search(match, str(self._error))):
            self._fail(wanted, f"{type(self._error).__name__}: {self._error}", self._error)
        return Given(self._decider, self._history)

    def then_state(self, expected: State) -> Given[State, Command, Told]:
        """No error, and this state behind the events."""
        if self._error is not None:
            self._fail(f"state {expected!r}", f"{type(self._error).__name__}: {self._error}", self._error)
        after = self._next()
        if after.state != expected:
            self._fail(f"state {expected!r}", f"state {after.state!r}")
        return after

    def _next(self) -> Given[State, Command, Told]:
        new = [
            _stored(self._decider.types, one, version) for version, one in enumerate(self._told, len(self._history) + 1)
        ]
        return Given(self._decider, [*self._history, *new])

    def _fail(self, expected: str, found: str, error: Exception | None = None) -> NoReturn:
        raise AssertionError(f"when {self._command!r}:\n  expected: {expected}\n  found:    {found}") from error


def _comparable(told: object) -> object:
    return (told.type, told.data, told.metadata) if isinstance(told, NewEvent) else told


def _list(told: Sequence[object]) -> str:
    shown = [f"{one.type} {one.data!r}" if isinstance(one, NewEvent) else repr(one) for one in told]
    return ", ".join(shown) or "no event"
