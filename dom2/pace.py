"""Duration of updates on this machine: from logs of similar runs, else from a few updates on noise."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dom2 import algorithms, checkpoint, fit, track
from dom2.config import build
from dom2.jobs import Job
from dom2.run import Settings, usable_device
from dom2data import dataset as datasets
from dom2data import envs, executors, named
from dom2data.dataset import Dataset
from dom2data.sampler import Thresholds


def remaining(left: Sequence[Job], known: Sequence[Job] = ()) -> list[float]:
    """Estimate the seconds that fitting each job still takes on one core here, without its evaluations.

    ``known`` are other jobs whose logs, if they have any, tell how long updates take.
    """
    logs = (*known, *left)
    seconds = {likeness(job): rate for job in logs if (rate := logged(job)) is not None}
    times = []
    for job in left:
        updates = job.settings["updates"]
        todo = updates - min(checkpoint.updates(job.folder), updates)
        if todo and likeness(job) not in seconds:
            seconds[likeness(job)] = measured(job)
        times.append(todo * seconds.get(likeness(job), 0.0))
    return times


def likeness(job: Job) -> tuple[Any, ...]:
    """What the time of an update depends on: sizes, counts, kinds, and which float settings are zero."""
    sizes = {k: bool(value) if isinstance(value, float) else value for k, value in job.config.items()}
    own = (job.settings[name] for name in ("algorithm", "seeds", "batch_size"))
    return job.env, *own, repr(sorted(sizes.items()))


def logged(job: Job) -> float | None:
    """Seconds per update from a run's last line of metrics; None without one."""
    rate = track.last(job.folder).get("time/updates_per_second")
    return 1.0 / rate if isinstance(rate, float) and rate > 0.0 else None


def measured(job: Job, at_most: int = 3, enough: float = 0.3) -> float:
    """Measure the seconds of an update on noise in the shape of the environment's data, after a warm-up.

    The mean is over ``at_most`` updates, or as many as took ``enough`` seconds: making a plan should not take
    longer than reading it.
    """
    settings: Settings = build(Settings, job.settings)
    name, seeds = settings.algorithm, range(settings.seeds)
    device = torch.device(usable_device(settings.device))
    config = build(algorithms.load(name).config_type, job.config)
    algorithm, sampler = fit.assemble(
        name, config, noise(job.env), Thresholds("none"), settings.batch_size, seeds, device
    )

    def update() -> None:
        algorithm.update(sampler.sample())
        if device.type == "cuda":
            torch.cuda.synchronize()

    with executors.one_thread():
        update()
        started, seconds, updates = time.perf_counter(), 0.0, 0
        while updates < at_most and seconds < enough:
            update()
            updates += 1
            seconds = time.perf_counter() - started
    return seconds / updates


def noise(env: str, episodes: int = 4) -> Dataset:
    """Make a small random dataset: observations and rewards from N(0, 1), uniform actions."""
    named.environment(env)
    spec, rng = envs.spec(env), np.random.default_rng(0)
    steps = episodes * spec.horizon
    return datasets.from_arrays(
        spec,
        rng.standard_normal((steps + episodes, spec.n_agents, spec.obs_dim), np.float32),
        rng.uniform(-1.0, 1.0, (steps, spec.n_agents, spec.act_dim)).astype(np.float32),
        rng.standard_normal((steps, spec.n_agents), np.float32),
        np.arange(episodes + 1) * spec.horizon,
        env=env,
    )
