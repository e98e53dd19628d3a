import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.runtime.command_line import run_command
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.stopping import EXIT_USER_ERROR
from tests.making.family_checkpoints import MAKERS, make_dino, make_state, save
from tests.making.voc_result import write_voc_result
from tools import convert_checkpoint


def run(*words: object) -> int:
    return run_command(convert_checkpoint.main, convert_checkpoint.__doc__, [str(word) for word in words])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = MAKERS["moco (our encoder.pt)"](make_state(), {})
    return save(tmp_path_factory.mktemp("run"), tree, "encoder.pt")


def test_help_needs_no_torch() -> None:
    code = "import sys, tools.convert_checkpoint as c; print(c.__doc__); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "trust_pickle=true" in done.stdout


def test_convert_prints_what_was_found_and_verified(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, tmp_path / "b.pkl") == 0
    text = capsys.readouterr().out
    assert "moco (torchvision names under state_dict: module.encoder_q. are the query branch of moco)" in text
    assert "120 of 120 tensors, bit by bit, both key sets equal" in text
    assert run("check", tmp_path / "b.pkl") == 0
    assert "compared with the source, tensor by tensor" in capsys.readouterr().out


def test_refusals_are_explained_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    q, k = make_state(seed=0), make_state(seed=1)
    dino = save(tmp_path, make_dino(q, k), "dino.pth")
    assert run(dino, tmp_path / "b.pkl") == EXIT_USER_ERROR
    assert "choose one: branch=student or branch=teacher" in capsys.readouterr().err
    assert run(dino, tmp_path / "b.pkl", "colour=red") == EXIT_USER_ERROR
    assert run("only") == EXIT_USER_ERROR
    assert run(dino, tmp_path / "b.pkl", "metrics=[a.json]", "branch=teacher") == EXIT_USER_ERROR
    assert "with to=safetensors or hub-folder only" in capsys.readouterr().err
    assert not (tmp_path / "b.pkl").exists()


@pytest.mark.slow
def test_a_pickle_is_trusted_only_with_the_option(tmp_path: Path) -> None:
    path = save(tmp_path, {"state_dict": make_state(), "args": argparse.Namespace(a=1)})
    assert run(path, tmp_path / "b.pkl") == EXIT_USER_ERROR
    assert run(path, tmp_path / "b.pkl", "trust_pickle=true") == 0
    assert run("check", tmp_path / "b.pkl") == EXIT_USER_ERROR  # it reads the source again, which is still untrusted
    assert run("check", tmp_path / "b.pkl", "trust_pickle=true") == 0


def test_inspect_describes_the_conversion_and_writes_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(source.parent.iterdir())
    assert run("inspect", source) == 0
    text = capsys.readouterr().out
    for part in (
        "torch zip archive",
        "epoch      7",
        "tensors    121 in state_dict",
        "module.encoder_q.layer1: 24",
        "family     moco:",
        "ResNet-18, 120 of 120 tensors",
        "dropped    1: module.encoder_q.fc.0.weight",
    ):
        assert part in text
    assert sorted(source.parent.iterdir()) == before
    assert run("inspect", save(tmp_path, make_dino(make_state(), make_state(seed=1)))) == 0
    assert "would be refused: " in capsys.readouterr().out


@pytest.mark.slow
def test_two_formats_of_the_same_weights_have_the_same_digest_of_values(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(source, tmp_path / "b.pkl")
    capsys.readouterr()
    digests = []
    for path in (source, tmp_path / "b.pkl"):
        run("inspect", path)
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("backbone"))
        digests.append(line.rpartition(" ")[2])
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_safetensors_come_with_a_model_card_that_holds_the_results(source: Path, tmp_path: Path) -> None:
    metrics = write_voc_result(tmp_path)
    output = tmp_path / "b.safetensors"
    assert run(source, output, "to=safetensors", f"metrics=[{metrics}]") == 0
    card = (tmp_path / "b.md").read_text()
    manifest = json.loads((tmp_path / "b.safetensors.manifest.json").read_text())
    for part in (
        "| Method | moco with MoCHi(1024, 512, 256) |",
        "| Epochs | 7 |",
        "| Tensors equal to the source | 120 of 120 |",
        f"SHA-256 `{manifest['output']['sha256']}`",
        'timm.create_model("resnet18", num_classes=0, checkpoint_path="b.safetensors")',
        "| voc-c4-24k@moco | 3 | AP 57.5 |",
    ):
        assert part in card


WITHOUT_DETECTRON2 = """
import importlib.util, sys
sys.modules["detectron2"] = None  # makes import and find_spec behave as if it is not installed
try:
    import detectron2
except ImportError:
    pass
else:
    sys.exit("detectron2 is not hidden")
from tools import convert_checkpoint
from pretrain.runtime.command_line import run_command
for words in (sys.argv[1:3], ["check", sys.argv[2]], ["inspect", sys.argv[2]], [sys.argv[1], sys.argv[3]]):
    if code := run_command(convert_checkpoint.main, "", words):
        sys.exit(code)
assert not [name for name in sys.modules if name.startswith("detectron2.")]
"""


@pytest.mark.slow
def test_converting_checking_and_inspecting_need_no_detectron2_and_give_the_same_bytes(
    source: Path, tmp_path: Path
) -> None:
    hidden, usual = tmp_path / "hidden.pkl", tmp_path / "usual.pkl"
    words = [sys.executable, "-W", "error", "-c", WITHOUT_DETECTRON2, source, hidden, tmp_path / "hidden.pth"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=PROJECT_ROOT)
    assert done.returncode == 0, done.stderr
    assert "Detectron2's forward pass restated; Detectron2 is not installed" in done.stdout
    assert "compared with the source, tensor by tensor" in done.stdout
    assert run(source, usual) == 0
    assert hidden.read_bytes() == usual.read_bytes()
