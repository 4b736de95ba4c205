"""One SeedSequence per seed and purpose, so that the draws for one purpose do not depend on another's."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

LEARNING = 0  # weights, and the noise of every update
BATCHES = 1  # which transitions a minibatch holds
EVALUATION = 2  # initial states, and the policies' noise in them
WATCHING = 3  # like EVALUATION, while training: a checkpoint chosen by these episodes is judged by others
SOLUTIONS = 4  # initial states from which distinct solutions are counted


def generator(sequence: np.random.SeedSequence, device: torch.device) -> torch.Generator:
    """A torch generator seeded with 63 bits of a sequence."""
    return torch.Generator(device).manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


def generators(seeds: Iterable[int], purpose: int, device: torch.device) -> list[torch.Generator]:
    """One generator for each seed and this purpose."""
    return [generator(np.random.SeedSequence(seed, spawn_key=(purpose,)), device) for seed in seeds]
