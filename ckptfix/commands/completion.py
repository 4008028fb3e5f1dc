"""`ckptfix completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ckptfix.commands.common import Command
from ckptfix.commands.settings import settings_options
from ckptfix.report.terminal import write_text

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", cls=Command, short_help="Print the completion script for a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@settings_options
def command(shell: str) -> None:
    """Print the completion script for a shell.

    \b
    Examples:
        ckptfix completion bash >> ~/.bashrc
        ckptfix completion zsh >> ~/.zshrc
        ckptfix completion fish > ~/.config/fish/completions/ckptfix.fish
    """
    from ckptfix.cli import cli

    completion = get_completion_class(shell)
    if completion is None:
        raise AssertionError(f"click has no completion for {shell}")
    write_text(completion(cli, {}, "ckptfix", "_CKPTFIX_COMPLETE").source())
