"""The training loop, which turns minibatches into metrics and checkpoints. It names no algorithm."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor

from dom2 import algorithms, checkpoint, config, evaluate, presets, seeding, track
from dom2.algorithms import Learner
from dom2.graphed import Graphed, cuda_graph
from dom2.metrics import Watch, reduce, sound
from dom2.run import Run, Settings, Status, actual_device, held
from dom2data import cache, envs, executors, memory, named, stream, tables
from dom2data import dataset as datasets
from dom2data.allocation import keep_freed_memory
from dom2data.dataset import Dataset
from dom2data.errors import CHECK_FAILED, FAILED, UserError
from dom2data.read_ahead import ReadAhead
from dom2data.sampler import Sampler, Thresholds, weights
from dom2data.spec import Progress, quiet
from dom2data.tables import Source, Tables
from dom2data.windows import WindowSampler

Minibatches = Sampler | ReadAhead | WindowSampler
OnUpdate = Callable[[int, dict[str, Any] | None], None]


def configure(algorithm: str, preset: str, env: str, quality: str | None, values: dict[str, Any]) -> Any:
    """Build an algorithm's config: its defaults, overridden by the task's values, the preset and ``values``.

    Raises UserError for an unknown preset or setting.
    """
    kind = algorithms.load(algorithm)
    if preset not in kind.presets:
        raise UserError(
            f"expected a preset in {', '.join(kind.presets)}, found {preset!r}; see dom2 fit --help"
        )
    names = {field.name for field in config.fields(kind.config_type)}
    task = presets.defaults(algorithm, env, quality)
    task = {name: value for name, value in task.items() if name in names}
    return config.build(kind.config_type, task | kind.presets[preset] | values)


def fit(
    run: Run,
    on_update: OnUpdate | None = None,
    root: Path | None = None,
    on_decode: Progress = quiet,
    interrupts: Interrupts | None = None,
) -> Status:
    """Train until the run has made all its updates, starting from its last checkpoint if there is one.

    ``on_update(update, metrics)`` is called after each update, with metrics when they are logged;
    ``on_decode`` is called while memory-mapped files are written. Returns ``complete``, or ``interrupted``
    after SIGINT or SIGTERM (saved; a second SIGINT ends at once). ``interrupts`` are handlers that the caller
    has already entered. Raises UserError if the data has changed since the run began, another process fits
    the run, memory is short, or a metric is no longer finite, and like ``run.Run.unchanged``.
    """
    with held(run.folder), enough_memory(run.settings):
        run.unchanged()
        return _train(run, on_update, root, on_decode, interrupts)


def _train(
    run: Run,
    on_update: OnUpdate | None,
    root: Path | None,
    on_decode: Progress,
    interrupts: Interrupts | None,
) -> Status:
    dataset = data_of(run, root)
    algorithm, device = untrained(run)
    batches = seeding.generators(run.seeds, seeding.BATCHES, device)
    assert run.settings.augment != "auto"  # ``run.resolved`` has replaced it
    thresholds = Thresholds(run.settings.augment, run.settings.thresholds)
    source = rows(run, dataset, thresholds, device, root, on_decode)
    sampler = minibatches(algorithm, dataset, thresholds, run.settings.batch_size, batches, device, source)
    start = checkpoint.updates(run.folder)
    if start:
        drawn = restored(run, algorithm, device)
        with checkpoint.belonging(run.folder):
            sampler.resume(drawn, start)  # an update takes one minibatch
    learn = Graphed(algorithm, cuda_graph).update if run.settings.graph else algorithm.update
    run.status = "running"
    keep_freed_memory()
    try:
        with nullcontext(interrupts) if interrupts else Interrupts() as stopped:
            run.status = _loop(run, algorithm, learn, sampler, start, on_update, stopped)
    except Exception:
        with suppress(OSError):  # on a full disk, report the first error
            run.status = "failed"
        raise
    return run.status


def check(document: dict[str, Any], dataset: Dataset, folder: Path | None = None) -> None:
    """Raise what ``fit`` of this run would raise at its beginning, so that no run is made, replaced, or (in
    ``folder``) amended in vain."""
    run = Run(folder or Path(), document)
    with enough_memory(run.settings):
        algorithm, device = untrained(run)
        if folder and checkpoint.updates(folder):
            restored(run, algorithm, device)
    if run.settings.eval_every:
        envs.close(envs.make(dataset.env, num_envs=1))
    if run.settings.data == "memory":
        room(dataset, device)


def untrained(run: Run) -> tuple[Learner, torch.device]:
    """Make a run's new networks; return them and their device. Raises UserError if settings cannot be met."""
    settings = run.settings
    if settings.eval_every:
        named.environment(run.document["dataset"]["env"])
    only_there = "the run was begun on a GPU and goes on only on one; dom2 evaluate works here"
    device = torch.device(actual_device(settings.device, only_there))
    if settings.graph and device.type != "cuda":
        raise UserError(f"expected a CUDA device with --graph true, found {device}; leave it out")
    algorithm = run.build(device, seeding.generators(run.seeds, seeding.LEARNING, device))
    if settings.data == "stream" and algorithm.batches == "windows":
        raise UserError(
            "expected --data memory or mapped with this algorithm, whose windows go on into the next block, "
            "found stream"
        )
    return algorithm, device


