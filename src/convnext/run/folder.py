"""The folder of a run: what lies where, and whether a command may go on with it."""

import fcntl
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from convnext.recipes.recipe import Recipe, differences, to_dict
from convnext.train.recipe_check import HARMLESS

__all__ = ["RunFolder", "command_line", "say_line", "versions", "write_text"]

# What a recipe says about itself, and where the images lie now.
FREE = (
    *("name", "source", "expected_top1", "expected_ap", "expected_miou", "cost", "notes"),
    "data.path",
)

LOCK = ".lock"  # held by the process that trains in the folder


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder. Nothing is created before `create`."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe, with versions, seed and command."""
        return self.path / "recipe.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line: training and evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def weights_dir(self) -> Path:
        """The best weights, for sharing."""
        return self.path / "weights"

    @property
    def report_file(self) -> Path:
        """The report."""
        return self.path / "report.html"

    def stored(self) -> dict[str, Any] | None:
        """What recipe.json holds, or None when there is none.

        Raises:
            ValueError: The file is damaged.
        """
        if not self.recipe_file.is_file():
            return None
        try:
            values = json.loads(self.recipe_file.read_text(encoding="utf-8"))
            if not isinstance(values, dict) or "recipe" not in values:
                raise ValueError("it has no field 'recipe'")
        except ValueError as error:
            raise ValueError(
                f"{self.recipe_file} is damaged ({error}); choose another --out"
            ) from None
        return values

    def check(self, recipe: Recipe, data: dict[str, Any]) -> bool:
        """Whether this run continues what the folder holds; False for a new run.

        Raises:
            OSError: The folder cannot be written.
            ValueError: The folder holds another run, or something that is no run.
        """
        stored = self.stored()
        if stored is None:
            _check_writable(self.path)
            if self.path.is_dir() and any(p.name != LOCK for p in self.path.iterdir()):
                raise ValueError(f"{self.path} is not empty and holds no run; choose another --out")
            return False
        self._refuse_other(recipe)
        for key, value in data.items():
            if stored.get("data", {}).get(key, value) != value:
                raise ValueError(
                    f"the data is not that of the run in {self.path}: {key} was "
                    f"{stored['data'][key]}, is {value}; restore the data or choose another --out"
                )
        return True

    def scores(self, recipe: Recipe) -> dict[str, Any] | None:
        """What a finished run of this recipe reached, by split; None if it has not ended.

        Raises:
            ValueError: The folder holds another run, or its scores are damaged.
        """
        path = self.path / "evaluation.json"
        if self.stored() is None or not path.is_file():
            return None
        self._refuse_other(recipe)
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it to score again") from None
        return {split: values[split] for split in ("val", "test") if split in values}

    def _refuse_other(self, recipe: Recipe) -> None:
        """Raise ValueError when the folder's run has other settings."""
        old = Recipe.from_file(self.recipe_file)
        changed = [
            line
            for line in differences(old, recipe)
            if (name := line.split(":")[0]) not in FREE and name.split(".")[-1] not in HARMLESS
        ]
        if changed:
            raise ValueError(
                f"{self.path} holds a run with other settings ({'; '.join(changed)}); "
                "choose another --out, or repeat the command that started it"
            )

    def create(self, recipe: Recipe, data: dict[str, Any]) -> None:
        """Make the folder and write recipe.json."""
        self.path.mkdir(parents=True, exist_ok=True)
        values = {
            "recipe": to_dict(recipe),
            "data": data,
            "versions": versions(),
            "seed": recipe.train.seed,
            "command": command_line(),
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        write_text(self.recipe_file, json.dumps(values, indent=2) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder; a dead process holds no lock.

        Raises:
            ValueError: Another process is training here.
        """
        with (self.path / LOCK).open("w") as file:
            try:
                # lockf, not flock: loader processes must not inherit the lock of a dead parent
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise ValueError(
                    f"another process is training in {self.path}; wait for it, end it, or choose "
                    "another --out"
                ) from None
            yield

    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line cut by a crash is left out."""
        if not self.metrics_file.is_file():
            return []
        lines = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
        return lines


def _check_writable(path: Path) -> None:
    """Raise OSError when a folder could not be made or written, without making it."""
    parent = path
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise NotADirectoryError(f"{parent} is a file; choose another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write in {parent}; choose another --out")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: to a temporary name, then renamed."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    temporary.chmod(0o644)
    temporary.replace(path)


def say_line(text: str) -> None:
    """Print a line at once, also into a pipe, so that it stands where it belongs."""
    print(text, flush=True)


def versions(
    packages: Sequence[str] = ("convnext", "torch", "torchvision", "timm", "numpy", "pillow"),
) -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def command_line() -> str:
    """The command that started this process, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
