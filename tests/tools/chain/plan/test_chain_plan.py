"""A plan is pure: keys follow content, order follows dependencies, mistakes are sentences."""

import cProfile
import json
import shutil
import time
from pathlib import Path

import pytest
import yaml

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.settings import SettingsError
from tools.chain.ending import write_sweep
from tools.chain.explain import explain_plan
from tools.chain.plan.config import ChainConfig, OwnStage, read_chain
from tools.chain.plan.make_plan import Stage, folder_name, make_plan
from tools.chain.plan.source import digest_config, digest_module, forget_digests, import_closure
from tools.chain.record.state import stage_as_dict, stage_folder
from tools.chain.submit import Chain, open_chain
from transfer.results.run_result import RunResult, write_result

CHAIN = """
backbones:
  mochi: {pretrain: pre.yaml}
  public: {weights: public.pth, set: [family=torchvision]}
protocols:
  voc: {kind: detector, config: voc.yaml, set: [SOLVER.MAX_ITER=4]}
  linear: {kind: linear, config: linear.yaml}
  knn: {kind: knn, config: linear.yaml}
  mine: {kind: command, command: ["{python}", score.py, "{weights}", "{out}", "{seed}"], backbones: [mochi]}
seeds: [0, 1]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "chain.yaml").write_text(CHAIN)
    (tmp_path / "pre.yaml").write_text("# Expect: nothing\nmodel: {dim: 64}\n")
    (tmp_path / "voc.yaml").write_text("SOLVER: {BASE_LR: 0.02}\n")
    (tmp_path / "linear.yaml").write_text("k: 3\n")
    (tmp_path / "score.py").write_text("print(1)\n")
    (tmp_path / "public.pth").write_bytes(b"weights")
    return tmp_path


def plan(folder: Path, *overrides: str) -> dict[str, Stage]:
    digest_config.cache_clear()
    return {stage.name: stage for stage in make_plan(read_chain(folder / "chain.yaml", overrides), [folder])}


def changed(before: dict[str, Stage], after: dict[str, Stage]) -> set[str]:
    return {name for name in before if before[name].key != after[name].key}


def test_plan_holds_every_stage_after_those_it_builds_on(folder: Path) -> None:
    stages = plan(folder)
    assert list(stages) == [
        "data", "pretrain-mochi", "convert-mochi", "convert-public", "voc-mochi-seed0", "voc-public-seed0",
        "voc-mochi-seed1", "voc-public-seed1", "linear-mochi-seed0", "linear-public-seed0", "linear-mochi-seed1",
        "linear-public-seed1", "knn-mochi", "knn-public", "mine-mochi-seed0", "mine-mochi-seed1", "report",
    ]  # fmt: skip
    assert set(stages["voc-mochi-seed1"].upstream) == {"convert-mochi", "data"}
    assert set(stages["report"].upstream) == set(stages) - {"report"}
    assert stages["voc-mochi-seed1"].command[3:] == (
        str(folder / "voc.yaml"), "{stage:convert-mochi}/backbone.pkl", "out={out}", "seed=1", "backbone=mochi",
        "data={stage:data}/digits", "SOLVER.MAX_ITER=4",
    )  # fmt: skip
    assert stages["mine-mochi-seed0"].command[1] == str(folder / "score.py")


def test_key_follows_what_a_stage_runs_and_nothing_else(folder: Path) -> None:
    before = plan(folder)
    (folder / "pre.yaml").write_text("# Expect: something else\n\nmodel:\n  dim: 64\n")
    assert not changed(before, plan(folder)), "comments and layout of a config do not count"
    (folder / "linear.yaml").write_text("k: 4\n")
    names = changed(before, plan(folder))
    assert names == {name for name in before if name.startswith(("linear", "knn"))} | {"report"}
    (folder / "linear.yaml").write_text("k: 3\n")
    (folder / "score.py").write_text("print(2)\n")
    assert changed(before, plan(folder)) == {"mine-mochi-seed0", "mine-mochi-seed1", "report"}
    (folder / "public.pth").write_bytes(b"others")
    assert "voc-public-seed0" in changed(before, plan(folder))
    assert "voc-mochi-seed0" not in changed(before, plan(folder))


def test_base_of_a_config_counts(folder: Path) -> None:
    (folder / "base.yaml").write_text("model: {dim: 32}\n")
    (folder / "pre.yaml").write_text("_base_: base.yaml\n")
    before = plan(folder)
    (folder / "base.yaml").write_text("model: {dim: 16}\n")
    assert "pretrain-mochi" in changed(before, plan(folder))


def test_resources_and_budgets_change_no_key(folder: Path) -> None:
    more = ["resources.default.partition=long", "budgets.attempts=3", "backend=slurm", "name=other"]
    assert not changed(plan(folder), plan(folder, *more))
    assert plan(folder, *more)["data"].resources.partition == "long"


def test_key_covers_only_the_code_that_a_stage_imports(tmp_path: Path) -> None:
    for package in ("pretrain", "transfer", "tools"):
        shutil.copytree(PROJECT_ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    watched = ("tools.make_digits", "tools.convert_checkpoint", "tools.write_report")

    def digests() -> list[str]:
        forget_digests()
        return [digest_module(name, tmp_path) for name in watched]

    before = digests()
    with (tmp_path / "tools" / "write_report.py").open("a") as stream:
        stream.write("\nMORE = 1\n")
    after = digests()
    assert (before[:2], before[2] != after[2]) == (after[:2], True), "mending the report retrains nothing"
    storage = tmp_path / "pretrain" / "runtime" / "storage.py"
    code = storage.read_text()
    assert code.count('"""Write a UTF-8 text file atomically;') == 1
    storage.write_text(code.replace('"""Write a UTF-8 text file atomically;', '"""Anything else;'))
    assert digests() == after, "docstrings do not count"
    storage.write_text(storage.read_text() + "\nMORE = 1\n")
    assert all(old != new for old, new in zip(after, digests(), strict=True))


