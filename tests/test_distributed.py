"""Two real gloo processes agree: on permutations, gradients, flags, queues; alone, every function is the obvious."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain import distributed

ROOT = Path(__file__).parent.parent

RANK_SCRIPT = """
import torch
from torch.nn import functional as F
from pretrain import distributed
from pretrain.config import MixingConfig, ModelConfig
from pretrain.key_queue import KeyQueue
from pretrain.loss import contrastive_loss
from pretrain.moco import MoCo
from pretrain.randomness import make_generators
from pretrain.train import digest_queue

CPU = torch.device("cpu")
with distributed.process_group(CPU):
    rank = distributed.rank()
    mine = torch.arange(3) + 10 * rank
    assert distributed.gather(mine).tolist() == [0, 1, 2, 10, 11, 12]
    generators = make_generators(7, 5, CPU)
    shuffled, permutation = distributed.shuffle(mine, generators.shuffle)
    assert distributed.gather(permutation[None]).unique(dim=0).shape[0] == 1, "one permutation for all ranks"
    assert sorted(distributed.gather(shuffled).tolist()) == [0, 1, 2, 10, 11, 12]
    assert distributed.unshuffle(shuffled * 2, permutation).tolist() == [0, 2, 4, 20, 22, 24]
    other = torch.randperm(1000, generator=generators.mixing)
    assert distributed.gather(other[None]).unique(dim=0).shape[0] == 2, "each rank mixes with its own draws"

    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.full((2, 2), float(rank))
    distributed.average_gradients([weight])
    assert weight.grad.eq(0.5).all()
    assert distributed.any_rank(rank == 1)
    assert not distributed.any_rank(False)
    assert distributed.mean_over_ranks(float(rank)) == 0.5
    assert distributed.all_equal(4)
    assert not distributed.all_equal(rank)

    x = torch.full((2, 3), float(rank + 1), requires_grad=True)
    everyone = distributed.gather_with_gradient(x)
    (everyone * torch.arange(4.0)[:, None]).sum().backward()
    assert x.grad[:, 0].tolist() == [2 * 2.0 * rank, 2 * (2.0 * rank + 1)], x.grad

    # Two ranks equal one process on the same global batch: batch norm aside, so it runs on its stored statistics.
    torch.manual_seed(0)
    model = MoCo(ModelConfig(arch="resnet18", dim=8, queue_len=20), MixingConfig())
    images = [torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    index = torch.arange(8)
    part = slice(4 * rank, 4 * rank + 4)
    model.eval()
    output, keys = model(*(i[part] for i in images), index[part], index[part], generators=generators, mixing_on=False)
    output.loss.backward()
    distributed.average_gradients(list(model.encoder_q.parameters()))
    model.queue.enqueue(keys, distributed.gather(index[part]))
    assert distributed.all_equal(digest_queue(model))
    if rank == 0:
        torch.save({"loss": output.loss, "keys": keys, "gradient": model.encoder_q.fc[2].weight.grad}, "two.pt")
    loss = distributed.mean_over_ranks(output.loss.item())

if rank == 0:
    two = torch.load("two.pt", weights_only=True)
    model.zero_grad()
    torch.manual_seed(0)
    alone = MoCo(ModelConfig(arch="resnet18", dim=8, queue_len=20), MixingConfig()).eval()
    output, keys = alone(*images, index, index, generators=make_generators(7, 5, CPU), mixing_on=False)
    output.loss.backward()
    assert torch.allclose(keys, two["keys"], atol=1e-5)
    assert abs(output.loss.item() - loss) < 1e-4
    assert torch.allclose(alone.encoder_q.fc[2].weight.grad, two["gradient"], atol=1e-5)
print("rank", rank, "agrees")
"""


@pytest.mark.slow
def test_two_processes_agree_and_equal_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = tmp_path / "rank.py"
    script.write_text(RANK_SCRIPT)
    base = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script)],
            cwd=tmp_path,
            env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    texts = [process.communicate(timeout=240)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(texts)
    assert all(f"rank {rank} agrees" in text for rank, text in enumerate(texts))


def test_alone_everything_is_the_obvious() -> None:
    batch = torch.arange(6)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather(batch) is batch
    shuffled, permutation = distributed.shuffle(batch, torch.Generator())
    assert torch.equal(distributed.unshuffle(shuffled, permutation), batch)
    assert distributed.any_rank(True)
    assert distributed.mean_over_ranks(0.25) == 0.25
    assert distributed.all_equal(3)
    distributed.barrier()
