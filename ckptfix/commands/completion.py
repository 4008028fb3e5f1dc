"""`ckptfix completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ckptfix.commands.common import Command
from ckptfix.commands.settings import settings_options
from ckptfix.errors import UnavailableError
from ckptfix.report.terminal import write_text
from ckptfix.requirements import installed_version

SHELLS = ("bash", "zsh", "fish", "powershell")


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
        ckptfix completion powershell >> $PROFILE
    """
    from ckptfix.cli import cli

    completion = get_completion_class(shell)
    if completion is None:
        raise UnavailableError(
            f"click {installed_version('click')} has no completion for {shell}",
            hint="pip install --upgrade click (8.5 brought PowerShell), or use bash, zsh or fish",
            code="completion",
        )
    write_text(completion(cli, {}, "ckptfix", "_CKPTFIX_COMPLETE").source())
