import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch.nn.functional import normalize

from pretrain.config import ModelConfig
from pretrain.encoder import HEADS, build_encoder
from pretrain.runtime.command_line import run_command
from pretrain.runtime.machine import PROJECT_ROOT
from tools import analyse_encoder
from tools.digits.layouts import write_classes
from tools.digits.scenes import load_pools
from transfer.analysis.config import AnalysisConfig, check_analysis_config
from transfer.analysis.embeddings import Embeddings, Encoder, read_head
from transfer.analysis.figures import COLOURS, DRAWERS, LINES, MARKERS, draw_figures
from transfer.analysis.measures import DEFINITIONS, Tables, analyse
from transfer.results.seeds import method_of, pool_seeds

CONFIG = PROJECT_ROOT / "configs" / "transfer" / "analyse_digits.yaml"
N = 40


@pytest.fixture(scope="module")
def embeddings() -> Embeddings:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(N) % 4
    centres = torch.randn(4, 8, generator=generator)[labels]
    views = [normalize(centres + torch.randn(N, 8, generator=generator), dim=1) for _ in range(3)]
    return Embeddings(*views, labels=labels, classes=("a", "b", "c", "d"))


def make_encoder(**changes: object) -> Encoder:
    parts = {"name": "e", "path": Path("e"), "backbone": None, "head": None, "queue": None, "queue_labels": None}
    return Encoder(**{**parts, **changes})


def measure(embeddings: Embeddings, encoder: Encoder | None = None, **changes: object) -> Tables:
    tables, settings = Tables(), {"n": 10, "s": 6, "s_prime": 4, "top": 12, "batch": 16, **changes}
    encoder = encoder or make_encoder()
    analyse(encoder, embeddings, AnalysisConfig(**settings), use_queue=encoder.queue is not None, tables=tables)
    return tables


def test_an_image_is_no_negative_of_itself_and_numbers_equal_loops_in_float64(embeddings: Embeddings) -> None:
    q, k, labels = embeddings.queries.double().numpy(), embeddings.keys.double().numpy(), embeddings.labels.numpy()
    hits, losses, curve, same = [], [], np.zeros(12), np.zeros(12)
    for i in range(N):
        others = [j for j in range(N) if j != i]
        cosines = np.array([q[i] @ k[j] for j in others])
        hits.append(q[i] @ k[i] > cosines.max())
        terms = np.exp(cosines / 0.2)
        own = math.exp(q[i] @ k[i] / 0.2)
        losses.append(-math.log(own / (own + terms.sum())))
        order = np.argsort(-cosines)[:12]
        curve += (terms / terms.sum())[order] / N
        same += np.array([labels[others[j]] == labels[i] for j in order]) / N
    rows = measure(embeddings).rows
    assert [row["probability"] for row in rows["hardness_histogram"]] == pytest.approx(curve, rel=1e-5)
    assert rows["proxy_accuracy"][0]["real"] == pytest.approx(np.mean(hits))
    assert rows["oracle"][0]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    ranked = [row for row in rows["false_negatives"] if row["kind"] == "rank"]
    assert [row["share"] for row in ranked] == pytest.approx(same)
    assert ranked[-1]["share_up_to_rank"] == pytest.approx(same.mean())
    assert ranked[0]["chance"] == pytest.approx(9 / 39)


def test_chunks_change_no_number_that_is_not_drawn(embeddings: Embeddings) -> None:
    small, large = (measure(embeddings, batch=batch).rows for batch in (7, 100))
    for name in ("hardness_histogram", "oracle", "alignment_uniformity", "class_distances"):
        for one, other in zip(small[name], large[name], strict=True):
            for key, value in one.items():
                assert other[key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)


def test_equal_views_solve_the_proxy_task_and_mixes_only_make_it_harder(embeddings: Embeddings) -> None:
    equal = Embeddings(embeddings.queries, embeddings.queries, embeddings.features, embeddings.labels, ("a",) * 4)
    assert measure(equal).rows["proxy_accuracy"][0]["real"] == 1
    for row in measure(embeddings).rows["proxy_accuracy"]:
        assert row["with_mixes"] <= row["real"]


