"""Hub folders: timm loads them, the hub's own parser reads the card, and nothing is uploaded by default."""

from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch

from pretrain.runtime.command_line import run_command
from pretrain.runtime.stopping import EXIT_USER_ERROR
from tests.making.family_checkpoints import MAKERS, make_state, save
from tests.making.voc_result import write_voc_result
from tools import convert_checkpoint
from transfer.weights.backbone import read_backbone
from transfer.weights.hub_folder import FILES, push_folder


def run(*words: object) -> int:
    return run_command(convert_checkpoint.main, convert_checkpoint.__doc__, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hub")
    source = save(place, MAKERS["moco (our encoder.pt)"](make_state(), {}), "encoder.pt")
    metrics = write_voc_result(place)
    words = ("to=hub-folder", f"metrics=[{metrics}]", "licence=cc-by-nc-4.0")
    assert run(source, place / "mochi-r18", *words) == 0
    return place / "mochi-r18"


def test_timm_loads_the_folder_with_the_same_tensors(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    model = timm.create_model(f"local-dir:{folder}", num_classes=0, pretrained=True)
    state = model.state_dict()
    assert state.keys() == make_state().keys()
    assert all(torch.equal(tensor, make_state()[name]) for name, tensor in state.items())
    assert model.pretrained_cfg["mean"] == pytest.approx((0.485, 0.456, 0.406))
    assert read_backbone(folder / "model.safetensors").depth == 18


def test_the_hub_reads_licence_and_results_of_the_card(folder: Path) -> None:
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.library_name, card.data.model_name) == ("cc-by-nc-4.0", "timm", "mochi-r18")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("AP", 57.5)
    assert (result.task_type, result.dataset_name) == ("object-detection", "voc-c4-24k@moco")
    assert "| Method | moco with MoCHi(1024, 512, 256) |" in card.text


def test_push_uploads_nothing_until_dry_is_false(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    lines = push_folder(folder, "me/mochi-r18")
    assert len(lines) == len(FILES) + 1
    assert lines[-1].endswith("add: dry=false")
    for name in ("mochi", "a/b/c", "a b/c"):
        with pytest.raises(ValueError, match="expected OWNER/NAME"):
            push_folder(folder, name)
    with pytest.raises(ValueError, match=r"lacks model\.safetensors"):
        push_folder(folder.parent, "me/x")


def test_words_of_the_hub_are_refused_elsewhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder.parent / "encoder.pt"
    assert run(source, folder.parent / "b.pkl", "push=me/x") == EXIT_USER_ERROR
    assert "add to=hub-folder" in capsys.readouterr().err
    assert run(source, folder.parent / "b.pkl", "licence=mit") == EXIT_USER_ERROR
    assert run(source, folder.parent / "b.safetensors", "to=hub-folder") == EXIT_USER_ERROR
    assert "give a folder name without a file suffix" in capsys.readouterr().err
