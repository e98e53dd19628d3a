"""All mistakes in a config are reported at once, before the run starts."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.config import MixingConfig, ModelConfig, OptimizerConfig, PretrainConfig, RunConfig
from pretrain.config_checks import check_config
from pretrain.continuation import check_same_recipe, learned_keys
from pretrain.runtime.settings import SettingsError, as_dict, read_settings

GOOD = ["run.out=x", "data.root=y"]


def test_defaults_with_a_folder_and_data_are_valid() -> None:
    check_config(read_settings(PretrainConfig, None, GOOD))


def test_every_mistake_is_reported() -> None:
    config = PretrainConfig(
        model=ModelConfig(arch="vgg", temperature=0.0, queue_len=10),
        mixing=MixingConfig(n=20, s=1, synco=(1, 2)),
        optimizer=OptimizerConfig(lr=-1.0, milestones=(1.5,)),
        run=RunConfig(batch_size=1),
    )
    with pytest.raises(SettingsError) as caught:
        check_config(config)
    text = str(caught.value)
    parts = [
        "model.arch: expected one of resnet18",
        "model.temperature",
        "mixing.n: expected at most model.queue_len=10; got 20",
        "mixing.synco: expected six counts",
        "optimizer.lr",
        "optimizer.milestones",
        "run.batch_size: expected 2",
        "run.out: is empty",
        "data.root: is empty",
    ]
    for part in parts:
        assert part in text


def test_batch_must_divide_over_the_processes() -> None:
    with pytest.raises(SettingsError, match="256 cannot be split evenly over 3 processes"):
        check_config(read_settings(PretrainConfig, None, GOOD), world_size=3)


def test_slices_of_simclrs_batch_are_refused() -> None:
    words = [*GOOD, "model.method=simclr", "engine.max_batch_per_rank=32"]
    with pytest.raises(SettingsError, match="SimCLR takes its negatives from one forward pass"):
        check_config(read_settings(PretrainConfig, None, words))
    check_config(read_settings(PretrainConfig, None, words), world_size=8)


def test_groups_of_batch_statistics_need_two_images_each_and_no_sync_bn() -> None:
    words = [*GOOD, "model.bn_groups=8", "model.sync_bn=true", "run.batch_size=8"]
    with pytest.raises(SettingsError, match=r"(?s)model\.sync_bn merges them.*needs at least 16 images"):
        check_config(read_settings(PretrainConfig, None, words))
    check_config(read_settings(PretrainConfig, None, [*GOOD, "model.bn_groups=8", "run.batch_size=16"]))


@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 40), st.integers(1, 12))
def test_every_slice_has_two_images_for_each_group_or_is_refused(
    images_each: int, processes: int, size: int, groups: int
) -> None:
    batch = max(2, images_each * processes * groups)
    words = [*GOOD, f"run.batch_size={batch}", f"engine.max_batch_per_rank={size}", f"model.bn_groups={groups}"]
    config = read_settings(PretrainConfig, None, words)
    share, slices = batch // processes, []
    while sum(slices) < share:
        slices.append(min(size or share, share - sum(slices)))
    refused = batch % processes != 0 or min(slices) // groups < 2
    if refused:
        with pytest.raises(SettingsError):
            check_config(config, processes)
    else:
        check_config(config, processes)


def test_last_smaller_slice_is_named() -> None:
    words = [*GOOD, "model.bn_groups=8", "run.batch_size=250", "engine.max_batch_per_rank=64"]
    check_config(read_settings(PretrainConfig, None, words))  # 64, 64, 64, 58
    words[-1] = "engine.max_batch_per_rank=120"
    with pytest.raises(SettingsError, match=r"needs at least 16 images.*engine\.max_batch_per_rank=120 has 10"):
        check_config(read_settings(PretrainConfig, None, words))


@pytest.mark.parametrize("method", ["simclr", "supervised"])
def test_groups_of_batch_statistics_are_refused_where_they_have_no_effect(method: str) -> None:
    with pytest.raises(SettingsError, match=rf"only MoCo encodes in groups; {method}"):
        check_config(read_settings(PretrainConfig, None, [*GOOD, f"model.method={method}", "model.bn_groups=2"]))


def test_gradient_through_q_is_refused_with_synco() -> None:
    words = [*GOOD, "mixing.n=64", "mixing.synco=[8,8,8,2,2,2]"]
    check_config(read_settings(PretrainConfig, None, words))
    with pytest.raises(SettingsError, match=r"mixing\.detach: false applies to MoCHi's mixes only"):
        check_config(read_settings(PretrainConfig, None, [*words, "mixing.detach=false"]))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("run.seed=-1", "run.seed: expected 0 or more"),
        (f"run.seed={2**63}", "run.seed: expected"),
        ("engine.threads=-1", "engine.threads: expected 0"),
        ("run.checkpoint_minutes=-0.5", "run.checkpoint_minutes: expected 0"),
        ("run.milestone_every_epochs=-1", "run.milestone_every_epochs"),
        ("optimizer.milestones=[0.8,0.6]", "expected increasing fractions"),
        ("optimizer.momentum=1.0", "optimizer.momentum"),
        ("optimizer.weight_decay=-1e-4", "optimizer.weight_decay"),
        ("optimizer.warmup_steps=-1", "optimizer.warmup_steps"),
        ("optimizer.lr_batch=0", "optimizer.lr_batch"),
        ("optimizer.name=adam", "optimizer.name: expected one of sgd, adamw, lars"),
        ("optimizer.lr_rule=root", "optimizer.lr_rule: expected one of given, linear, sqrt"),
        ("model.momentum=-0.1", "model.momentum"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(word: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_config(read_settings(PretrainConfig, None, [*GOOD, word]))
    assert said in str(caught.value)


FLOATS = [
    (part.name, field.name)
    for part in dataclasses.fields(PretrainConfig)
    for field in dataclasses.fields(part.type)
    if field.type is float
]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("part", "name"), FLOATS, ids=[".".join(pair) for pair in FLOATS])
def test_no_number_may_be_nan_or_infinite(part: str, name: str, value: float) -> None:
    good = read_settings(PretrainConfig, None, GOOD)
    bad = dataclasses.replace(good, **{part: dataclasses.replace(getattr(good, part), **{name: value})})
    with pytest.raises(SettingsError, match=rf"{part}\.{name}: expected a finite number"):
        check_config(bad)


def test_mixes_without_hardest_negatives_are_a_contradiction() -> None:
    with pytest.raises(SettingsError, match=r"mixing\.n: is 0"):
        check_config(read_settings(PretrainConfig, None, [*GOOD, "mixing.s=8"]))


def test_random_initialisation_needs_no_data() -> None:
    check_config(read_settings(PretrainConfig, None, ["run.out=x", "run.epochs=0"]))


def test_different_config_is_refused_with_both_values(tmp_path) -> None:
    stored = as_dict(read_settings(PretrainConfig, None, [*GOOD, "mixing.n=64", "run.epochs=10"]))
    config = read_settings(PretrainConfig, None, [*GOOD, "mixing.n=32", "run.epochs=20", "engine.threads=2"])
    with pytest.raises(SettingsError) as caught:
        check_same_recipe(stored, config, tmp_path / "encoder.pt")
    assert "mixing.n: 64 stored, 32 given" in str(caught.value)
    assert "run.epochs: 10 stored, 20 given" in str(caught.value)
    assert "threads" not in str(caught.value)


@pytest.mark.parametrize(
    "word",
    [
        "data.cache=packed",
        "data.pipeline=crops",
        "data.skip_broken=true",
        "engine.max_batch_per_rank=32",
        "model.bn_groups=2",
        "optimizer.name=adamw",
        "optimizer.warmup_steps=5",
        "run.seed=1",
    ],
)
def test_fields_that_affect_the_result_may_not_change_on_resume(word: str, tmp_path) -> None:
    stored = as_dict(read_settings(PretrainConfig, None, GOOD))
    with pytest.raises(SettingsError, match=word.split("=", maxsplit=1)[0]):
        check_same_recipe(stored, read_settings(PretrainConfig, None, [*GOOD, word]), tmp_path)


@pytest.mark.parametrize(
    "word",
    [
        "data.root=z",
        "data.workers=3",
        "engine.precision=fp16",
        "engine.device=cpu",
        "run.log_every_steps=7",
        "run.out=z",
    ],
)
def test_free_fields_may_change_on_resume(word: str, tmp_path) -> None:
    stored = as_dict(read_settings(PretrainConfig, None, GOOD))
    check_same_recipe(stored, read_settings(PretrainConfig, None, [*GOOD, word]), tmp_path)


def test_no_field_of_model_mixing_and_optimizer_is_free() -> None:
    keys = set(learned_keys())
    for part in dataclasses.fields(PretrainConfig):
        own = {f"{part.name}.{field.name}" for field in dataclasses.fields(part.type)}
        if part.name in ("model", "mixing", "optimizer"):
            assert own <= keys
        else:
            assert own - keys and own & keys


def test_run_older_than_a_setting_resumes_with_its_default(tmp_path) -> None:
    stored = as_dict(read_settings(PretrainConfig, None, GOOD))
    del stored["optimizer"]["name"], stored["optimizer"]["warmup_steps"], stored["model"]["zero_init_residual"]
    check_same_recipe(stored, read_settings(PretrainConfig, None, GOOD), tmp_path)
