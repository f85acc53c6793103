"""The command line. Commands are imported when they are used, so that ``mibench list`` needs no torch."""

from __future__ import annotations

import io
import sys
from importlib import import_module

import click

import mibench
from mibench.boundary import machine_sentence
from mibench.errors import EXIT_FAILED, EXIT_INTERRUPTED, StageFailed, UserError

INTERRUPTED = "Interrupted. Finished stages are kept; the same command goes on from there."

_COMMANDS = {
    "run": "mibench.cli.run:run",
    "plan": "mibench.cli.inspect:plan",
    "list": "mibench.cli.inspect:list_",
    "show": "mibench.cli.inspect:show",
    "status": "mibench.cli.status:status",
    "logs": "mibench.cli.status:logs",
    "grids": "mibench.cli.status:grids",
    "collect": "mibench.cli.run:collect",
    "gc": "mibench.cli.status:gc",
    "why": "mibench.cli.inspect:why",
    "new": "mibench.cli.new:new",
    "check": "mibench.cli.new:check",
    "model": "mibench.cli.model:model",
    "suite": "mibench.cli.suite:suite",
    "claims": "mibench.cli.claims:claims",
    "export": "mibench.cli.export:export",
    "site": "mibench.cli.site:site",
    "study": "mibench.cli.study:study",
    "submit": "mibench.cli.submit:submit",
    "reproduce": "mibench.cli.submit:reproduce",
    "db": "mibench.cli.db:db",
    "data": "mibench.cli.data:data",
    "import-checkpoint": "mibench.cli.import_checkpoint:import_checkpoint",
    "doctor": "mibench.cli.doctor:doctor",
    "completion": "mibench.cli.doctor:completion",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            from mibench.errors import unknown

            raise click.UsageError(str(unknown("command", args[0], _COMMANDS)), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(mibench.__version__, prog_name="mibench")
def cli() -> None:
    """Model inversion attacks against defended classifiers, under fixed protocols.

    \b
    Start here:
      mibench run --defense re --attack kedmi
      mibench list
    """


def main() -> None:
    """The ``mibench`` program: sentences instead of tracebacks for wrong input, and the documented exit codes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names that are not UTF-8
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo(INTERRUPTED, err=True)
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (UserError, StageFailed) as error:
        click.echo(f"Error: {error}", err=True)
        code = error.exit_code
    except KeyboardInterrupt:
        click.echo(INTERRUPTED, err=True)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        code = EXIT_FAILED
        sys.stderr.close()
    except OSError as error:
        if (sentence := machine_sentence(error)) is None:
            raise
        click.echo(f"Error: {sentence}", err=True)
        code = sentence.exit_code
    sys.exit(code if isinstance(code, int) else 0)
