"""The implementations of the contrastive loss that the mixing benchmark compares, timed and profiled for memory.

Shapes: B queries and keys (B, D), K negatives (K, D), s pair mixes and s' query mixes per query.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from pretrain.config import MixingConfig
from pretrain.loss import contrastive_loss, plain_loss
from pretrain.mixing import measure_recall
from tools.benchmarks.rounds import take_turns

TEMPERATURE = 0.2
"""tau of MoCo-v2."""
VIEW_NOISE = 0.05
"""Standard deviation of query minus key per coordinate: with D = 128 their cosine is about 0.87."""


def build_forms(
    mixing: MixingConfig, *, batch: int, queue_len: int, dim: int, device: str
) -> tuple[dict[str, Callable[[], None]], float]:
    """Return {name: function that runs forward and backward once}, and the recall of approximate top-N."""
    generator = torch.Generator(device).manual_seed(batch)

    def draw(rows: int) -> Tensor:
        return F.normalize(torch.randn(rows, dim, generator=generator, device=device), dim=1)

    queue, keys = draw(queue_len), draw(batch)
    noise = torch.randn(batch, dim, generator=generator, device=device)
    queries = F.normalize(keys + VIEW_NOISE * noise, dim=1).requires_grad_()
    columns = queue.T.contiguous()  # (D, K), the reference's layout
    rough = dataclasses.replace(mixing, approximate=True)

    def fused(settings: MixingConfig) -> Tensor:
        return contrastive_loss(
            queries, keys, queue, temperature=TEMPERATURE, mixing=settings, generator=generator
        ).loss

    losses: dict[str, Callable[[], Tensor]] = {
        "moco": lambda: moco_loss(queries, keys, columns),
        "naive": lambda: naive_loss(queries, keys, queue, mixing),
        "fused": lambda: fused(mixing),
        "plain": lambda: plain_loss(queries, keys, queue, TEMPERATURE, mixing, generator, None).loss,
        "approximate": lambda: fused(rough),
    }
    with torch.no_grad():
        recall = measure_recall(queries @ queue.T, mixing.n)
    forms = {name: partial(_run_once, queries, loss) for name, loss in losses.items()}
    return {"floor": partial(multiply_only, queries.detach(), queue), **forms}, recall


def multiply_only(queries: Tensor, queue: Tensor) -> None:
    """Compute the two matrix products of every such loss: q nᵀ (B, K), and a (B, K) gradient times n (B, D)."""
    logits = torch.mm(queries, queue.T)
    torch.mm(logits, queue)


def moco_loss(queries: Tensor, keys: Tensor, queue: Tensor) -> Tensor:
    """Return the loss of facebookresearch/moco (moco/builder.py, main_moco.py); `queue` is (D, K)."""
    l_pos = torch.einsum("nc,nc->n", [queries, keys]).unsqueeze(-1)
    l_neg = torch.einsum("nc,ck->nk", [queries, queue.clone().detach()])
    return _classify_first(torch.cat([l_pos, l_neg], dim=1))


def naive_loss(queries: Tensor, keys: Tensor, queue: Tensor, mixing: MixingConfig) -> Tensor:
    """Return MoCHi's loss with all mixes materialised (B, s, D), as in public code, but without its Python loops.

    `queue` is (K, D), so that a gathered feature is contiguous; MoCo's layout (D, K) would be slower.
    """
    l_pos = torch.einsum("nc,nc->n", [queries, keys]).unsqueeze(-1)
    rows = queue.clone().detach()
    l_neg = torch.einsum("nc,kc->nk", [queries, rows])
    with torch.no_grad():
        hardest = l_neg.topk(min(mixing.n, len(rows)), dim=1).indices

        def draw(count: int) -> Tensor:
            return rows[hardest.gather(1, torch.randint(hardest.shape[1], (len(queries), count), device=rows.device))]

        a = torch.rand(len(queries), mixing.s, 1, device=rows.device)
        pairs = F.normalize(a * draw(mixing.s) + (1 - a) * draw(mixing.s), dim=2)
        b = torch.rand(len(queries), mixing.s_prime, 1, device=rows.device) / 2
        with_query = F.normalize(b * queries[:, None] + (1 - b) * draw(mixing.s_prime), dim=2)
    l_pairs = torch.einsum("nc,nsc->ns", [queries, pairs])
    l_query = torch.einsum("nc,nsc->ns", [queries, with_query])
    return _classify_first(torch.cat([l_pos, l_neg, l_pairs, l_query], dim=1))


def measure_seconds(forms: Mapping[str, Callable[[], None]], *, rounds: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of every implementation in every counted round."""

    def time_once(run: Callable[[], None]) -> float:
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        return time.perf_counter() - began

    return take_turns({name: partial(time_once, run) for name, run in forms.items()}, rounds)


def measure_peak_bytes(run: Callable[[], None], device: str) -> int:
    """Return the peak bytes allocated by torch during `run`, minus those allocated before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: int(event.start_ns())):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _classify_first(logits: Tensor) -> Tensor:
    logits /= TEMPERATURE
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def _run_once(queries: Tensor, loss: Callable[[], Tensor]) -> None:
    queries.grad = None
    torch.autograd.backward(loss())


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
