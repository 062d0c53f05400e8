"""SIGTERM and SIGINT: finish the step, save, leave."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class InterruptedEvaluation(BaseException):
    """A stop was asked for during an evaluation, which is thrown away and repeated on resume."""


class StopSignals:
    """While entered, notes the first SIGTERM or SIGINT instead of dying of it.

    A second one ends the process at once. Outside the main thread, where Python forbids handlers,
    nothing is caught.
    """

    def __init__(self) -> None:
        self.received = 0
        self._raise = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    @contextmanager
    def interrupting(self, enabled: bool) -> Iterator[None]:
        """Inside, if enabled, a signal raises `InterruptedEvaluation` instead of waiting."""
        self._raise = enabled
        try:
            yield
        finally:
            self._raise = False

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received:
            self._restore()
            signal.raise_signal(number)  # to this thread, so at once
            return
        self.received = number
        name = signal.Signals(number).name
        # os.write, because print may be interrupted in the middle of its own buffer
        os.write(2, f"\n{name}: saving after this step; once more to quit at once\n".encode())
        if self._raise:
            raise InterruptedEvaluation

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
