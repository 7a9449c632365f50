"""How a case says that a rule is broken."""

from __future__ import annotations

from types import TracebackType
from typing import Generic, Self, TypeVar

ErrorT = TypeVar("ErrorT", bound=BaseException)

_SHOWN = 600


class Violation(Exception):
    """A rule is broken: what was expected, and what was found instead."""

    def __init__(self, *, expected: str, found: object) -> None:
        self.expected = expected
        self.found = _short(found)
        super().__init__(f"expected {self.expected}, found {self.found}")


class SuiteError(Exception):
    """The suite itself or the harness failed; the verdict says nothing about the backend."""


def expect(held: bool, expected: str, *, found: object) -> None:
    """Raise a `Violation` unless the condition held."""
    if not held:
        raise Violation(expected=expected, found=found)


def expect_equal(found: object, expected: object, what: str) -> None:
    """Raise a `Violation` unless both are equal."""
    if found != expected:
        raise Violation(expected=f"{what} to be {_short(expected)}", found=found)


class expect_error(Generic[ErrorT]):  # noqa: N801  (reads as what it does)
    """Raise a `Violation` unless the block raises that error, which is then in `error`."""

    error: ErrorT

    def __init__(self, kind: type[ErrorT] | tuple[type[ErrorT], ...], doing: str) -> None:
        self._kinds: tuple[type[ErrorT], ...] = kind if isinstance(kind, tuple) else (kind,)
        self._expected = f"{' or '.join(each.__name__ for each in self._kinds)} from {doing}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, self._kinds):
            self.error = error
            return True
        if error is None:
            raise Violation(expected=self._expected, found="nothing was raised")
        if isinstance(error, Exception) and not isinstance(error, Violation):
            raise Violation(expected=self._expected, found=f"{type(error).__name__}: {error}") from error
        return False


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]} ({len(text)} characters)"
