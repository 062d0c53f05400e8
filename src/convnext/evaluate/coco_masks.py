"""Masks as compressed run lengths, the form in which COCO stores, compares and counts them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["decode_counts", "decode_mask", "encode_masks", "encode_truth", "mask_area"]


def encode_masks(masks: npt.NDArray[Any]) -> list[dict[str, Any]]:
    """Masks ``(n, H, W)``, zero or not, as compressed RLE: ``size`` [H, W] and ``counts`` bytes."""
    from pycocotools import mask as coding

    # One at a time: the coder wants columns first, which would copy all masks at once.
    return [coding.encode(np.asfortranarray(mask != 0, dtype=np.uint8)) for mask in masks]


def decode_mask(rle: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """The mask ``(H, W)`` of a compressed RLE, whose ``counts`` are bytes or text."""
    # Not pycocotools' decoder: it asks of NumPy what NumPy 2 warns about and will refuse.
    height, width = rle["size"]
    runs = _run_lengths(decode_counts(rle["counts"]))
    values = np.arange(len(runs)) % 2 == 1  # the first run is background
    mask: npt.NDArray[np.bool_] = np.repeat(values, runs).reshape(width, height).T
    return mask


def _run_lengths(counts: bytes) -> npt.NDArray[np.int64]:
    """Lengths of alternating runs, down the columns, from COCO's text form.

    Each number is written as characters from 48 on that hold five bits, lowest first, and a sixth
    that says whether more follow; the fifth bit of the last one is the sign. From the fourth run
    on, the number is the difference to the run before the last.
    """
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    runs: npt.NDArray[np.int64] = np.add.reduceat((codes & 31) << 5 * place, starts)
    runs -= np.where(codes[ends] & 16, 1 << 5 * (ends - starts + 1), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def mask_area(rle: Mapping[str, Any]) -> float:
    """Number of pixels of a compressed RLE."""
    from pycocotools import mask as coding

    return float(coding.area(dict(rle)))


def decode_counts(counts: bytes | str) -> bytes:
    """The counts of a compressed RLE as bytes; JSON files hold them as text."""
    return counts.encode("ascii") if isinstance(counts, str) else counts


def encode_truth(segmentation: Any, size: tuple[int, int], name: str) -> dict[str, Any]:
    """The mask of an annotation as compressed RLE.

    Args:
        segmentation: Polygons ``[[x, y, x, y, ...], ...]``, or an RLE whose counts are a list of
            run lengths, text or bytes.
        size: Height and width of the image.
        name: What an error message calls the annotation.

    Raises:
        ValueError: There is no mask, or it cannot be understood, or it is of another size.
    """
    from pycocotools import mask as coding

    height, width = size
    try:
        if isinstance(segmentation, Mapping):
            if tuple(segmentation["size"]) != (height, width):
                raise ValueError(f"its size is {segmentation['size']}")
            counts = segmentation["counts"]
            if isinstance(counts, str | bytes):
                return {"size": [height, width], "counts": counts}
            if sum(counts) != height * width:
                raise ValueError(f"its runs cover {sum(counts)} pixels")
            whole: dict[str, Any] = coding.frPyObjects(dict(segmentation), height, width)
            return whole
        if isinstance(segmentation, Sequence) and segmentation:
            polygons = [list(map(float, polygon)) for polygon in segmentation]
            if any(len(polygon) < 6 for polygon in polygons):
                raise ValueError("a polygon has fewer than three corners")
            merged: dict[str, Any] = coding.merge(coding.frPyObjects(polygons, height, width))
            return merged
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the mask of {name} is broken for an image of {height} x {width}: {error}"
        ) from error
    raise ValueError(f"{name} has no mask: score boxes only, or give masks for all objects")
