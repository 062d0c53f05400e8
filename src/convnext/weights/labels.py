"""Names of the classes of the published weights."""

from functools import cache

from convnext.data.segmentation.names import ADE20K


def imagenet_labels(num_classes: int) -> tuple[tuple[str, ...] | None, dict[str, str]]:
    """WordNet ids in the order of the outputs, and words for them.

    Args:
        num_classes: 1000 (ImageNet-1K) or 21841 (ImageNet-22K); else there are no labels.

    Source: the lists that timm carries; both are the sorted ids of the data sets.
    """
    subset = {1000: "imagenet-1k", 21841: "imagenet-22k"}.get(num_classes)
    if subset is None:
        return None, {}
    from timm.data import ImageNetInfo

    info = ImageNetInfo(subset)
    labels = tuple(info.label_names())
    return labels, {label: info.label_name_to_description(label) for label in labels}


def ade20k_labels() -> tuple[str, ...]:
    """The 150 classes of ADE20K's scene parsing benchmark, the first of each class's names.

    Source: Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017, list of the benchmark.
    """
    return ADE20K


def coco_labels() -> tuple[str, ...]:
    """The 80 classes of COCO in ascending order of their category ids."""
    return tuple(_coco().values())


def coco_category_ids() -> tuple[int, ...]:
    """The category ids of `coco_labels`, 1 to 90 with gaps."""
    return tuple(_coco())


@cache
def _coco() -> dict[int, str]:
    """The classes of COCO by category id.

    Source: the list that torchvision carries, which holds "N/A" for ids without images.
    """
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {i: name for i, name in enumerate(names) if name not in ("__background__", "N/A")}
