"""Algorithm 1 as weights: the same distribution as copies, in exact integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare
from small_datasets import drawn, generators, in_memory

from dom2data.errors import UserError
from dom2data.sampler import Sampler, Thresholds, emphasis, weights

RAGGED = [4, 2, 4, 1, 3, 4, 4, 4]
NONE = Thresholds("none")


def test_augmented_draws_equal_uniform_draws_from_the_replicated_dataset() -> None:
    """Replicate trajectories as Algorithm 1 says, draw uniformly, and compare the counts."""
    dataset = in_memory(RAGGED)
    thresholds = (-1.0, 0.0, 0.5)
    copies = [np.arange(a, b) for a, b in zip(dataset.offsets, dataset.offsets[1:], strict=False)]
    for threshold in thresholds:
        for i, value in enumerate(dataset.returns):
            if value >= threshold:
                copies.append(np.arange(dataset.offsets[i], dataset.offsets[i + 1]))
    replicated = np.concatenate(copies)
    assert len(replicated) > len(dataset)

    sampler = Sampler(dataset, Thresholds("absolute", thresholds), 20_000, generators(0))
    found = np.bincount(drawn(sampler.sample(), dataset)[0].flatten().numpy(), minlength=len(dataset))
    uniform = replicated[np.random.default_rng(0).integers(len(replicated), size=found.sum())]
    reference = np.bincount(uniform, minlength=len(dataset))
    assert chi2_contingency([found, reference]).pvalue > 1e-3
    expected = np.bincount(replicated, minlength=len(dataset)) / len(replicated) * found.sum()
    assert chisquare(found, expected).pvalue > 1e-3

    plain = drawn(Sampler(dataset, NONE, 20_000, generators(0)).sample(), dataset)[0].flatten().numpy()
    assert chisquare(np.bincount(plain, minlength=len(dataset)), expected).pvalue < 1e-12  # the test can fail
    assert chisquare(np.bincount(plain, minlength=len(dataset))).pvalue > 1e-3


def test_weights_count_the_thresholds_reached() -> None:
    dataset = in_memory([4] * 9)
    dataset.returns[...] = np.arange(1, 10)
    assert weights(dataset, Thresholds("absolute", (9.0, 9.5, 8.0))).tolist() == [1] * 7 + [2, 3]
    assert weights(dataset, Thresholds()).tolist() == [1, 1, 1, 1, 2, 2, 3, 3, 5]  # quantiles 5, 7, 8.2, 8.6
    assert weights(dataset, NONE).tolist() == [1] * 9
    dataset.returns[:3] = 43.4, 138.3, 1000.0  # scores just above 25 and 75, and far above 100
    assert weights(dataset, Thresholds("score")).tolist() == [2, 4, 5] + [1] * 6


def test_an_episode_cut_short_keeps_weight_one_and_sets_no_threshold() -> None:
    dataset = in_memory([4, 4, 2])
    dataset.array("terminated")[2] = False
    dataset.returns[...] = 1.0, 2.0, 100.0
    assert weights(dataset, Thresholds("quantile", (1.0,))).tolist() == [1, 2, 1]
    dataset.array("terminated")[2] = True
    assert weights(dataset, Thresholds("quantile", (1.0,))).tolist() == [1, 1, 2]


def test_an_episode_without_its_last_step_is_not_cut_short() -> None:
    """As imports from formats without final observations leave all that did not terminate."""
    dataset = in_memory([3, 3, 2], horizon=4)
    dataset.array("terminated")[...] = False
    dataset.returns[...] = 1.0, 2.0, 100.0
    assert weights(dataset, Thresholds("quantile", (0.0, 1.0))).tolist() == [2, 3, 1]


def test_without_thresholds_reached_the_draws_are_the_plain_ones() -> None:
    dataset = in_memory(RAGGED)
    plain, unreached = (
        Sampler(dataset, thresholds, 64, generators(3, 4))
        for thresholds in (NONE, Thresholds("absolute", (1e9,)))
    )
    for _ in range(3):
        a, b = plain.sample(), unreached.sample()
        assert all(torch.equal(getattr(a, field), getattr(b, field)) for field in vars(a))


def test_a_batch_is_made_of_transitions() -> None:
    dataset = in_memory(RAGGED)
    sampler = Sampler(dataset, Thresholds(), 200, generators(0, 1))
    batch = sampler.sample()
    assert batch.obs.shape == batch.next_obs.shape == (6, 200, 5)
    assert batch.actions.shape == (6, 200, 2)
    assert batch.rewards.shape == batch.terminated.shape == (6, 200)
    assert (batch.obs[..., 2] == torch.tensor([0, 1, 2, 0, 1, 2])[:, None]).all()  # m = seed * N + agent
    assert (batch.next_obs[..., 2] == batch.obs[..., 2]).all()
    assert (batch.next_obs[..., 1] == batch.obs[..., 1]).all()  # never across episodes
    assert (batch.next_obs[..., 0] == batch.obs[..., 0] + 1).all()
    length = torch.tensor(RAGGED)[batch.obs[..., 1].long()]
    assert torch.equal(batch.terminated.bool(), (batch.next_obs[..., 0] == length) & (length < 4))
    step, _ = drawn(batch, dataset)
    for m in range(6):
        np.testing.assert_array_equal(batch.actions[m], dataset.array("actions")[step[m], m % 3])
        np.testing.assert_array_equal(batch.rewards[m], dataset.array("rewards")[step[m], m % 3])


def test_a_seed_sees_the_same_data_however_many_are_stacked() -> None:
    dataset = in_memory(RAGGED)
    stack, alone = (Sampler(dataset, Thresholds(), 16, g) for g in (generators(5, 6, 7), generators(6)))
    for _ in range(3):
        together, single = stack.sample(), alone.sample()
        assert all(torch.equal(getattr(together, f)[3:6], getattr(single, f)) for f in vars(single))


def test_every_agent_has_its_own_minibatch() -> None:
    obs = Sampler(in_memory(RAGGED), NONE, 64, generators(0)).sample().obs[..., :2]
    assert not torch.equal(obs[0], obs[1])


def test_effective_sample_size_and_top_decile() -> None:
    dataset = in_memory([4] * 20)
    dataset.returns[...] = np.arange(20)
    assert emphasis(dataset, NONE) == {"effective_sample_size": 80, "top_decile_share": pytest.approx(0.1)}
    assert emphasis(dataset, Thresholds("absolute", (18.0,))) == {  # two episodes count twice
        "effective_sample_size": pytest.approx((18 + 4) ** 2 * 4 / (18 + 8)),
        "top_decile_share": pytest.approx(4 / 22),
    }


@pytest.mark.parametrize(
    ("mode", "values"), [("absolute", None), ("none", (1.0,)), ("quantile", (1.5,)), ("quantil", None)]
)
def test_thresholds_that_mean_nothing_are_refused(mode: str, values: tuple[float, ...] | None) -> None:
    with pytest.raises(UserError, match="expected") as error:
        Thresholds(mode, values)  # type: ignore[arg-type]
    assert error.value.code == 2
