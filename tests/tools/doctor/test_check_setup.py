"""The doctor reports every problem with its remedy and returns 1 if there is one."""

import json
from pathlib import Path

import pytest
import torch

from tools import check_setup
from tools.doctor import checks
from transfer import detectron2_compat


def test_this_machine_has_no_problems(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert check_setup.main([f"out={tmp_path}", "json=true"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {"torch", "torchvision", "numpy", "Detectron2", "Submitit", "Slurm"} <= {entry["what"] for entry in findings}
    assert all(entry["remedy"] for entry in findings if entry["state"] != "fine")


def test_data_root_without_data_is_a_problem(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert check_setup.main([f"data={tmp_path}", f"out={tmp_path}"]) == 1
    assert "tools.make_digits" in capsys.readouterr().out.replace("\n", " ")


def test_data_root_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "VOC2007" / "JPEGImages").mkdir(parents=True)
    (finding,) = checks._check_data(str(tmp_path))
    assert (finding.state, finding.found) == ("fine", "VOC2007")


def test_root_of_own_data_sets_is_a_note_for_a_plan_checks_them(tmp_path: Path) -> None:
    (tmp_path / "shop" / "annotations").mkdir(parents=True)
    (finding,) = checks._check_data(str(tmp_path))
    assert finding.state == "note" and "config=FILE" in finding.remedy
    (missing,) = checks._check_data(str(tmp_path / "nowhere"))
    assert missing.state == "problem"


def test_slurm_is_a_problem_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    states = {needed: [finding.state for finding in checks._check_slurm(needed)] for needed in (True, False)}
    assert states == {True: ["fine", "problem"], False: ["fine", "note"]}


def write_program(folder: Path, name: str, answer: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {answer}\n")
    path.chmod(0o755)


def test_driver_that_torch_cannot_use_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine's driver serves torch")
    monkeypatch.setenv("PATH", str(tmp_path))
    states = {finding.what: finding.state for finding in checks._check_cuda()}
    assert states["CUDA"] == "note"
    write_program(tmp_path, "nvidia-smi", "470.82.01")
    driver, nccl = checks._check_cuda()
    assert (driver.what, driver.state) == ("driver", "problem")
    assert "470.82.01, but torch" in driver.found
    assert nccl.what == "NCCL"


def test_missing_detectron2_is_a_problem_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectron2_compat, "is_installed", lambda: False)
    (finding,) = checks._check_detectron2()
    assert (finding.state, finding.remedy) == ("problem", detectron2_compat.INSTALL_HINT)


def test_too_old_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "OLDEST", {"numpy": (999,)})
    (finding,) = checks._check_packages()
    assert finding.state == "problem"
    assert "needs 999 or newer" in finding.remedy
