"""What people see, word for word where it is ours; and JSON that every reader takes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from ckptfix.commands.failures import show_failure
from ckptfix.commands.settings import Settings
from ckptfix.errors import UsageError
from ckptfix.findings import Finding
from ckptfix.inspection import inspect
from ckptfix.report.errors import error_lines
from ckptfix.report.findings import add_findings, add_hint
from ckptfix.report.inspection_page import inspection_page
from ckptfix.report.numbers import seconds, size
from ckptfix.report.page import Page
from ckptfix.report.progress import FilesBar, ProgressBar, wants_bars
from ckptfix.report.terminal import json_text, narrate, wants_colour, width, write_text
from tests.fixtures.make_checkpoints import canonical, renamed, save_nested_bin, save_safetensors, without


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def text_of(page: Page) -> str:
    return "\n".join("".join(text for text, _ in line) for line in page.lines) + "\n"


# -- the inspection page -----------------------------------------------------------------------------------------------


def shown(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(path.parent)
    return text_of(inspection_page(inspect(path.name, heads=4, dim_head=16), 80))


def test_a_file_that_needs_converting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_nested_bin(tmp_path / "ip-adapter.bin", renamed(canonical(), ".latents", ".queries"))
    text = shown(path, monkeypatch)
    assert text.startswith("ip-adapter.bin: Resampler adapter, complete, needs converting\n\n")
    assert "  holds        169 tensors, 186,808 parameters, F32, 747.2 kB\n" in text
    assert "  layout       nested-bin+resampler-queries+odd\n" in text
    assert text.endswith(
        """\
Missing as the file stands: 1 name
  image_proj.latents

Unexpected as the file stands: 1 name
  image_proj.queries

What convert would do
  image_proj.queries -> image_proj.latents

Constructor to use
  Resampler(dim=64, depth=2, dim_head=16, heads=4, num_queries=4,
            embedding_dim=24, output_dim=40)
  assumed: dim_head=16, heads=4

Next
  ckptfix convert ip-adapter.bin --out fixed.safetensors
