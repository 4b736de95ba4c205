"""Diffusion models beside DOM2: ancestral sampling, Diffusion-QL, SfBC."""

from __future__ import annotations

import copy

import pytest
import torch
from test_algorithms import make
from test_deterministic import BEST, follow, learn, networks, step
from tiny import SPEC, generators, minibatch
from torch.nn.functional import mish

from dom2.algorithms.ma_sfbc import MASfBC
from dom2.bank import Bank
from dom2.diffusion_policy import Ancestral
from dom2.schedule import VP
from dom2.solver import ancestral
from dom2data.errors import UserError
from dom2data.windows import Windows

N = SPEC.n_agents


def test_ancestral_sampling_of_a_gaussian_comes_near_with_more_steps() -> None:
    """With the exact noise predictor of N(0.5, 0.3^2): the mean is right, the spread in the end."""
    off = []
    for steps in (5, 50, 400):
        schedule, grid = VP(), torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
        alpha, sigma = schedule.alpha(grid), schedule.sigma(grid)
        noise = torch.randn(steps, 10_000, generator=generators(0)[0], dtype=torch.float64)
        variance = alpha**2 * 0.3**2 + sigma**2
        x = ancestral(
            lambda x, i, a=alpha, s=sigma, v=variance: s[i] * (x - a[i] * 0.5) / v[i], noise, schedule, grid
        )
        off.append((abs(x.mean().item() - 0.5), 1 - x.std().item() / 0.3))
    assert off[0][1] > off[1][1] > off[2][1]
    assert abs(off[2][1]) < 0.05
    assert off[2][0] < 0.02


def test_ancestral_steps_are_the_posterior_of_ddpm() -> None:
    """Against the discrete betas of Ho et al. (2020, Eq. 7), written out."""
    schedule, grid = VP(), torch.linspace(0.0, 1.0, 6, dtype=torch.float64)
    bar = schedule.alpha(grid) ** 2
    noise = torch.randn(5, 7, generator=generators(0)[0], dtype=torch.float64)

    def eps(x: torch.Tensor, i: int) -> torch.Tensor:
        return torch.sin(3.0 * x + i)

    x = noise[0]
    for i in (5, 4, 3, 2, 1):
        beta = 1 - bar[i] / bar[i - 1]
        x0 = ((x - (1 - bar[i]).sqrt() * eps(x, i)) / bar[i].sqrt()).clamp(-1, 1)
        mean = (bar[i - 1].sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - bar[i - 1]) * x) / (1 - bar[i])
        x = mean + ((beta * (1 - bar[i - 1]) / (1 - bar[i])).sqrt() * noise[6 - i] if i > 1 else 0.0)
    torch.testing.assert_close(ancestral(eps, noise, schedule, grid, clip=1.0), x)


