"""``dom2``: learn from datasets, evaluate, report. Each command imports what it needs when it runs."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import MISSING, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dom2_cli import evaluating, probing, reproducing, running, sweeping
from dom2_cli import show as ui
from dom2_cli.options import force_option, json_option, mismatch_option, place_option, run_argument
from dom2data.errors import FAILED, INTERRUPTED, UserError

if TYPE_CHECKING:
    from dom2.config import Field
    from dom2.run import Run
    from dom2data.dataset import Dataset

# Set before torch starts its thread pool: how long its idle threads spin before they sleep. Measured on two
# cores, one seed, updates/s with the cores idle | busy with two other processes: sleep at once 6.8 | 3.7,
# this 9.8 | 2.2. Spinning forever gives 12.6 on idle cores, but on busy ones a product took 36 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")


@click.group(cls=ui.Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error. May stand anywhere on the line.")
@click.version_option(package_name="dom2")
def main(debug: bool) -> None:
    """Learn policies from offline multi-agent datasets and evaluate them.

    \b
    dom2 fit --dataset tag-medium
    dom2 fit --dataset tag-medium --seeds 5 --updates 4000 --out runs/five
    dom2 fit --resume runs/five
    dom2 evaluate runs/five --episodes 100
    dom2 report runs/five

    Exit codes: 0 ok, 1 the run failed, 2 usage error, 3 a check failed, 130 interrupted after saving.
    """


class FieldType(click.ParamType):
    """The type of a config field as a click type."""

    def __init__(self, type_: Any):
        from dom2.config import describe

        self.type_, self.name = type_, describe(type_)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from dom2.config import parse

        try:
            return parse(value, self.type_) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


class FitCommand(click.Command):
    """A command with a flag for every field of the run's settings and of the chosen algorithm's config."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = [part for word in args for part in word.split("=", 1)]
        if "--algorithm" in words[:-1]:
            ctx.meta["algorithm"] = words[words.index("--algorithm") + 1]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from dom2 import algorithms, config, presets
        from dom2.run import Settings

        name = ctx.meta.get("algorithm", Settings.algorithm)
        chosen = algorithms.load(name).config_type
        shown = {"threads": "PyTorch's default", "updates": presets.updates(name, "compact", "")}
        *fixed, help_option = super().get_params(ctx)
        settings = (
            replace(field, default=shown.get(field.name, field.default)) for field in config.fields(Settings)
        )
        options = [*fixed, *map(option, settings)]
        flags = {flag for each in (*options, help_option) for flag in each.opts}
        for own in map(option, config.fields(chosen)):
            if taken := flags.intersection(own.opts):
                raise UserError(
                    f"{name}: expected settings of its own, found {own.name} in {chosen.__name__}, whose "
                    f"flag {taken.pop()} every run has; give it another name"
                )
            options.append(own)
        return [*options, help_option]


def option(field: Field) -> click.Option:
    """Return a flag for a config field, without a default: presets and the config supply missing values."""
    default = field.default if field.default is not MISSING else None  # else a default_factory makes it
    default = ",".join(map(str, default)) if isinstance(default, tuple) else default
    default = str(default).lower() if isinstance(default, bool) else default
    help_text = field.doc if default is None else f"{field.doc} [{default}]"
    flag, type_ = "--" + field.name.replace("_", "-"), FieldType(field.type)
    return click.Option([flag, field.name], type=type_, metavar=type_.name, help=help_text)


