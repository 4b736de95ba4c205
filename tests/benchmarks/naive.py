"""DOM2 as public code is usually written: a loop over agents, separate networks, all anew at each step.

The same mathematics as ``dom2.algorithms.dom2`` with its default settings, to measure against, and to check
against: ``load`` copies a member's weights, and given the same noise, losses and steps agree.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mish, relu, silu

from dom2.algorithms.dom2 import DOM2, Config
from dom2.networks import ResidualNoise
from dom2.schedule import VP, time_grid
from dom2_policies.stacked import StackedLinear
from dom2data.spec import Batch


class Block(nn.Module):
    def __init__(self, embed: int, in_dim: int, out_dim: int):
        super().__init__()
        self.first, self.second = nn.Linear(in_dim, out_dim), nn.Linear(out_dim, out_dim)
        self.project = nn.Linear(embed, out_dim)
        self.skip = nn.Linear(in_dim, out_dim) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = silu(self.first(x)) + self.project(silu(embedding))
        return silu(self.second(h)) + self.skip(x)


class ScoreNet(nn.Module):
    """The residual U, called with the time of every row."""

    def __init__(self, obs_dim: int, act_dim: int, widths: tuple[int, ...], embed: int, features: int = 32):
        super().__init__()
        w1, w2, w3 = widths
        self.register_buffer("frequencies", torch.randn(features // 2) * 30.0)
        self.time, self.obs = nn.Linear(features, features), nn.Linear(obs_dim, features)
        self.embed = nn.Sequential(nn.Linear(2 * features, embed), nn.SiLU(), nn.Linear(embed, embed))
        ins, outs = (act_dim, w1, w2, w3, 2 * w3, 2 * w2), (w1, w2, w3, w3, w2, w1)
        self.blocks = nn.ModuleList(Block(embed, i, o) for i, o in zip(ins, outs, strict=True))
        self.head = nn.Linear(2 * w1, act_dim)

    def fourier(self, t: Tensor) -> Tensor:
        phases = 2.0 * math.pi * t[:, None] * self.frequencies
        return torch.cat([phases.sin(), phases.cos()], dim=-1)

    def forward(self, x: Tensor, t: Tensor, obs: Tensor) -> Tensor:
        """x [B, A], t [B], obs [B, O] -> [B, A]"""
        time = self.time(self.fourier(t))
        embedding = self.embed(torch.cat([silu(self.obs(obs)), time], dim=-1))
        down1, down2, down3, middle, up3, up2 = self.blocks
        d1 = down1(x, embedding)
        d2 = down2(d1, embedding)
        d3 = down3(d2, embedding)
        u3 = up3(torch.cat([d3, middle(d3, embedding)], dim=-1), embedding)
        u2 = up2(torch.cat([d2, u3], dim=-1), embedding)
        return self.head(torch.cat([d1, u2], dim=-1))


class Critic(nn.Module):
    def __init__(self, in_dim: int, widths: tuple[int, ...], activation: Any):
        super().__init__()
        sizes = (in_dim, *widths, 1)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(sizes))
        self.activation = activation

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        h = torch.cat([obs, actions], dim=-1)
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        return self.layers[-1](h).squeeze(-1)


@dataclass(frozen=True)
class Draws:
    """The noise of one agent's update."""

    target: Tensor  # [B, A]
    uniform: Tensor  # [B, K, A]
    index: Tensor  # [B]
    eps: Tensor  # [B, A]
    chain: Tensor  # [B, A]


