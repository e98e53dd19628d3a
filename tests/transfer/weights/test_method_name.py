from dataclasses import asdict

import pytest

from pretrain.config import PretrainConfig
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.settings import read_settings
from tools.report.lineage import describe_method as describe_manifest
from transfer.weights.method_name import describe_method

CONFIGS = PROJECT_ROOT / "configs" / "pretrain"


@pytest.mark.parametrize(
    ("config", "overrides", "name"),
    [
        ("mochi_r50_in1k", "mixing.n=1024 mixing.s=512 mixing.s_prime=256", "moco with MoCHi(1024, 512, 256)"),
        ("synco_r50_in1k", "", "moco with SynCo(256, 256, 256, 64, 64, 64) of 1024"),
        ("moco_v2_r50_in1k", "", "moco"),
        ("simclr_r50_in1k", "", "simclr"),
        ("simclr_r50_in1k", "mixing.n=128 mixing.s=128 mixing.s_prime=64", "simclr with MoCHi("),
        ("moco_v2_r50_in100", "mixing.oracle=true", "moco with class oracle"),
    ],
)
def test_a_method_has_one_name_in_lineage_and_card(config: str, overrides: str, name: str) -> None:
    values = asdict(read_settings(PretrainConfig, CONFIGS / f"{config}.yaml", tuple(overrides.split())))
    assert describe_method(values, "moco").startswith(name)
    assert describe_manifest({"config": values, "source": {"family": "moco"}}) == describe_method(values, "moco")


def test_a_method_that_no_config_names_is_the_family() -> None:
    assert describe_method({}, "dino") == describe_method(None, "dino") == "dino"
    assert describe_method({"model": 3}, "dino") == "dino"
