import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_deterministic import networks
from test_deterministic import value as q_of
from tiny import CPU, SPEC, batch, dom2, generators

from dom2.algorithms.dom2 import DOM2, Config
from dom2.diffusion_policy import draw
from dom2.members import Members
from dom2.networks import Noise
from dom2data.spec import Batch, EnvSpec

ONE = dataclasses.replace(SPEC, agent_names=("only",), obs_dims=(2,))


def member(b: Batch, rows: slice) -> Batch:
    return Batch(**{name: value[rows] for name, value in vars(b).items()})


def train(algorithm: DOM2, updates: int = 12, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    for u in range(updates):
        algorithm.update(member(batch(9, seed=u), rows))
    return algorithm.members.weights()


def test_three_seeds_equal_three_single_runs_of_the_other_networks() -> None:
    """Bit for bit, as ``test_algorithms`` has it for the preset."""
    settings: dict[str, Any] = {"q_action": "one_step", "noise_network": "mlp", "order": 2}
    together = train(dom2(seeds=3, **settings))
    for seed in range(3):
        alone = train(dom2(seeds=1, first=seed, **settings), rows=slice(3 * seed, 3 * seed + 3))
        for name, value in alone.items():
            assert torch.equal(together[name].chunk(3)[seed], value), name


def test_without_eta_and_zeta_it_is_diffusion_cloning() -> None:
    """The policy loss is Eq. (3) alone, written out here, and the critic loss the TD error alone."""
    algorithm, b = dom2(eta=0.0, zeta=0.0, loss_includes_tau0=True), batch(3)
    states = [g.get_state() for g in algorithm.members.generators]
    loss, metrics = algorithm.actor_loss(b)
    (twin,) = generators(0)
    twin.set_state(states[0])
    i = torch.randint(0, 6, (3, 32), generator=twin)
    eps = torch.randn(3, 32, 2, generator=twin)
    noisy = algorithm.alpha[i][..., None] * b.actions + algorithm.sigma[i][..., None] * eps
    expected = sum(((algorithm.noise.given(b.obs)(noisy, i) - eps)[m] ** 2).mean() for m in range(3))
    torch.testing.assert_close(loss, expected)
    assert set(metrics) == {"actor/bc"}
    critic_loss, critic_metrics = algorithm.critic_loss(b)
    torch.testing.assert_close(critic_loss.detach(), 2 * critic_metrics["critic/td"].sum())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"noise": 4134.536140843338, "critics": 721.0015074945986, "target_noise": 4134.7339035830455}),
        (
            {"q_action": "one_step", "noise_network": "mlp", "order": 2, "eta_warmup": 5},
            {"noise": 1780.4228888897414, "critics": 723.3995564862853, "target_noise": 1780.5192768863308},
        ),
    ],
)
def test_weights_after_three_updates_are_those_of_the_first_version(settings: dict, expected: dict) -> None:
    """Sums of magnitudes, recorded once; a reordered draw or another step would move them by 1e-3 or more."""
    algorithm = dom2(seeds=2, **{"lr": 1e-3, "loss_includes_tau0": True} | settings)
    for u in range(3):
        algorithm.update(batch(6, seed=u))
    weights = algorithm.members.weights()
    for part, value in expected.items():
        own = [v.double().abs().sum().item() for k, v in weights.items() if k.startswith(f"{part}.")]
        assert sum(own) == pytest.approx(value, abs=1e-3), part


def test_without_the_diffusion_loss_only_q_moves_the_policy() -> None:
    """The paper's third ablation: the loss is the whole one less L_bc, on the same noise."""
    b = batch(3)
    whole, metrics = dom2(eta=2.0).actor_loss(b)
    ablated, _ = dom2(eta=2.0, bc_weight=0.0).actor_loss(b)
    torch.testing.assert_close(ablated, whole - metrics["actor/bc"].sum())