"""
    )


def test_a_file_that_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(save_safetensors(tmp_path / "good.safetensors", canonical()), monkeypatch)
    assert text.startswith("good.safetensors: Resampler adapter, canonical, complete: ready to use\n")
    assert text.endswith("\nNext\n  ckptfix verify good.safetensors\n")
    assert "Findings" not in text and "Missing" not in text


def test_a_file_that_lacks_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = [f"image_proj.layers.{block}.0.norm1.{part}" for block in range(2) for part in ("weight", "bias")]
    text = shown(save_nested_bin(tmp_path / "cut.bin", without(canonical(), *lost)), monkeypatch)
    assert text.startswith("cut.bin: Resampler adapter, not usable as it is: 4 tensors missing\n")
    assert "What would have to be invented: 4 tensors\n  image_proj.layers.{0,1}.0.norm1.{bias,weight} [64]\n" in text
    assert "Next" not in text


def test_a_file_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"model.embed.weight": canonical()["image_proj.latents"]}
    text = shown(save_safetensors(tmp_path / "other.safetensors", other), monkeypatch)
    assert text.startswith("other.safetensors: not a known adapter\n")
    assert "Constructor" not in text and "Sizes" not in text


# -- pages -------------------------------------------------------------------------------------------------------------


def test_a_command_is_never_broken_and_prose_is() -> None:
    page = Page(40)
    command = "ckptfix convert 'my adapter.bin' --drop-unexplained --out fixed.safetensors"
    prose = "ckptfix verify x --against y compares with a recorded run and shows the rest"
    add_findings(page, [Finding("a", "note", "first", prose), Finding("b", "error", "second", command)])
    assert text_of(page) == (
        "  error        second\n"
        f"  hint         {command}\n"
        "  note         first\n"
        "  hint         ckptfix verify x\n"
        "               --against y compares with\n"
        "               a recorded run and shows\n"
        "               the rest\n"
    )


def test_many_findings_of_one_kind_are_counted() -> None:
    page = Page(80)
    add_findings(page, [Finding("clash", "error", f"number {number}") for number in range(7)])
    assert text_of(page) == (
        "".join(f"  error        number {number}\n" for number in range(5))
        + "               and 2 findings more of the kind clash; --json lists them\n"
    )


def test_a_command_at_the_end_of_a_sentence_has_its_own_line() -> None:
    page = Page(40)
    add_hint(page, "to leave them out on purpose: ckptfix convert evil.bin --drop-unexplained --out fixed.safetensors")
    assert text_of(page) == (
        "  hint         to leave them out on\n"
        "               purpose:\n"
        "               ckptfix convert evil.bin --drop-unexplained --out fixed.safetensors\n"
    )


def test_a_name_longer_than_the_page_stays_whole() -> None:
    page = Page(40)
    page.text("x" * 50, indent=2)
    assert text_of(page) == "  " + "x" * 50 + "\n"


def test_long_lists_say_how_much_is_left() -> None:
    page = Page(40)
    page.listed(map(str, range(1500)), most=2)
    assert text_of(page) == "  0\n  1\n  and 1,498 more lines\n"


def test_an_error_is_escaped_and_keeps_its_lines() -> None:
    error = UsageError("one\ntwo \x1b[2J", hint="[red]do[/red] this \ud800", source="a\x07.bin")
    assert [line for line, _ in error_lines(error)] == [
        "error: a\\x07.bin: one\ntwo \\x1b[2J",
        "hint: [red]do[/red] this \\ud800",
    ]


def test_a_failure_goes_to_both_streams_as_they_are_meant(capsys: pytest.CaptureFixture[str]) -> None:
    show_failure(UsageError("wrong", hint="right", code="x"), Settings(json=True))
    streams = capsys.readouterr()
    assert streams.err == "error: wrong\nhint: right\n"
    assert json.loads(streams.out) == {
        "schema": "ckptfix.error/1",
        "error": {"code": "x", "message": "wrong", "hint": "right"},
    }


# -- terminals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "on_terminal", "piped"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_colour(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], on_terminal: bool, piped: bool) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    assert wants_colour(Terminal()) is on_terminal
    assert wants_colour(io.StringIO()) is piped
    assert wants_colour(None) is piped


@pytest.mark.parametrize(
    ("environment", "quiet", "wanted"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"HF_HUB_DISABLE_PROGRESS_BARS": "1"}, False, False),
        ({"HF_HUB_DISABLE_PROGRESS_BARS": "0"}, False, True),
    ],
)
def test_bars(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], quiet: bool, wanted: bool) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", Terminal())
    assert wants_bars(quiet=quiet) is wanted
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert not wants_bars(quiet=quiet)


def test_a_bar_shows_the_stage_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptfix.report.progress._PATIENCE", 0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stderr", Terminal())
    bar = ProgressBar()
    bar("write", 1, 4)
    bar("write", 2, 4)
    bar("[bold]compare", 4, 4)
    bar.clear()
    import sys

    assert isinstance(sys.stderr, Terminal)
    written = sys.stderr.getvalue()
    assert "write" in written and "[bold]compare" in written and "100%" in written
    assert written.endswith("\x1b[1A\x1b[2K")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_of_files_leaves_for_what_is_written(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    out, err = Terminal() if terminal else io.StringIO(), Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    bar = FilesBar(at_once=True)
    bar("files", 0, 2)
    assert bar.out_of_the_way("a line") == "a line"
    assert err.getvalue().endswith("\x1b[1A\x1b[2K") is terminal
    print("a line")
    bar("files", 1, 2)
    bar.out_of_the_way(UsageError("x", hint="y"))
    assert "1 of 2" in err.getvalue()
    assert err.getvalue().endswith("\x1b[1A\x1b[2K")
    bar.clear()
    assert out.getvalue() == "a line\n"
    assert "a line" not in err.getvalue()


@pytest.mark.parametrize(("columns", "expected"), [("120", 100), ("72", 72), ("10", 40)])
def test_width(monkeypatch: pytest.MonkeyPatch, columns: str, expected: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert width() == expected


# -- numbers and JSON --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (845_531_648, "845.5 MB"),
        (1_691_134_141, "1.7 GB"),
        (3 * 10**15, "3000.0 TB"),
    ],
)
def test_sizes(count: int, expected: str) -> None:
    assert size(count) == expected


@pytest.mark.parametrize(
    ("duration", "expected"), [(0.004, "0.00 s"), (0.25, "0.25 s"), (3.14, "3.1 s"), (125.4, "2 min 05 s")]
)
def test_seconds(duration: float, expected: str) -> None:
    assert seconds(duration) == expected


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", "cut... 2 x a \\u4f60\n"), ("cp1252", "cut… 2 × a \\u4f60\n"), ("utf-8", "cut… 2 × a 你\n")],
)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_our_own_signs_have_a_plain_form(
    monkeypatch: pytest.MonkeyPatch, name: str, encoding: str, expected: str
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, name, io.TextIOWrapper(written, encoding, errors="backslashreplace", newline="\n"))
    (write_text if name == "stdout" else narrate)("cut… 2 × a 你")
    getattr(sys, name).flush()
    assert written.getvalue() == expected.encode(encoding)


def test_json_is_strict_and_ascii() -> None:
    document = {"名": ("\ud800\x1b", float("nan"), float("-inf"), 0.5, True, None), "\udcff": "é"}
    text = json_text(document)
    assert text.isascii()
    assert json.loads(text) == {"名": ["\\ud800\x1b", None, None, 0.5, True, None], "\\udcff": "é"}
    assert "\n" not in json_text(document, one_line=True)