def test_queue_without_labels_leaves_out_what_needs_them(embeddings: Embeddings) -> None:
    queue = normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    rows = measure(embeddings, make_encoder(queue=queue)).rows
    assert len(rows["hardness_histogram"]) == 12
    assert rows["false_negatives"] == rows["oracle"] == []
    labels = torch.arange(30) % 4
    rows = measure(embeddings, make_encoder(queue=queue, queue_labels=labels)).rows
    assert rows["oracle"][0]["loss_oracle"] < rows["oracle"][0]["loss"]


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_that_pretraining_makes_is_read_back(kind: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(ModelConfig(arch="resnet18", dim=8, head=kind)).eval()
    head = read_head({f"module.encoder_q.{key}": tensor for key, tensor in encoder.state_dict().items()})
    assert head is not None
    x = torch.randn(4, 512)
    assert torch.equal(head.eval()(x), encoder.fc(x))


def test_heads_of_both_kinds_are_read_and_others_are_none() -> None:
    torch.manual_seed(0)
    mlp = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    state = {f"module.encoder_q.fc.{key}": tensor for key, tensor in mlp.state_dict().items()}
    x = torch.randn(2, 6)
    head = read_head(state)
    assert head is not None
    assert torch.equal(head(x), mlp(x))
    linear = read_head({"encoder_q.fc.weight": mlp[0].weight.detach(), "encoder_q.fc.bias": mlp[0].bias.detach()})
    assert linear is not None
    assert torch.equal(linear(x), mlp[0](x))
    assert read_head({"module.encoder_q.fc.0.weight": mlp[0].weight.detach()}) is None


def test_mistakes_are_gathered() -> None:
    with pytest.raises(ValueError, match=r"(?s)out:.*data:.*space:.*crop_px.*temperature:.*top:.*s=0"):
        check_analysis_config(AnalysisConfig(space="x", crop_px=300, temperature=0.0, top=0, s=0, s_prime=0))


def test_seeds_of_one_method_are_drawn_as_their_mean_with_its_deviation() -> None:
    values = {"mochi": (2.0, 10.0), "random": (1.0, 5.0), "mochi@1": (4.0, 20.0), "mochi@2": (9.0, math.inf)}
    rows = [
        {"encoder": name, "kind": kind, "intra_variance": a, "inter_distance": a / 2, "separation": b}
        for name, (a, b) in values.items()
        for kind in ("one", "mean")
    ]
    pooled = pool_seeds(rows)
    assert [(row["encoder"], row["kind"]) for row in pooled] == [
        ("mochi", "one"), ("mochi", "mean"), ("random", "one"), ("random", "mean"),
    ]  # fmt: skip
    assert pooled[1]["intra_variance"] == pytest.approx(5.0)
    assert pooled[1]["intra_variance_std"] == pytest.approx(math.sqrt(13))  # of 2, 4, 9
    assert (pooled[1]["separation"], pooled[1]["encoders"]) == (15.0, 3)  # the infinite value is omitted
    assert pooled[3] == rows[3]  # a single encoder is unchanged
    labels = [text.get_text() for text in DRAWERS["class_distances"](pooled).axes[0].get_legend().get_texts()]
    assert labels == ["mochi: 15.00 ± 7.07 (3 seeds)", "random: 5.00"]
    assert method_of("moco@v2") == "moco@v2"


@pytest.mark.slow
def test_figures_compare_encoders_with_lines_and_markers_of_their_own(embeddings: Embeddings, tmp_path: Path) -> None:
    tables = Tables()
    for name in ("mochi", "random", "moco v2"):
        encoder = make_encoder(name=name)
        config = AnalysisConfig(n=10, s=6, s_prime=4, top=12, batch=16)
        analyse(encoder, embeddings, config, use_queue=False, tables=tables)
    paths = draw_figures(tables.rows, tmp_path / "one")
    assert {path.name for path in paths} == {f"{name}.{kind}" for name in DRAWERS for kind in ("png", "svg")}
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in paths if path.suffix == ".png")
    for path in draw_figures(tables.rows, tmp_path / "two"):
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()
    assert DRAWERS.keys() == DEFINITIONS.keys()
    for values in (COLOURS, LINES, MARKERS):
        assert len(set(values)) == 8
    figure = DRAWERS["hardness_histogram"](tables.rows["hardness_histogram"])
    assert figure.axes[0].get_xlabel()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["mochi", "random", "moco v2"]


def write_encoder(path: Path, seed: int, *, head: bool = True) -> Path:
    torch.manual_seed(seed)
    model = torchvision.models.resnet18()
    model.fc = torch.nn.Linear(512, 16) if head else torch.nn.Identity()
    state = {f"module.encoder_q.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "arch": "resnet18", "epoch": seed}, path)
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("analysis")
    write_classes(root / "val", load_pools(0)["test"], 20, 48, lambda _, index: np.random.default_rng(index))
    first, second = write_encoder(root / "one.pt", 1), write_encoder(root / "two.pt", 2)
    settings = ["images=0", "crop_px=32", "resize_px=36", "batch=10", "device=cpu"]
    return [str(CONFIG), f"data={root}", *settings, f"mochi={first}", f"random={second}"]


def test_command_writes_figures_numbers_and_summary(words: list[str], tmp_path: Path) -> None:
    assert run_command(analyse_encoder.main, "", [*words, f"out={tmp_path}"]) == 0
    for name, definition in DEFINITIONS.items():
        table = json.loads((tmp_path / f"{name}.json").read_text())
        assert table["definition"] == definition
        assert {row["encoder"] for row in table["rows"]} == {"mochi", "random"}
        with (tmp_path / f"{name}.csv").open() as stream:
            assert len(list(csv.DictReader(stream))) == len(table["rows"])
        assert (tmp_path / f"{name}.png").exists()
        assert (tmp_path / f"{name}.svg").exists()
    summary = json.loads((tmp_path / "analysis.json").read_text())
    assert summary["space"] == "head"
    assert summary["encoders"]["random"]["epoch"] == 2
    assert summary["numbers"]["mochi"].keys() >= {
        "proxy_accuracy",
        "false_negatives",
        "uniformity",
        "separation",
        "loss",
    }
    assert run_command(analyse_encoder.main, "", [*words, f"out={tmp_path}"]) == 0


def test_head_is_refused_when_an_encoder_has_none(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = write_encoder(tmp_path / "bare.pt", 3, head=False)
    assert run_command(analyse_encoder.main, "", [*words, f"bare={bare}", f"out={tmp_path}", "space=head"]) == 2
    assert "no head was found for bare" in capsys.readouterr().err


def test_unknown_words_are_refused_with_the_settings(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(analyse_encoder.main, "", [*words, f"out={tmp_path}", "imges=3"]) == 2
    assert "imges=3: neither a config key nor a weights file" in capsys.readouterr().err
    assert run_command(analyse_encoder.main, "", [str(CONFIG), f"out={tmp_path}"]) == 2
    assert "NAME=WEIGHTS" in capsys.readouterr().err