def test_import_closure_finds_modules_behind_functions() -> None:
    names = import_closure("tools.convert_checkpoint")
    assert {"tools.convert_checkpoint", "tools", "transfer.weights.convert", "pretrain.runtime.storage"} <= set(names)
    assert "tools.write_report" not in names


def test_mistakes_are_gathered_in_one_error(folder: Path) -> None:
    (folder / "chain.yaml").write_text(
        "backend: cloud\nbackbones: {a: {}}\nprotocols: {b: {kind: x}, c: {backbones: [z]}}\nstages: {d: {}}\n"
    )
    with pytest.raises(SettingsError) as caught:
        plan(folder)
    for text in (
        "backend is 'cloud'",
        "backbones.a needs either",
        "expected one of detector",
        "no config",
        "no command",
    ):
        assert text in str(caught.value)


def test_every_mistake_of_a_chain_file_has_its_line(folder: Path) -> None:
    lines = [
        "backend: slrm", "seeds: [0, 0]", "backbones:", "  mochi: {pretrain: pre.yaml, sed: [1]}", "protocols:",
        "  voc: {config: voc.yaml, backbones: [moch]}", "grid:", "  'moch:mixing.n': [1]", "resources:",
        "  detecter: {gpus: 1}", "  voc: {gpus: one, time_min: '12:00:00', mem: 64}",
    ]  # fmt: skip
    (folder / "chain.yaml").write_text("\n".join(lines))
    with pytest.raises(SettingsError) as caught:
        plan(folder, "buget.attempts=1")
    said = str(caught.value).splitlines()
    for number, text in (
        (1, "expected one of local, slurm"), (2, "a seed is given twice"), (4, "Did you mean backbones.mochi.seeds"),
        (6, "did you mean mochi?"), (8, "did you mean mochi:mixing.n?"), (10, "did you mean detector?"),
        (11, "expected a whole number"), (11, "write 720"), (11, "Did you mean resources.voc.mem_gb (GB)?"),
    ):  # fmt: skip
        assert any(f"chain.yaml, line {number}: " in line and text in line for line in said), (number, text, said)
    assert any(line.startswith("the command line: unknown setting buget") and "budgets" in line for line in said)
    assert len(said) == 10


def test_missing_files_unknown_stages_and_circles_are_named(folder: Path) -> None:
    (folder / "voc.yaml").unlink()
    (folder / "pre.yaml").unlink()
    with pytest.raises(ValueError, match=r"not there: pre.yaml, voc.yaml"):
        plan(folder)
    chain = {"report": False, "stages": {"a": {"command": ["x", "{stage:nowhere}"]}}}
    (folder / "chain.yaml").write_text(yaml.safe_dump(chain))
    with pytest.raises(ValueError, match="a builds on nowhere, no stage of this chain"):
        plan(folder)
    chain["stages"] = {"a": {"command": ["x"], "after": ["b"]}, "b": {"command": ["x"], "after": ["a"]}}
    (folder / "chain.yaml").write_text(yaml.safe_dump(chain))
    with pytest.raises(ValueError, match="wait for each other: a, b"):
        plan(folder)


def test_resources_are_looked_up_from_general_to_special_and_checked(folder: Path) -> None:
    chosen = ["resources.default.time_min=100", "resources.voc.gpus=8", "resources.voc-mochi-seed1.qos=high"]
    stages = plan(folder, *chosen)
    assert (stages["data"].resources.gpus, stages["data"].resources.time_min) == (0, 100)
    assert stages["voc-public-seed0"].resources.gpus == 8
    assert [stages[f"voc-mochi-seed{seed}"].resources.qos for seed in (0, 1)] == ["", "high"]
    with pytest.raises(
        SettingsError,
        match=r"unknown setting resources.default.gpu; allowed are: .*gpus.*Did you mean resources.default.gpus",
    ):
        plan(folder, "resources.default.gpu=1")
    with pytest.raises(SettingsError, match=r"resources.default.partition: 'a\\ntouch b' has a line break"):
        plan(folder, 'resources.default.partition="a\\ntouch b"')
    with pytest.raises(SettingsError, match=r"resources.voc.extra: .* has a line break"):
        plan(folder, 'resources.voc.extra={reservation: "a\\ntouch b"}')
    with pytest.raises(SettingsError, match="time_min is 0"):
        plan(folder, "resources.default.time_min=0")


