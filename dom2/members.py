"""What every algorithm keeps: stacked networks, their optimisers, and one generator for each seed.

Members are the rows of a stack: seeds x agents for what each agent has of its own, seeds alone for what is
centralised, twice as many for twin critics. Rows of one seed lie together, so that a seed's share is one of
``n_seeds`` equal chunks, and a loss that is a mean per member, summed, lets no member feel another.
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
"""An update's: [M] of members or [S] of seeds."""
Network = TypeVar("Network", bound=nn.Module)


class Adam(torch.optim.Adam):
    """PyTorch's, without its wrappers for torch.compile: they load the compiler at once, which takes 2 s.

    A wrapper tells what it wraps (``functools.wraps``); where there is none, these are PyTorch's own methods.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)


class Members:
    """Named networks, all stacked over seeds; all noise of seed s comes from generator s.

    Raises ValueError when the action range is not [-1, 1] or the generators are not one per seed.
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
        """Keep a network that ``descend`` trains with Adam; returns it."""
        self.networks[name] = network
        # Not fused: on a CPU that rounds the tail of a tensor unlike its middle, and where a member's values
        # lie depends on how many members are stacked.
        # On a GPU its count of steps lies there, too, so that an update can be recorded (``dom2.graphed``).
        on_gpu = self.device.type == "cuda"
        self.optimisers[name] = Adam(network.parameters(), lr, foreach=True, capturable=on_gpu)
        return network

    def fixed(self, name: str, network: Network) -> Network:
        """Keep a copy that no gradient reaches, such as a target network; returns it."""
        kept = copy.deepcopy(network).requires_grad_(False)
        self.networks[name] = kept
        return kept

    def descend(self, name: str, loss: Tensor, max_norm: float, again: bool = False) -> Tensor:
        """One step down the loss with the gradient of each member of the network clipped by itself.

        With ``again``, another network can descend the same loss afterwards, from where this one began.
        Returns the norms before clipping, one per member. A norm over the whole stack would let one member's
        large gradient shrink the others' steps.
        """
        parameters = list(self.networks[name].parameters())
        gradients = torch.autograd.grad(loss, parameters, retain_graph=again)
        # Side by side: one below the other, a sum's order would depend on how many members there are.
        parts = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
        norms = torch.stack(parts, dim=1).norm(dim=1)
        factors = (max_norm / (norms + 1e-6)).clamp_max(1.0)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
        self.optimisers[name].step()
        return norms

    def snapshot(self, network: Network, seed: int) -> Network:
        """A copy of one seed's share of a stacked network, which later updates do not reach."""
        share = copy.deepcopy(network).requires_grad_(False)
        for tensor in itertools.chain(share.parameters(), share.buffers()):
            tensor.data = tensor.data.chunk(self.n_seeds)[seed].clone()
        return share

    def normal(self, like: Tensor) -> Tensor:
        """N(0, 1) of the shape of ``like`` [M, ...]; one draw per seed, so that seeds never share noise."""
        shape = self._share(like)
        return torch.cat([torch.randn(shape, generator=g, device=like.device) for g in self.generators])

    def uniform(self, like: Tensor, k: int) -> Tensor:
        """K uniform actions in [-1, 1] for each row of ``like`` [M, B, A] -> [M, K, B, A]."""
        lead, *rest = self._share(like)
        draws = [torch.rand(lead, k, *rest, generator=g, device=like.device) for g in self.generators]
        return torch.cat(draws).mul_(2.0).sub_(1.0)

    def integers(self, low: int, high: int, like: Tensor) -> Tensor:
        """Whole numbers from low to high - 1, uniform, of the shape of ``like`` [M, ...]."""
        shape = self._share(like)
        draws = [torch.randint(low, high, shape, generator=g, device=like.device) for g in self.generators]
        return torch.cat(draws)

    def _share(self, like: Tensor) -> tuple[int, ...]:
        return (len(like) // self.n_seeds, *like.shape[1:])

    def weights(self) -> dict[str, Tensor]:
        """All networks' parameters and constants by name, e.g. ``noise.head.weight`` [M, in, out]."""
        return self.networks.state_dict()

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """The inverse of ``weights``. Raises RuntimeError when a name or a shape does not fit."""
        self.networks.load_state_dict(weights)

    def state_dict(self) -> dict[str, Any]:
        """What the next update depends on besides the weights: optimisers, generators, the count."""
        return {
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "generators": [g.get_state() for g in self.generators],
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        for generator, value in zip(self.generators, state["generators"], strict=True):
            generator.set_state(value)
        self.updates = state["updates"]