def restored(run: Run, algorithm: Learner, device: torch.device) -> Any:
    """Load the last checkpoint into new networks, and return the state of the minibatches.

    Raises UserError (code 3) if the checkpoint is damaged or belongs to other networks.
    """
    state = checkpoint.load_state(run.folder)
    saved = checkpoint.load_weights(run.folder, device)[1]
    with checkpoint.belonging(run.folder):
        algorithm.members.load_weights(saved)
        algorithm.members.load_state_dict(state["algorithm"])
        return state["batches"]


def assemble(
    name: str,
    config: Any,
    dataset: Dataset,
    thresholds: Thresholds,
    batch_size: int,
    seeds: range,
    device: torch.device,
) -> tuple[Learner, Minibatches]:
    """Make an untrained algorithm and its minibatches without a run."""
    learning, batches = (
        seeding.generators(seeds, purpose, device) for purpose in (seeding.LEARNING, seeding.BATCHES)
    )
    algorithm = algorithms.create(algorithms.load(name), config, dataset.spec, len(seeds), device, learning)
    return algorithm, minibatches(algorithm, dataset, thresholds, batch_size, batches, device)


def minibatches(
    algorithm: Learner,
    dataset: Dataset,
    thresholds: Thresholds,
    batch_size: int,
    generators: list[torch.Generator],
    device: torch.device,
    source: Source | None = None,
) -> Minibatches:
    """Make the sampler of the minibatches that the algorithm takes; ``untrained`` checks the source."""
    how = (dataset, thresholds, batch_size, generators, device)
    if algorithm.batches != "windows":
        sampler = Sampler(*how, joint=algorithm.batches == "joint", source=source)
        if isinstance(source, Tables) and source.files:  # which do not fit into memory
            return ReadAhead(sampler, source, source.files)
        return sampler
    assert source is None or isinstance(source, Tables)
    return WindowSampler(*how, algorithm.config.horizon, algorithm.config.gamma, source)


def rows(
    run: Run,
    dataset: Dataset,
    thresholds: Thresholds,
    device: torch.device,
    root: Path | None = None,
    on_decode: Progress = quiet,
) -> Source:
    """The source of minibatches that a run's settings name. Raises UserError if there is no room for it."""
    if run.settings.data == "mapped":
        return cache.mapped(dataset, cache.folder(root), on_decode, weights(dataset, thresholds))
    if run.settings.data == "stream":
        return stream.Blocks(dataset, run.settings.stream_blocks)
    room(dataset, device)
    return tables.in_memory(dataset, device)


