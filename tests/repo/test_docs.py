"""What README and docs/ show exists: commands, settings, chain files, links, tables, Python; the walk-throughs run."""

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

from pretrain.config import PretrainConfig
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.settings import read_settings
from tests.making.family_checkpoints import make_state, under
from tests.making.one_cat import write_one_cat
from tests.repo.pages import PAGES, Block, find_blocks, list_anchors, list_commands
from tools.chain.__main__ import COMMANDS, WITHOUT_CHAIN
from tools.chain.plan.config import ChainConfig, read_chain
from tools.chain.plan.options import split_options
from tools.convert_checkpoint import ConvertSettings
from tools.docs.fill_tables import fill
from tools.mochi import CONFIG_AT, DATA_COMMANDS, find_config, find_module
from transfer.weights.convert import convert

FRAGMENT_BASE = """
data: {root: /datasets}
backbones:
  mochi: {pretrain: configs/pretrain/mochi_r50_in1k.yaml}
  moco_v2: {weights: moco.pth}
  simsiam: {weights: simsiam.pth}
  dino: {weights: dino.pth}
  random: {pretrain: configs/pretrain/random_r50.yaml}
protocols:
  voc: {kind: detector, config: configs/transfer/voc_c4_24k_moco.yaml}
"""
BLOCKS = [block for page in PAGES for block in find_blocks(page)]
LINES = [(page.name, words) for page in PAGES for words in list_commands(page)]
YAML = [block for block in BLOCKS if block.language == "yaml"]
PYTHON = [block.text for block in BLOCKS if block.language == "python"]
SOURCES = [
    path for folder in ("pretrain", "transfer", "tools", "configs") for path in (PROJECT_ROOT / folder).rglob("*.*")
]


def name(block: Block) -> str:
    return f"{block.page}:{block.line}"


def show(line: tuple[str, list[str]]) -> str:
    return f"{line[0]}: {' '.join(line[1])}"[:80]


def assert_module_runs(module: str) -> None:
    found = importlib.util.find_spec(module)
    assert found is not None, f"there is no {module}"
    assert not found.submodule_search_locations or importlib.util.find_spec(f"{module}.__main__"), (
        f"{module} is a package"
    )


@pytest.mark.parametrize("line", LINES, ids=show)
def test_command_exists_and_takes_what_is_shown(line: tuple[str, list[str]]) -> None:
    words = line[1]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "mochi":
        check_mochi(words[1:])
    else:
        assert_module_runs(words[0])


def check_mochi(words: list[str]) -> None:
    """Check a command line of mochi, as far as it is spelt out: command, config, settings."""
    if not words or words[0].startswith("-") or words[0] in ("completion", *(["data"] if len(words) == 1 else [])):
        return
    command, rest = words[0], words[1:]
    assert_module_runs(find_module(words)[0])
    if command == "data":
        assert rest[0] in DATA_COMMANDS
    elif command == "chain" and rest:
        check_chain(rest)
    place = CONFIG_AT.get(command, 0)
    if command in CONFIG_AT and len(rest) > place and rest[place].replace("_", "").isalnum() and "keys" not in rest:
        config = find_config(rest[place])
        assert config or command == "chain", f"no config is called {rest[place]}"
        if command == "pretrain":
            read_settings(PretrainConfig, config, rest[1:])
    if command == "convert" and len(rest) > 1:
        read_settings(ConvertSettings, None, [word for word in rest if "=" in word])


def check_chain(words: list[str]) -> None:
    """Check the options of a chain's command; its first setting must be one of a chain file."""
    assert words[0] in {*COMMANDS, *WITHOUT_CHAIN}
    if words[0] in WITHOUT_CHAIN:
        return
    named = [word for word in words[1:] if "=" not in word]
    _, settings = split_options(words[0], [word for word in words[1:] if "=" in word], "".join(named[1:2]))
    for word in settings:
        assert word.partition("=")[0].partition(".")[0] in ChainConfig.__dataclass_fields__
    if named and named[0].startswith("configs/"):
        assert (PROJECT_ROOT / named[0]).is_file()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PROJECT_ROOT).as_posix())
def test_commands_named_in_docstrings_and_config_headers_exist(path: Path) -> None:
    if path.suffix == ".py":
        texts = [ast.get_docstring(ast.parse(path.read_text())) or ""]
    elif path.suffix in (".yaml", ".md"):
        texts = [path.read_text()]
    else:
        return
    for module in re.findall(r"python -m (tools\.[\w.]*\w)", "\n".join(texts)):
        assert_module_runs(module)