def test_diffusion_ql_equals_a_plain_restatement() -> None:
    """Losses of three updates and the critics after them; the policy by its losses."""
    algorithm = make("ma-diffusion-ql", eta=0.7)
    critics, targets = networks(algorithm, "critics"), networks(algorithm, "target_critics")
    adam, twin = torch.optim.Adam([p for net in critics for p in net], algorithm.config.lr), torch.Generator()

    def q(net: list[torch.Tensor], obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        x = torch.cat([obs, actions], dim=-1)
        for w, b in ((net[0], net[1]), (net[2], net[3])):
            x = mish(x @ w + b)
        return (x @ net[4] + net[5])[:, 0]

    for u in range(3):
        b = minibatch(algorithm, range(1), u)
        twin.set_state(algorithm.members.generators[0].get_state())
        before = copy.deepcopy((algorithm.noise, algorithm.target_noise))
        metrics = algorithm.update(b)

        def act(noise: torch.nn.Module, obs: torch.Tensor) -> torch.Tensor:
            draws = torch.randn(N, 32, 5 * 2, generator=twin).unflatten(2, (5, 2)).movedim(2, 0)
            return ancestral(noise.given(obs), draws, VP(), algorithm.chain.grid, 1.0).clamp(-1, 1).detach()

        losses, next_actions = [], act(before[1], b.next_obs)
        for m, net in enumerate(critics):
            i = m // 2
            pair = (q(n, b.next_obs[i], next_actions[i]) for n in targets[2 * i : 2 * i + 2])
            y = (b.rewards[i] + 0.95 * (1 - b.terminated[i]) * torch.minimum(*pair)).detach()
            losses.append((y - q(net, b.obs[i], b.actions[i])).square().mean())
        step(adam, losses, critics)
        i = torch.randint(1, 6, (N, 32), generator=twin)
        eps = torch.randn(N, 32, 2, generator=twin)
        alpha, sigma = algorithm.alpha[i][..., None], algorithm.sigma[i][..., None]
        bc = (before[0].given(b.obs)(alpha * b.actions + sigma * eps, i) - eps).square().mean(dim=(1, 2))
        torch.testing.assert_close(metrics["actor/bc"], bc.detach())
        actions = act(before[0], b.obs)
        q_policy = [q(net, b.obs[m // 2], actions[m // 2]).mean() for m, net in enumerate(critics)]
        expected = torch.stack(q_policy).view(N, 2).mean(dim=1).detach()
        torch.testing.assert_close(metrics["actor/q"], expected, rtol=1e-4, atol=1e-5)
        follow(targets, critics, 0.02)
        nets = (before[1], algorithm.noise, algorithm.target_noise)
        for old, new, target in zip(*(net.parameters() for net in nets), strict=True):
            torch.testing.assert_close(target, 0.98 * old + 0.02 * new)
    for own, other in zip(networks(algorithm, "critics"), critics, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


def test_diffusion_ql_without_eta_is_diffusion_cloning() -> None:
    """Three updates of the policy move it as Equation (2), written out here, would alone."""
    algorithm, twin = make("ma-diffusion-ql", eta=0.0), torch.Generator()
    alone = copy.deepcopy(algorithm.noise)
    adam = torch.optim.Adam(alone.parameters(), algorithm.config.lr)
    for u in range(3):
        b = minibatch(algorithm, range(1), u)
        twin.set_state(algorithm.members.generators[0].get_state())
        algorithm.update(b)
        torch.randn(N, 32, 5 * 2, generator=twin)  # the critics' next actions
        i = torch.randint(1, 6, (N, 32), generator=twin)
        eps = torch.randn(N, 32, 2, generator=twin)
        noisy = algorithm.alpha[i][..., None] * b.actions + algorithm.sigma[i][..., None] * eps
        loss = (alone.given(b.obs)(noisy, i) - eps).square().mean(dim=(1, 2)).sum()
        gradients = torch.autograd.grad(loss, list(alone.parameters()))
        norms = torch.stack([g.square().flatten(1).sum(dim=1) for g in gradients]).sum(dim=0).sqrt()
        for p, g in zip(alone.parameters(), gradients, strict=True):
            p.grad = g * (1 / (norms + 1e-6)).clamp_max(1.0).view(-1, *[1] * (g.dim() - 1))
        adam.step()
    for own, other in zip(algorithm.noise.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_diffusion_ql_divides_by_the_other_critic() -> None:
    """With Q_1 = 2 and Q_2 = -8 everywhere, the term is 2 / 8 or -8 / 2, whichever is drawn."""
    algorithm, b = make("ma-diffusion-ql", eta=1.0), minibatch(make("bc"), range(1))
    with torch.no_grad():
        last = algorithm.critics.mlp.layers[-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([2.0, -8.0]).repeat(N).view(-1, 1, 1))
    seen = set()
    for _ in range(12):
        loss, metrics = algorithm.actor_loss(b)
        seen.add(round((metrics["actor/bc"].sum() - loss).item(), 2))
    assert seen <= {round(0.25 * k - 4.0 * (3 - k), 2) for k in range(4)}
    assert len(seen) > 1


def test_chain_takes_its_noise_in_one_tensor() -> None:
    chain = Ancestral(VP(), torch.linspace(0.0, 1.0, 4))
    x = torch.randn(2, 6, 3 * 2, generator=generators(0)[0])
    expected = ancestral(lambda y, i: y, torch.stack(x.split(2, dim=-1)), VP(), chain.grid, 1.0)
    assert chain.draws == 3
    torch.testing.assert_close(chain(lambda y, i: y, x), expected.clamp(-1, 1))


def test_improvement_finds_the_best_action() -> None:
    _, actions = learn("ma-diffusion-ql", 250, eta=5.0, widths=(64, 64), critic_widths=(64, 64))
    assert -(actions - BEST).square().sum(dim=-1).mean() > -0.15


def sfbc_at_iteration(iteration: int, **settings: object) -> MASfBC:
    """Just after the critics of that iteration made their first step."""
    algorithm = make("ma-sfbc", **settings)
    for u in range(2 + 2 * (iteration - 1) + 1):
        algorithm.update(minibatch(algorithm, range(1), u))
    return algorithm


def test_sfbc_behaviour_loss_is_the_noises_error_at_the_first_step() -> None:
    algorithm, twin = make("ma-sfbc"), torch.Generator()
    windows = minibatch(algorithm, range(1))
    twin.set_state(algorithm.members.generators[0].get_state())
    _, metrics = algorithm.behaviour_loss(windows)
    i = torch.randint(1, algorithm.config.n_steps + 1, (N, 32), generator=twin)
    eps = torch.randn(N, 32, 2, generator=twin)
    obs, actions = (x[0, :, 0].transpose(0, 1) for x in (windows.obs, windows.actions))
    alpha, sigma = algorithm.alpha[i][..., None], algorithm.sigma[i][..., None]
    errors = algorithm.noise.given(obs)(alpha * actions + sigma * eps, i) - eps
    for m in range(N):
        torch.testing.assert_close(metrics["behaviour/loss"][m], errors[m].square().mean().detach())


def test_sfbc_returns_at_first_are_those_of_the_windows() -> None:
    """The bank's 48 windows: the second minibatch, and the end of the first where that has not reached."""
    algorithm = sfbc_at_iteration(1)
    bank, windows = algorithm.bank, [minibatch(algorithm, range(1), u) for u in range(2)]
    for at, window in ((range(16, 32), (0, range(16, 32))), (range(16), (1, range(16, 32)))):
        update, rows = window
        drawn = windows[update]
        torch.testing.assert_close(bank.obs[:, list(at), 1], drawn.obs[0, list(rows), 1].transpose(0, 1))
        torch.testing.assert_close(bank.returns[:, list(at), 0], drawn.returns[0, list(rows)].T)
        rest = (drawn.returns[0] - drawn.rewards[0, :, 0] - 0.95 * drawn.rewards[0, :, 1]) / 0.95**2
        torch.testing.assert_close(bank.returns[:, list(at), 2], rest[list(rows)].T)
    share, returns = bank.weight[0].double(), bank.returns[0].double()
    centre = (share * returns).sum() / share.sum()
    spread = ((share * (returns - centre).square()).sum() / share.sum()).sqrt()
    torch.testing.assert_close(bank.centre[0, 0], centre.float())
    torch.testing.assert_close(bank.spread[0, 0], spread.float())
    assert bank.candidates.abs().max() <= 1.0
    assert bank.candidates.std() > 0.1


def test_sfbc_bank_has_the_behaviours_actions_at_each_of_its_states() -> None:
    """With a chain that only looks at the state, every action there is the state's."""
    algorithm = make("ma-sfbc")
    algorithm.chain = lambda eps_fn, x: eps_fn(0.0 * x, 1)  # type: ignore[assignment]
    for u in range(3):
        algorithm.update(minibatch(algorithm, range(1), u))
    bank, flat = algorithm.bank, algorithm.bank.obs.flatten(1, 2)
    expected = algorithm.noise.given(flat)(torch.zeros(*flat.shape[:2], 2), 1).detach()
    for k in range(3):
        torch.testing.assert_close(bank.candidates[:, :, :, k].flatten(1, 2), expected, rtol=1e-4, atol=1e-5)


def test_sfbc_with_one_action_backs_up_its_q() -> None:
    """V is Q of the single action; a step is worth its reward and the better of that and of going on."""
    algorithm = sfbc_at_iteration(1, n_actions=1)
    algorithm.update(minibatch(algorithm, range(1), 3))
    bank, flat = algorithm.bank, algorithm.bank.obs.flatten(1, 2)
    q = algorithm.critics(flat, bank.candidates.flatten(1, 2).transpose(1, 2)).amin(dim=1)[:, 0]
    value = (q * bank.spread + bank.centre).view(N, 48, 3).detach()
    algorithm.update(minibatch(algorithm, range(1), 4))
    assert bank.iteration.tolist() == [[2]] * N
    for m in range(N):
        for w in range(48):
            expected = bank.monte_carlo[m, w, 2]
            torch.testing.assert_close(bank.returns[m, w, 2], expected)
            for h in (1, 0):
                later = torch.maximum(expected, value[m, w, h + 1])
                on = bank.rewards[m, w, h] + 0.95 * later
                expected = on if bank.taken[m, w, h + 1] else bank.monte_carlo[m, w, h]
                torch.testing.assert_close(bank.returns[m, w, h], expected)


def test_sfbc_critics_see_every_step_of_the_data_alike() -> None:
    """Episodes of 4, 2 and 7 steps, all windows of 3 in the bank; the observation is the step's number."""
    lengths, at = [4, 2, 7], 0
    rows, before, taken = [], [], []
    for length in lengths:
        for t in range(length):
            rows.append([at + min(t + h, length) for h in range(3)])
            before.append(t)
            taken.append([float(t + h < length) for h in range(3)])
        at += length
    size = sum(lengths)
    obs = torch.tensor(rows).float()[None, :, :, None, None]
    flags, nothing = torch.tensor(taken)[None], torch.zeros(1, size, 3, 1)
    bank = Bank(1, 1, 1, size, 3, 1, torch.device("cpu"))
    fields = (obs, nothing[..., None], nothing, 0 * flags, flags, torch.zeros(1, size, 1))
    bank.remember(Windows(*fields, torch.tensor(before)[None]), 0, 0.9)
    bank.arrange()
    draws = torch.randint(0, 2**62, (1, 100_000), generator=torch.Generator().manual_seed(0))
    found = bank.obs.flatten()[bank.find(draws)[0]].long().bincount()
    assert len(found) == size
    torch.testing.assert_close(found / len(draws[0]), torch.full((size,), 1 / size), rtol=0.05, atol=0.0)


def test_sfbc_value_is_a_soft_maximum_over_the_bank() -> None:
    algorithm = sfbc_at_iteration(1)
    obs, actions = torch.randn(N, 4, 5), torch.rand(N, 4, 3, 2)
    q = torch.stack([algorithm.critics(obs, actions[:, :, k : k + 1].transpose(1, 2)).amin(dim=1)[:, 0]
                     for k in range(3)])  # fmt: skip
    weight = (20 * q).exp() / (20 * q).exp().sum(dim=0)
    expected = (weight * q).sum(dim=0) * algorithm.bank.spread + algorithm.bank.centre
    torch.testing.assert_close(algorithm.value(obs, actions), expected.detach())


def test_sfbc_critics_see_only_steps_that_were_taken() -> None:
    algorithm = sfbc_at_iteration(1)
    algorithm.bank.returns.masked_fill_(algorithm.bank.taken == 0, torch.nan)
    for u in range(3):
        loss, _ = algorithm.critic_loss(minibatch(algorithm, range(1), u))
        assert loss.isfinite()


def test_sfbc_chooses_only_once_it_has_critics() -> None:
    algorithm = make("ma-sfbc", candidates=8)
    assert algorithm.policy(0).candidates == 1
    with pytest.raises(UserError, match="no critics before update 2, found 4"):
        algorithm.policy(0, candidates=4)
    for u in range(3):
        algorithm.update(minibatch(algorithm, range(1), u))
    assert algorithm.policy(0).candidates == 8
    assert algorithm.policy(0, candidates=4).candidates == 4


def test_sfbc_is_in_the_phase_of_its_last_critics_to_the_end() -> None:
    """Two updates of the behaviour, two of each of two critics, and whatever follows."""
    algorithm, phases = make("ma-sfbc"), []
    for u in range(9):
        phases.append(algorithm.phase())
        algorithm.update(minibatch(algorithm, range(1), u))
    assert phases == [None, None, None, 0, None, 1, 1, 1, 1]
    assert algorithm.policy(0, candidates=4).candidates == 4


def test_sfbc_finds_a_good_action() -> None:
    """Uniform actions earn -0.92 on average; the best of 32 of them about -0.04."""
    small = {"widths": (32, 16, 16), "embed_dim": 16, "critic_widths": (64, 64), "horizon": 2, "n_actions": 4}
    stages = {"behaviour_updates": 150, "critic_updates": 200, "critic_lr": 3e-3}
    _, actions = learn("ma-sfbc", 550, **small, **stages)
    assert -(actions - BEST).square().sum(dim=-1).mean() > -0.1
