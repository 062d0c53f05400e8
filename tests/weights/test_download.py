"""Downloads from a real local server, with everything that goes wrong on real networks."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convnext.weights.download import cache_dir, fetch

MIB = 1 << 20


def leftovers() -> list[str]:
    return sorted(p.name for p in cache_dir().rglob("*") if p.is_file())


def test_a_file_is_stored_once(server, capsys):
    path = fetch(f"{server.url}/some/net.pth")
    assert path.read_bytes() == server.body
    assert path.name == "net.pth"
    assert path.is_relative_to(cache_dir())
    assert fetch(f"{server.url}/some/net.pth") == path
    assert len(server.requests) == 1
    assert leftovers() == ["net.pth", "net.pth.lock"]
    assert "download net.pth: 3.1 of 3.1 MB" in capsys.readouterr().err


def test_files_of_one_name_from_two_places_do_not_meet(server):
    first = fetch(f"{server.url}/a/net.pth")
    server.body = b"another file"
    second = fetch(f"{server.url}/b/net.pth")
    assert first.read_bytes() != second.read_bytes()


def test_a_connection_cut_half_way_is_resumed(server):
    server.cuts = [MIB + 17, MIB - 5]
    assert fetch(f"{server.url}/net.pth").read_bytes() == server.body
    ranges = [request.get("Range") for request in server.requests]
    assert ranges == [None, f"bytes={MIB + 17}-", f"bytes={2 * MIB + 12}-"]
    assert server.sent == len(server.body)  # nothing was sent twice


def test_a_later_process_resumes_what_an_earlier_one_left(server):
    server.cuts = [MIB] + [0] * 20
    with pytest.raises(OSError, match="what has arrived is kept"):
        fetch(f"{server.url}/net.pth")
    assert "net.pth.part" in leftovers()
    assert "net.pth" not in leftovers()
    server.cuts = []
    assert fetch(f"{server.url}/net.pth").read_bytes() == server.body
    assert server.requests[-1]["Range"] == f"bytes={MIB}-"
    assert leftovers() == ["net.pth", "net.pth.lock"]


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_meanwhile_is_not_glued(server, if_range):
    """Also on a server that answers a range although the file is another one."""
    server.cuts = [MIB] + [0] * 20
    with pytest.raises(OSError, match="cannot download"):
        fetch(f"{server.url}/net.pth")
    server.cuts, server.if_range = [], if_range
    server.body = server.body[::-1]
    assert fetch(f"{server.url}/net.pth").read_bytes() == server.body


def test_a_file_that_became_shorter_starts_again(server):
    server.cuts = [MIB] + [0] * 20
    with pytest.raises(OSError, match="cannot download"):
        fetch(f"{server.url}/net.pth")
    server.cuts, server.if_range, server.body = [], False, b"short"
    assert fetch(f"{server.url}/net.pth").read_bytes() == b"short"


def test_a_server_that_ignores_ranges_sends_everything_again(server):
    server.ranges = False
    server.cuts = [MIB]
    assert fetch(f"{server.url}/net.pth").read_bytes() == server.body
    assert server.sent == len(server.body) + MIB


def test_without_etag_and_date_nothing_is_continued(server):
    server.validators = False
    server.cuts = [MIB]
    assert fetch(f"{server.url}/net.pth").read_bytes() == server.body
    assert "Range" not in server.requests[-1]


def test_a_whole_part_file_only_lacks_its_name(server):
    path = fetch(f"{server.url}/net.pth")
    part = path.rename(path.with_name("net.pth.part"))  # killed just before the rename
    part.with_name("net.pth.part.json").write_text(
        f'{{"etag": null, "modified": null, "size": {len(server.body)}}}'
    )
    assert fetch(f"{server.url}/net.pth").read_bytes() == server.body
    assert len(server.requests) == 1


def test_the_hash_is_checked(server):
    good = hashlib.sha256(server.body).hexdigest()
    assert fetch(f"{server.url}/good.pth#sha256={good}").read_bytes() == server.body
    with pytest.raises(ValueError, match=r"bad\.pth.* has SHA-256 .*expected 0000.*deleted"):
        fetch(f"{server.url}/bad.pth#sha256={'0' * 64}")
    assert leftovers() == ["bad.pth.lock", "good.pth", "good.pth.lock"]


def test_no_such_file(server):
    with pytest.raises(OSError, match=r"missing\.pth: HTTP 404, there is no such file"):
        fetch(f"{server.url}/missing.pth")
    assert len(server.requests) == 1


def test_a_server_that_is_down_is_asked_again_and_then_named(server):
    server.status = 503
    with pytest.raises(OSError, match="HTTP 503, the server refused"):
        fetch(f"{server.url}/net.pth")
    assert len(server.requests) > 1


def test_no_network(server):
    url = server.url
    server.close()
    with pytest.raises(OSError, match="Check the network") as error:
        fetch(f"{url}/net.pth")
    assert "give its path instead" in str(error.value)
    with pytest.raises(OSError, match=r"cannot download http://no-such-host\.invalid"):
        fetch("http://no-such-host.invalid/net.pth")


@pytest.mark.parametrize("url", ["ftp://host/net.pth", "http:///net.pth", "net.pth"])
def test_other_addresses_are_refused(url):
    with pytest.raises(ValueError, match="is not an http or https address"):
        fetch(url)


def test_full_disk(server):
    server.cuts = [MIB] + [0] * 20
    with pytest.raises(OSError, match="cannot download"):
        fetch(f"{server.url}/net.pth")
    part = next(cache_dir().rglob("*.part"))
    part.unlink()
    part.symlink_to("/dev/full")
    server.cuts = []
    with pytest.raises(OSError, match=r"cannot store net\.pth under .*No space left.*set CONVNEXT"):
        fetch(f"{server.url}/net.pth")


def test_too_little_space_is_said_before_the_download(server, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": MIB}))
    with pytest.raises(OSError, match=r"the download needs 3 MB, 1 MB are free.*CONVNEXT_HOME"):
        fetch(f"{server.url}/net.pth")
    assert server.sent <= len(server.body)
    assert not any(name == "net.pth" for name in leftovers())


def test_a_cache_that_cannot_be_written(server, monkeypatch):
    monkeypatch.setenv("CONVNEXT_HOME", "/dev/null/cache")
    with pytest.raises(OSError, match=r"cannot store net\.pth under /dev/null/cache.*set CONVNEXT"):
        fetch(f"{server.url}/net.pth")


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("CONVNEXT_HOME", "/a")
    assert cache_dir() == Path("/a")
    monkeypatch.delenv("CONVNEXT_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_dir() == Path("/b/convnext")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "convnext"


FETCH = "import sys; from convnext.weights.download import fetch; print(fetch(sys.argv[1]))"


def test_processes_that_want_the_same_file_download_it_once(server):
    command = [sys.executable, "-c", FETCH, f"{server.url}/net.pth"]
    ranks = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
    ]
    outputs = {rank.communicate(timeout=60)[0] for rank in ranks}
    assert all(rank.returncode == 0 for rank in ranks)
    assert len(outputs) == 1
    assert len(server.requests) == 1


def test_a_killed_process_leaves_no_lock_and_no_half_file(server):
    """The next call goes on where the killed one stopped."""
    server.body = os.urandom(96 * MIB)
    command = [sys.executable, "-c", FETCH, f"{server.url}/net.pth"]
    rank = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > MIB for p in cache_dir().rglob("*.part")):
        assert time.monotonic() < deadline
        assert rank.poll() is None
        time.sleep(0.001)
    rank.send_signal(signal.SIGKILL)
    rank.wait()
    assert "net.pth" not in leftovers()
    have = next(cache_dir().rglob("*.part")).stat().st_size
    assert fetch(f"{server.url}/net.pth").read_bytes() == server.body
    assert server.requests[-1]["Range"] == f"bytes={have}-"
