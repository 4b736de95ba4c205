"""Behaviour cloning: each agent's actions as a deterministic function of its own observation.

    L = mean (pi(o) - a)^2

Differences from other published behaviour cloning of these datasets:
1. It reaches the data's level. The scores that most tables repeat are 33 to 40 on expert data, where the data
   itself scores 100; the reason is unknown.
2. No batch normalisation of the input, no penalty on the size of the action.

M members (seeds x agents) train as one stack; losses are means per member, summed.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from dom2 import actor, config
from dom2.members import Members, Metrics
from dom2_policies.policy import Actor
from dom2data.spec import Batch, EnvSpec


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of behaviour cloning; the defaults are the ``compact`` preset."""

    lr: float = 1e-3
    """Adam's step size."""
    grad_clip: float = 1.0
    """Largest norm of each agent's gradient."""
    actor_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each actor."""

    def __post_init__(self) -> None:
        config.above_zero(self, "lr", "grad_clip")
        config.sizes(self, "actor_widths")


PRESETS: dict[str, dict[str, Any]] = {"compact": {}, "wide": {"actor_widths": (256, 256), "lr": 3e-4}}


class BC:
    """All members' actors."""

    config_type: ClassVar = Config
    presets: ClassVar = PRESETS
    batches: ClassVar = "independent"
    augment: ClassVar = "none"

    def __init__(self, config: Config, spec: EnvSpec, members: Members):
        self.config, self.spec, self.members = config, spec, members
        actors = actor.tanh_actors(members, spec, config.actor_widths)
        self.actor = members.learned("actor", actors, config.lr)

    def phase(self) -> Hashable:
        """``Learner.phase``: every update runs the same program."""
        return 0

    def update(self, batch: Batch) -> Metrics:
        """Take one step for all members at once; metrics are tensors [M], on the device."""
        loss, metrics = self.actor_loss(batch)
        norm = self.members.descend("actor", loss, self.config.grad_clip)
        self.members.updates += 1
        return metrics | {"actor/grad_norm": norm}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error to the data's actions, a mean for each member, summed over members."""
        bc = (self.actor(batch.obs) - batch.actions).square().mean(dim=(1, 2))
        return bc.sum(), {"actor/bc": bc.detach()}

    def policy(self, seed: int, candidates: int = 1) -> Actor:
        """A snapshot of one seed's N agents; raises UserError like ``actor.policy``."""
        return actor.policy(self.members, self.actor, seed, candidates)
