"""Submitting is safe twice at once, under any name, and from either backend; real stages give the same results."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.stopping import EXIT_YIELD
from pretrain.runtime.storage import read_json, read_json_lines
from tests.slurm.chains import ChainOnSlurm, counting, standard_stages, wait_until
from tools.chain.__main__ import main as run_chain
from tools.chain.slurm.squeue import NEVER
from tools.trials.cluster import Cluster
from tools.trials.counting import expect

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm")]
DONE = {"done"}


def start(chain: ChainOnSlurm, *words: str, stdout: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tools.chain", "submit", str(chain.path), *words]
    return subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=stdout, text=True)


def test_of_two_submits_at_once_every_stage_gets_one_job(cluster: Cluster, tmp_path: Path) -> None:
    chain = ChainOnSlurm(tmp_path, standard_stages(steps=40, sleep=0.1))
    both = [start(chain, stdout=subprocess.PIPE) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(answer.splitlines()[-1].partition(": ")[2] for answer in answers) == [
        "0 stages submitted, 6 were in the queue", "6 stages submitted, 0 were in the queue",
    ]  # fmt: skip
    assert set(chain.wait_for_end(120, cluster).values()) == DONE
    for path in chain.folder.glob("stages/*/ledger.jsonl"):
        assert [line["event"] for line in read_json_lines(path)] == ["intent", "submitted"]
    assert [len(chain.attempts(name)) for name in ("pretrain", "convert", "final")] == [1, 1, 1]


def test_chain_moves_between_the_backends_half_way(cluster: Cluster, tmp_path: Path) -> None:
    chain = ChainOnSlurm(tmp_path, {"first": counting(3), "train": counting(400, sleep=0.1, after=("first",))})
    driver = start(chain, "backend=local")
    chain.wait_for_step("train", 8)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=60) == EXIT_YIELD
    chain.submit("backend=slurm")
    chain.wait_for_step("train", 60, seconds=90)
    subprocess.run([sys.executable, "-m", "tools.chain", "cancel", str(chain.path)], cwd=PROJECT_ROOT, check=True)
    chain.wait(lambda states: states["train"] == "pending", 60, cluster)
    assert start(chain, "backend=local").wait(timeout=180) == 0
    assert [entry["backend"] for entry in chain.attempts("train")] == ["local", "slurm", "local"]
    assert [entry["backend"] for entry in chain.attempts("first")] == ["local"]
    assert chain.lost_steps("train") == 0
    assert chain.result("train") == expect(400, expect(3))


def test_next_submit_cancels_dependants_where_the_site_forbids_slurm_to(cluster: Cluster, tmp_path: Path) -> None:
    stages = {"train": counting(3, f"needs={tmp_path / 'mended'}"), "after": counting(3, after=("train",))}
    chain = ChainOnSlurm(tmp_path, stages, slurm={"kill_on_invalid_dep": False})
    chain.submit()
    stuck = chain.job("after")
    wait_until(lambda: cluster.ask("squeue", "-h", "-j", stuck, "-o", "%r").strip() == NEVER)
    (tmp_path / "mended").touch()
    chain.submit("retry=train")
    assert chain.job("after") != stuck
    chain.wait(lambda states: set(states.values()) == DONE, 60, cluster)


def test_cancel_ends_what_a_submit_with_other_settings_left(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = ChainOnSlurm(tmp_path, {"train": counting(900, sleep=0.1)})
    chain.submit()
    chain.wait_for_step("train", 2)
    first = chain.job("train")
    chain.values["stages"] = {"train": counting(901, sleep=0.1)}
    chain.write()
    with pytest.raises(ValueError, match=r"other work .*\n  train \(running\): .*steps=901"):
        chain.submit()
    chain.submit("changed=true")
    assert "still in the queue from a submit with other settings: train-" in capsys.readouterr().out
    assert run_chain(["cancel", str(chain.path)]) == 0
    wait_until(lambda: not {first, chain.job("train")} & set(cluster.ask("squeue", "-h", "-o", "%i").split()))
    assert len(list(chain.folder.glob("stages/*/STOP"))) == 2


def test_odd_names_and_words_reach_no_shell(cluster: Cluster, tmp_path: Path) -> None:
    touch = f"touch {tmp_path}/pwned"
    words = ["two words", 'quo\'te "d"', f"; {touch}", f"$({touch})", "two\nlines", "ünï"]
    code = "import pathlib, sys; pathlib.Path(sys.argv[1], 'result.txt').write_text('|'.join(sys.argv[2:]))"
    stage = {"command": ["{python}", "-c", code, "{out}", *words], "outputs": ["result.txt"]}
    name = f"a; {touch} 'b' \"c\" $(d)\nü"
    chain = ChainOnSlurm(tmp_path / "two words; ünï & (x) $HOME", {name: stage})
    chain.submit()
    assert chain.wait_for_end(60, cluster) == {name: "done"}
    assert chain.result(name) == "|".join(words)
    assert not list(tmp_path.glob("pwned*"))


def test_real_stages_hit_by_a_signal_give_what_they_give_here(cluster: Cluster, tmp_path: Path) -> None:
    scenes = ("voc2007_trainval", "voc2007_test", "voc2012_trainval", "coco_train", "coco_val")
    made = ["imagenet_px=48", "imagenet_train=160", "imagenet_val=40", *(f"{name}=2" for name in scenes)]
    values: dict[str, Any] = {
        "data": {"make": made},
        "backbones": {"mochi": {
            "pretrain": "configs/pretrain/mochi_r50_digits.yaml",
            "set": ["run.epochs=4", "run.analyse_every_epochs=0", "data.workers=0"],
        }},
        "protocols": {"knn": {
            "kind": "knn", "config": "configs/transfer/knn_digits.yaml",
            "set": ["k=5", "train_images=80", "val_images=40"],
        }},
        "report": True,
        "resources": {"default": {"cpus": 1, "gpus": 0, "time_min": 30, "partition": "low"}},
    }  # fmt: skip
    there, here = (ChainOnSlurm(tmp_path / place, {}, **values) for place in ("there", "here"))
    there.submit()
    driver = start(here, "backend=local")
    there.wait_for_step("pretrain-mochi", 3, seconds=240)
    cluster.ask("scancel", "--signal=TERM", there.job("pretrain-mochi"))
    assert driver.wait(timeout=400) == 0
    assert set(there.wait_for_end(400, cluster).values()) == DONE
    assert [entry["outcome"] for entry in there.attempts("pretrain-mochi")] == ["yield", "done"]
    for name, file in (("convert-mochi", "backbone.pkl"), ("data", "digits/digits.json")):
        assert output(there, name, file) == output(here, name, file)
    assert (
        read_json(there.stage("knn-mochi") / "metrics.json")["metrics"]
        == (read_json(here.stage("knn-mochi") / "metrics.json")["metrics"])
    )
    assert (there.folder / "report" / "index.html").exists()


def output(chain: ChainOnSlurm, stage: str, file: str) -> str:
    digest: str = read_json(chain.stage(stage) / "DONE.json")["outputs"][file]["sha256"]
    return digest