def test_cloning_ignores_rewards() -> None:
    plain, paid = dom2(eta=0.0), dom2(eta=0.0)
    b = batch(3)
    for _ in range(3):
        plain.update(b)
        paid.update(dataclasses.replace(b, rewards=b.rewards + 100.0))
    assert all(map(torch.equal, plain.noise.parameters(), paid.noise.parameters()))


def test_eta_tilde_is_positive_for_negative_values() -> None:
    """The paper's eta / E[Q] would turn the policy towards bad actions where Q is negative."""
    algorithm = dom2(eta=3.0)
    with torch.no_grad():
        algorithm.critics.mlp.layers[-1].bias.fill_(-50.0)
    _, metrics = algorithm.actor_loss(batch(3))
    assert (metrics["actor/q"] < -40).all()
    torch.testing.assert_close(metrics["actor/eta_tilde"], torch.full((3,), 3.0 / 50.0), rtol=0.02, atol=0)


def test_warm_up_raises_eta_linearly() -> None:
    algorithm, b = dom2(eta=4.0, eta_warmup=4), batch(3)
    seen = []
    for _ in range(5):
        scale = algorithm.critics(b.obs, b.actions.unsqueeze(1))[:, 0].abs().mean(dim=(1, 2))
        seen.append((algorithm.actor_loss(b)[1]["actor/eta_tilde"] * scale).mean().item())
        algorithm.members.updates += 1
    assert seen == pytest.approx([1.0, 2.0, 3.0, 4.0, 4.0], rel=1e-4)


def test_targets_move_by_rho_towards_the_new_networks() -> None:
    algorithm = dom2(rho=0.25)
    before = {name: value.clone() for name, value in algorithm.members.weights().items()}
    algorithm.update(batch(3))
    after, moved = algorithm.members.weights(), set()
    for name, target in after.items():
        if name.startswith("target_"):
            online = name.removeprefix("target_")
            torch.testing.assert_close(target, 0.75 * before[online] + 0.25 * after[online])
            moved |= {name.partition(".")[0]} if not torch.equal(target, before[name]) else set()
    assert moved == {"target_noise", "target_critics"}


def test_policy_is_decentralised_repeatable_and_a_snapshot() -> None:
    algorithm = dom2(seeds=2)
    policy = algorithm.policy(1)
    obs = torch.randn(4, 6, 3, 5)
    actions = policy.act(obs, *generators(7))
    assert actions.shape == (4, 6, 3, 2)
    assert actions.abs().max() <= 1.0
    algorithm.update(batch(6))
    assert torch.equal(policy.act(obs, *generators(7)), actions)
    assert not torch.equal(policy.act(obs, *generators(8)), actions)
    assert torch.equal(policy.act(obs, *generators(7), True), policy.act(obs, *generators(8), True))
    obs[:, :, 1] += 1.0
    moved = policy.act(obs, *generators(7))
    assert torch.equal(moved[:, :, [0, 2]], actions[:, :, [0, 2]])
    assert not torch.equal(moved[:, :, 1], actions[:, :, 1])


def test_more_candidates_have_higher_value() -> None:
    algorithm, obs = dom2(), torch.randn(200, 3, 5, generator=generators(1)[0])

    def value(candidates: int) -> float:
        actions = algorithm.policy(0, candidates).act(obs, *generators(0))
        own, chosen = obs.transpose(0, 1), actions.transpose(0, 1)
        return algorithm.critics(own, chosen.unsqueeze(1)).amin(dim=1).mean().item()

    assert value(1) < value(4) < value(16)