class Agent:
    """One agent's networks, targets and optimisers."""

    def __init__(self, obs_dim: int, act_dim: int, config: Config):
        self.config = config
        schedule = VP(beta_max=config.beta_max)
        self.grid = time_grid(config.grid, config.n_steps, schedule=schedule).float()
        self.alpha, self.sigma = schedule.alpha(self.grid), schedule.sigma(self.grid)
        activation = mish if config.critic_activation == "mish" else relu
        self.actor = ScoreNet(obs_dim, act_dim, config.widths, config.embed_dim)
        self.critics = [Critic(obs_dim + act_dim, config.critic_widths, activation) for _ in range(2)]
        self.actor_target = copy.deepcopy(self.actor)
        self.critic_targets = copy.deepcopy(self.critics)
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), config.lr)
        self.critic_optimisers = [torch.optim.Adam(c.parameters(), config.lr) for c in self.critics]

    def chain(self, actor: ScoreNet, obs: Tensor, x: Tensor) -> Tensor:
        for i in range(self.config.n_steps, 0, -1):
            eps = actor(x, self.grid[i].expand(len(x)), obs)
            x0 = ((x - self.sigma[i] * eps) / self.alpha[i]).clamp(-1.0, 1.0)
            eps = (x - self.alpha[i] * x0) / self.sigma[i]
            x = self.alpha[i - 1] * x0 + self.sigma[i - 1] * eps
        return x.clamp(-1.0, 1.0)

    def draw(self, actions: Tensor) -> Draws:
        size, c = len(actions), self.config
        return Draws(
            torch.randn_like(actions),
            torch.rand(size, c.n_uniform, actions.shape[-1]) * 2.0 - 1.0,
            torch.randint(0 if c.loss_includes_tau0 else 1, c.n_steps + 1, (size,)),
            torch.randn_like(actions),
            torch.randn_like(actions),
        )

    def update(
        self, obs: Tensor, actions: Tensor, rewards: Tensor, next_obs: Tensor, ended: Tensor, draws: Draws
    ) -> dict[str, float]:
        """Lines 5 to 8 of Algorithm 2, metrics read back at once, as public code does."""
        c, k = self.config, self.config.n_uniform
        with torch.no_grad():
            next_actions = self.chain(self.actor_target, next_obs, draws.target)
            next_q = torch.min(*(critic(next_obs, next_actions) for critic in self.critic_targets))
            y = rewards + c.gamma * (1.0 - ended) * next_q
        repeated, uniform = obs.repeat_interleave(k, dim=0), draws.uniform.reshape(-1, actions.shape[-1])
        td = gap = 0.0
        for critic, optimiser in zip(self.critics, self.critic_optimisers, strict=True):
            q = critic(obs, actions)
            log_density = -actions.shape[-1] * math.log(2.0)
            others = critic(repeated, uniform).view(-1, k) - log_density
            penalty = (others.logsumexp(dim=1) - math.log(k) - q).mean()
            error = (q - y).square().mean()
            optimiser.zero_grad()
            (error + c.zeta * penalty).backward()
            nn.utils.clip_grad_norm_(critic.parameters(), c.grad_clip)
            optimiser.step()
            td, gap = td + error.item(), gap + penalty.item()
        alpha, sigma = self.alpha[draws.index].unsqueeze(-1), self.sigma[draws.index].unsqueeze(-1)
        noisy = alpha * actions + sigma * draws.eps
        bc = (self.actor(noisy, self.grid[draws.index], obs) - draws.eps).square().mean()
        q_policy = self.critics[0](obs, self.chain(self.actor, obs, draws.chain)).mean()
        with torch.no_grad():
            eta = c.eta / self.critics[0](obs, actions).abs().mean().clamp_min(1e-6)
        self.actor_optimiser.zero_grad()
        (c.bc_weight * bc - eta * q_policy).backward()
        nn.utils.clip_grad_norm_(self.actor.parameters(), c.grad_clip)
        self.actor_optimiser.step()
        for target, online in zip(
            [self.actor_target, *self.critic_targets], [self.actor, *self.critics], strict=True
        ):
            for old, new in zip(target.parameters(), online.parameters(), strict=True):
                old.data.copy_(c.rho * new.data + (1.0 - c.rho) * old.data)
        return {"td": td / 2, "gap": gap / 2, "bc": bc.item(), "q": q_policy.item(), "eta": eta.item()}


class Team:
    """Agents one after another."""

    def __init__(self, obs_dim: int, act_dim: int, n_agents: int, config: Config):
        self.agents = [Agent(obs_dim, act_dim, config) for _ in range(n_agents)]

    def update(self, batch: Batch) -> list[dict[str, float]]:
        """A minibatch of each agent, fields [N, B, ...]."""
        fields = zip(batch.obs, batch.actions, batch.rewards, batch.next_obs, batch.terminated, strict=True)
        return [
            agent.update(*each, agent.draw(each[1])) for agent, each in zip(self.agents, fields, strict=True)
        ]


@torch.no_grad()
def load(agent: Agent, ours: DOM2, member: int) -> None:
    """Give an agent a member's weights."""
    assert isinstance(ours.noise, ResidualNoise)
    stacked, net = ours.noise, agent.actor

    def put(linear: nn.Linear, layer: StackedLinear, m: int = member, columns: slice = slice(None)) -> None:
        linear.weight.copy_(layer.weight[m][:, columns].T)
        linear.bias.copy_(layer.bias[m, 0, columns])

    # Frequencies cannot be told from sines and cosines: the features themselves are taken over.
    table, grid = stacked.time.features[member], agent.grid
    net.fourier = lambda t: table[torch.searchsorted(grid, t.contiguous())]  # type: ignore[method-assign]
    for mine, theirs in (
        (net.time, stacked.time.linear),
        (net.obs, stacked.obs),
        (net.embed[0], stacked.embed),
    ):
        put(mine, theirs)
    put(net.embed[2], stacked.embed_out)
    start = 0
    for block, theirs, width in zip(net.blocks, stacked.blocks, stacked.block_widths, strict=True):
        put(block.first, theirs.first)
        put(block.second, theirs.second)
        put(block.project, stacked.project, columns=slice(start, start + width))
        if isinstance(block.skip, nn.Linear):
            put(block.skip, theirs.skip)
        start += width
    put(net.head, stacked.head)
    for number, critic in enumerate(agent.critics):
        for linear, layer in zip(critic.layers, ours.critics.mlp.layers, strict=True):
            put(linear, layer, 2 * member + number)
    agent.actor_target.load_state_dict(net.state_dict())
    agent.actor_target.fourier = net.fourier  # type: ignore[method-assign]
    for target, critic in zip(agent.critic_targets, agent.critics, strict=True):
        target.load_state_dict(critic.state_dict())
