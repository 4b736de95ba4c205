"""Terminal output shared by both commands: errors as exit codes, progress, numbers as text."""

from __future__ import annotations

import contextlib
import difflib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dom2data.errors import FAILED, INTERRUPTED, USAGE, UserError, told, users_line

if TYPE_CHECKING:
    from dom2data.spec import Progress


class Commands(click.Group):
    """A command group that reports errors as one line and an exit code instead of a traceback.

    ``--debug``, anywhere on the line, shows the traceback.
    """

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        words = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in words
        extra["standalone_mode"] = False
        try:
            sys.exit(super().main([word for word in words if word != "--debug"], *rest, **extra) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(USAGE)
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else self.name
            stop(f"{error.format_message().rstrip('.')}; see `{where} --help`", USAGE)
        except (click.Abort, KeyboardInterrupt):
            stop("interrupted", INTERRUPTED)
        except Exception as error:
            if debug:
                raise
            stop(*explain(error))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            known = self.list_commands(ctx)
            raise click.UsageError(
                f"expected a command ({', '.join(known)}), found {name!r}{suggest(name, known)}", ctx
            )
        return super().resolve_command(ctx, args)


def explain(error: Exception) -> tuple[str, int]:
    """Return the message and the exit code for an uncaught error."""
    if isinstance(error, UserError):
        return error.message, error.code
    where, function = users_line(error) or ("", "")
    if where and function != "__post_init__":  # there a config rejects a value
        return f"{where}: {told(error)}; fix it (--debug shows the traceback)", FAILED
    if isinstance(error, ValueError):
        return str(error), USAGE
    if isinstance(error, OSError):
        return f"{error.filename or 'input/output'}: {error.strerror or error}", FAILED
    return f"{told(error)} (this is a bug; --debug shows where)", FAILED


def stop(message: str, code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    raise SystemExit(code)


def note(message: str) -> None:
    """Print a message that is not part of the result, on stderr."""
    click.echo(message, err=True)


def suggest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False))


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """Yield ``update(what, done, total)``; its first call starts a bar on stderr, with rate and time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("", total=None, rate="")
    # Time, steps done and total at the start: a resumed run starts with some; one job may follow another.
    began: list[tuple[float, int, int]] = []

    def update(what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        bar.start()  # no effect once it has started
        if not began or began[0][2] != total:
            began[:] = [(now, done, total)]
        since, elapsed = done - began[0][1], now - began[0][0]
        speed = rate(since / elapsed) if since and elapsed else ""
        bar.update(task, description=what, completed=done, total=total, rate=speed)

    try:
        yield update
    finally:
        if began:
            bar.stop()


def size(nbytes: float) -> str:
    """210 MB"""
    return f"{nbytes / 1e6:,.0f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:,.0f} kB"


def duration(seconds: float) -> str:
    """6.4 s, 3 min 20 s, 31 h 5 min"""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def rate(per_second: float) -> str:
    """1,200/s, 0.8/s"""
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.2g}/s"


def counted(number: int, what: str) -> str:
    """1 seed, 5 seeds"""
    return f"{number:,} {what}{'s' * (number != 1)}"


def number(value: float | None, digits: int = 1) -> str:
    """116.4, or a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def rows(facts: Mapping[str, str]) -> str:
    """Format facts as lines, with names padded to the same width."""
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def table(header: Sequence[str], body: Sequence[Sequence[str]], err: bool = False) -> None:
    """Print a table on stdout (or stderr): first column left-aligned, numbers right-aligned, never truncated.

    Written here because a terminal styling library takes 0.2 s to lay out a hundred rows.
    """
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]

    def line(row: Sequence[str]) -> str:
        numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        return "   ".join((row[0].ljust(widths[0]), *numbers))

    rule = "─" * len(line(header))
    click.echo("\n".join([line(header), rule, *map(line, body)]), err=err)
