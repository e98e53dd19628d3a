"""Only one process at a time holds a chain's lock, on file systems with and without flock."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import Timeout

from pretrain.runtime.storage import read_json, write_json
from tools.chain.record.lock import ChainLock

TAKE = (
    "import errno, fcntl, os, sys, time\nfrom pathlib import Path\nfrom tools.chain.record.lock import ChainLock\n"
    "def refuse(*_): raise OSError(errno.ENOLCK, 'No locks available')\n"
    "if sys.argv[2] == 'without': fcntl.flock = refuse\n"
    "lock = ChainLock(Path(sys.argv[1]), 0); lock.acquire(); print('held', flush=True); time.sleep(60)"
)


@pytest.fixture(params=["with", "without"])
def flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if request.param == "without":
        monkeypatch.setattr(fcntl, "flock", refuse)
    return str(request.param)


def test_lock_is_held_by_one_and_free_after_it(tmp_path: Path, flock: str) -> None:
    path = tmp_path / ".lock"
    with ChainLock(path, 0), pytest.raises(Timeout):
        ChainLock(path, 0).acquire()
    with ChainLock(path, 0):
        pass
    assert not list(tmp_path.glob("*.holder.json")), flock


def test_lock_of_a_killed_process_is_free(tmp_path: Path, flock: str) -> None:
    path = tmp_path / ".lock"
    other = subprocess.Popen([sys.executable, "-c", TAKE, str(path), flock], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(Timeout):
        ChainLock(path, 0).acquire()
    other.kill()
    other.wait()
    with ChainLock(path, 5):
        pass
    other.stdout.close()


@pytest.mark.parametrize("flock", ["without"], indirect=True)
def test_lock_that_another_machine_left_is_a_sentence_with_the_remedy(tmp_path: Path, flock: str) -> None:
    path = tmp_path / ".lock"
    lock = ChainLock(path, 0)
    lock.acquire()
    holder = tmp_path / ".lock.holder.json"
    write_json(holder, {**read_json(holder), "host": "elsewhere"})
    with pytest.raises(ValueError, match=r"on elsewhere, and this file system has no flock .* delete this file"):
        ChainLock(path, 0.3).acquire()
    holder.write_bytes(b"")
    with pytest.raises(ValueError, match="another machine"):
        ChainLock(path, 0).acquire()
    assert holder.exists(), flock
