"""The rules are data: their form, and that each alternative of each rule is shown by a text that gets its answer."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

from ckptfix.cli import COMMANDS, cli
from ckptfix.explaining.matching import match
from ckptfix.explaining.pasted_text import readings
from ckptfix.explaining.statements import read_statements
from ckptfix.explaining.troubles import CERTAINTIES, Trouble, known_troubles, load_troubles
from ckptfix.explaining.widths import holes
from ckptfix.explanation import explain

FOLDER = Path(__file__).parent / "fixtures" / "errors"

TEXTS: dict[str, list[str]] = tomllib.loads((FOLDER / "wordings.toml").read_text(encoding="utf-8"))
POSTED = [path.read_text(encoding="utf-8").split("\n", 4)[4] for path in sorted(FOLDER.glob("*.txt"))]


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in TEXTS.items() for text in texts])
def test_a_wording_gets_its_answer(code: str, text: str) -> None:
    found = explain(text)
    assert code in [cause.code for cause in found.causes], found.causes
    for cause in found.causes:
        assert not re.search(r"\{\w+(\|\w+)?\}", cause.meaning + cause.command.replace("{bias,weight}", ""))


def test_no_alternative_of_a_rule_is_without_a_text() -> None:
    """A pattern that fits nothing would never be noticed."""
    shown: set[tuple[str, int]] = set()
    for text in [*POSTED, *(text for texts in TEXTS.values() for text in texts)]:
        for reading in readings(text):
            statements = read_statements(reading)
            shown |= {
                (trouble.code, number)
                for trouble in known_troubles()
                for number, when in enumerate(trouble.whens)
                if match(when, statements, named_file=False) is not None
            }
    every = {(trouble.code, number) for trouble in known_troubles() for number in range(len(trouble.whens))}
    assert every - shown == set()


def test_codes_are_unique_and_speak_of_each_other() -> None:
    codes = [trouble.code for trouble in known_troubles()]
    assert len(codes) == len(set(codes))
    assert {code for trouble in known_troubles() for code in trouble.instead_of} <= set(codes)
    findings = [code for trouble in known_troubles() for code in trouble.findings]
    assert len(findings) == len(set(findings))


@pytest.mark.parametrize("trouble", known_troubles(), ids=lambda trouble: trouble.code)
def test_a_rule_says_all_that_it_owes(trouble: Trouble) -> None:
    assert all(re.match(r"[\w.-]+(/[\w.-]+)?[#:]", source) for source in trouble.sources), trouble.sources
    for command in (trouble.command, *(when.command for when in trouble.whens if when.command)):
        words = command.split()
        assert words[0] in ("ckptfix", "git", "hf", "pip", "chmod")
        assert words[0] != "ckptfix" or words[1] in set(COMMANDS)
        assert {name for name, _ in holes(command)} <= {"file", "path", "folder", "diffusers"}
    assert not trouble.findings or {name for name, _ in holes(trouble.of_file)} <= {"constructor"}
    for when in trouble.whens:
        assert when.certainty in CERTAINTIES
        assert (when.meaning or trouble.meaning).endswith(".")


def test_every_option_in_a_command_exists() -> None:
    for trouble in known_troubles():
        for command in (trouble.command, *(when.command for when in trouble.whens if when.command)):
            program, *words = command.split()
            if program != "ckptfix":
                continue
            found = cli.get_command(click.Context(cli), words[0])
            assert found is not None
            known = {option for parameter in found.params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known, command


WHOLE = 'code = "x"\ntitle = "t"\nmeaning = "m."\ncommand = "c"\nsources = ["s"]\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (WHOLE + "extra = 1", "unknown keys ['extra']"),
        (WHOLE.replace('"s"', ""), "must say something"),
        (WHOLE + 'check = {kind = "x"}', "unknown check"),
        (WHOLE + '[[trouble.when]]\ntext = "a"', "near words in small letters"),
        (WHOLE + '[[trouble.when]]\ntext = "a"\nwords = ["A"]', "near words in small letters"),
        (WHOLE + '[[trouble.when]]\ncertainty = "sure"', "unknown certainty"),
        (WHOLE + '[[trouble.when]]\nsound = "loud"', "unknown keys ['sound']"),
    ],
)
def test_a_rule_in_the_wrong_form_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape("x.toml: x: ")) as caught:
        load_troubles(f"[[trouble]]\n{text}", "x.toml")
    assert problem in str(caught.value)
