"""The configs under configs/pretrain/ read strictly and hold every row of the paper's tables."""

import re
from functools import cache
from pathlib import Path

import pytest

from pretrain.config import PretrainConfig
from pretrain.input.images import CLASS_LISTS
from pretrain.input.view_parameters import find_recipe
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.settings import read_settings

FOLDER = PROJECT_ROOT / "configs" / "pretrain"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if "digits" not in path.name)
IN1K_ROWS = {
    100: [(0, 0, 0), (256, 512, 0), (256, 512, 256), (128, 1024, 512)],
    200: [
        *[(0, 0, 0), (1024, 512, 256), (512, 1024, 512), (256, 512, 0)],
        *[(256, 512, 256), (256, 2048, 2048), (128, 1024, 512)],
    ],
    800: [(0, 0, 0), (128, 1024, 512)],
}
"""(N, s, s') of arXiv 2010.01028's ImageNet-1K tables, by epochs; zeros: MoCo-v2."""
SYNCO_COUNTS = (256, 256, 256, 64, 64, 64)  # arXiv 2410.02401, section 3


@cache
def read(name: str) -> PretrainConfig:
    return read_settings(PretrainConfig, FOLDER / f"{name}.yaml")


def moco_v2_rows(marker: str) -> list[PretrainConfig]:
    configs = [read(path.stem) for path in CONFIGS if marker in path.name]
    return [config for config in configs if config.model.method == "moco" and config.model.head == "mlp"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_reads_strictly(path: Path) -> None:
    config = read(path.stem)
    assert find_recipe(config.data.augmentation)
    assert not config.data.root and not config.run.out, "folders are given on the command line"
    if config.model.method == "simclr":
        assert config.mixing.n <= 2 * config.run.batch_size - 2, "more hard negatives than the batch holds"
    else:
        assert config.mixing.n <= config.model.queue_len


@pytest.mark.parametrize(("epochs", "row"), [(epochs, row) for epochs, rows in IN1K_ROWS.items() for row in rows])
def test_every_row_of_the_in1k_tables_has_a_config(epochs: int, row: tuple[int, int, int]) -> None:
    found = [
        config
        for config in moco_v2_rows("in1k")
        if (config.mixing.n, config.mixing.s, config.mixing.s_prime) == row
        and (config.run.epochs, config.data.augmentation) == (epochs, "moco_v2")
    ]
    assert len(found) == 1
    assert found[0].mixing.warmup_epochs == (15 if any(row) else 0)
    assert (found[0].model.queue_len, found[0].model.temperature, found[0].run.batch_size) == (65536, 0.2, 256)


@pytest.mark.parametrize(("name", "n", "oracle"), [
    ("moco_v2_r50_in100", 0, False), ("mochi_r50_in100", 1024, False),
    ("moco_v2_oracle_r50_in100", 0, True), ("mochi_oracle_r50_in100", 1024, True),
])  # fmt: skip
def test_in100_rows_share_everything_but_the_mixing(name: str, n: int, oracle: bool) -> None:
    config = read(name)
    assert (config.mixing.n, config.mixing.s, config.mixing.s_prime) == ((1024, 1024, 128) if n else (0, 0, 0))
    assert config.mixing.oracle is oracle
    assert config.mixing.warmup_epochs == (10 if n else 0)
    assert (config.model.queue_len, config.model.temperature, config.run.epochs) == (16384, 0.2, 200)


@pytest.mark.parametrize("name", ["synco_r50_in1k", "synco_r50_in1k_800ep", "synco_r50_in100"])
def test_synco_mixes_its_six_counts_after_ten_epochs(name: str) -> None:
    mixing = read(name).mixing
    assert (mixing.n, mixing.synco, mixing.warmup_epochs) == (1024, SYNCO_COUNTS, 10)


@pytest.mark.parametrize("name", ["moco_v1_r50_in1k", "moco_v1_r50_in100"])
def test_moco_v1_differs_from_v2_as_published(name: str) -> None:
    config = read(name)
    assert (config.model.head, config.model.temperature, config.data.augmentation) == ("linear", 0.07, "moco_v1")
    assert config.optimizer.schedule == "step"
    assert [share * config.run.epochs for share in config.optimizer.milestones] == [120, 160]


@pytest.mark.parametrize("epochs", [100, 200, 800])
@pytest.mark.parametrize("data", ["in1k", "in100"])
def test_every_method_has_a_config_of_every_length(data: str, epochs: int) -> None:
    lasting = [
        config for config in (read(path.stem) for path in CONFIGS if data in path.name) if config.run.epochs == epochs
    ]
    heads = {(config.model.method, config.model.head, config.mixing.n > 0) for config in lasting}
    wanted = {("moco", "linear", False), ("moco", "mlp", False), ("moco", "mlp", True), ("simclr", "mlp", False)}
    assert wanted <= heads


def test_in100_configs_name_the_hundred_classes() -> None:
    assert {read(path.stem).data.class_list for path in CONFIGS if "in100" in path.name} == {"imagenet100"}
    assert {read(path.stem).data.class_list for path in CONFIGS if "in1k" in path.name} == {""}
    names = [line for line in CLASS_LISTS["imagenet100"].read_text().splitlines() if not line.startswith("#")]
    assert len(set(names)) == len(names) == 100
    assert all(re.fullmatch(r"n\d{8}", name) for name in names)


@pytest.mark.parametrize("path", [path for path in CONFIGS if "_in1" in path.name], ids=lambda path: path.stem)
def test_expected_hours_follow_from_their_sources(path: Path) -> None:
    text, config = path.read_text().replace("\n#         ", " "), read(path.stem)
    share = config.run.epochs / 200 * (126_689 / 1_281_167 if "in100" in path.name else 1)  # images of the train splits
    both_views = config.model.method == "simclr"
    v100 = 53 * 8 * share * (3 / 2 if both_views else 1)
    a100 = 200 * 1_281_167 / 2470 / 3600 * share / (1 / 2 if both_views else 3 / 4)
    told = re.search(
        r"([\d.]+) GPU-hours on V100 in float32 \(.*53 h on 8.*, about ([\d.]+) on A100 in bf16 \(estimate", text
    )
    assert told, "the # Expect: line tells no GPU-hours"
    assert [float(told[1]), float(told[2])] == pytest.approx([v100, a100], rel=0.03)


def test_each_method_has_a_config_with_and_without_mixing() -> None:
    for method in ("moco", "simclr"):
        for data in ("in1k", "in100"):
            counts = {
                config.mixing.n > 0
                for config in (read(path.stem) for path in CONFIGS if data in path.name)
                if config.model.method == method
            }
            assert counts == {True, False}, f"{method} on {data}"
