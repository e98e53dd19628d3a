import math

import pytest

from pretrain.runtime.stopping import StopFlag, YieldRequested
from transfer.detection.evaluation import ALARM_AP, StoppableLoader, compare_metrics, find_alarm, judge_reevaluation
from transfer.detection.protocols import FULL_SIZE, LOW_LABEL, PROTOCOL_FILES

LOGGED = {"AP": 53.5, "AP50": 81.3, "AP75": math.nan}


def test_equal_metrics_pass_and_nan_equals_nan() -> None:
    assert not compare_metrics(LOGGED, dict(LOGGED), 0.0)
    assert not compare_metrics(LOGGED, {**LOGGED, "AP": 53.52}, 0.05)
    assert not judge_reevaluation(LOGGED, dict(LOGGED), "cpu")


@pytest.mark.parametrize(
    "again",
    [
        {**LOGGED, "AP": 53.6},
        {**LOGGED, "AP75": 58.8},
        {**LOGGED, "AP50": math.nan},
        {"AP": 53.5},
        {**LOGGED, "x": 1.0},
    ],
)
def test_a_metric_that_differs_appears_or_is_lost_in_the_re_evaluation_is_refused(again: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no result is written, because it cannot be reproduced"):
        judge_reevaluation(LOGGED, again, "cpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_difference_on_cuda_is_recorded_and_the_paid_schedule_kept(device: str) -> None:
    assert not judge_reevaluation(LOGGED, {**LOGGED, "AP": 53.54}, device)
    assert "'AP': (53.5, 53.56)" in judge_reevaluation(LOGGED, {**LOGGED, "AP": 53.56}, device)


def test_every_full_size_protocol_has_an_alarm_near_what_random_weights_give() -> None:
    assert set(ALARM_AP) == set(PROTOCOL_FILES) - set(FULL_SIZE) - set(LOW_LABEL)
    for protocol, (metric, floor) in ALARM_AP.items():
        assert "probably not loaded" in find_alarm(protocol, {metric: floor - 0.1}, whole=True)
        assert not find_alarm(protocol, {metric: floor}, whole=True)
        assert not find_alarm(protocol, {metric: floor - 0.1}, whole=False)
    assert not find_alarm("voc-c4-digits@moco", {"AP": 0.0}, whole=True)


def test_loader_ends_at_the_next_batch_after_a_stop() -> None:
    stop = StopFlag()
    batches = iter(StoppableLoader([1, 2, 3], stop))
    assert next(batches) == 1
    stop.ask("the test")
    with pytest.raises(YieldRequested, match="the trained weights are in checkpoints"):
        next(batches)
