"""An algorithm's update as one recorded program: on a GPU a CUDA graph, which is launched as one piece.

A small network's update is some thousand kernels, each of which takes the host longer to launch than the GPU
to compute; a recorded one is launched at once. A recording is of memory, not of values: it reads minibatch,
parameters and generators' states where they were, so minibatches are copied to one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import fields
from typing import Any

import torch

from dom2.algorithms import Learner
from dom2.members import Metrics

Update = Callable[[], Metrics]

WARM_UP = 3
"""updates of a phase that are done as they are before it is recorded: libraries set themselves up in them"""


class Graphed:
    """The ``update`` of an algorithm, each of its phases recorded once and then repeated.

    ``record(update, generators)`` returns what repeats it and the metrics' tensors, without doing it. Metrics
    are the same tensors at every repetition: read them before the next update.
    """

    def __init__(self, algorithm: Learner, record: Callable[..., tuple[Callable[[], None], Metrics]]):
        self.algorithm, self.record = algorithm, record
        self._seen: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, tuple[Callable[[], None], Metrics]] = {}
        self._batch: Any = None

    def update(self, batch: Any) -> Metrics:
        """``Learner.update``."""
        phase = self.algorithm.phase() if hasattr(self.algorithm, "phase") else None
        if phase is None or self._seen[phase] < WARM_UP:
            self._seen[phase] += 1
            return self.algorithm.update(batch)
        self._copy(batch)
        if phase not in self._recorded:
            done = self.algorithm.members.updates
            self._recorded[phase] = self.record(
                lambda: self.algorithm.update(self._batch), self.algorithm.members.generators
            )
            self.algorithm.members.updates = done  # recorded, not done
        repeat, metrics = self._recorded[phase]
        repeat()
        self.algorithm.members.updates += 1  # the host's count is no part of the recording
        return metrics

    def _copy(self, batch: Any) -> None:
        if self._batch is None:
            self._batch = type(batch)(**{f.name: getattr(batch, f.name).clone() for f in fields(batch)})
        for field in fields(batch):
            getattr(self._batch, field.name).copy_(getattr(batch, field.name))


def cuda_graph(update: Update, generators: list[torch.Generator]) -> tuple[Callable[[], None], Metrics]:
    """Record an update as a CUDA graph; every repetition draws on where its generators are by then."""
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    # Only this thread is recorded: another may be reading minibatches ahead.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        metrics = update()
    return graph.replay, metrics