def test_the_best_candidate_is_that_of_the_smaller_critic() -> None:
    algorithm, obs = dom2(), torch.randn(20, 3, 5, generator=generators(1)[0])
    x = torch.randn(3, 8 * 20, 2, generator=generators(2)[0])
    own, critics = obs.transpose(0, 1), networks(algorithm, "critics")
    with torch.no_grad():
        choices = algorithm.chain(algorithm.noise.given(own.repeat(1, 8, 1)), x).view(3, 8, 20, 2)
    found = algorithm.policy(0, 8).act(obs, *generators(2))
    for m in range(3):
        q = torch.minimum(*(q_of(net, own[m], choices[m]) for net in critics[2 * m : 2 * m + 2]))
        expected = choices[m, q.argmax(dim=0), torch.arange(20)]
        torch.testing.assert_close(found[:, m], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rows", "at_once"), [(5, 12), (64, 4), (100, 2), (300, 1)])
def test_candidates_are_drawn_as_if_alone(rows: int, at_once: int) -> None:
    """However many of the 12 the rows of a product take, candidate c of a state comes of its own noise."""
    algorithm, asked = dom2(), []
    obs, x = torch.randn(3, rows, 5), torch.randn(3, 12 * rows, 2)

    def chain(eps_fn: Noise, part: torch.Tensor) -> torch.Tensor:
        asked.append(part.shape[1] // rows)
        return algorithm.chain(eps_fn, part)

    with torch.no_grad():
        actions = draw(chain, algorithm.noise, obs, x)
        alone = [algorithm.chain(algorithm.noise.given(obs), part) for part in x.split(rows, dim=1)]
    assert asked == [at_once] * (12 // at_once)
    torch.testing.assert_close(actions, torch.cat(alone, dim=1))


@pytest.mark.parametrize("change", [{"act_low": 0.0}, {"act_high": 2.0}])
def test_other_action_ranges_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"expected actions in \[-1, 1\]"):
        dom2(spec=dataclasses.replace(SPEC, **change))


@pytest.mark.parametrize(
    "bad", [{"n_steps": 0}, {"order": 3}, {"rho": 0.0}, {"lr": -1.0}, {"widths": (8, 8)}]
)
def test_impossible_settings_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        Config(**bad)


def learn(settings: dict, updates: int, draw: Callable, spec: EnvSpec = ONE) -> tuple[DOM2, torch.Tensor]:
    """Train on one-step episodes whose reward is highest at (0.3, -0.4); returns 1,000 actions."""
    config = Config(**{"widths": (64, 32, 32), "embed_dim": 32, "critic_widths": (64, 64)} | settings)
    algorithm = DOM2(config, spec, Members(spec, 1, CPU, generators(0)))
    (g,) = generators(1)
    for _ in range(updates):
        obs, actions = torch.rand(1, 128, 2, generator=g) * 2 - 1, draw(g)
        rewards = -(actions - torch.tensor([0.3, -0.4])).square().sum(dim=-1)
        algorithm.update(Batch(obs, actions, rewards, obs, torch.ones(1, 128)))
    obs = torch.rand(1000, 1, 2, generator=g) * 2 - 1
    return algorithm, algorithm.policy(0).act(obs, *generators(2))[:, 0]


def test_cloning_keeps_both_modes() -> None:
    """Actions of the data are near (0.6, 0.6) or (-0.6, -0.6); a policy of one mode would answer 0."""

    def bimodal(g: torch.Generator) -> torch.Tensor:
        side = torch.where(torch.rand(1, 128, 1, generator=g) < 0.5, -0.6, 0.6)
        return side + 0.05 * torch.randn(1, 128, 2, generator=g)

    _, actions = learn({"eta": 0.0}, 400, bimodal)
    assert (actions.abs().min(dim=1).values > 0.35).float().mean() > 0.85
    assert (actions[:, 0] * actions[:, 1] > 0).float().mean() > 0.95
    assert 0.25 < (actions[:, 0] > 0).float().mean() < 0.75


@pytest.mark.parametrize("q_action", ["chain", "one_step"])
def test_improvement_finds_the_best_action(q_action: str) -> None:
    """The data's actions are uniform; their mean reward is -0.92, the best 0."""

    def uniform(g: torch.Generator) -> torch.Tensor:
        return torch.rand(1, 128, 2, generator=g) * 2 - 1

    _, actions = learn({"eta": 5.0, "zeta": 0.1, "q_action": q_action}, 250, uniform)
    rewards = -(actions - torch.tensor([0.3, -0.4])).square().sum(dim=-1)
    assert rewards.mean() > -0.15
