"""Reference returns, and scores normalised with them.

PUBLISHED_RETURNS: mean and standard deviation of the return per episode in the published offline datasets
(Pan et al. 2022, OMAR; statistics of agent 0 from the data cards of OG-MARL, Formanek et al. 2023).
PUBLISHED: the returns that correspond to scores 0 (random) and 100 (expert) in the literature.
"""

from __future__ import annotations

from typing import Any, Literal

from dom2data.errors import UserError

Reference = Literal["published", "own"]

PUBLISHED: dict[str, dict[str, float]] = {
    "spread": {"random": 159.8, "expert": 516.8},
    "tag": {"random": -4.1, "expert": 185.6},
    "world": {"random": -6.8, "expert": 79.5},
    "halfcheetah": {"random": -283.97, "expert": 3568.81},
}

PUBLISHED_RETURNS: dict[str, dict[str, tuple[float, float]]] = {
    "spread": {
        "random": (159.57, 60.46),
        "medium-replay": (203.74, 80.49),
        "medium": (273.39, 92.06),
        "expert": (530.95, 71.41),
    },
    "tag": {
        "random": (-4.13, 10.81),
        "medium-replay": (3.90, 20.28),
        "medium": (116.36, 58.86),
        "expert": (207.90, 77.51),
    },
    "world": {
        "random": (-6.83, 5.74),
        "medium-replay": (1.23, 13.49),
        "medium": (65.86, 29.55),
        "expert": (85.21, 31.11),
    },
    "halfcheetah": {
        "random": (-282.89, 77.50),
        "medium-replay": (423.49, 655.68),
        "medium": (1568.87, 273.38),
        "expert": (3338.69, 252.58),
    },
}


def references(env: str, reference: Reference = "published") -> dict[str, float]:
    """Return the returns of scores 0 (``random``) and 100 (``expert``): published, or measured here (own).

    Raises UserError when there are none for this environment.
    """
    if reference == "own":
        from dom2_policies import zoo

        try:
            return dict(zoo.entry(env)["references"])
        except (ValueError, KeyError) as error:
            message = f"expected an environment with own references, found {env!r}; use the published ones"
            raise UserError(message) from error
    if env not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise UserError(f"expected an environment with published references ({known}), found {env!r}")
    return PUBLISHED[env]


def between(value: Any, at: dict[str, float]) -> Any:
    """Return 100 (value - random) / (expert - random): 0 for random play, 100 for the expert."""
    return (value - at["random"]) * (100.0 / (at["expert"] - at["random"]))


def normalize(env: str, value: Any, reference: Reference = "published") -> Any:
    """Return the score of a return, or of an array or tensor. Raises UserError like ``references``."""
    return between(value, references(env, reference))


def denormalize(env: str, score: Any) -> Any:
    """Inverse of ``normalize`` with the published references. Raises UserError like ``references``."""
    at = references(env, "published")
    return at["random"] + score * ((at["expert"] - at["random"]) / 100.0)
