"""What makes one kind of system another one, where its weights are read and written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import Tensor, nn

from convnext.models.convnext import ConvNeXtConfig
from convnext.weights.layouts.layout import Layout
from convnext.weights.preprocessing import FitPreprocessing
from convnext.weights.systems.kinds import Kind

__all__ = ["Names", "OptionalHead", "Stored", "System", "SystemConfig", "system_of"]


class SystemConfig(Protocol):
    """What the configurations of all systems have."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def backbone(self) -> str:
        """Name of the network below."""

    @property
    def num_classes(self) -> int:
        """Classes."""

    @property
    def in_chans(self) -> int:
        """Input channels."""

    @property
    def drop_path_rate(self) -> float:
        """Stochastic depth of the network below."""


C = TypeVar("C", bound=SystemConfig)
M = TypeVar("M", bound=nn.Module)
P = TypeVar("P", bound=FitPreprocessing)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What is written beside weights in a layout of another library.

    Attributes:
        config: fields of the configuration of the system.
        body: configuration of its body.
        labels: names of the classes.
        num_classes: how many there are.
    """

    config: Mapping[str, Any]
    body: ConvNeXtConfig
    labels: tuple[str, ...] | None
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Names:
    """Names of a system's tensors in all layouts.

    Attributes:
        layouts: words of the command line for them.
        heads: beginnings of the names of everything but the backbone.
        bodies: beginnings of the names of the backbone; with a layout where that tells which one
            it is.
        read: translates heads of all layouts to our names; None if they are the same everywhere.
        write: by layout, translates heads from our names where theirs differ.
        lost: by layout, beginnings of our names that it has no place for and that are left out.
    """

    layouts: tuple[str, ...]
    heads: tuple[str, ...]
    bodies: Mapping[str, Layout | None] = field(default_factory=lambda: {"backbone.": None})
    read: Layout | None = None
    write: Mapping[str, Layout] = field(default_factory=dict)
    lost: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class OptionalHead:
    """A head that a system may be built without.

    Attributes:
        field: of the configuration; a false value leaves the head out.
        pattern: of the names of its tensors.
        title: what to call it.
    """

    field: str
    pattern: str
    title: str


@dataclass(frozen=True, kw_only=True)
class System(Generic[C, M, P]):
    """A kind of system, for the code that reads and writes weights of all of them.

    Attributes:
        kind: its words.
        verb: what it does to classes.
        network: class of its networks, built from a configuration and a body.
        named: configuration by name; an unknown name raises.
        known: configurations of the usual names.
        is_name: whether a name is of this kind.
        name_of: the name that a configuration would have.
        widths: fields that decide whether it has that name.
        infer: configuration from tensors under our names, name of the backbone, input channels
            and what was stored.
        preprocessing: what images need.
        labels: names of the classes of the published weights.
        names: of its tensors.
        predictors: patterns of the layers whose size is the number of classes.
        optional: a head that it may be built without.
        describe: its parts, in words.
        folders: by layout, the values of config.json in folders that another library opens.
        elsewhere: what config.json of another library says, as fields of a card.
        check_layout: refuses configurations that a layout does not express.
    """

    kind: Kind
    verb: str
    network: type[M]
    named: Callable[[str], C]
    known: Mapping[str, C]
    is_name: Callable[[str], bool]
    name_of: Callable[[C], str]
    widths: tuple[str, ...]
    infer: Callable[[Mapping[str, Tensor], str, int, Mapping[str, Any]], C]
    preprocessing: type[P]
    labels: Callable[[], tuple[str, ...]]
    names: Names
    predictors: tuple[str, ...]
    optional: OptionalHead
    describe: Callable[[C], str]
    folders: Mapping[str, Callable[[Stored], dict[str, Any]]] = field(default_factory=dict)
    elsewhere: Callable[[Path, dict[str, Any]], dict[str, Any]] = lambda folder, values: {}
    check_layout: Callable[[C, str], None] = lambda config, layout: None


def system_of(kind: Kind) -> System[Any, Any, Any]:
    """The system of a kind, loaded on first use: that of detectors needs torchvision."""
    system: System[Any, Any, Any] = import_module(f"convnext.weights.{kind.task}.system").SYSTEM
    return system