def room(dataset: Dataset, device: torch.device) -> None:
    """Raise UserError if a dataset does not fit into the free memory, here and on the device."""
    obs, actions, rewards = (dataset.layout(name).nbytes for name in ("observations", "actions", "rewards"))
    remedy = "--data mapped draws the same minibatches from disk"
    memory.require(obs + 2 * (actions + rewards), dataset.id, remedy)
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # freed, but held by PyTorch
        free = torch.cuda.mem_get_info()[0] + kept
        memory.require(obs + actions + 2 * rewards, dataset.id, remedy, "memory on the GPU", free)


@contextmanager
def enough_memory(settings: Settings) -> Iterator[None]:
    """Convert the out-of-memory errors of Python, NumPy and PyTorch to UserError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not memory.lacking(error):
            raise
        found = " ".join(str(error).split()).rpartition("Allocator: ")[2] or type(error).__name__
        less = ", or --data mapped," if settings.data == "memory" else ""
        raise UserError(
            f"expected enough memory for --seeds {settings.seeds} and --batch-size {settings.batch_size}, "
            f"found: {found[:200]}; fewer of both{less} need less",
            FAILED,
        ) from error


def _loop(
    run: Run,
    algorithm: Learner,
    learn: Callable[[Any], dict[str, Tensor]],
    sampler: Minibatches,
    start: int,
    on_update: OnUpdate | None,
    interrupts: Interrupts,
) -> Status:
    settings, began, watch = run.settings, time.monotonic(), Watch(run.settings.seeds)
    with track.Track(run.folder, start) as log:
        for update in range(start + 1, settings.updates + 1):
            metrics = learn(sampler.sample())
            watch.see(update, metrics)
            stop, end = interrupts.requested, update == settings.updates
            saving = stop or end or update % settings.checkpoint_every == 0
            due = settings.eval_every and (end or update % settings.eval_every == 0)
            values = None
            if (
                saving or due or update % settings.log_every == 0
            ):  # before a checkpoint, so that no NaN is saved
                watch.check(run)
                found = reduce(metrics, settings.seeds)  # this waits for a GPU, so read the clock after it
                elapsed = time.monotonic() - began
                values = found | {
                    "time/seconds": elapsed,
                    "time/updates_per_second": (update - start) / elapsed,
                }
                if due:
                    values["eval/return"] = _evaluation(run, algorithm)
                log.log(update, values)
            if saving:
                log.flush()  # a resumed run does not repeat what came before its checkpoint
                save(run, algorithm, sampler, update)
            if on_update:
                on_update(update, values)
            if stop and not end:
                return "interrupted"
    return "complete"


def save(run: Run, algorithm: Learner, sampler: Minibatches, update: int) -> None:
    """Write a checkpoint. Raises UserError if a weight is NaN."""
    members = algorithm.members
    sound(run, update, members)
    state = {"algorithm": members.state_dict(), "batches": sampler.state()}
    checkpoint.save(run.folder, update, members.weights(), state)


def _evaluation(run: Run, algorithm: Learner) -> list[float]:
    with envs.closing(envs.make(run.document["dataset"]["env"], num_envs=run.settings.eval_episodes)) as env:
        played = evaluate.play(algorithm, run.settings.seeds, env, purpose=seeding.WATCHING)
    return played.returns.mean(axis=1).tolist()


def data_of(run: Run, root: Path | None) -> Dataset:
    """Open the dataset that a run learned from. Raises UserError (code 3) if it has changed since."""
    asked = run.document["dataset"]
    dataset = datasets.open(asked["id"], root)
    if dataset.hash != asked["hash"]:
        raise UserError(
            f"expected {asked['id']} with hash {asked['hash']}, found {dataset.hash}; "
            "restore that data or start a new run",
            CHECK_FAILED,
        )
    return dataset


class Interrupts:
    """While entered, SIGINT and SIGTERM only set ``requested``; a second SIGINT ends the process.

    A second SIGTERM does not: ``timeout`` sends two, and systemd sends one to a worker whose parent then
    interrupts it, too.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)
            self.requested |= executors.interrupted()  # before the handlers were set
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
        self.requested = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
