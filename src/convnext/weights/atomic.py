"""Writing files so that each is complete or absent."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
Writer = Callable[[Path], object]


def text_writer(text: str) -> Writer:
    """Writes text as UTF-8."""
    return lambda path: path.write_text(text, encoding="utf-8")


def safetensors_writer(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Writer:
    """Writes tensors as a safetensors file."""
    from safetensors.torch import save_file

    # Tensors that share memory or are views would be refused.
    tensors = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}
    return lambda path: save_file(tensors, path, dict(metadata))


def torch_writer(content: object) -> Writer:
    """Writes a PyTorch file."""
    return lambda path: torch.save(content, path)


def weights_writer(
    target: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str], content: object
) -> Writer:
    """Writes weights to a file in the format that its ending names.

    Args:
        target: The file.
        state: Tensors for a safetensors file.
        metadata: Its metadata.
        content: What a PyTorch file holds instead.

    Raises:
        ValueError: The ending is of no known format.
    """
    if target.suffix == ".safetensors":
        return safetensors_writer(state, metadata)
    if target.suffix in TORCH_SUFFIXES:
        return torch_writer(content)
    raise ValueError(
        f"{target}: unknown ending {target.suffix!r}; use .safetensors, "
        f"{', '.join(TORCH_SUFFIXES)} or a folder"
    )


def write_atomically(files: Mapping[Path, Writer]) -> None:
    """Write all files under temporary names, sync them, then rename them in order.

    Raises:
        OSError: No space, no permission; the message names the file. Nothing half-written is left
            and files that existed before are as they were.
    """
    from safetensors import SafetensorError

    waiting: dict[Path, Path] = {}
    target = next(iter(files))
    try:
        for target, write in files.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            waiting[temporary] = target
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        for temporary, target in waiting.items():
            temporary.replace(target)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors report a full disk as errors of their own.
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise OSError(
            f"cannot write {target}: {reason}; free some space or choose another folder"
        ) from error
    finally:
        for temporary in waiting:
            temporary.unlink(missing_ok=True)
