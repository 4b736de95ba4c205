"""Reconstruct environment states from the data in a dataset.

Observations of the particle tasks contain all positions, so they suffice, also for imported data.
HalfCheetah's contain the joints but not the torso, so its episodes are replayed from their recorded seeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dom2data import envs
from dom2data.dataset import Dataset
from dom2data.errors import CHECK_FAILED, UserError

if TYPE_CHECKING:
    from dom2data.envs.halfcheetah import HalfCheetahEnv
    from dom2data.envs.particle import ParticleEnv, Scenario

Float64 = NDArray[np.float64]
TOLERANCE = 1e-4
"""largest allowed difference between stored observations and those of the reconstructed state"""


def particles(dataset: Dataset) -> Scenario | None:
    """Return the particle task that the data come from; None if they come from something else."""
    name = dataset.env
    if envs.task(name) == "halfcheetah" or name not in envs.KNOWN:
        return None
    scenario = envs.unguarded(name).scenario
    fits = scenario.obs_dim == dataset.spec.obs_dim and len(scenario.agent_names) == dataset.spec.n_agents
    return scenario if fits else None


def positions(scenario: Scenario, observations: NDArray[Any]) -> tuple[Float64, Float64]:
    """Return the positions of agents [R, P, 2], prey last, and landmarks [R, L, 2] in observations [R, N, O].

    An observation starts with velocity and position, then landmarks and other agents relative to the agent.
    """
    obs = observations.astype(np.float64)
    n_learn, n_landmarks = len(scenario.agent_names), len(scenario.landmark_sizes)
    landmarks = obs[:, 0, 4 : 4 + 2 * n_landmarks].reshape(-1, n_landmarks, 2) + obs[:, :1, 2:4]
    agents = obs[:, :, 2:4]
    if len(scenario.sizes) > n_learn:
        prey = 4 + 2 * n_landmarks + 2 * (n_learn - 1)
        agents = np.concatenate([agents, obs[:, :1, prey : prey + 2] + obs[:, :1, 2:4]], axis=1)
    return agents, landmarks


def velocities(scenario: Scenario, observations: NDArray[Any]) -> Float64:
    """Return the agents' velocities [R, P, 2]; predators observe the prey's, after the positions."""
    obs = observations.astype(np.float64)
    n_learn, n_landmarks = len(scenario.agent_names), len(scenario.landmark_sizes)
    if len(scenario.sizes) == n_learn:
        return obs[:, :, :2]
    prey = 4 + 2 * n_landmarks + 2 * n_learn
    return np.concatenate([obs[:, :, :2], obs[:, :1, prey : prey + 2]], axis=1)


def particle_rows(dataset: Dataset, observations: NDArray[Any]) -> ParticleEnv:
    """Return an environment whose rows have the states of observations [R, N, O].

    Raises UserError (code 3) if the observations of these states differ from those given.
    """
    env = envs.unguarded(dataset.env, num_envs=len(observations))
    agents, landmarks = positions(env.scenario, observations)
    again = env.load_state(agents, velocities(env.scenario, observations), landmarks)
    error = float(np.abs(again - observations).max())
    if not error <= TOLERANCE:
        raise UserError(
            f"{dataset.id}: expected observations of {dataset.env} as it is here, found ones that its state "
            f"would not give (by {error:.2g}); without positions there is no picture",
            CHECK_FAILED,
        )
    return env


def cheetahs(dataset: Dataset, episode: int, times: NDArray[np.int64]) -> HalfCheetahEnv:
    """Return HalfCheetah with an episode's states at ``times`` [R] as rows, replayed from its seed.

    Raises UserError (code 3) if the data cannot be replayed, or the replay differs from the stored data.
    """
    from dom2data.replay import cohort_of

    cohort, row = cohort_of(dataset, episode)
    env, only, shown = (_cheetah(dataset.env, n) for n in (len(cohort.episodes), 1, len(times)))
    env.reset(seed=cohort.seed)
    position, velocity = env.state
    obs = only.load_state(position[row : row + 1], velocity[row : row + 1])[0]
    start, stop = dataset.offsets[episode], dataset.offsets[episode + 1]
    stored = dataset.array("observations")[start + episode : stop + episode + 1]
    actions, states = dataset.array("actions")[start:stop], [only.state]
    error = float(np.abs(obs - stored[0]).max())
    for time in range(int(times.max())):
        obs = only.step(actions[time : time + 1]).obs[0]
        error = max(error, float(np.abs(obs - stored[time + 1]).max()))
        states.append(only.state)
    if not error <= TOLERANCE:
        raise UserError(
            f"{dataset.id}: episode {episode}: expected the stored observations when played again, found a "
            f"difference of {error:.2g}; see `dom2data verify {dataset.id} --replay 1%`",
            CHECK_FAILED,
        )
    shown.load_state(*map(np.concatenate, zip(*(states[t] for t in times), strict=True)))
    return shown


def _cheetah(name: str, num_envs: int) -> HalfCheetahEnv:
    from dom2data.envs.halfcheetah import HalfCheetahEnv

    env = envs.make(name, num_envs=num_envs)
    assert isinstance(env, HalfCheetahEnv)
    return env
