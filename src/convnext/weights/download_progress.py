"""Progress of a download: a bar in a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_EVERY_S = 10.0


class Progress:
    """Shows how far a download is, on stderr.

    Args:
        name: The file's name.
        start: Bytes that were there before.
        total: Bytes in all; None if the server does not say.
    """

    def __init__(self, name: str, start: int, total: int | None) -> None:
        self._name = name
        self._done = start
        self._total = total
        self._next_line = time.monotonic()
        self._bar = (
            tqdm(
                total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1000, desc=name
            )
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif error is None:
            self._print()

    def advance(self, num_bytes: int) -> None:
        """Count bytes that arrived."""
        self._done += num_bytes
        if self._bar is not None:
            self._bar.update(num_bytes)
        elif time.monotonic() >= self._next_line:
            self._print()

    def _print(self) -> None:
        self._next_line = time.monotonic() + LINE_EVERY_S
        whole = "" if self._total is None else f" of {self._total / 1e6:.1f}"
        print(f"download {self._name}: {self._done / 1e6:.1f}{whole} MB", file=sys.stderr)
