"""Downloading into a cache: resumable, checked, atomic, and safe with several processes.

A file is first written as ``NAME.part`` with ``NAME.part.json`` beside it, which remembers what
identifies the file on the server. A download that was cut goes on where it stopped if the server
still has the same file; else it starts again.
"""

import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from convnext.weights.download_progress import Progress

CHUNK = 1 << 20
TIMEOUT_S = 30.0
ATTEMPTS = 4  # in a row without a new byte
PAUSE_S = 0.5
_TORCH_HASH = re.compile(r"-([0-9a-f]{8,64})\.pth$")


@dataclass(frozen=True)
class _Identity:
    """What tells whether the server still has the same file."""

    etag: str | None
    modified: str | None
    size: int | None

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` may compare: a strong ETag, or the time of change."""
        strong = self.etag is not None and not self.etag.startswith("W/")
        return self.etag if strong else self.modified


class _CutError(Exception):
    """The connection ended before the file did."""


def cache_dir() -> Path:
    """Folder of downloads: ``$CONVNEXT_HOME``, else ``convnext`` in the user's cache folder."""
    if home := os.environ.get("CONVNEXT_HOME"):
        return Path(home).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "convnext"


def fetch(url: str, *, sha256: str | None = None) -> Path:
    """The local copy of a file on the web; downloaded if it is not in the cache.

    Args:
        url: http or https. A fragment ``#sha256=HEX`` is a hash to check.
        sha256: SHA-256 of the file in hexadecimal, or its first digits.

    Raises:
        OSError: No network, no such file, no space, no permission; says what to do.
        ValueError: The address is not http(s), or the file's hash is wrong (it is deleted then).
    """
    address, _, fragment = url.partition("#")
    address = urllib.parse.quote(address, safe="%/:=&?~+!$,;'@()*[]")
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{url} is not an http or https address")
    name = Path(urllib.parse.unquote(parts.path)).name or "download"
    if fragment.startswith("sha256="):
        sha256 = fragment.removeprefix("sha256=")
    elif parts.hostname == "download.pytorch.org" and (found := _TORCH_HASH.search(name)):
        sha256 = sha256 or found[1]
    # Files of the same name from different places must not meet.
    folder = cache_dir() / hashlib.sha256(address.encode()).hexdigest()[:12]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{name}.lock"):
            path = folder / name
            if not path.exists():
                _download(address, path, sha256)
            return path
    except OSError as error:
        if isinstance(error, _DownloadError):
            raise
        raise OSError(
            f"cannot store {name} under {cache_dir()}: {error.strerror or error}; free some space "
            "or set CONVNEXT_HOME to another folder"
        ) from error


class _DownloadError(OSError):
    """Has its whole message already."""


def _download(url: str, path: Path, sha256: str | None) -> None:
    part = path.with_name(path.name + ".part")
    notes = path.with_name(path.name + ".part.json")
    best, failures = -1, 0
    while True:
        try:
            _transfer(url, part, notes)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 or failures >= ATTEMPTS:
                raise _DownloadError(_refusal(url, error)) from error
        except (_CutError, http.client.HTTPException, OSError) as error:
            if _is_local(error):
                raise
            # Without a connection from the start, another attempt in a second changes nothing.
            offline = isinstance(error, urllib.error.URLError) and best <= 0
            if failures >= ATTEMPTS or offline:
                raise _DownloadError(_no_network(url, error, path)) from error
        size = part.stat().st_size if part.exists() else 0
        failures = 0 if size > best else failures + 1
        best = max(best, size)
        time.sleep(PAUSE_S * failures)
    _check_hash(url, part, notes, sha256)
    part.replace(path)
    notes.unlink(missing_ok=True)


def _transfer(url: str, part: Path, notes: Path) -> None:
    """One connection: continue the part file, or start it again; raises if it ends early."""
    known, have = _resumable(part, notes)
    if have and have == known.size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "convnext"})
    if have and known.validator:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known.validator)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the file on the server is shorter now
            part.unlink()
            notes.unlink(missing_ok=True)
            raise _CutError("the file on the server has changed") from error
        raise
    with response:
        continues = response.status == 206 and _range_fits(response, have, known)
        if response.status == 206 and not continues:
            part.unlink()
            raise _CutError("the file on the server has changed")
        start = have if continues else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        if not continues:
            headers = response.headers
            identity = _Identity(headers.get("ETag"), headers.get("Last-Modified"), total)
            notes.write_text(json.dumps(asdict(identity)))
        _require_space(part, None if total is None else total - start)
        with part.open("ab" if continues else "wb") as file:
            _copy(response, file, Progress(part.name.removesuffix(".part"), start, total))
        # A connection that just ends looks like the end of the file.
        if total is not None and part.stat().st_size < total:
            raise _CutError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _resumable(part: Path, notes: Path) -> tuple[_Identity, int]:
    """What is known of a part file and how much of it is there."""
    try:
        known = _Identity(**json.loads(notes.read_text()))
        return known, part.stat().st_size
    except (OSError, ValueError, TypeError):
        return _Identity(None, None, None), 0


def _range_fits(response: http.client.HTTPResponse, have: int, known: _Identity) -> bool:
    """Whether the answer is the rest of the very file that the part came from."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != have:
        return False
    if found[2] != "*" and known.size is not None and int(found[2]) != known.size:
        return False
    etag = response.headers.get("ETag")
    return etag is None or known.etag is None or etag == known.etag


def _copy(response: http.client.HTTPResponse, file: IO[bytes], progress: Progress) -> None:
    with progress:
        try:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                progress.advance(len(chunk))
        except http.client.IncompleteRead as error:
            file.write(error.partial)
            raise _CutError("the connection was cut") from error
        file.flush()
        os.fsync(file.fileno())


def _require_space(part: Path, needed: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed is not None and needed > free:
        raise _DownloadError(
            f"not enough space in {part.parent}: the download needs {needed / 1e6:.0f} MB, "
            f"{free / 1e6:.0f} MB are free; free some space or set CONVNEXT_HOME to another folder"
        )


def _check_hash(url: str, part: Path, notes: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if not actual.startswith(sha256.lower()):
        part.unlink()
        notes.unlink(missing_ok=True)
        raise ValueError(
            f"{url} has SHA-256 {actual[:16]}..., expected {sha256[:16]}...: the file was changed "
            "or damaged; it was deleted, try again or check the address"
        )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Only one process at a time; the lock ends with the process, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another process downloads {path.stem}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_local(error: Exception) -> bool:
    """Errors of this machine's disk, not of the network."""
    network = (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError)
    return isinstance(error, OSError) and not isinstance(error, network)


def _refusal(url: str, error: urllib.error.HTTPError) -> str:
    reason = {
        401: "it needs a login",
        403: "the server does not allow it",
        404: "there is no such file; check the address",
        410: "the file is gone",
    }.get(error.code, "the server refused")
    return f"cannot download {url}: HTTP {error.code}, {reason}"


def _no_network(url: str, error: Exception, path: Path) -> str:
    reason = getattr(error, "reason", None) or error or type(error).__name__
    return (
        f"cannot download {url}: {reason}. Check the network and try again (what has arrived is "
        "kept); or get the file on another machine and give its path instead, or put it at "
        f"{path}"
    )
