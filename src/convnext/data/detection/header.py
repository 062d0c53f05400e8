"""The size of an image file from its first bytes."""

from pathlib import Path

from convnext.data.decode import read_header

_ENOUGH = 1 << 16  # bytes; headers of nearly all images end before


def header_size(path: Path, *, upright: bool = True) -> tuple[int, int]:
    """Height and width of an image file in pixels, after the EXIF turn if `upright`.

    Raises:
        ValueError: naming the file, if it is no image.
        OSError: naming the file, if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_ENOUGH)
            try:
                header = read_header(data, name=str(path), upright=upright)
            except ValueError:
                header = read_header(data + file.read(), name=str(path), upright=upright)
    except OSError as error:
        raise OSError(f"{path}: cannot be read ({error.strerror or error})") from error
    return header.height, header.width
