"""Two real gloo processes agree on permutations, gradients, flags and queues; one process gets no-ops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.runtime import distributed
from pretrain.runtime.checkpoint import read_content
from tests.making.ranks import run_ranks

COLLECTIVES = """
import torch
from pretrain.runtime import distributed
from pretrain.runtime.randomness import make_generators

CPU = torch.device("cpu")
with distributed.process_group(CPU):
    rank = distributed.rank()
    mine = torch.arange(3) + 10 * rank
    assert distributed.gather(mine).tolist() == [0, 1, 2, 10, 11, 12]
    generators = make_generators(7, 5, CPU)
    shuffled, permutation = distributed.shuffle(mine, generators.shuffle)
    assert distributed.gather(permutation[None]).unique(dim=0).shape[0] == 1, "one permutation for all ranks"
    assert sorted(distributed.gather(shuffled).tolist()) == [0, 1, 2, 10, 11, 12]
    assert sorted(shuffled.tolist()) != mine.tolist(), "the keys' batch statistics come from other images"
    assert distributed.unshuffle(shuffled * 2, permutation).tolist() == [0, 2, 4, 20, 22, 24]
    other = torch.randperm(1000, generator=generators.mixing)
    assert distributed.gather(other[None]).unique(dim=0).shape[0] == 2, "each rank mixes with its own draws"

    assert distributed.any_rank(rank == 1, False, True) == [True, False, True]
    assert distributed.mean_over_ranks(float(rank)) == 0.5
    assert distributed.add_counts(rank + 2) == 5
    assert distributed.all_equal(4)
    assert not distributed.all_equal(rank)
    distributed.barrier()
    assert distributed.on_main(lambda: ["the main rank's", rank]) == ["the main rank's", 0]
    try:
        distributed.on_main(lambda: int("no number"))
        raise SystemExit("the main rank's error was lost")
    except ValueError as error:
        assert "no number" in str(error)
    assert distributed.sum_in_place(torch.tensor([1, rank])).tolist() == [2, 1]
    own = torch.tensor([float(rank)])
    distributed.copy_from_main(own)
    assert own.item() == 0

    x = torch.full((2, 3), float(rank + 1), requires_grad=True)
    everyone = distributed.gather_with_gradient(x)
    (everyone * torch.arange(4.0)[:, None]).sum().backward()
    assert x.grad[:, 0].tolist() == [2 * 2.0 * rank, 2 * (2.0 * rank + 1)], x.grad
print("rank", rank, "agrees")
"""

OWN_MIXES = """
import torch
from torch.nn import functional as F
from pretrain.runtime import distributed
from pretrain.config import MixingConfig, ModelConfig
from pretrain.loss import contrastive_loss
from pretrain.mixing import draw_mixes
from pretrain.moco import MoCo
from pretrain.runtime.randomness import make_generators

CPU = torch.device("cpu")
with distributed.process_group(CPU):
    rank = distributed.rank()
    torch.manual_seed(0)
    mixing = MixingConfig(n=3, s=6, s_prime=5)
    model = MoCo(ModelConfig(arch="resnet18", dim=8, queue_len=40), mixing).eval()
    images = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(rank))
    index = torch.arange(4)
    output, keys = model(*images, index, index, generators=make_generators(1, 2, CPU), mixing_on=True)
    q = F.normalize(model.encoder_q(images[0]), dim=1).detach()
    own = keys[4 * rank : 4 * rank + 4]
    assert torch.allclose(own, F.normalize(model.encoder_k(images[1]), dim=1), atol=1e-5), "positives are this rank's"
    alone = contrastive_loss(
        q, own, model.queue.keys, temperature=0.2, mixing=mixing, generator=make_generators(1, 2, CPU).mixing
    )
    assert torch.allclose(output.loss, alone.loss, atol=1e-5)
    t = q @ model.queue.keys.T
    parents = draw_mixes(t, model.queue.keys, mixing, generator=make_generators(1, 2, CPU).mixing).parents
    hardest = t.topk(3, dim=1).indices
    assert (parents[..., None] == hardest[None, :, None]).any(dim=-1).all(), "parents are among the query's own hardest"
    both = distributed.gather(hardest)
    assert not torch.equal(both[:4], both[4:]), "the queries of the ranks differ, and so do their hardest negatives"
print("rank", rank, "agrees")
"""

STEPS = """
import sys
import pytest
import torch
from torch import nn
import pretrain.moco
import pretrain.simclr
import pretrain.supervised
from pretrain.runtime import distributed
from pretrain.config import EngineConfig, ModelConfig, OptimizerConfig, PretrainConfig, RunConfig
from pretrain.encoder import build_encoder
from pretrain.train import prepare, take_step

# Group norm in batch norm's place: an image's features then depend on no other image, so theory asks for equality.
CPU, METHOD = torch.device("cpu"), sys.argv[1]

def without_batch_norm(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(1, child.num_features))
        else:
            without_batch_norm(child)
    return module

def build(settings):
    return without_batch_norm(build_encoder(settings))

