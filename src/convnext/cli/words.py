"""Messages for words that do not exist."""

import difflib
from collections.abc import Iterable


def unknown(what: str, value: str, known: Iterable[str]) -> ValueError:
    """A ValueError that names the nearest known word, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return ValueError(f"unknown {what} {value!r}; {hint}")
