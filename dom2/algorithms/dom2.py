"""DOM2: diffusion offline multi-agent model (Li, Pan and Huang, arXiv 2307.01472), Algorithm 2.

Each agent has a noise network eps_theta (its diffusion policy), two critics phi^1, phi^2, and their targets:

    Eq. (1)  sum_k mean (y - Q_k(o, a))^2 + zeta mean [log mean exp Q_k(o, a~) - Q_k(o, a)]
             y = r + gamma min_k Qbar_k(o', a'), a' from the target policy; a~ uniform actions
    Eq. (3)  L_bc = mean |eps - eps_theta(alpha_i a + sigma_i eps, o, tau_i)|^2, i uniform on the grid
    Eq. (5)  L = L_bc - eta~ mean Q_1(o, a^{tau_0}), a^{tau_0} from the chain of Eq. (4)

Differences from the paper's text:
1. Equation (4) as printed adds noise at every step and diverges. ``dom2.solver`` takes the DPM-Solver-1 step
   that the paper quotes from Lu et al. (2022): every index is shifted, not only the first fraction's.
2. eta~ = eta / mean |Q| (detached), for each agent over the minibatch. The mean of Q itself is negative on
   poor data, and dividing by it would make the actor minimise Q.
3. The paper's partition of [tau_0, tau_N] is in a missing appendix. The default is ``quadratic``: with N = 5
   equal steps (``uniform``) a first-order sampler keeps 30 to 65 % of the spread of the actions.
4. The predicted action is clipped to [-1, 1] inside the chain and at its end.
5. The sum over random actions is weighted by 1 / (K p(a~)), so it estimates the integral of exp Q over the
   action box for any K. The penalty applies to both critics.
6. L_bc is a mean over action dimensions; gradients are clipped per network.
7. ``one_step`` evaluates the Q term at the x0 predicted for L_bc instead of at the end of the chain (Kang et
   al. 2023), at a third of the cost.
8. i is uniform on 1..N, where the chain evaluates the network. Eq. (3) also includes 0, where the noise is
   smaller than the data's own and cannot be identified: a sixth of the minibatch would teach nothing.

M members (seeds x agents) train as one stack. Losses are means per member, summed, so members do not affect
one another. All noise of seed s comes from generator s.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dom2 import config
from dom2.critic import conservative_penalty, td_loss, td_target
from dom2.diffusion_policy import Chain, DiffusionPolicy, NoiseNetwork
from dom2.members import Members, Metrics
from dom2.networks import MLPNoise, ResidualNoise, TwinCritics, mish
from dom2.schedule import VP, GridKind, time_grid
from dom2_policies.stacked import polyak_
from dom2data.spec import Batch, EnvSpec


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of DOM2; the defaults are the ``compact`` preset."""

    eta: float = 2.0
    """Weight of the Q term in the policy loss, Eq. (5), before division by mean |Q|; 0 is pure cloning."""
    bc_weight: float = 1.0
    """Weight of L_bc in the policy loss, Eq. (5); 0 is the paper's ablation without the diffusion loss."""
    zeta: float = 0.5
    """Weight of the conservative term in the critic loss, Eq. (1)."""
    gamma: float = 0.95
    """Discount per environment step."""
    rho: float = 0.02
    """Rate of the targets' soft update; high, since the compact preset makes only a few thousand updates."""
    lr: float = 5e-3
    """Adam's step size, actor and critics."""
    n_steps: int = 5
    """N, the number of denoising steps."""
    grid: GridKind = "quadratic"
    """Partition of the diffusion times, for the loss and the sampler."""
    beta_max: float = 10.0
    """Final value of the VP schedule's linear noise rate beta(t)."""
    order: int = 1
    """Order of the solver: 1 (the paper) or 2 (multistep)."""
    clip_x0: bool = True
    """Clip the predicted action to the action range inside the chain."""
    loss_includes_tau0: bool = False
    """Draw the loss's time from tau_0..tau_N (Eq. 3) instead of from the chain's tau_1..tau_N alone."""
    q_action: Literal["chain", "one_step"] = "chain"
    """Action at which the policy maximises Q: the chain's result (the paper) or the one-step prediction."""
    eta_warmup: int = 0
    """Updates over which eta rises linearly from 0."""
    n_uniform: int = 10
    """K, the number of uniform actions per observation in the conservative term."""
    grad_clip: float = 1.0
    """Largest norm of each network's gradient."""
    noise_network: Literal["residual", "mlp"] = "residual"
    """Noise network: the residual U-shaped one, or the plain MLP of the paper's ablation."""
    widths: tuple[int, ...] = (128, 64, 32)
    """Widths of the noise network (the residual one takes three)."""
    embed_dim: int = 64
    """Width of the residual network's embedding of time and observation."""
    critic_widths: tuple[int, ...] = (128, 128)
    """Hidden widths of each critic."""
    critic_activation: Literal["relu", "mish"] = "relu"
    """Activation of the critics; mish takes a fifth of an update's time on a CPU."""

    def __post_init__(self) -> None:
        VP(beta_max=self.beta_max)  # raises ValueError for an unusable beta_max
        config.above_zero(self, "n_steps", "n_uniform", "lr", "grad_clip", "rho", "embed_dim")
        config.sizes(self, "widths", "critic_widths")
        config.not_negative(self, "eta", "bc_weight", "zeta", "eta_warmup")
        config.within_unit(self, "gamma", "rho")
        if self.order not in (1, 2):
            raise ValueError(f"expected order 1 or 2, found {self.order}")
        if self.noise_network == "residual" and len(self.widths) != 3:
            raise ValueError(f"expected three widths of the residual noise network, found {self.widths}")


PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "wide": {
        "widths": (512, 256, 128),
        "embed_dim": 128,
        "critic_widths": (256, 256, 256),
        "critic_activation": "mish",
        "lr": 3e-4,
        "rho": 0.005,
    },
}


class DOM2:
    """All members' networks, targets, optimisers and noise generators."""

    config_type: ClassVar = Config
    presets: ClassVar = PRESETS
    batches: ClassVar = "independent"
    augment: ClassVar = "quantile"

    def __init__(self, config: Config, spec: EnvSpec, members: Members):
        self.config, self.spec, self.members = config, spec, members
        schedule = VP(beta_max=config.beta_max)
        grid = time_grid(config.grid, config.n_steps, schedule=schedule).to(members.device)
        self.alpha, self.sigma = schedule.alpha(grid).float(), schedule.sigma(grid).float()
        self.chain = Chain(schedule, grid, 1.0 if config.clip_x0 else None, config.order)
        shape = (members.n_seeds * spec.n_agents, spec.obs_dim, spec.act_dim)
        noise: NoiseNetwork
        if config.noise_network == "residual":
            noise = ResidualNoise(*shape, grid, members.generators, config.widths, config.embed_dim)
        else:
            noise = MLPNoise(*shape, grid, members.generators, config.widths)
        activation = {"relu": torch.relu, "mish": mish}[config.critic_activation]
        critics = TwinCritics(*shape, members.generators, config.critic_widths, activation)
        self.noise = members.learned("noise", noise, config.lr)
        self.critics = members.learned("critics", critics, config.lr)
        self.target_noise = members.fixed("target_noise", noise)
        self.target_critics = members.fixed("target_critics", critics)

    def phase(self) -> Hashable:
        """``Learner.phase``: None while eta warms up, since a recorded program keeps eta constant."""
        return None if self.members.updates + 1 < self.config.eta_warmup else 0

    def update(self, batch: Batch) -> Metrics:
        """Do lines 5 to 8 of Algorithm 2 for all members at once; metrics are tensors [M], on the device."""
        loss, critic_metrics = self.critic_loss(batch)
        critic_norm = self.members.descend("critics", loss, self.config.grad_clip)
        loss, actor_metrics = self.actor_loss(batch)
        actor_norm = self.members.descend("noise", loss, self.config.grad_clip)
        polyak_(self.target_critics, self.critics, self.config.rho)
        polyak_(self.target_noise, self.noise, self.config.rho)
        self.members.updates += 1
        norms = {"critic/grad_norm": critic_norm.view(-1, 2).amax(dim=1), "actor/grad_norm": actor_norm}
        return critic_metrics | actor_metrics | norms

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Equation (1), a mean for each critic of each member, summed over all of them."""
        with torch.no_grad():
            noise = self.members.normal(batch.actions)
            next_actions = self.chain(self.target_noise.given(batch.next_obs), noise)
            next_q = self.target_critics(batch.next_obs, next_actions.unsqueeze(1))[:, :, 0]
            target = td_target(batch.rewards, batch.terminated, next_q, self.config.gamma)
        uniform = self.members.uniform(batch.actions, self.config.n_uniform)
        q = self.critics(batch.obs, torch.cat([batch.actions.unsqueeze(1), uniform], dim=1))
        q_data, q_uniform = q[:, :, 0], q[:, :, 1:]
        td = td_loss(q_data, target)
        gap = conservative_penalty(q_uniform, q_data, log_density=-self.spec.act_dim * math.log(2.0))
        metrics = {"critic/td": td, "critic/gap": gap, "critic/q_data": q_data.mean(dim=-1)}
        return (td + self.config.zeta * gap).sum(), {k: v.detach().mean(dim=1) for k, v in metrics.items()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Equation (5), a mean for each member, summed over members."""
        eps_fn = self.noise.given(batch.obs)
        first = 0 if self.config.loss_includes_tau0 else 1
        i = self.members.integers(first, self.config.n_steps + 1, like=batch.rewards)
        eps = self.members.normal(batch.actions)
        alpha, sigma = self.alpha[i].unsqueeze(-1), self.sigma[i].unsqueeze(-1)
        noisy = alpha * batch.actions + sigma * eps
        predicted = eps_fn(noisy, i)
        bc = (predicted - eps).square().mean(dim=(1, 2))  # Eq. (3)
        if self.config.eta == 0.0:  # pure cloning needs no chain
            return (self.config.bc_weight * bc).sum(), {"actor/bc": bc.detach()}
        if self.config.q_action == "chain":
            actions = self.chain(eps_fn, self.members.normal(batch.actions))
        else:
            actions = ((noisy - sigma * predicted) / alpha).clamp(-1.0, 1.0)
        q_policy = self.critics.first(batch.obs, actions.unsqueeze(1))[:, 0].mean(dim=-1)
        with torch.no_grad():
            q_data = self.critics.first(batch.obs, batch.actions.unsqueeze(1))[:, 0]
        eta_tilde = self._eta() / q_data.abs().mean(dim=-1).clamp_min(1e-6)
        metrics = {"actor/bc": bc, "actor/q": q_policy, "actor/eta_tilde": eta_tilde}
        loss = (self.config.bc_weight * bc - eta_tilde * q_policy).sum()
        return loss, {k: v.detach() for k, v in metrics.items()}

    def policy(self, seed: int, candidates: int = 1) -> DiffusionPolicy:
        """A snapshot of one seed's N agents; later updates do not change it."""
        noise = self.members.snapshot(self.noise, seed)
        critics = self.members.snapshot(self.critics, seed)
        return DiffusionPolicy(noise, critics, self.chain, self.spec, candidates)

    def _eta(self) -> float:
        warmup = self.config.eta_warmup
        return self.config.eta * (min(1.0, (self.members.updates + 1) / warmup) if warmup else 1.0)
