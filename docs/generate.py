"""Writes what documentation repeats of the program: help blocks of README.md and one page per command.

Usage: python -m docs.generate       (a test fails while anything here is out of date)
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from ckptfix.cli import COMMANDS, cli

ROOT = Path(__file__).parents[1]
HELP = re.compile(r"<!-- help:(?: (?P<command>\w+))? -->\n```console\n(?P<text>.*?)```", re.DOTALL)
_MADE = "<!-- python -m docs.generate writes this page; edit the command's help instead -->\n"


def help_text(command: str | None) -> str:
    """The command line and what it prints, at 80 columns."""
    settings = {**cli.context_settings, "terminal_width": 80}
    with click.Context(cli, info_name="ckptfix", **settings) as context:
        if command is None:
            return f"$ ckptfix --help\n{cli.get_help(context)}\n"
        found = cli.get_command(context, command)
        if found is None:
            raise SystemExit(f"no command {command}")
        with click.Context(found, info_name=command, parent=context) as inner:
            return f"$ ckptfix {command} --help\n{found.get_help(inner)}\n"


def with_help(text: str) -> str:
    """A document with each `<!-- help: NAME -->` block as it should stand."""

    def block(found: re.Match[str]) -> str:
        name = found["command"]
        return f"<!-- help:{' ' + name if name else ''} -->\n```console\n{help_text(name)}```"

    return HELP.sub(block, text)


def pages() -> dict[Path, str]:
    """Every generated file, by path."""
    found = {ROOT / "README.md": with_help((ROOT / "README.md").read_text(encoding="utf-8"))}
    for name, summary in COMMANDS.items():
        text = f"# ckptfix {name}\n\n{_MADE}\n{summary}\n\n```console\n{help_text(name)}```\n"
        found[ROOT / "docs" / "commands" / f"{name}.md"] = text
    index = "\n".join(f"- [{name}]({name}.md): {summary}" for name, summary in COMMANDS.items())
    found[ROOT / "docs" / "commands" / "README.md"] = f"# Commands\n\n{_MADE}\n{index}\n"
    return found


def main() -> None:
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
