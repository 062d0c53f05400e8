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
from functools import cache
from pathlib import Path

__all__ = [
    "BuildError",
    "CompilerError",
    "build",
    "compiler_key",
    "compilers",
    "library_name",
    "no_compiler",
    "source_key",
    "supported",
    "system_key",
]

SOURCES = Path(__file__).with_name("native")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-Wall", "-Wno-psabi"),
    # No -ffast-math: a NaN has to reach the output, as in PyTorch.
    *("-ffp-contract=fast", "-fno-math-errno"),
)
SECONDS = 600  # after which a compiler has hung
OLDEST = 11  # GCC
# In what a compiler says when it fails today and may not tomorrow.
PASSING = (
    "no space left",
    "quota",
    "file too large",
    "file size limit",
    "memory",
    "kill",
    "signal",
)
NAMES = ("c++", "g++", *(f"g++-{release}" for release in range(16, OLDEST - 1, -1)))


class BuildError(Exception):
    """Why there is no compiled file, in one line."""


class CompilerError(BuildError):
    """A compiler does not take the sources, and will not the next time either."""


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
    """Commands of GCCs that are there and new enough, the preferred one first.

    With $CXX only that one. Other compilers do not take the sources: one file for each instruction
    set, by `#pragma GCC target`, and OpenMP calls for the library that PyTorch has.

    Raises:
        BuildError: $CXX is no command.
    """
    fit: dict[tuple[Path, tuple[str, ...]], list[str]] = {}
    for command, place in _candidates():
        if not _unfit(command, place):  # several names may be one program
            fit.setdefault((Path(place).resolve(), command[1:]), list(command))
    return list(fit.values())


def _candidates() -> list[tuple[tuple[str, ...], str]]:
    """Commands, and the files that they start."""
    own = os.environ.get("CXX")
    try:
        commands = [tuple(shlex.split(own))] if own else [(name,) for name in NAMES]
    except ValueError as error:
        raise BuildError(f"CXX={own} is no command ({error})") from None
    found = [(command, shutil.which(command[0])) for command in commands if command]
    return [(command, place) for command, place in found if place]


@cache
def _unfit(command: tuple[str, ...], place: str) -> str:
    """Why a compiler does not take the sources; empty if it does."""
    asking = [place, *command[1:], "-x", "c++", "-dM", "-E", os.devnull]
    try:
        answer = subprocess.run(
            asking, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return f"{command[0]} does not say which compiler it is"
    macros = dict(line.split(" ", 2)[1:] for line in answer.splitlines() if line.count(" ") > 1)
    release = macros.get("__GNUC__", "")
    if "__clang__" in macros or not release.isdecimal():  # Clang says that it is an old GCC
        return f"{command[0]} is not GCC"
    return "" if int(release) >= OLDEST else f"{command[0]} is GCC {release}"


def compiler_key(compiler: Sequence[str]) -> str:
    """A hash of a compiler's release and of its whole command: flags change what it makes."""
    try:
        release = subprocess.run(
            [*compiler, "--version"], capture_output=True, timeout=SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        release = b""
    return hashlib.sha256("\0".join(compiler).encode() + b"\0\0" + release).hexdigest()[:8]


def no_compiler() -> BuildError:
    """Why there is none."""
    own = os.environ.get("CXX")
    nothing = f"CXX={own} is not there" if own else "there is no C++ compiler"
    why = ", ".join(_unfit(*candidate) for candidate in _candidates()) or nothing
    return BuildError(f"{why}; install g++ {OLDEST} or newer")


def build(target: Path, extra: Sequence[str] = (), compiler: Sequence[str] | None = None) -> None:
    """Compile all sources, and put the library to its place when it is complete.

    Args:
        target: The file to write.
        extra: Further flags.
        compiler: One of `compilers`; by default the first of them that can compile this.

    Raises:
        CompilerError: The given compiler does not take the sources.
        BuildError: There is no compiler, none can compile this, or the file cannot be written.
    """
    if compiler is not None:
        _build(target, [*compiler, *FLAGS, *extra])
        return
    reasons = []
    for found in compilers():
        try:
            _build(target, [*found, *FLAGS, *extra])
            return
        except BuildError as error:
            reasons.append(str(error))
    raise BuildError("; ".join(dict.fromkeys(reasons))) if reasons else no_compiler()


def _build(target: Path, command: list[str]) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
            library = _compile(command, Path(folder))
            library.chmod(0o755)  # for others to run, not to change, whatever the umask
            with library.open("rb+") as file:
                os.fsync(file.fileno())  # under its name only when the disk has it
            library.replace(target)
    except OSError as error:
        raise BuildError(f"{target.parent} cannot be written ({error.strerror})") from None
    except RuntimeError as error:  # no more threads
        raise BuildError(f"compilers cannot be started ({error})") from None


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
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},  # what it says is read below
        )
    except subprocess.TimeoutExpired:
        raise CompilerError(f"{command[0]} took more than {SECONDS} s") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{command[0]} does not run ({error})") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        telling = [line for line in lines if "error" in line.lower()] or lines[-1:]
        passing = done.returncode < 0 or any(word in done.stderr.lower() for word in PASSING)
        kind = BuildError if passing else CompilerError
        raise kind(f"{command[0]} failed: {(telling or ['without a word'])[0]}")
