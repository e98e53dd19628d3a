"""The bundled Detectron2 is the official v0.6."""

from pathlib import Path

import pytest

from tools.setup.verify_detectron2 import digest_package, main


def test_digest_counts_every_file_but_projects_and_zoo_configs(tmp_path: Path) -> None:
    root = tmp_path / "detectron2"
    (root / "projects").mkdir(parents=True)
    (root / "a.py").write_text("a")
    before = digest_package(root)
    (root / "projects" / "b.py").write_text("b")
    assert digest_package(root) == before
    (root / "a.py").write_text("changed")
    assert digest_package(root) != before


def test_installed_package_is_the_official_one(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("detectron2")
    assert main([]) in (0, None)
    assert "identical to the official tag" in capsys.readouterr().out
