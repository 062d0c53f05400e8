"""CSV, TSV and parquet tables of image paths and labels."""

import csv
from collections.abc import Sequence
from pathlib import Path

from convnext.data.listing import SPLIT_NAMES, Listing, number_labels, read_class_names, split_of
from convnext.data.source import FileSource

SUFFIXES = (".csv", ".tsv", ".parquet")
_PATH_NAMES = ("path", "image", "image_path", "file", "filename", "file_name", "filepath")
_LABEL_NAMES = ("label", "class", "target", "category", "label_name", "class_name")
_SPLIT_NAMES = ("split", "subset", "fold")


def table_files(path: Path) -> dict[str, Path]:
    """The table files of a path: a file, or its siblings where it is called `train.csv`.

    A folder counts when it holds `train.csv` (or .tsv, .parquet). Empty if there is no table.
    """
    if path.is_dir():
        tables = [path / f"{stem}{suffix}" for stem in SPLIT_NAMES["train"] for suffix in SUFFIXES]
        path = next((table for table in tables if table.is_file()), path)
    if path.suffix.lower() not in SUFFIXES:
        return {}
    if split_of(path.stem) != "train":
        return {"all": path}
    found = {"train": path}
    for split in ("val", "test"):
        siblings = [path.with_name(f"{name}{path.suffix}") for name in SPLIT_NAMES[split]]
        sibling = next((table for table in siblings if table.is_file()), None)
        if sibling is not None:
            found[split] = sibling
    return found


def list_table(path: Path) -> dict[str, Listing]:
    """One table as a listing per split: {"all": ...} without a column `split`.

    Relative paths start at the table's folder. `classes.txt` beside the table may name the labels.

    Raises:
        ValueError: naming the file and the columns found, or the row that lacks a value.
    """
    header, rows = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    columns = [name.strip().lower() for name in header]
    at_path, at_label = (_find(columns, names) for names in (_PATH_NAMES, _LABEL_NAMES))
    at_split = _find(columns, _SPLIT_NAMES)
    if at_path is None or at_label is None:
        raise ValueError(
            f"{path}: needs the columns 'path' and 'label' (and may have 'split'); "
            f"found: {', '.join(header) or 'none'}"
        )
    parts: dict[str, tuple[list[str], list[str]]] = {}
    for number, row in rows:
        if len(row) <= max(at_path, at_label, at_split or 0):
            raise ValueError(f"{path}, row {number}: {len(row)} values for {len(header)} columns")
        image, label = row[at_path].strip(), row[at_label].strip()
        if not image or not label:
            lacking = "path" if not image else "label"
            raise ValueError(f"{path}, row {number}: the {lacking} is empty")
        split = "all" if at_split is None else split_of(row[at_split])
        if split is None:
            raise ValueError(
                f"{path}, row {number}: split {row[at_split or 0]!r} is none of train, val, test"
            )
        paths, labels = parts.setdefault(split, ([], []))
        paths.append(image)
        labels.append(label)
    if not parts:
        raise ValueError(f"{path}: no images found, the table has no rows")
    names = read_class_names(path.parent)
    listings = {}
    for split, (paths, written) in parts.items():
        labels_, classes = number_labels(written, names, str(path))
        listings[split] = Listing(FileSource(str(path.parent), paths, labels_), classes)
    return listings


def _find(columns: Sequence[str], names: tuple[str, ...]) -> int | None:
    return next((columns.index(name) for name in names if name in columns), None)


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            rows = [(i, row) for i, row in enumerate(csv.reader(file, delimiter=delimiter), 1)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV text in UTF-8 ({error})") from error
    rows = [(number, row) for number, row in rows if any(cell.strip() for cell in row)]
    return (rows[0][1], rows[1:]) if rows else ([], [])


def _read_parquet(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError(
            f"{path}: reading parquet needs pyarrow; run: pip install 'convnext[parquet]'"
        ) from error
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a parquet file ({error})") from error
    columns = [
        ["" if value is None else str(value) for value in column.to_pylist()]
        for column in table.columns
    ]
    rows = [(i, list(row)) for i, row in enumerate(zip(*columns, strict=True), 1)]
    return list(table.column_names), rows
