"""Random numbers are a function of seed, step and rank."""

import torch

from pretrain.runtime.randomness import make_generators

CPU = torch.device("cpu")


def draw(seed: int, step: int, part: int = 0) -> tuple[float, float]:
    generators = make_generators(seed, step, CPU, part)
    return torch.rand(1, generator=generators.mixing).item(), torch.rand(1, generator=generators.shuffle).item()


def test_same_step_draws_the_same_numbers_and_other_steps_do_not() -> None:
    assert draw(0, 3) == draw(0, 3)
    assert len({draw(0, 3), draw(0, 4), draw(1, 3), draw(0, 3, part=1)}) == 4
    mixing, shuffle = draw(0, 3)
    assert mixing != shuffle
