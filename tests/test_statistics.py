"""Statistics over seeds, against cases that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from dom2 import paper, statistics
from dom2.statistics import average, improvement, interval, iqm, lead, profile


def test_iqm_is_the_mean_of_the_middle_half_of_all_together() -> None:
    assert iqm(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5
    assert iqm(np.array([0.0, 1.0]), np.array([2.0, 100.0])) == 1.5
    assert iqm(np.array([[0.0, 1.0], [4.0, 4.0]]), np.array([[2.0, 100.0], [4.0, 4.0]])).tolist() == [
        1.5,
        4.0,
    ]


def test_an_average_counts_every_sample_alike() -> None:
    assert average(np.array([0.0]), np.array([3.0, 3.0, 3.0])) == 1.5


def test_improvement_counts_pairs_within_tasks() -> None:
    above, below = np.array([5.0, 6.0, 7.0]), np.array([1.0, 2.0, 3.0])
    assert improvement([above], [below])["mean"] == 1.0
    assert improvement([below], [above]) == {"mean": 0.0, "ci": [0.0, 0.0], "tasks": 1}
    assert improvement([below], [below])["mean"] == 0.5  # pairs alike count half
    # A task is a stratum: returns of another task, however large, change nothing.
    both = improvement([above, below + 1000], [below, above + 1000])
    assert both["mean"] == 0.5
    assert both["tasks"] == 2


def test_the_interval_of_a_lead_resamples_tasks_alone() -> None:
    # One task of thirty decides: without it, which 36 % of the resamples are, there is no lead.
    alike, ahead = np.array([1.0, 2.0, 3.0]), np.array([31.0, 2.0, 63.0])
    found = lead([ahead, *[alike] * 29], [alike] * 30)
    assert (found["mean"], found["tasks"], found["ci"][0]) == (pytest.approx(1.0), 30, 0.0)
    assert 2.0 < found["ci"][1] < 4.0
    # Equal leads leave nothing to chance, however far apart the seeds are.
    assert lead([ahead] * 3, [ahead - 5] * 3) == {"mean": 5.0, "ci": [5.0, 5.0], "tasks": 3}
    assert lead([ahead] * 2, [alike] * 2)["ci"] is None


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


SUMS = {  # of the means and of the deviations down each printed column
    "table1": {"ma-cql": (2301.5, 437.4), "omar": (2976.7, 482.7), "ma-sfbc": (2484.1, 331.6),
               "dom2": (4055.5, 498.7)},
    "table2": {"ma-cql": (2039.2, 373.7), "omar": (2489.3, 482.8), "ma-sfbc": (2057.9, 830.6),
               "dom2": (3121.0, 1315.4)},
    "table3": {"ma-cql": (6892.4, 2539.7), "omar": (10554.4, 1830.1), "ma-sfbc": (4265.4, 998.3),
               "dom2": (13686.5, 1162.7)},
    "table4": {"ma-cql": (12003.1, 4465.4), "omar": (16988.1, 2912.6), "ma-sfbc": (9090.0, 2044.6),
               "dom2": (22669.1, 3705.7)},
    "comparison": {"bc": (198.9, 41.9), "ma-icq": (560.6, 138.0), "ma-td3+bc": (581.4, 129.2),
                   "ma-cql": (522.4, 148.3), "omar": (710.0, 162.1), "madiff": (765.9, 89.4),
                   "madiff-c": (1050.9, 93.7)},
}  # fmt: skip


@pytest.mark.parametrize("name", paper.TABLES)
def test_published_columns_add_up(name: str) -> None:
    """Summed from the publications themselves: one wrong digit in any cell is noticed."""
    sums: dict[str, list[float]] = {}
    for (_, _, _, column), cell in paper.TABLES[name].cells.items():
        so_far = sums.setdefault(column, [0.0, 0.0])
        so_far[0], so_far[1] = so_far[0] + cell.mean, so_far[1] + cell.std
    assert {column: (round(mean, 1), round(std, 1)) for column, (mean, std) in sums.items()} == SUMS[name]


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
