"""What the README shows is what the program does. `python -m tests.test_readme` refreshes its help blocks."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from ckptfix.cli import COMMANDS, cli
from ckptfix.errors import ExitCode
from ckptfix.layouts.mapping_file import load_layout
from tests.fixtures.make_checkpoints import canonical, renamed, save_nested_bin

README = Path(__file__).parents[1] / "README.md"
HELP = re.compile(r"<!-- help:(?: (?P<command>\w+))? -->\n```console\n(?P<text>.*?)```", re.DOTALL)
BLOCK = re.compile(r"```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


def help_text(command: str | None) -> str:
    """The block as it should stand: the command line and what it prints, at 80 columns."""
    settings = {**cli.context_settings, "terminal_width": 80}
    with click.Context(cli, info_name="ckptfix", **settings) as context:
        if command is None:
            return f"$ ckptfix --help\n{cli.get_help(context)}\n"
        found = cli.get_command(context, command)
        assert found is not None
        with click.Context(found, info_name=command, parent=context) as inner:
            return f"$ ckptfix {command} --help\n{found.get_help(inner)}\n"


def blocks(kind: str) -> list[str]:
    return [found["text"] for found in BLOCK.finditer(README.read_text(encoding="utf-8")) if found["kind"] == kind]


def test_help_blocks_are_the_real_help() -> None:
    found = {match["command"]: match["text"] for match in HELP.finditer(README.read_text(encoding="utf-8"))}
    assert found.keys() >= {None, "inspect", "convert", "verify"}
    for command, text in found.items():
        assert text == help_text(command), "python -m tests.test_readme"


def test_every_command_of_the_sessions_exists() -> None:
    lines = [line for block in blocks("console") for line in block.splitlines() if line.startswith("$ ckptfix ")]
    named = {line.split()[2] for line in lines}
    assert named >= {"inspect", "convert", "verify"}
    assert {word for word in named if not word.startswith("-")} <= COMMANDS.keys()


def test_every_exit_code_is_explained() -> None:
    table = re.search(r"\| exit \| meaning \|\n(.*?)\n\n", README.read_text(encoding="utf-8"), re.DOTALL)
    assert table is not None
    explained = {int(code) for line in table[1].splitlines()[1:] for code in re.findall(r"\d+", line.split("|")[1])}
    assert explained == {int(code) for code in ExitCode}


def test_the_mapping_is_one() -> None:
    (text,) = blocks("toml")
    layout = load_layout(text, "README.md")
    assert [rule.op for rule in layout.rules] == ["rename", "rename", "rename", "concat"]


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    save_nested_bin(Path("ip-adapter.bin"), renamed(canonical(), ".latents", ".queries"))
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    inspected, converted, verified, loaded = capsys.readouterr().out.splitlines()
    assert inspected == "nested-bin+resampler-queries+odd ('image_proj.latents',) ('image_proj.queries',)"
    assert converted == "True 169"
    assert verified.startswith("PASS")
    assert loaded == "torch.Size([1, 4, 64])"


if __name__ == "__main__":
    README.write_text(
        HELP.sub(
            lambda found: (
                f"<!-- help:{' ' + found['command'] if found['command'] else ''} -->\n"
                f"```console\n{help_text(found['command'])}```"
            ),
            README.read_text(encoding="utf-8"),
        ),
        encoding="utf-8",
    )