@pytest.mark.parametrize("block", YAML, ids=name)
def test_yaml_shown_is_read(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "shown.yaml"
    kind, _, _ = block.mark.partition(":")
    assert kind in ("chain", "fragment", "walk"), f"{name(block)}: say above the block what it is"
    if kind == "chain":
        path.write_text(block.text)
        assert read_chain(path).protocols
    elif kind == "fragment":
        path.write_text(FRAGMENT_BASE + block.text)
        assert read_chain(path) != read_settings(ChainConfig, None, [])
    else:
        assert {"PROTOCOL", "BASED_ON", "data_sets"} <= yaml.safe_load(block.text).keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(([^)#\s]*)(#([^)\s]+))?\)", page.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in list_anchors(path), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_generated_tables_are_what_the_code_says(page: Path) -> None:
    assert fill(page.read_text()) == page.read_text(), "run `python -m tools.docs.fill_tables`"


def test_every_page_stands_in_the_navigation() -> None:
    text = (PROJECT_ROOT / "mkdocs.yml").read_text()
    assert {path.name for path in (PROJECT_ROOT / "docs").glob("*.md")} == set(
        re.findall(r": ([\w-]+\.md)$", text, re.M)
    )


NAMES = re.findall(r"^::: ([\w.]+)$", (PROJECT_ROOT / "docs" / "api.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", NAMES)
def test_public_name_says_what_it_takes_and_gives(path: str) -> None:
    module, _, title = path.rpartition(".")
    thing = getattr(importlib.import_module(module), title)
    text = inspect.getdoc(thing) or ""
    if inspect.isclass(thing):
        assert text
        return
    parts = dict(re.findall(r"^(Args|Returns):\n((?:(?:    .*)?\n)+)", f"{text}\n\n", re.MULTILINE))
    described = set(re.findall(r"^    (\w+): ", parts.get("Args", ""), re.MULTILINE))
    assert described == set(inspect.signature(thing).parameters), f"{title}: Args and signature differ"
    assert parts.get("Returns", "").strip(), f"{title}: no Returns"


def run(example: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(compile(example, "docs/api.md", "exec"), names)
    return names


def test_mixing_block_adds_the_columns_it_says() -> None:
    found = run(PYTHON[0])
    assert found["harder"].shape == (8, 768)  # type: ignore[attr-defined]
    assert found["loss"].isfinite()  # type: ignore[attr-defined]


def test_backbone_block_reads_what_the_demo_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "digits" / "stages" / "convert-mochi@0-0123456789ab"
    folder.mkdir(parents=True)
    state = torchvision.models.resnet18().state_dict()
    encoder = {f"module.encoder_q.{key}": tensor for key, tensor in state.items() if not key.startswith("fc.")}
    torch.save({"state_dict": encoder, "arch": "resnet18", "epoch": 1}, tmp_path / "encoder.pt")
    convert(tmp_path / "encoder.pt", folder / "backbone.pkl")
    found = run(PYTHON[1])
    assert found["found"].depth == 18  # type: ignore[attr-defined]
    assert torch.equal(found["tensors"]["backbone.stem.conv1.weight"], state["conv1.weight"])  # type: ignore[index]


def test_metrics_block_scores_a_perfect_detection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_one_cat(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = run(PYTHON[2])
    assert found["voc"]["per_class"]["cat"]["AP"] == pytest.approx(100)  # type: ignore[index]
    assert found["coco"].metrics()["AP"] == pytest.approx(100)  # type: ignore[attr-defined]


def test_statistics_block_finds_the_methods_different() -> None:
    found = run(PYTHON[3])["found"]
    assert (found.claim, found.outcome) == ("methods", "better")  # type: ignore[attr-defined]
    assert len(PYTHON) == 4, "a new block of Python needs a test"


def spell_out(block: Block) -> Iterator[list[str]]:
    """Yield the command lines of a block as words that run in any folder."""
    for line in block.lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["mochi"]:
            yield [sys.executable, "-m", "tools.mochi", *words[1:]]
        elif words[:1] == ["python"]:
            yield [
                sys.executable,
                *(str(PROJECT_ROOT / word) if word.startswith("examples/") else word for word in words[1:]),
            ]
        elif words:
            raise AssertionError(f"{name(block)}: cannot run {line}")


def run_block(block: Block, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1"}
    said = ""
    for words in spell_out(block):
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name(block)}: {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        said += done.stdout
    return said


WALK = {block.mark.removeprefix("walk: "): block for block in BLOCKS if block.mark.startswith("walk: ")}


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the first two blocks of the page on data leave."""
    folder = tmp_path_factory.mktemp("walk")
    for title, block in WALK.items():
        if title.endswith(".yaml"):
            (folder / title).write_text(block.text)
    run_block(WALK["setup"], folder)
    run_block(WALK["photos"], folder)
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("walk")
@pytest.mark.parametrize("title", ["boxes", "scans", "memory"])
def test_walk_through_of_own_data_runs_word_for_word(walked: Path, title: str) -> None:
    pytest.importorskip("detectron2")
    run_block(WALK[title], walked)
    results = [path for path in (walked / "runs").glob("*/metrics.json") if title[:5] in path.parent.name]
    assert results or title == "memory"
    if title == "memory":
        assert json.loads((walked / "runs/boxes-half/metrics.json").read_text())["deviations"]


@pytest.mark.slow
def test_walk_of_simsiam_and_dino_on_slurm_plans_word_for_word(tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    page = next(page for page in PAGES if page.name == "chains.md")
    init, plan = (
        block for block in find_blocks(page) if block.text.startswith(("mochi chain init data", "mochi chain plan s"))
    )
    fragment = next(block for block in find_blocks(page) if block.mark == "fragment: chain")
    weights, q = tmp_path / "weights", make_state(50)
    weights.mkdir()
    torch.save({"state_dict": under("module.encoder.", q)}, weights / "simsiam_100ep.pth.tar")
    dino = {"student": under("module.backbone.", q), "teacher": under("backbone.", make_state(50, 1))}
    torch.save(dino, weights / "dino_r50.pth")
    torch.save({"state_dict": under("module.encoder_q.", q)}, weights / "moco_v2_200ep.pth.tar")
    run_block(WALK["setup"], tmp_path)
    (tmp_path / "datasets").mkdir()
    for year in ("VOC2007", "VOC2012"):
        (tmp_path / "data" / "digits" / year).rename(tmp_path / "datasets" / year)
    run_block(init.with_text(init.text.replace("/datasets", str(tmp_path / "datasets"))), tmp_path)
    path = tmp_path / "simsiam_dino.yaml"
    path.write_text(path.read_text() + fragment.text)
    said = run_block(plan, tmp_path)
    assert "28 to run" in said and "teacher" in said
