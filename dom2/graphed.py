"""Record an algorithm's update as one program: on a GPU a CUDA graph, launched as a whole.

A small network's update is some thousand kernels, each of which takes the host longer to launch than the GPU
to compute; a recorded update is launched at once. A recording refers to memory, not to values: it reads the
minibatch, parameters and generators' states at fixed addresses, so minibatches are copied to one place.
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
"""unrecorded updates of a phase before it is recorded, in which libraries initialise themselves"""


class Graphed:
    """The ``update`` of an algorithm; each of its phases is recorded once and then replayed.

    ``record(update, generators)`` records without executing; it returns a function that replays the update,
    and the metrics. These are the same tensors at every replay: read them before the next update.
    """

    def __init__(self, algorithm: Learner, record: Callable[..., tuple[Callable[[], None], Metrics]]):
        self.algorithm, self.record = algorithm, record
        self._seen: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, tuple[Callable[[], None], Metrics]] = {}
        self._batch: Any = None

    def update(self, batch: Any) -> Metrics:
        """Like ``Learner.update``."""
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
            self.algorithm.members.updates = done  # recorded, not executed
        repeat, metrics = self._recorded[phase]
        repeat()
        self.algorithm.members.updates += 1  # the host's count is not part of the recording
        return metrics

    def _copy(self, batch: Any) -> None:
        if self._batch is None:
            self._batch = type(batch)(**{f.name: getattr(batch, f.name).clone() for f in fields(batch)})
        for field in fields(batch):
            getattr(self._batch, field.name).copy_(getattr(batch, field.name))


def cuda_graph(update: Update, generators: list[torch.Generator]) -> tuple[Callable[[], None], Metrics]:
    """Record an update as a CUDA graph; every replay draws from the generators' current states."""
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    # Only this thread is recorded: another may be reading minibatches ahead.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        metrics = update()
    return graph.replay, metrics
