"""Repository rules: sizes, docstrings, config headers, README links and commands."""

import ast
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from pretrain.runtime.machine import PROJECT_ROOT

PACKAGES = ("pretrain", "transfer", "tools")
SOURCES = sorted(
    path
    for package in PACKAGES
    for path in (PROJECT_ROOT / package).rglob("*.py")
    if "detectron2_build" not in path.parts
)
CONFIGS = sorted((PROJECT_ROOT / "configs").rglob("*.yaml"))
README = (PROJECT_ROOT / "README.md").read_text()
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT_ROOT).as_posix()


def functions_of(path: Path) -> list[FunctionNode]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FunctionNode)]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_source_file_stays_under_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 300


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_function_stays_under_40_lines_and_8_arguments(path: Path) -> None:
    for node in functions_of(path):
        docstring = ast.get_docstring(node, clean=False)
        lines = (node.end_lineno or node.lineno) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
        assert lines < 40, f"{name_of(path)}:{node.lineno} {node.name} has {lines} lines without its docstring"
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        counted = [argument for argument in arguments if argument.arg not in ("self", "cls")]
        assert len(counted) < 8, f"{name_of(path)}:{node.lineno} {node.name} has {len(counted)} arguments"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_names_and_docstrings_follow_the_rules(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    assert not re.search(r"(utils|misc|common|helpers|manager)", path.stem), f"{name_of(path)}: a name without meaning"
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ClassDef) and node.name.endswith("Manager")), f"{name_of(path)}: {node.name}"


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_config_states_its_command_and_expected_result(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"\A# Command: python -m tools\.\w+ ", text), (
        "expected `# Command: python -m tools.…` as the first line"
    )
    assert re.search(r"^# Expect: \S", text, re.MULTILINE), "expected a `# Expect: …` line"
    assert path.name in text.splitlines()[0], "the command of the first line uses another file"


def test_readme_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", README):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (PROJECT_ROOT / target).exists(), f"README links to {target}, which does not exist"


def test_readme_commands_exist() -> None:
    for module in re.findall(r"python -m (tools\.[\w.]+)", README):
        found = importlib.util.find_spec(module)
        assert found is not None, f"README runs {module}, which does not exist"
        assert not found.submodule_search_locations or importlib.util.find_spec(f"{module}.__main__")
    targets = set(re.findall(r"^([a-z]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"`?make ([a-z]+)`?", README):
        if target in targets or f"`make {target}`" in README:
            assert target in targets, f"README runs make {target}, which does not exist"


def test_torch_load_is_always_weights_only() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert options.get("weights_only") == "True", (
                    f"{name_of(path)}:{node.lineno}: torch.load without weights_only=True"
                )


def test_nothing_committed_names_a_lock_file_or_this_machine() -> None:
    files = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    assert "uv.lock" not in files
    for name in filter(None, files):
        path = PROJECT_ROOT / name
        if path.is_file() and path.suffix in {".py", ".yaml", ".toml", ".md", ".sh", ""}:
            text = path.read_text(errors="ignore")
            assert not re.search(r"(?<![\w.])/(work|farm)/", text), f"{name} contains a path of one machine"
