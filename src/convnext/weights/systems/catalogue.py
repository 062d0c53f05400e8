"""Catalogues of published systems."""

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from convnext.weights.preprocessing import FitPreprocessing
from convnext.weights.systems.kinds import Kind

__all__ = ["Catalogue", "SystemWeights"]


@dataclass(frozen=True, kw_only=True)
class SystemWeights:
    """One published checkpoint of a system.

    Attributes:
        model: name of the system.
        tag: name of the weights, unique for a system.
        url: address of the file.
        data: what it was trained on, in order.
        licence: licence of the weights.
    """

    model: str
    tag: str
    url: str
    data: str
    licence: str = "MIT"

    @property
    def preprocessing(self) -> FitPreprocessing:
        """What images need, as in the published evaluation."""
        raise NotImplementedError

    def notice(self) -> str:
        """The licence, as a sentence to show when the weights are loaded."""
        return f"weights {self.model}.{self.tag}: licence {self.licence} (free to use)"


W = TypeVar("W", bound=SystemWeights)


class Catalogue(Generic[W]):
    """Published checkpoints of one kind of system, in the order of their table.

    Args:
        kind: of the systems.
        entries: the checkpoints; of each system the one first that ``True`` means.
        check: raises where a name is of no system of this kind, naming the nearest.
    """

    def __init__(self, kind: Kind, entries: Iterable[W], check: Callable[[str], object]) -> None:
        self._kind, self._check = kind, check
        self._entries = {(entry.model, entry.tag): entry for entry in entries}

    def matching(self, pattern: str = "*") -> list[W]:
        """Those whose ``model.tag`` matches a shell-style pattern, in table order.

        A pattern without a dot matches the name of the system alone.
        """
        pattern = pattern if "." in pattern else f"{pattern}.*"
        return [
            w for w in self._entries.values() if fnmatch.fnmatchcase(f"{w.model}.{w.tag}", pattern)
        ]

    def tags(self, model: str) -> list[str]:
        """Tags of the published weights of a system, the one that ``True`` means first."""
        return [tag for name, tag in self._entries if name == model]

    def default_tag(self, model: str) -> str:
        """The tag that ``True`` means: pre-trained on ImageNet-1K if there is such a file.

        Raises:
            ValueError: no such system, or there are no published weights for it.
        """
        known = self.tags(model)
        if not known:
            self._check(model)
            names = ", ".join(dict.fromkeys(name for name, _ in self._entries))
            raise ValueError(
                f"there are no published weights for {model}; {self._kind.word}s that have some: "
                f"{names}. Give a file, folder or URL, or start from weights of the backbone"
            )
        return known[0]

    def find(self, model: str, tag: str) -> W:
        """The published checkpoint of a system with this tag.

        Raises:
            ValueError: there is none; the tags that exist are named.
        """
        self.default_tag(model)
        if (model, tag) not in self._entries:
            raise ValueError(
                f"{model} has no weights {tag!r}; available: {', '.join(self.tags(model))}"
            )
        return self._entries[model, tag]
