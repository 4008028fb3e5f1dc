"""What README and docs/ show is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ckptfix.cli import COMMANDS
from ckptfix.errors import ExitCode
from ckptfix.layouts.mapping_file import load_layout
from docs.generate import HELP, pages
from tests.calling import call
from tests.fixtures.make_checkpoints import canonical, renamed, save_nested_bin

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [found["text"] for found in BLOCK.finditer(README.read_text(encoding="utf-8")) if found["kind"] == kind]


def test_generated_pages_are_up_to_date() -> None:
    for path, text in pages().items():
        assert path.is_file(), f"{path}: python -m docs.generate"
        assert path.read_text(encoding="utf-8") == text, f"{path}: python -m docs.generate"
    made = {path for path in pages() if path.parent.name == "commands"}
    assert made == set((README.parent / "docs" / "commands").iterdir())


def test_the_readme_shows_the_help_of_the_main_commands() -> None:
    shown = {found["command"] for found in HELP.finditer(README.read_text(encoding="utf-8"))}
    assert shown >= {None, "inspect", "convert", "verify"}


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


def test_the_pre_commit_hook_calls_a_command_that_takes_many_files(tmp_path: Path) -> None:
    hook = (README.parent / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^[- ] (\w+): (.+)$", hook, re.MULTILINE))
    program, *words = fields["entry"].split()
    assert program == "ckptfix"
    sound = save_nested_bin(tmp_path / "a.bin", canonical())
    broken = save_nested_bin(tmp_path / "b.pt", renamed(canonical(), ".latents", ".queries"))
    assert re.search(fields["files"], sound.name)
    assert re.search(fields["files"], broken.name)
    assert call(*words, sound, sound).code == 0
    assert call(*words, sound, broken).code == 1


def test_the_story_shows_what_explain_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = (README.parent / "docs" / "story.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    divide, missing = re.findall(r"```\n((?:\w+Error).*?)```", story, re.DOTALL)
    for name, text in (("err.txt", missing), ("err2.txt", divide)):
        Path(name).write_text(text, encoding="utf-8")
        assert f"```console\n$ ckptfix explain {name}\n{call('explain', name).out}```" in story
