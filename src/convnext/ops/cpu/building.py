"""Compile the sources in `native/` into one shared library.

Only the standard library is imported: the installation runs this file by itself, without torch.
OpenMP code is compiled but no OpenMP library is linked: its symbols are found when the file is
loaded, in the library that PyTorch uses, whose pool of threads is then ours too.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = [
    "BuildError",
    "build",
    "compilers",
    "library_name",
    "source_key",
    "supported",
    "system_key",
    "version",
]

SOURCES = Path(__file__).with_name("native")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-Wall", "-Wno-psabi"),
    # No -ffast-math: a NaN has to reach the output, as in PyTorch.
    *("-ffp-contract=fast", "-fno-math-errno"),
)
SECONDS = 600  # after which a compiler has hung


class BuildError(Exception):
    """Why there is no compiled file, in one line."""


def supported() -> bool:
    """Whether the sources are for this kind of machine at all."""
    known = platform.machine().lower() in ("x86_64", "amd64") and os.name == "posix"
    return known and any(SOURCES.glob("*.cpp"))


def source_key() -> str:
    """A hash of the sources and flags: which library a compiled file is."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in sorted((*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h"))):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def library_name() -> str:
    """Of the file that an installation puts beside the sources."""
    return f"kernels-{source_key()}.so"


def system_key() -> str:
    """Processor architecture and C library, for folders that several machines share."""
    return "-".join(filter(None, (platform.machine(), *platform.libc_ver())))


def compilers() -> list[list[str]]:
    """Commands of C++ compilers that are there, the preferred one first: $CXX, c++, g++, clang++.

    With $CXX only that one.
    """
    own = os.environ.get("CXX")
    commands = [shlex.split(own)] if own else [["c++"], ["g++"], ["clang++"]]
    return [command for command in commands if command and shutil.which(command[0])]


def version(compiler: list[str]) -> str:
    """What a compiler says it is, empty if it does not run."""
    try:
        return subprocess.run(
            [*compiler, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def build(target: Path, extra: Sequence[str] = ()) -> None:
    """Compile all sources, and put the library to its place when it is complete.

    Args:
        target: The file to write.
        extra: Further flags.

    Raises:
        BuildError: There is no compiler, none can compile this, or the file cannot be written.
    """
    found = compilers()
    if not found:
        own = os.environ.get("CXX")
        lacking = f"CXX={own} is not there" if own else "there is no C++ compiler"
        raise BuildError(f"{lacking}; install g++ 11 or newer")
    reasons = []
    for compiler in found:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
                _compile([*compiler, *FLAGS, *extra], Path(folder)).replace(target)
            return
        except OSError as error:
            raise BuildError(f"{target.parent} cannot be written ({error.strerror})") from None
        except BuildError as error:
            reasons.append(str(error))
    raise BuildError("; ".join(dict.fromkeys(reasons)))


def _compile(command: list[str], folder: Path) -> Path:
    """Every source by itself, as many at a time as there are cores; then all together."""
    sources = sorted(SOURCES.glob("*.cpp"))
    objects = [str(folder / f"{path.stem}.o") for path in sources]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        commands = [
            [*command, "-c", str(path), "-o", out]
            for path, out in zip(sources, objects, strict=True)
        ]
        for _ in pool.map(_run, commands):
            pass
    library = folder / "kernels.so"
    linking = [flag for flag in command if flag != "-fopenmp"]  # it would link a pool of its own
    _run([*linking, "-shared", *objects, "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{command[0]} does not run ({error})") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        telling = [line for line in lines if "error" in line.lower()] or lines[-1:]
        raise BuildError(f"{command[0]} failed: {(telling or ['without a word'])[0]}")
