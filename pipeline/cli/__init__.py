"""The command line.

`main` maps every error to one line and an exit code: 0 done, 1 found problems, 2 bad input.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import locale
import os
import sys

import click

COMMANDS = {
    "init": (
        "pipeline.cli.setup.init",
        "Make a project with one pipeline, sample uploads and a test.",
    ),
    "run": ("pipeline.cli.runs.run", "Process what is new, until nothing is new."),
    "hint": ("pipeline.cli.runs.hint", "Process the objects of these keys now, without a listing."),
    "plan": ("pipeline.cli.reports.plan", "Say what a run would do; change nothing."),
    "status": (
        "pipeline.cli.reports.status",
        "Count sources by state; show the last commits and failures.",
    ),
    "sql": ("pipeline.cli.tables.sql", "Ask the committed rows, aggregates and state in SQL."),
    "files": (
        "pipeline.cli.tables.files",
        "List the Parquet files that count, for other programs.",
    ),
    "schema": (
        "pipeline.cli.tables.schema",
        "Show columns, checks, and which commit changed them.",
    ),
    "quarantine": (
        "pipeline.cli.runs.quarantine",
        "List, show, retry or replay files that failed.",
    ),
    "lineage": ("pipeline.cli.reports.lineage", "From a source to its outputs, and back."),
    "audit": (
        "pipeline.cli.reports.audit",
        "Prove that every object is in exactly one state and every row is there once.",
    ),
    "aggregate": (
        "pipeline.cli.tables.aggregate",
        "Bring aggregates up to date, compute them from scratch, or check them.",
    ),
    "sinks": (
        "pipeline.cli.tables.sinks",
        "Show what each declared sink holds; bring them up to date.",
    ),
    "compact": (
        "pipeline.cli.tables.compact",
        "Merge small Parquet files into few large, sorted ones.",
    ),
    "vacuum": (
        "pipeline.cli.tables.vacuum",
        "Delete superseded and orphaned files that retention lets go.",
    ),
    "backfill": ("pipeline.cli.runs.backfill", "Process objects again that were processed before."),
    "diff": (
        "pipeline.cli.tables.diff",
        "Say what differs between two generations, commits or times of a table.",
    ),
    "publish": (
        "pipeline.cli.tables.publish",
        "Let readers see the new generation, from one commit to the next.",
    ),
    "rollback": ("pipeline.cli.tables.rollback", "Let readers see the generation before again."),
    "generations": (
        "pipeline.cli.tables.generations",
        "List the generations of a table, or drop one.",
    ),
    "submit": ("pipeline.cli.runs.submit", "Have files processed now; print a job id and leave."),
    "jobs": ("pipeline.cli.runs.jobs", "Show, wait for, cancel or list what was submitted."),
    "deploy": ("pipeline.cli.setup.deploy", "Check FILE's pipelines and deploy them to Modal."),
    "doctor": (
        "pipeline.cli.setup.doctor",
        "Say what is missing on this machine and account, and how to fix it.",
    ),
}

EXIT_PROBLEMS = 1
EXIT_BAD_INPUT = 2
ALONE = "alone"
"""What a command's context carries where the process is its own."""


class LazyCommands(click.Group):
    """Imports a command's module only when it is called, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(
            importlib.import_module(COMMANDS[cmd_name][0]), f"{cmd_name}_command"
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from pipeline.errors import nearest

            raise click.UsageError(
                f"there is no command {args[0]!r}{nearest(args[0], list(COMMANDS))}"
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyCommands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(None, "--version", package_name="tidemill", prog_name="tidemill")
def cli() -> None:
    """Drop files in a bucket, each is processed by your Python function, rows land in Parquet, SQL
    answers.

    \b
    tidemill init flights                                  make a project to start from
    tidemill run flights/flows.py --bucket ./bucket        process what is new
    tidemill sql flights/flows.py "SELECT ..."             ask
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit, at once: nothing is left to tear down, and native threads may
    fail at that.
    """
    speak_utf8()
    code = invoke(args, alone=True)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def speak_utf8() -> None:
    """Text, names of files and output are UTF-8 whatever locale is set: starts again in Python's
    UTF-8 mode where they are not.
    """
    spoken = {sys.getfilesystemencoding(), locale.getpreferredencoding(False)}
    if os.name == "posix" and {name.lower().replace("_", "-") for name in spoken} != {"utf-8"}:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def invoke(args: list[str] | None = None, *, alone: bool = False) -> int:
    """Run the command line; the exit code. alone: this process does nothing else, so a command may
    fork it.
    """
    arguments = sys.argv[1:] if args is None else list(args)
    try:
        return _run(arguments, alone)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:  # a group without a command
        click.echo(error.format_message())
        return 0
    except click.Abort:
        click.echo("stopped", err=True)
        return 130
    except click.ClickException as error:
        _complain(error.format_message())
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return EXIT_PROBLEMS
    except Exception as error:
        if "--debug" in arguments:
            raise
        return _report(error)


def owns_process() -> bool:
    """Whether the command has the process to itself, and may change and fork it (see `invoke`)."""
    context = click.get_current_context(silent=True)
    return context is not None and context.obj == ALONE


def _run(arguments: list[str], alone: bool) -> int:
    """What the command returns, if it is an exit code."""
    result = cli.main(
        args=arguments,
        standalone_mode=False,
        prog_name="tidemill",
        obj=ALONE if alone else None,
    )
    return result if isinstance(result, int) else 0


def _report(error: Exception) -> int:
    from pipeline import errors

    later = (
        errors.StoreUnavailable,
        errors.ObjectNotFound,
        errors.CommitConflict,
        errors.CommitUnknown,
    )
    if isinstance(error, errors.InvariantViolated) or not isinstance(error, errors.TidemillError):
        what = f"{type(error).__name__}: {_one_line(str(error))}"
        click.echo(f"tidemill: this is a bug of Tidemill: {what} (--debug shows where)", err=True)
        return EXIT_PROBLEMS
    _complain(str(error))
    return EXIT_PROBLEMS if isinstance(error, later) else EXIT_BAD_INPUT


def _complain(text: str) -> None:
    click.echo(f"tidemill: {_one_line(text)}", err=True)


def _one_line(text: str) -> str:
    """On one line, and nothing in it steers the terminal: keys and messages are other people's."""
    from pipeline.tracebacks import visible

    return visible(" ".join(text.split()))