@main.command(cls=FitCommand)
@click.option("--dataset", metavar="ID", help="Dataset to learn from, such as tag-medium.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [runs/<dataset>-<algorithm>].")
@click.option(
    "--preset",
    default="compact",
    show_default=True,
    help="compact or wide: network sizes, with matching learning rates and number of updates.",
)
@click.option(
    "--resume",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Continue a run; --updates may extend it.",
)
@click.option("--print-config", is_flag=True, help="Print the settings that would be used and stop.")
@click.option("--force", is_flag=True, help="Replace an existing run in the run folder.")
@mismatch_option
@place_option
@json_option
def fit(
    dataset: str | None,
    out: Path | None,
    preset: str,
    resume: Path | None,
    print_config: bool,
    force: bool,
    allow_mismatch: bool,
    root: Path | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Train an algorithm on a dataset; every hyper-parameter has a flag.

    \b
    dom2 fit --dataset tag-medium
    dom2 fit --dataset tag-medium-5pct --seeds 5 --updates 4000 --eta 1 --zeta 0.5
    dom2 fit --resume runs/tag-medium-v0-dom2 --updates 8000

    Preset, task and quality may override the algorithm's defaults shown here; see --print-config.
    The first Ctrl-C saves and stops, the second stops at once; --resume continues bit for bit on a CPU.
    """
    import torch

    from dom2 import fit as fitting
    from dom2 import run as runs

    given = {name: value for name, value in values.items() if value is not None}
    if resume:
        only_the_schedule(dataset=dataset, out=out, print_config=print_config, force=force)
        run = continued(resume, given, allow_mismatch, root)
    else:
        if out and not print_config:
            runs.free(out, force)  # before a dataset is generated for it
        data, document = described(dataset, preset, given, root, allow_mismatch)
        if print_config:
            ui.print_json({key: document[key] for key in ("settings", "config", "dataset")})
            return
        fitting.check(document, data)
        run = runs.create(
            out or runs.default_folder(data, document["settings"]["algorithm"]), document, force
        )
    torch.set_num_threads(run.settings.threads)
    announce(run)
    last: dict[str, Any] = {}
    with ui.progress_bar() as progress:

        def on_update(update: int, metrics: dict[str, Any] | None) -> None:
            last.update(metrics or {})
            progress(progress_line(last), update, run.settings.updates)

        status = fitting.fit(run, on_update, root, progress)
    if status == "interrupted":
        raise UserError(f"interrupted and saved; {resuming(run, root)} continues", INTERRUPTED)
    result = {"run": str(run.folder), "updates": run.settings.updates, "status": status, "metrics": last}
    ui.print_json(result) if as_json else click.echo(ui.rows(fit_rows(result, run.folder)))
    ui.note(f"next: dom2 evaluate {run.folder}")


def resuming(run: Run, root: Path | None) -> str:
    """Return the command that continues a run."""
    elsewhere = ["--root", str(root)] if root else []
    allowed = ["--allow-mismatch"] if run.document["mismatch"] else []
    return shlex.join(["dom2", "fit", "--resume", str(run.folder), *elsewhere, *allowed])


def announce(run: Run) -> None:
    """Print where the run is, the effect of augmentation, and whether the run only clones."""
    from dom2 import algorithms

    seeds, threads = ui.counted(run.settings.seeds, "seed"), ui.counted(run.settings.threads, "thread")
    ui.note(f"run: {run.folder} ({seeds}, {threads})")
    if run.settings.augment != "none" and (draws := run.document.get("draws")):
        share, size = f"{draws['top_decile_share']:.0%}", f"{draws['effective_sample_size']:,.0f}"
        ui.note(
            f"augmentation: {share} of draws from the best 10 % of episodes, {size} effective transitions"
        )
    name = getattr(algorithms.load(run.settings.algorithm), "improves_after", None)
    if name and run.settings.updates <= (after := run.document["config"][name]):
        flag = f"--{name.replace('_', '-')}"
        ui.note(
            f"this run only clones the data: {run.settings.algorithm} improves on cloning after update "
            f"{after:,}, but the run ends at {run.settings.updates:,}; use more --updates or a smaller {flag}"
        )


def described(
    dataset: str | None, preset: str, given: dict[str, Any], root: Path | None, allow_mismatch: bool
) -> tuple[Dataset, dict[str, Any]]:
    """Return a new run's data (a missing standard dataset is generated) and its document."""
    import torch

    from dom2 import config, fit, presets, run
    from dom2data import named

    named.remember(given.get("algorithm", ""))
    if dataset is None:
        raise UserError("expected --dataset ID (or --resume RUN), found neither; see `dom2data list`")
    names = {field.name for field in config.fields(run.Settings)}
    chosen = {name: value for name, value in given.items() if name in names}
    settings = config.build(run.Settings, {"threads": torch.get_num_threads()} | chosen)
    data = open_or_generate(dataset, root)
    hyper = {name: value for name, value in given.items() if name not in names}
    configured = fit.configure(settings.algorithm, preset, data.env, data.quality, hyper)
    if "updates" not in chosen:
        settings = replace(settings, updates=presets.updates(settings.algorithm, preset, data.env))
    return data, run.describe(settings, configured, data, sys.argv[1:], allow_mismatch)


def open_or_generate(name: str, root: Path | None) -> Dataset:
    """Open a dataset by name; a missing standard one, such as tag-medium, is generated first."""
    from dom2_cli.generating import carry_out
    from dom2data import dataset as datasets
    from dom2data import generate, ids, recipes

    base, standard = ids.place(root), recipes.standard(name)
    if standard is not None and isinstance(base, Path):  # under a URL, datasets are only read
        try:
            ids.resolve(name, base)
        except UserError:
            env, quality = standard
            ui.note(f"no {name} under {base}: running dom2data generate --env {env} --quality {quality}")
            plan = generate.plan(env, quality, root=root)
            carry_out(plan, plan.executor(), force=False)
    return datasets.open(name, root)


def only_the_schedule(**given: Any) -> None:
    """Raises UserError if --resume comes with options that only apply to a new run."""
    source = click.get_current_context().get_parameter_source("preset")
    chosen = given | {"preset": source is not click.core.ParameterSource.DEFAULT}
    if refused := [f"--{name.replace('_', '-')}" for name, value in chosen.items() if value]:
        raise UserError(
            f"expected --resume without {', '.join(refused)}: it continues a run with its own settings"
        )


def continued(folder: Path, given: dict[str, Any], allow_mismatch: bool, root: Path | None) -> Run:
    """Return an existing run with its schedule amended; a run that cannot continue is not changed."""
    from dom2 import checkpoint, fit, run

    allowed = {"updates", "log_every", "checkpoint_every", "eval_every", "eval_episodes", "data"}
    if refused := sorted(set(given) - allowed):
        flags = ", ".join("--" + name.replace("_", "-") for name in refused)
        raise UserError(f"expected only the schedule to change with --resume, found {flags}; start a new run")
    found = run.read(folder)
    done = checkpoint.updates(folder)
    if given.get("updates", done) < done:
        raise UserError(f"expected at least the {done} updates that {folder} has, found {given['updates']}")
    kept, data = found.settings.data, given.get("data", found.settings.data)
    if data != kept and "stream" in (data, kept):
        raise UserError(
            f"expected --data {kept} as before, found {data}, which draws other minibatches; start a new run"
        )
    mismatch = run.mismatch(found.spec, found.document["dataset"]["env"], allow_mismatch)
    wanted = found.document | {"settings": found.document["settings"] | given}
    with run.held(folder):  # a process that is fitting it would replace the checkpoint meanwhile
        fit.check(wanted, fit.data_of(found, root), folder)
    found.amend(mismatch, **given)
    return found


def progress_line(metrics: dict[str, Any]) -> str:
    """Return the most informative loss and value in a few characters."""
    short = {"train/actor/bc": "bc", "train/actor/q": "q", "eval/return": "return"}
    means = {label: metrics[name] for name, label in short.items() if name in metrics}
    if not means and (loss := next((name for name in metrics if name.endswith("loss")), None)):
        means = {loss.removeprefix("train/"): metrics[loss]}  # the algorithm has no such metrics
    return " ".join(f"{label} {sum(row) / len(row):.2f}" for label, row in means.items()) or "fit"


def fit_rows(result: dict[str, Any], folder: Path) -> dict[str, str]:
    from dom2 import track

    metrics = result["metrics"]
    means = {name: sum(v) / len(v) for name, v in metrics.items() if isinstance(v, list)}
    facts = {"run": result["run"], "updates": f"{result['updates']:,}"}
    if "time/seconds" in metrics:
        rate = metrics["time/updates_per_second"]
        seconds = track.seconds(track.read(folder))  # includes the time before a resume
        facts["wall time"] = f"{ui.duration(seconds)} ({rate:.1f} updates/s)"
    return facts | {name: f"{value:.3f}" for name, value in means.items()}


@main.command()
@run_argument
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write [RUN/report.html]."
)
@force_option
@place_option
def report(folder: Path, out: Path | None, force: bool, root: Path | None) -> None:
    """Write one HTML file about a run: curves, returns, score, pictures of the agents.

    \b
    dom2 report runs/tag-medium-v0-dom2
    """
    from dom2 import report as reports
    from dom2 import run as runs

    path = out or folder / reports.OWN
    reports.write(runs.read(folder), path, root, force=force)
    click.echo(str(path))


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check the installation; print what a bug report should contain."""
    from dom2 import doctor as checks

    found = checks.examine()
    ui.print_json(found) if as_json else click.echo(checks.text(found))
    if found["problems"]:
        raise SystemExit(FAILED)


for part in (evaluating, probing, reproducing, running, sweeping):
    for command in part.COMMANDS:
        main.add_command(command)
