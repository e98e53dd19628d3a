"""The runner that waits beside a running stage takes the next one, with its words, variables and log."""

import os
import subprocess
import sys
import time
from pathlib import Path

from pretrain.runtime.machine import PROJECT_ROOT
from tools.chain.run import launch
from tools.chain.run.spare import RunnerStarter

ENVIRONMENT = {"PYTHONPATH": str(PROJECT_ROOT)}


def run(starter: RunnerStarter, folder: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return starter.start([str(folder), f"driver={os.getpid()}"], environment, {"MARK": "x"}, folder.parent / "log")


def test_spare_takes_the_next_stage_and_says_so_in_its_log(tmp_path: Path) -> None:
    starter = RunnerStarter()
    starter.prepare(ENVIRONMENT)
    spare = starter._spare
    starter.prepare(ENVIRONMENT)
    assert starter._spare is spare, "one is enough"
    process = run(starter, tmp_path / "no-such-stage", ENVIRONMENT)
    assert process is spare
    assert process.wait(timeout=60) == 2
    assert "no-such-stage/spec.json" in (tmp_path / "log").read_text()
    starter.close()


def test_spare_of_other_code_or_one_that_died_is_not_used(tmp_path: Path) -> None:
    starter = RunnerStarter()
    for environment, kill in (({**ENVIRONMENT, "MOCHI_COMMIT": "another"}, False), (ENVIRONMENT, True)):
        starter.prepare(ENVIRONMENT)
        spare = starter._spare
        assert spare is not None
        if kill:
            spare.kill()
            spare.wait()
        process = run(starter, tmp_path / "no-such-stage", environment)
        assert process is not spare
        assert spare.poll() is not None
        assert process.wait(timeout=60) == 2
    starter.close()


def test_spare_ends_with_its_driver_and_on_close(tmp_path: Path) -> None:
    starter = RunnerStarter()
    starter.prepare(ENVIRONMENT)
    spare = starter._spare
    assert spare is not None
    starter.close()
    assert spare.returncode is not None
    code = (
        "import time; from tools.chain.run.spare import RunnerStarter\nstarter = RunnerStarter()\n"
        f"starter.prepare({ENVIRONMENT!r}); print(starter._spare.pid, flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    place = Path("/proc", driver.stdout.readline().decode().strip())
    assert place.exists()
    driver.kill()
    driver.wait()
    driver.stdout.close()
    until = time.monotonic() + 60
    while place.exists() and "\nState:\tZ" not in (place / "status").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_wait_ends_as_soon_as_a_process_does() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    began = time.monotonic()
    launch.wait_for_any([process], 60.0)
    assert time.monotonic() - began < 30
    process.wait()
