"""A chain ends with its verdict and control in sentences, in the terminal as in the report."""

from pathlib import Path

import pytest
import yaml

from pretrain.runtime.settings import as_dict
from pretrain.runtime.storage import read_json, write_json
from tools.chain.__main__ import main as run_chain
from tools.chain.ending import print_ending
from tools.chain.plan.config import ChainConfig
from tools.chain.plan.question_words import question_words
from tools.chain.record.state import stage_as_dict, stage_folder
from tools.chain.submit import Chain, open_chain
from transfer.results.run_result import RunResult, write_result

LEVELS = {"mochi": 30.0, "moco": 20.0, "random": 5.0, "supervised": 40.0}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    values = {
        "runs": str(tmp_path),
        "data": {"root": str(tmp_path)},
        "backbones": {name: {"weights": str(tmp_path / "w.pth")} for name in LEVELS},
        "protocols": {"voc": {"kind": "command", "command": ["measure", "{weights}"]}},
        "seeds": [0, 1, 2],
        "compare": [["mochi", "moco"]],
        "controls": {"floor": "random", "ceiling": "supervised"},
        "delta": 0.4,
    }
    (tmp_path / "w.pth").write_bytes(b"x")
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(values))
    opened = open_chain(tmp_path / "chain.yaml")
    entries = [{**stage_as_dict(stage), "folder": stage.folder} for stage in opened.stages]
    write_json(opened.folder / "chain.json", {"name": "c", "config": as_dict(opened.config), "stages": entries})
    for stage in opened.stages:
        for name, level in LEVELS.items():
            if stage.name.startswith(f"voc-{name}-seed"):
                seed = int(stage.name[-1])
                metrics = {"AP": level + 0.1 * seed}
                write_result(
                    stage_folder(opened.folder, stage.folder),
                    RunResult(
                        backbone=name, protocol="voc-c4-digits@moco", seed=seed, metrics=metrics, weights_sha256=name
                    ),
                )
    return opened


def test_chain_ends_with_verdict_and_control_in_sentences(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    print_ending(chain)
    text = capsys.readouterr().out
    assert "30.10 (29.85 to 30.35)" in text
    assert "Control passed: supervised is better than random in the one measurement" in text
    assert "Yes: this mochi checkpoint is better than this moco checkpoint in the one measurement." in text
    assert "It says nothing about the methods: one pretraining run each." in text


def test_report_command_asks_what_the_chain_file_asks_now(chain: Chain, capfd: pytest.CaptureFixture[str]) -> None:
    values = yaml.safe_load(chain.path.read_text()) | {"compare": [["moco", "random"]]}
    chain.path.write_text(yaml.safe_dump(values))
    assert run_chain(["report", str(chain.path)]) == 0
    summary = read_json(chain.folder / "report" / "summary.json")
    assert [(entry["first"], entry["second"]) for entry in summary["comparisons"]] == [("moco", "random")]
    assert "Yes: this moco checkpoint is better" in capfd.readouterr().out


def test_another_question_is_another_report_stage(chain: Chain) -> None:
    before = next(stage for stage in chain.stages if stage.kind == "report")
    assert before.command[-4:] == (
        'compare=[["mochi", "moco"]]', 'controls.floor="random"', 'controls.ceiling="supervised"', "delta=0.4",
    )  # fmt: skip
    again = open_chain(chain.path, ("delta=0.5",))
    after = next(stage for stage in again.stages if stage.kind == "report")
    assert before.key != after.key
    assert {stage.key for stage in chain.stages} - {before.key} == {stage.key for stage in again.stages} - {after.key}
    assert question_words(ChainConfig()) == ()
