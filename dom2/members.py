"""The state that every algorithm has: stacked networks, their optimisers, and one generator for each seed.

Members are the rows of a stack: seeds x agents for networks that each agent has, seeds alone for centralised
ones, and twice as many for twin critics. The rows of one seed are contiguous, so its part is one of
``n_seeds`` equal chunks. With a loss that is a sum of means per member, members do not affect one another.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dom2data.spec import EnvSpec

Metrics = dict[str, Tensor]
"""Results of an update by name: [M], one value per member, or [S], one per seed."""
Network = TypeVar("Network", bound=nn.Module)


class Adam(torch.optim.Adam):
    """PyTorch's Adam without its wrappers for torch.compile, which load the compiler at once and take 2 s.

    ``inspect.unwrap`` follows ``functools.wraps``; without a wrapper it returns PyTorch's own method.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)


class Members:
    """Named networks, all stacked over seeds; all noise of seed s comes from generator s.

    Raises ValueError unless the action range is [-1, 1] and there is one generator for each seed.
    """

    def __init__(
        self, spec: EnvSpec, n_seeds: int, device: torch.device, generators: Sequence[torch.Generator]
    ):
        if (spec.act_low, spec.act_high) != (-1.0, 1.0):
            raise ValueError(f"expected actions in [-1, 1], found [{spec.act_low}, {spec.act_high}]")
        if len(generators) != n_seeds:
            raise ValueError(f"expected one generator for each of {n_seeds} seeds, found {len(generators)}")
        self.n_seeds, self.device, self.generators = n_seeds, device, list(generators)
        self.networks = nn.ModuleDict()
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.updates = 0

    def learned(self, name: str, network: Network, lr: float) -> Network:
        """Register a network that ``descend`` trains with Adam, and return it."""
        self.networks[name] = network
        # Not fused: fused Adam rounds a tensor's tail unlike its middle on a CPU, and which values are in the
        # tail depends on how many members are stacked. ``capturable`` keeps the step count on the GPU, so an
        # update can be recorded (``dom2.graphed``).
        on_gpu = self.device.type == "cuda"
        self.optimisers[name] = Adam(network.parameters(), lr, foreach=True, capturable=on_gpu)
        return network

    def fixed(self, name: str, network: Network) -> Network:
        """Register a copy without gradients, such as a target network, and return it."""
        kept = copy.deepcopy(network).requires_grad_(False)
        self.networks[name] = kept
        return kept

    def descend(self, name: str, loss: Tensor, max_norm: float, again: bool = False) -> Tensor:
        """Take one step on the loss, with each member's gradient clipped on its own.

        Return the norms before clipping, one per member. (A norm over the whole stack would let one member's
        large gradient shrink the others' steps.) With ``again`` the graph is kept, so that another network
        can descend the same loss afterwards.
        """
        parameters = list(self.networks[name].parameters())
        gradients = torch.autograd.grad(loss, parameters, retain_graph=again)
        # Stacked along dim 1: along dim 0 the order of a sum would depend on the number of members.
        parts = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
        norms = torch.stack(parts, dim=1).norm(dim=1)
        factors = (max_norm / (norms + 1e-6)).clamp_max(1.0)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
        self.optimisers[name].step()
        return norms

    def snapshot(self, network: Network, seed: int) -> Network:
        """A copy of one seed's part of a stacked network; later updates do not change it."""
        share = copy.deepcopy(network).requires_grad_(False)
        for tensor in itertools.chain(share.parameters(), share.buffers()):
            tensor.data = tensor.data.chunk(self.n_seeds)[seed].clone()
        return share

    def normal(self, like: Tensor) -> Tensor:
        """N(0, 1) noise in the shape of ``like`` [M, ...]; each seed draws from its own generator."""
        shape = self._share(like)
        return torch.cat([torch.randn(shape, generator=g, device=like.device) for g in self.generators])

    def uniform(self, like: Tensor, k: int) -> Tensor:
        """K uniform actions in [-1, 1] for each row of ``like`` [M, B, A] -> [M, K, B, A]."""
        lead, *rest = self._share(like)
        draws = [torch.rand(lead, k, *rest, generator=g, device=like.device) for g in self.generators]
        return torch.cat(draws).mul_(2.0).sub_(1.0)

    def integers(self, low: int, high: int, like: Tensor) -> Tensor:
        """Uniform integers from low to high - 1 in the shape of ``like`` [M, ...]."""
        shape = self._share(like)
        draws = [torch.randint(low, high, shape, generator=g, device=like.device) for g in self.generators]
        return torch.cat(draws)

    def _share(self, like: Tensor) -> tuple[int, ...]:
        return (len(like) // self.n_seeds, *like.shape[1:])

    def weights(self) -> dict[str, Tensor]:
        """All networks' parameters and buffers by name, e.g. ``noise.head.weight`` [M, in, out]."""
        return self.networks.state_dict()

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load what ``weights`` returned. Raises RuntimeError when a name or a shape does not fit."""
        self.networks.load_state_dict(weights)

    def state_dict(self) -> dict[str, Any]:
        """What the next update depends on besides the weights: optimisers, generators, number of updates."""
        return {
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "generators": [g.get_state() for g in self.generators],
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned."""
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        for generator, value in zip(self.generators, state["generators"], strict=True):
            generator.set_state(value)
        self.updates = state["updates"]
