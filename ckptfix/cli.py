"""The command line: which command was meant, and how it ends. A command's module is imported when it is chosen."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from ckptfix.commands.settings import Settings, settings_options
from ckptfix.errors import CkptfixError, ExitCode, UsageError

# Name -> what `ckptfix --help` says, here so that it imports no command; a test compares with the commands' own words.
COMMANDS = {
    "inspect": "Say what a checkpoint is, what is wrong with it, what to do.",
    "convert": "Rewrite a checkpoint in the canonical layout, or another.",
    "verify": "Run the image projection and prove that it computes right.",
    "generate": "Make a picture of a face with an adapter and an SDXL base.",
    "diff": "Compare the tensors of two checkpoints, byte for byte.",
    "compat": "Say which programs load a file, and load it right.",
    "explain": "Say what a pasted error means, and what to run.",
    "doctor": "Check the environment, or the face models.",
    "demo": "Show the three commands at work on a file made for it.",
    "layouts": "List the known layouts, or print the rules of one.",
    "completion": "Print the completion script for a shell.",
}


class LazyGroup(click.Group):
    """Knows its commands by name; imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"ckptfix.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise _no_such_command(args[0])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _no_such_command(name: str) -> UsageError:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean `ckptfix {close[0]}`?" if close else "ckptfix --help lists the commands"
    if not close and (os.path.sep in name or os.path.exists(name)):  # noqa: PTH110
        hint = f"to look at a file: ckptfix inspect {name}"
    return UsageError(f"there is no command {name!r}", hint=hint)


def _show_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from ckptfix.commands.versions import version_text

        click.echo(version_text())
        context.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@settings_options
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the version and which optional parts are installed.",
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Inspect, convert, verify and use InstantID and IP-Adapter checkpoints.

    Reads .bin and .safetensors files without torch and without running code
    from them. Never invents a weight.

    \b
    Start with:
        ckptfix inspect ip-adapter.bin
        ckptfix convert --out fixed.safetensors
        ckptfix verify fixed.safetensors

    \b
    Exit codes:
        0  done, nothing wrong        3  unreadable input or unwritable output
        1  a problem was found        4  refused for safety
        2  wrong usage                5  something optional is missing
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(given: Sequence[str]) -> int:
    """Run one command line; returns the exit code and shows every error that a person or a file can cause.

    Any other exception is a bug of ours and leaves as it is.
    """
    if "_CKPTFIX_COMPLETE" in os.environ:
        cli.main(list(given), prog_name="ckptfix")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):  # a name that the encoding lacks is escaped
            stream.reconfigure(errors="backslashreplace")
    before_dashes = list(given)[: list(given).index("--")] if "--" in given else given
    settings = Settings(json="--json" in before_dashes or "--ndjson" in before_dashes)
    try:
        code = _run_command(list(given), settings)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BrokenPipeError:
        code = ExitCode.CLOSED_PIPE
        _abandon_stdout()
    return int(code)


def _run_command(given: list[str], settings: Settings) -> int:
    try:
        with cli.make_context("ckptfix", given, obj=settings) as context:
            return cli.invoke(context) or 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        return _fail(_usage_error(error, given), settings)
    except CkptfixError as error:
        return _fail(error, settings)
    except (KeyboardInterrupt, click.Abort):
        return _fail(_interrupted(), settings)


def _usage_error(error: click.ClickException, given: Sequence[str]) -> UsageError:
    command = next((word for word in given if word in COMMANDS), None)
    hint = f"{f'ckptfix {command}' if command else 'ckptfix'} --help lists the options"
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        message = f"there is no option {error.option_name}"
        similar = [option for option in error.possibilities or () if _alike(error.option_name, option)]
        if similar:
            hint = f"did you mean {' or '.join(sorted(similar))}? {hint}"
    return UsageError(message[:1].lower() + message[1:], hint=hint)


def _alike(given: str, known: str) -> bool:
    """Close enough to be offered: a beginning of it, or few letters off."""
    return known.startswith(given) or difflib.SequenceMatcher(None, given, known).ratio() > 0.8


def _interrupted() -> CkptfixError:
    error = CkptfixError("interrupted", hint="run it again; no unfinished file is left", code="interrupted")
    error.exit_code = ExitCode.INTERRUPTED
    return error


def _fail(error: CkptfixError, settings: Settings) -> int:
    from ckptfix.commands.failures import show_failure

    show_failure(error, settings)
    return int(error.exit_code)


def _abandon_stdout() -> None:
    """Whoever read it has gone: what is still buffered must not be tried again when Python exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError, AttributeError):  # no such stream, or not a real one
            continue