def test_sweep_shares_what_its_points_have_in_common(folder: Path) -> None:
    single = plan(folder)
    chain = yaml.safe_load(CHAIN) | {"grid": {"mochi:mixing.n": [256, 1024], "voc:SOLVER.BASE_LR": [0.01, 0.02]}}
    chain["protocols"].pop("mine")
    (folder / "chain.yaml").write_text(yaml.safe_dump(chain))
    stages = plan(folder)
    assert sum(name.startswith("pretrain") for name in stages) == 2
    assert sum(name.startswith("voc") for name in stages) == 2 * 3 * 2, "points x backbones x seeds"
    assert "voc_BASE_LR0.01-mochi_n256-seed0" in stages
    assert "mixing.n=256" in stages["pretrain-mochi_n256"].command
    assert stages["data"].key == single["data"].key
    assert stages["convert-public"].key == single["convert-public"].key


def test_hundred_chains_of_eight_stages_plan_in_seconds(folder: Path) -> None:
    chain = yaml.safe_load(CHAIN)
    chain["backbones"] = {"mochi": chain["backbones"]["mochi"]}
    chain["protocols"].pop("mine")
    chain["grid"] = {"mochi:mixing.n": list(range(100))}
    (folder / "chain.yaml").write_text(yaml.safe_dump(chain))
    began = time.monotonic()
    stages = plan(folder)
    assert len(stages) == 702
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    "name", ["a b", "a;rm -rf ~", 'quote"d', "two\nlines", "ünïcode", "../up", "$HOME", ".hidden", "-x"]
)
def test_odd_names_give_harmless_folders_and_whole_words(folder: Path, name: str) -> None:
    chain = {"report": False, "stages": {name: {"command": ["echo", name]}}}
    (folder / "chain.yaml").write_text(json.dumps(chain))
    (stage,) = plan(folder).values()
    assert stage.command == ("echo", name)
    assert set(stage.folder) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")
    assert stage.folder[0] not in ".-"
    assert folder_name(name, "k") != folder_name("a_b", "l")


def test_sweep_table_has_the_axes_of_the_grid_as_columns(folder: Path) -> None:
    chain = yaml.safe_load(CHAIN) | {
        "grid": {"mochi:mixing.n": [16, 1], "voc:LR": [0.1]},
        "runs": str(folder),
    }
    (folder / "chain.yaml").write_text(yaml.safe_dump(chain))
    opened = open_chain(folder / "chain.yaml")
    stage = next(stage for stage in opened.stages if stage.name == "voc_LR0.1-mochi_n1-seed1")
    result = RunResult(backbone="mochi_n1", protocol="voc-c4", seed=1, metrics={"AP": 31.5})
    write_result(stage_folder(opened.folder, stage.folder), result)
    assert write_sweep(opened).splitlines() == [
        "mochi:mixing.n,voc:LR,backbone,protocol,seed,metric,value", "1,0.1,mochi_n1,voc-c4,1,AP,31.5",
    ]  # fmt: skip


def test_study_goes_on_where_the_demo_ended() -> None:
    demo, study = (read_chain(PROJECT_ROOT / "configs/chains" / name) for name in ("digits.yaml", "digits_study.yaml"))
    done, wanted = ({stage.folder for stage in make_plan(config, [PROJECT_ROOT])} for config in (demo, study))
    assert {folder.rpartition("-")[0] for folder in done - wanted} == {"report"}
    assert study.name == "digits"


def test_plan_and_its_text_cost_as_much_per_stage_in_a_large_chain_as_in_a_small_one(tmp_path: Path) -> None:
    """Counted in function calls, which a busy machine does not change."""
    calls = {}
    for size in (50, 200):
        own = {"s": OwnStage(command=("x", "{seed}"), seeds=tuple(range(size)))}
        own |= {f"t{seed}": OwnStage(command=("y",), after=(f"s-seed{seed}",)) for seed in range(size)}
        own["last"] = OwnStage(command=("z",), after=tuple(own)[1:], always=True)
        config = ChainConfig(report=False, stages=dict(reversed(own.items())))
        folder = tmp_path / str(size)
        profile = cProfile.Profile()
        profile.enable()
        stages = make_plan(config, [tmp_path])
        profile.disable()
        for stage in stages:
            place = stage_folder(folder, stage.folder)
            place.mkdir(parents=True)
            (place / "spec.json").write_text(json.dumps({**stage_as_dict(stage), "code": "", "commit": ""}))
        profile.enable()
        explain_plan(Chain(tmp_path / "c.yaml", config, folder, stages))
        profile.disable()
        calls[size] = sum(entry.callcount for entry in profile.getstats()) / size
    assert calls[200] < 1.2 * calls[50]
