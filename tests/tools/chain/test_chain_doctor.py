"""A chain runs the doctor first, and starts nothing on an unsuitable set-up."""

from pathlib import Path

import pytest

from pretrain.runtime.machine import PROJECT_ROOT
from tools.chain.doctor import run_doctor
from tools.chain.submit import open_chain

CHAIN = PROJECT_ROOT / "configs" / "chains" / "digits.yaml"


@pytest.mark.slow
def test_data_root_without_data_stops_the_chain_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    chain = open_chain(CHAIN, [f"runs={tmp_path}/runs", f"data.root={tmp_path}/empty"])
    with pytest.raises(ValueError, match="not fit for this chain"):
        run_doctor(chain)
    assert "problem" in capsys.readouterr().out
    assert not list(tmp_path.glob("runs/digits/stages/*"))


@pytest.mark.slow
def test_setup_without_problems_prints_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_doctor(open_chain(CHAIN, [f"runs={tmp_path}/runs"]))
    assert "no problems found" in capsys.readouterr().out


def test_chain_of_own_commands_needs_no_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.yaml"
    path.write_text('stages: {one: {command: ["true"]}}\nreport: false\n')
    run_doctor(open_chain(path, [f"runs={tmp_path}/runs"]))
    assert capsys.readouterr().out == ""
