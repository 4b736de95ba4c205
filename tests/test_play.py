"""Episodes as animations, from what is stored."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from commands import dom2data
from PIL import Image
from small_datasets import stored
from tiny import tag_random

from dom2data import dataset, envs, generate
from dom2data.dataset import Dataset, from_arrays
from dom2data.envs.render import draw
from dom2data.errors import UserError
from dom2data.look import play, scenes


def recorded(name: str, episodes: int = 2, steps: int = 5) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """A dataset of uniform actions, and the true positions of agents and landmarks [P, T+1, ...]."""
    env, rng = envs.make(name, num_envs=episodes, seed=3), np.random.default_rng(0)
    spec = env.spec
    seen, taken, earned, states = [env.reset(seed=3)], [], [], [env.state]
    for _ in range(steps):
        taken.append(rng.uniform(-1, 1, (episodes, spec.n_agents, spec.act_dim)).astype(np.float32))
        step = env.step(taken[-1])
        seen.append(step.obs)
        earned.append(step.rewards)
        states.append(env.state)

    def flat(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(np.stack(parts, axis=1))

    found = from_arrays(
        spec, flat(seen), flat(taken), flat(earned), np.arange(episodes + 1) * steps, env=name
    )
    return found, flat([s[0] for s in states]), flat([s[2] for s in states])


@pytest.mark.parametrize("name", ["tag", "world", "spread", "spread-5", "spread-6-landmarks"])
def test_positions_are_those_of_the_simulation(name: str) -> None:
    found, agents, landmarks = recorded(name)
    scenario = scenes.particles(found)
    assert scenario is not None
    read = scenes.positions(scenario, found.array("observations"))
    np.testing.assert_allclose(read[0], agents, atol=1e-6)
    np.testing.assert_allclose(read[1], landmarks, atol=1e-6)
    assert scenes.particle_rows(found, found.array("observations")).num_envs == len(agents)


def test_a_frame_is_the_picture_of_the_stored_state() -> None:
    found, agents, landmarks = recorded("tag")
    env = envs.unguarded("tag", num_envs=len(agents))
    env.load_state(agents, np.zeros_like(agents), landmarks)
    pictures = play.frames(found, 1)
    assert len(pictures) == 6
    below = slice(30, None)  # the caption is above
    for t in range(6):
        np.testing.assert_array_equal(pictures[t][below], draw(env, 6 + t)[below])
    assert (pictures[0][:30] != pictures[5][:30]).any()


def test_observations_that_no_state_gives_have_no_picture() -> None:
    found, _, _ = recorded("tag")
    found.array("observations")[3, 1, 4] += 0.01  # where agent 1 sees a landmark
    with pytest.raises(UserError, match="expected observations of tag as it is here") as refused:
        play.frames(found, 0)
    assert refused.value.code == 3


def test_halfcheetah_is_played_again_and_compared(tmp_path: Path) -> None:
    plan = generate.plan("halfcheetah", "random", steps=2000, out="cheetah-v0", root=tmp_path)
    found = generate.generate(plan)
    pictures = play.frames(found, 1, stride=250)
    assert len(pictures) == 5
    assert (pictures[0] != pictures[4]).any()
    found.array("observations")[1001 + 500, 0, 3] += 0.01
    with pytest.raises(UserError, match=r"when played again, found a difference of 0\.01"):
        play.frames(found, 1, stride=250)


def test_halfcheetah_from_elsewhere_says_why_not() -> None:
    found, _, _ = recorded_cheetah()
    with pytest.raises(UserError, match="cannot replay"):
        play.frames(found, 0)


def recorded_cheetah() -> tuple[Dataset, None, None]:
    spec = envs.spec("halfcheetah")
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(4, 2, spec.obs_dim)).astype(np.float32)
    acts = rng.uniform(-1, 1, (3, 2, 3)).astype(np.float32)
    return from_arrays(spec, obs, acts, np.zeros((3, 2), np.float32), np.array([0, 3])), None, None


def test_times() -> None:
    assert play.shown(25, None).tolist() == list(range(26))
    assert play.shown(25, 10).tolist() == [0, 10, 20, 25]
    long = play.shown(1000, None)
    assert len(long) <= play.MOST + 1
    assert (long[0], long[-1]) == (0, 1000)


def test_gif(tmp_path: Path) -> None:
    file = tmp_path / "out.gif"
    words = ["play", tag_random(), "--episode", "3", "--video", str(file)]
    result = dom2data(*words)
    assert result.exit_code == 0, result.stderr
    with Image.open(file) as gif:
        assert (gif.n_frames, gif.size) == (26, (400, 400))
    assert f"{dataset.open(tag_random()).returns[3]:.2f}" in result.stdout
    assert dom2data(*words).exit_code == 2
    assert dom2data(*words, "--force").exit_code == 0


def test_mp4(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    file = tmp_path / "out.mp4"
    pictures = play.frames(dataset.open(tag_random()), 0)
    play.write(pictures, file, fps=10)
    assert file.read_bytes()[4:8] == b"ftyp"
    assert list(tmp_path.iterdir()) == [file]


def test_mp4_without_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    pictures = play.frames(dataset.open(tag_random()), 0, stride=25)
    with pytest.raises(UserError, match=r"pip install 'imageio\[ffmpeg\]'") as refused:
        play.write(pictures, tmp_path / "out.mp4", fps=10)
    assert refused.value.code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--episode", "50"], "expected an episode in 0..49, found 50"),
        (["--episode", "-1"], "expected an episode in 0..49, found -1"),
        (["--video", "out.avi"], "expected a file ending in .gif or .mp4, found out.avi"),
        (["--stride", "0"], "expected a stride of 1 step or more, found 0"),
    ],
)
def test_wrong_words(words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = dom2data("play", tag_random(), *words)
    assert result.exit_code == 2
    assert result.stderr == f"error: {line}\n"
    assert list(tmp_path.iterdir()) == []


def test_an_environment_without_a_picture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no picture here"):
        play.frames(stored(tmp_path, [4, 4]), 0)
