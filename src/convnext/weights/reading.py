"""Reading checkpoint files without running anything that is inside them.

safetensors files hold tensors only. PyTorch files are pickles: they are read by the restricted
unpickler of ``torch.load(weights_only=True)``, and everything that is not a tensor, a number or a
container is refused.
"""

import argparse
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_MAX_INFLATION = 100  # a zip that grows more than this is made to fill the memory
_HEADER_LIMIT = 100_000_000  # as in the safetensors format
# What OpenMMLab's training programs put beside the weights: histories of what they logged, and
# numbers of numpy. Nothing of it is built: a stand-in takes the place of each.
_LOGGED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
)
_GLOBAL = re.compile(r"GLOBAL (\S+)")


class _StandIn:
    """An object that was not read."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_file(path: Path) -> tuple[object, dict[str, str]]:
    """Read a safetensors or PyTorch file.

    Returns:
        What is in the file, and the metadata of a safetensors file (else empty).

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a checkpoint, is truncated, or asks to run code.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder without model.safetensors; give a checkpoint file")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except PermissionError as error:
        raise PermissionError(f"{path}: no permission to read it") from error
    if not start:
        raise ValueError(f"{path} is empty (0 bytes); download or copy it again")
    # First, because the length at the start of a safetensors file may look like a pickle.
    if _looks_like_safetensors(start):
        return _read_safetensors(path)
    if start.startswith((_ZIP, _PICKLE)):
        content = _read_torch(path, start)
        _refuse_absurd_tensors(path, content)
        return content, {}
    raise ValueError(f"{path} is not a checkpoint: {_what_is_it(start)}")


def _looks_like_safetensors(start: bytes) -> bool:
    return (
        len(start) > 8
        and int.from_bytes(start[:8], "little") < _HEADER_LIMIT
        and (start[8:9] == b"{")
    )


def _what_is_it(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull` to get the file itself"
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, so a download went wrong; get the file again"
    return "it is neither a safetensors nor a PyTorch file"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return state, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"{path} is a damaged or truncated safetensors file ({error}); get it again"
        ) from error


def _read_torch(path: Path, start: bytes) -> object:
    if start.startswith(_ZIP):
        _refuse_zip_bomb(path)
    try:
        # Namespace is the one class that training scripts of the published code put into their
        # checkpoints; it only holds values. A stand-in holds nothing.
        allowed: list[Any] = [argparse.Namespace, *((_StandIn, name) for name in _LOGGED)]
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # about pickle versions; what matters raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"{path}: {_why_not_loaded(str(error))}") from error


def _why_not_loaded(message: str) -> str:
    if "TorchScript" in message:
        return "it is a TorchScript program, not a checkpoint; save its state_dict() instead"
    found = _GLOBAL.search(message)
    if found or "unrecognized function" in message or "Can only" in message:
        what = f" ({found[1]})" if found else ""
        return (
            f"refused, because the pickle holds more than tensors{what} and could run code. If you "
            "trust it, load it where it was made and save only its state_dict()"
        )
    if "Unsupported operand" in message:
        return "it is damaged, or a pickle that is no PyTorch checkpoint"
    return "the file is damaged or truncated; download or copy it again"


def _refuse_zip_bomb(path: Path) -> None:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(info.file_size for info in file.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(
            f"{path}: the file is damaged or truncated; download or copy it again"
        ) from error
    if unpacked > _MAX_INFLATION * size:
        raise ValueError(
            f"{path} has {size} bytes but would unpack to {unpacked}; PyTorch does not compress, "
            "so this is not a checkpoint"
        )


def _refuse_absurd_tensors(path: Path, content: object) -> None:
    """A tensor of few bytes can claim any size by strides of 0; copying it would fill memory."""
    for name, tensor in _tensors("", content):
        real = tensor.layout == torch.strided and not tensor.is_meta
        stored = tensor.untyped_storage().nbytes() if real else -1
        if tensor.numel() * tensor.element_size() > stored:
            raise ValueError(
                f"{path}: tensor {name} claims shape {tuple(tensor.shape)}, more than the "
                f"{max(stored, 0)} bytes stored; the file is damaged or made to exhaust the memory"
            )


def _tensors(name: str, content: object) -> list[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        return [(name, content)]
    if not isinstance(content, Mapping):
        return []
    return [pair for key, value in content.items() for pair in _tensors(str(key), value)]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file is not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(values).__name__}")
    return values
