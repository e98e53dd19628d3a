import copy
from pathlib import Path

import pytest
import torch
from fvcore.nn.precise_bn import update_bn_stats
from torch import nn

from transfer.detection.precise_bn import update_statistics


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))


def make_batches(count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2 + index % 3, 3, 9, 9, generator=generator) * (1 + index) for index in range(count)]


def statistics_of(model: nn.Module) -> list[torch.Tensor]:
    return [buffer for name, buffer in model.named_buffers() if "running" in name]


def test_one_process_gives_fvcores_statistics() -> None:
    ours, theirs = make_network(), make_network()
    assert update_statistics(ours, make_batches(6, 1), 6) == 2
    update_bn_stats(theirs, make_batches(6, 1), 6)
    for mine, reference in zip(statistics_of(ours), statistics_of(theirs), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)


def test_first_norm_gets_the_mean_and_variance_of_all_its_input() -> None:
    model = make_network()
    batches = make_batches(5, 2)
    update_statistics(model, batches, 5)
    seen = torch.cat([model[0](batch) for batch in batches]).double()
    torch.testing.assert_close(model[1].running_mean.double(), seen.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    values = seen.transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[1].running_var.double(), values.var(1, correction=0), rtol=1e-4, atol=1e-6)


def test_counters_momentum_and_weights_stay_and_frozen_norms_are_left_out() -> None:
    model = make_network()
    model[4].eval()
    before = copy.deepcopy(model.state_dict())
    assert update_statistics(model, make_batches(3, 3), 3) == 1
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "1.running_mean",
        "1.running_var",
    }
    assert model[1].momentum == 0.1


def test_too_few_batches_is_a_sentence_and_leaves_the_statistics() -> None:
    model = make_network()
    with pytest.raises(ValueError, match=r"needs 4 batches .*, but the data yielded 3"):
        update_statistics(model, make_batches(3, 3), 4)
    assert torch.equal(model[1].running_mean, torch.zeros(8))


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = make_network()
    update_statistics(model, make_batches(4, 10 + rank), 4)
    torch.save(model.state_dict(), Path(folder) / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_end_with_the_same_bits_and_with_the_statistics_of_both_ranks_batches(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    alone = make_network()
    update_statistics(alone, make_batches(4, 10) + make_batches(4, 11), 8)
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(ranks[0][name], tensor, rtol=1e-5, atol=1e-6)