pretrain.moco.build_encoder = pretrain.simclr.build_encoder = pretrain.supervised.build_encoder = build

def take_steps(out, share, slices=0):
    config = PretrainConfig(
        model=ModelConfig(arch="resnet18", dim=8, queue_len=20, method=METHOD),
        engine=EngineConfig(max_batch_per_rank=slices, channels_last=False),
        optimizer=OptimizerConfig(lr=0.1),
        run=RunConfig(out=out, batch_size=8, epochs=0),  # no data: a classifier of model.dim classes
    )
    run = prepare(config, CPU)
    losses = []
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        views = torch.randint(0, 256, (2, 8, 3, 32, 32), generator=generator, dtype=torch.uint8)
        index = torch.arange(8) + 8 * step
        batch = {"query": views[0][share], "key": views[1][share], "index": index[share]}
        batch["label"] = index[share] % 8
        output = take_step(run, batch, 0.1, mixing_on=False)
        losses.append(distributed.mean_over_ranks(output.loss.item()))
        run.step += 1
    return run.model.state_dict(), losses

with distributed.process_group(CPU):
    rank = distributed.rank()
    share = slice(4 * rank, 4 * rank + 4)
    two, losses = take_steps("two", share)
    if METHOD == "moco":
        assert two["queue.indices"][:4].tolist() == [20, 21, 22, 23], "the newest keys, in the global batch's order"
    if METHOD != "simclr":
        sliced, _ = take_steps("sliced", share, slices=2)
        worst = max((sliced[name].double() - two[name].double()).abs().max() for name in two if "encoder" in name)
        assert worst < 1e-5, f"accumulation over slices changes the weights by {worst}"
alone, expected = take_steps("one", slice(0, 8))
assert losses == pytest.approx(expected, abs=1e-4)
for name, tensor in alone.items():
    assert torch.allclose(two[name].double(), tensor.double(), atol=1e-5), name
print("rank", rank, "agrees")
"""


TRAINING = """
import os
import signal
import sys
from pretrain.config import DataConfig, MixingConfig, ModelConfig, PretrainConfig, RunConfig
from pretrain.runtime.stopping import StopFlag
from pretrain.train import train
from pretrain.runtime.command_line import run_command

config = PretrainConfig(
    data=DataConfig(root="images", crop_px=32, workers=0),
    model=ModelConfig(arch="resnet18", dim=8, queue_len=24),
    mixing=MixingConfig(n=6, s=8, s_prime=4),
    run=RunConfig(out="run", epochs=1, batch_size=12),  # two steps
)
stop = StopFlag().install()
if sys.argv[1] == "stop" and os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGUSR2)
sys.exit(run_command(lambda _: print(train(config, stop)), None))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words"),
    [(COLLECTIVES, []), (OWN_MIXES, []), (STEPS, ["moco"]), (STEPS, ["simclr"]), (STEPS, ["supervised"])],
    ids=[
        "collectives",
        "each-mixes-its-own",
        "moco-equals-one-process",
        "simclr-equals-one-process",
        "supervised-equals-one-process",
    ],
)
def test_two_processes_agree(tmp_path: Path, script: str, words: list[str]) -> None:
    ended = run_ranks(script, tmp_path, *words)
    assert [code for code, _ in ended] == [0, 0], "\n".join(text for _, text in ended)
    assert all(f"rank {rank} agrees" in text for rank, (_, text) in enumerate(ended))


@pytest.mark.slow
def test_three_ranks_stopped_by_a_signal_to_one_resume_as_two_and_see_every_sample_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "images" / "train" / "ab"[number % 2] / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    stopped = run_ranks(TRAINING, tmp_path, "stop", ranks=3)
    assert [code for code, _ in stopped] == [75, 75, 75], "\n".join(text for _, text in stopped)
    assert "SIGUSR2 after step 1" in stopped[1][1]
    assert "another rank was asked to stop after step 1" in stopped[0][1]
    done = run_ranks(TRAINING, tmp_path, "go", ranks=2)
    assert [code for code, _ in done] == [0, 0], "\n".join(text for _, text in done)
    newest = read_content(tmp_path / "run" / "checkpoints" / "checkpoint_00000002.pt")
    assert newest["state_dict"]["module.queue_indices"].sort().values.tolist() == list(range(24))


def test_single_process_functions_are_no_ops() -> None:
    batch = torch.arange(6)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather(batch) is batch
    shuffled, permutation = distributed.shuffle(batch, torch.Generator())
    assert torch.equal(shuffled, batch[permutation])
    assert not torch.equal(shuffled, batch), "the batch-norm groups contain other images"
    assert torch.equal(distributed.unshuffle(shuffled, permutation), batch)
    assert distributed.any_rank(True, False) == [True, False]
    model = torch.nn.Linear(1, 1)
    assert distributed.average_gradients_of(model) is model
    assert distributed.mean_over_ranks(0.25) == 0.25
    assert distributed.add_counts(3) == 3
    assert distributed.all_equal(3)
    distributed.barrier()
