"""The catalogue of published checkpoints, and how to find one in it."""

import difflib
import fnmatch
from dataclasses import dataclass

from convnext.models.registry import list_models, model_config
from convnext.weights.catalogue_rows import KINDS, PREFIX, ROWS, V2_FOLDERS
from convnext.weights.preprocessing import SQUASH_FROM, Preprocessing

MIT, CC_BY_NC = "MIT", "CC BY-NC 4.0"

# ``pretrained=True``: 1000 ImageNet classes at 224 px, without ImageNet-22K where that exists.
DEFAULT_TAGS = ("in1k", "fcmae_ft_in1k", "in22k_ft_in1k")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published checkpoint.

    Attributes:
        model: Name of the network.
        tag: Name of the weights, unique for a model.
        url: Address of the file.
        data: What it was trained on.
        resolution: Side of the images, in pixels.
        num_classes: Outputs; 0 for the encoders of masked pre-training, which have no head.
        top1: Published top-1 on ImageNet-1K, in percent.
        top1_again: Top-1 of an independent evaluation of the same file, in percent.
        top5_again: Top-5 likewise.
        licence: Licence of the weights.
    """

    model: str
    tag: str
    url: str
    data: str
    resolution: int
    num_classes: int
    top1: float | None
    top1_again: float | None
    top5_again: float | None
    licence: str

    @property
    def preprocessing(self) -> Preprocessing:
        """Published evaluation: 224 / 256 centre crop below 384 px, squash from there on."""
        squash = self.resolution >= SQUASH_FROM
        return Preprocessing(
            image_size=self.resolution,
            crop_pct=1.0 if squash else 0.875,
            crop_mode="squash" if squash else "center",
        )

    @property
    def is_default(self) -> bool:
        """Whether ``pretrained=True`` means these weights."""
        return self.tag == default_tag(self.model)

    def notice(self) -> str:
        """The licence, as a sentence to show when the weights are loaded."""
        use = "non-commercial use only" if self.licence == CC_BY_NC else "free to use"
        return f"weights {self.model}.{self.tag}: licence {self.licence} ({use})"


def _entry(
    model: str, part: str, top1: float | None, again1: float | None, again5: float | None
) -> Weights:
    family = model.split("_")[0]
    tag, data, resolution, num_classes = KINDS[family, part]
    if family == "convnextv2":
        url = f"{PREFIX}convnextv2/{V2_FOLDERS[tag]}/{model}_{part}.pt"
    else:
        url = f"{PREFIX}{model.replace('isotropic', 'iso')}_{part}.pth"
    return Weights(
        model=model,
        tag=tag,
        url=url,
        data=data,
        resolution=resolution,
        num_classes=num_classes,
        top1=top1,
        top1_again=again1,
        top5_again=again5,
        licence=CC_BY_NC if family == "convnextv2" else MIT,
    )


_CATALOGUE = {(entry.model, entry.tag): entry for entry in (_entry(*row) for row in ROWS)}


def list_weights(pattern: str = "*") -> list[Weights]:
    """Published checkpoints whose ``model.tag`` matches a shell-style pattern.

    A pattern without a dot matches the model's name alone. Order: network table, then tag.
    """
    pattern = pattern if "." in pattern else f"{pattern}.*"
    order = {name: i for i, name in enumerate(list_models())}
    found = [w for w in _CATALOGUE.values() if fnmatch.fnmatchcase(f"{w.model}.{w.tag}", pattern)]
    return sorted(found, key=lambda w: order[w.model])


def published_top1(model: str, tag: str) -> float | None:
    """Printed top-1 on ImageNet-1K of a published checkpoint, in percent; None without one."""
    entry = _CATALOGUE.get((model, tag))
    return entry.top1 if entry else None


def tags(model: str) -> list[str]:
    """Tags of the published weights of a model, the one that ``pretrained=True`` means first."""
    found = [tag for name, tag in _CATALOGUE if name == model]
    rank = {tag: i for i, tag in enumerate(DEFAULT_TAGS)}
    return sorted(found, key=lambda tag: rank.get(tag, len(rank)))


def default_tag(model: str) -> str:
    """The tag that ``pretrained=True`` means: IN-1K classes at 224 px, without IN-22K if possible.

    Raises:
        ValueError: No such model, or there are no published weights for it.
    """
    model_config(model)  # an unknown name gets the nearest names
    known = tags(model)
    if not known:
        names = ", ".join(dict.fromkeys(name for name, _ in _CATALOGUE))
        raise ValueError(
            f"there are no published weights for {model}; models that have some: {names}. "
            "Use pretrained=False, or give a file, folder or URL"
        )
    return known[0]


def find(model: str, tag: str) -> Weights:
    """The published checkpoint of a model with this tag.

    Raises:
        ValueError: There is none; the tags that exist are named.
    """
    default_tag(model)
    if (model, tag) in _CATALOGUE:
        return _CATALOGUE[model, tag]
    known = tags(model)
    near = difflib.get_close_matches(tag, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{model} has no weights {tag!r}{hint} Available: {', '.join(known)}")


def format_table(entries: list[Weights]) -> str:
    """The entries as lines of text, for the command line.

    ``*`` marks what ``pretrained=True`` means; ``again`` is the independent evaluation.
    """

    def score(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    head = ("model", "tag", "data", "px", "classes", "top-1", "again", "licence", "file")
    lines = [head] + [
        (
            w.model,
            w.tag + ("*" if w.is_default else ""),
            w.data,
            str(w.resolution),
            str(w.num_classes),
            score(w.top1, 1),
            score(w.top1_again, 3),
            w.licence,
            w.url,
        )
        for w in entries
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rows = ("  ".join(c.ljust(n) for c, n in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(row.rstrip() for row in rows)
