"""Windows of joint trajectories, and minibatches in which a seed's agents have the same transitions."""

from __future__ import annotations

import numpy as np
import torch
from small_datasets import generators, in_memory
from test_algorithms import make

from dom2 import fit
from dom2data.dataset import Dataset
from dom2data.sampler import Sampler, Thresholds
from dom2data.spec import Float32
from dom2data.tables import returns_to_go
from dom2data.windows import WindowSampler

RAGGED = [4, 2, 4, 1, 3]
H = 3


def sampler(*seeds: int) -> WindowSampler:
    return WindowSampler(in_memory(RAGGED), Thresholds(), 200, generators(*seeds), "cpu", H, 0.9)


def to_go_of(dataset: Dataset) -> Float32:
    return returns_to_go(dataset.array("rewards"), dataset.offsets, 0.9)


def test_returns_to_go_are_discounted_sums_within_an_episode() -> None:
    dataset = in_memory(RAGGED)
    found, rewards = to_go_of(dataset), dataset.array("rewards").astype(np.float64)
    for begin, end in zip(dataset.offsets, dataset.offsets[1:], strict=False):
        for t in range(begin, end):
            expected = sum(0.9 ** (s - t) * rewards[s] for s in range(t, end))
            np.testing.assert_allclose(found[t], expected, rtol=1e-5, atol=1e-6)


def test_a_window_is_a_stretch_of_one_episode_and_repeats_its_final_observation() -> None:
    """Of an observation, [0] is the step within the episode, [1] the episode, [2] the agent."""
    dataset, windows = in_memory(RAGGED), sampler(0, 1).sample()
    assert windows.obs.shape == (2, 200, H, 3, 5)
    assert windows.actions.shape == (2, 200, H, 3, 2)
    step, episode = windows.obs[..., 0, 0], windows.obs[..., 0, 0, 1].long()
    length = torch.tensor(RAGGED)[episode].unsqueeze(-1)
    start = step[..., :1]
    assert torch.equal(windows.before, start[..., 0].long())
    assert torch.equal(step, torch.minimum(start + torch.arange(H), length.float()))
    assert torch.equal(windows.obs[..., 1].long(), episode[..., None, None].expand(2, 200, H, 3))
    assert torch.equal(windows.taken.bool(), start + torch.arange(H) < length)
    ends = (start + torch.arange(H) == length - 1) & (length < 4)
    assert torch.equal(windows.terminated.bool(), ends)
    assert {0.0, 1.0} == set(windows.taken.unique().tolist())
    flat = torch.from_numpy(dataset.offsets)[episode].unsqueeze(-1) + step.long()
    actions, rewards = (torch.from_numpy(dataset.array(name)) for name in ("actions", "rewards"))
    taken = windows.taken.bool()
    assert torch.equal(windows.actions[taken], actions[flat[taken]])
    assert torch.equal(windows.rewards[taken], rewards[flat[taken]])
    assert not windows.actions[~taken].any()
    assert not windows.rewards[~taken].any()
    to_go = torch.from_numpy(to_go_of(dataset))
    assert torch.equal(windows.returns, to_go[flat[..., 0]])


def test_windows_are_as_long_and_discounted_as_the_algorithm_has_it() -> None:
    dataset, algorithm = in_memory(RAGGED), make("madiff", horizon=2, gamma=0.5)
    source = fit.minibatches(algorithm, dataset, Thresholds(), 50, generators(0), torch.device("cpu"))
    windows = source.sample()
    assert windows.obs.shape == (1, 50, 2, 3, 5)
    step, episode = windows.obs[0, :, 0, 0, :2].long().T.numpy()
    to_go = returns_to_go(dataset.array("rewards"), dataset.offsets, 0.5)
    np.testing.assert_array_equal(windows.returns[0], to_go[dataset.offsets[episode] + step])


def test_a_seed_sees_the_same_windows_however_many_are_stacked() -> None:
    together, alone = sampler(5, 6).sample(), sampler(6).sample()
    assert all(torch.equal(getattr(together, f)[1:], getattr(alone, f)) for f in vars(alone))


def test_joint_minibatches_hold_the_same_transition_for_every_agent() -> None:
    joint, plain = (
        Sampler(in_memory(RAGGED), Thresholds(), 200, generators(0, 1), joint=joint)
        for joint in (True, False)
    )
    obs = joint.sample().obs.view(2, 3, 200, 5)
    assert torch.equal(obs[:, :1, :, :2].expand(-1, 3, -1, -1), obs[..., :2])  # step and episode
    assert (obs[..., 2] == torch.arange(3.0)[None, :, None]).all()  # each from its own side
    assert not torch.equal(obs[0], obs[1])
    other = plain.sample().obs.view(2, 3, 200, 5)
    assert not torch.equal(other[:, :1, :, :2].expand(-1, 3, -1, -1), other[..., :2])
