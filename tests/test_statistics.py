"""Statistics over seeds, against cases that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from dom2 import paper, statistics
from dom2.statistics import improvement, interval, iqm, profile


def test_iqm_is_the_mean_of_the_middle_half_of_all_together() -> None:
    assert iqm(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5
    assert iqm(np.array([0.0, 1.0]), np.array([2.0, 100.0])) == 1.5
    assert iqm(np.array([[0.0, 1.0], [4.0, 4.0]]), np.array([[2.0, 100.0], [4.0, 4.0]])).tolist() == [
        1.5,
        4.0,
    ]


def test_improvement_counts_pairs_within_tasks() -> None:
    above, below = np.array([5.0, 6.0, 7.0]), np.array([1.0, 2.0, 3.0])
    assert improvement([above], [below])["mean"] == 1.0
    assert improvement([below], [above]) == {"mean": 0.0, "ci": [0.0, 0.0], "tasks": 1}
    assert improvement([below], [below])["mean"] == 0.5  # pairs alike count half
    # A task is a stratum: returns of another task, however large, change nothing.
    both = improvement([above, below + 1000], [below, above + 1000])
    assert both["mean"] == 0.5
    assert both["tasks"] == 2


def test_interval_resamples_within_samples_only() -> None:
    apart = [np.array([1.0, 1.0, 1.0]), np.array([100.0, 100.0, 100.0])]
    assert interval(iqm, apart) == [pytest.approx(iqm(*apart))] * 2
    assert interval(iqm, [np.array([3.0])]) is None
    values = np.random.default_rng(0).normal(10.0, 2.0, 400)
    low, high = interval(lambda sample, axis: sample.mean(axis=axis), [values]) or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_profile_is_the_share_of_runs_above_each_level() -> None:
    samples = [np.array([0.0, 10.0]), np.array([5.0, 5.0, 5.0, 25.0])]
    taus = np.array([-1.0, 0.0, 5.0, 20.0, 30.0])
    expected = [1.0, (0.5 + 1.0) / 2, (0.5 + 0.25) / 2, (0.0 + 0.25) / 2, 0.0]
    assert profile(samples, taus).tolist() == expected


def test_summary_of_one_episode_of_each_seed_has_no_interval() -> None:
    found = statistics.summary(np.array([[1.0], [3.0]]))
    assert (found["mean"], found["ci"]) == (2.0, [2.0, 2.0])


def test_the_papers_tables_say_what_its_text_says() -> None:
    """Wins as the text counts them: 17 of 18 shifted, 11 of 12 shifted HalfCheetah, all of the others."""
    wins = {}
    for name in ("table1", "table2", "table3", "table4"):
        rows: dict[tuple[str, str, str], dict[str, float]] = {}
        for (env, quality, shift, column), cell in paper.TABLES[name].cells.items():
            rows.setdefault((env, quality, shift), {})[column] = cell.mean
        assert all(len(row) == 4 for row in rows.values())
        wins[name] = (sum(max(row, key=row.__getitem__) == "dom2" for row in rows.values()), len(rows))
    assert wins == {"table1": (18, 18), "table2": (17, 18), "table3": (6, 6), "table4": (11, 12)}
    assert paper.find("table1", "spread", "expert", "none", "omar") == (564.6, 8.6)
    assert paper.find("table2", "world", "random", "speed", "ma-cql") == (-2.7, 3.2)
    assert paper.find("table2", "world", "random", "none", "ma-cql") == (-3.8, 3.0)  # Table 1's
    assert paper.find("table4", "halfcheetah", "expert", "extreme", "ma-sfbc") == (2757.2, 200.6)
    assert paper.find("table1", "tag", "medium", "none", "bc") is None
    assert paper.find("figure6", "tag", "medium", "none", "dom2") is None
    assert len(paper.TABLES["comparison"].cells) == 84
