"""What people paste around an error, and that nothing of it hides the error or takes long."""

from __future__ import annotations

import html
import io
import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfix.explaining import pasted_text
from ckptfix.explaining.pasted_text import decoded, read_end, readings
from ckptfix.explanation import explain

FOLDER = Path(__file__).parent / "fixtures" / "errors"
SIZES = (
    "Error(s) in loading state_dict for Resampler:\n\tsize mismatch for proj_in.weight: copying a param with shape "
    "torch.Size([1280, 1280]) from checkpoint, the shape in current model is torch.Size([1280, 1664])."
)
NAMES = (
    "RuntimeError: Error(s) in loading state_dict for Resampler:\n"
    '\tMissing key(s) in state_dict: "queries", "layers.0.0.norm.weight". '
)
PLAIN = f'Traceback (most recent call last):\n  File "infer.py", line 3\nRuntimeError: {SIZES}\n{NAMES}\n'


def coloured(text: str) -> str:
    return "\n".join(f"\x1b[0;31m{line}\x1b[0m" for line in text.split("\n"))


def notebook(text: str) -> str:
    """As nbformat 4 keeps the output of a cell that failed, with a picture before it."""
    outputs = [
        {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo" * 5000, "text/plain": ["<Figure>"]}},
        {"output_type": "stream", "name": "stderr", "text": ["  0%|          | 0/30 [00:00<?, ?it/s]\n"]},
        {
            "output_type": "error",
            "ename": "RuntimeError",
            "evalue": "it failed",
            "traceback": coloured(text).split("\n"),
        },
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# InstantID"], "metadata": {}},
        {"cell_type": "code", "source": ["x = 1"], "outputs": outputs, "metadata": {}},
    ]
    return json.dumps({"cells": cells, "nbformat": 4}, indent=1)


def hard_wrapped(text: str) -> str:
    """As a terminal of 80 columns shows it and a mouse copies it."""
    lines = (line[start : start + 80] for line in text.split("\n") for start in range(0, max(len(line), 1), 80))
    return "\n".join(lines)


WAYS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "Windows line ends": lambda text: text.replace("\n", "\r\n"),
    "colours": coloured,
    "colours as text": lambda text: coloured(text).replace("\x1b", "\\x1b"),
    "colours without their first byte": lambda text: coloured(text).replace("\x1b", ""),
    "notebook": notebook,
    "JSON": lambda text: json.dumps({"type": "execution_error", "data": {"exception_message": text}}),
    "JSON in a log": lambda text: f'12:00:01 ERROR {{"exception_message": {json.dumps(text)}}} sent',
    "repr": lambda text: f"RuntimeError({text!r})",
    "HTML": lambda text: f'<div class="output"><pre><span class="ansi-red">{html.escape(text)}</span></pre></div>',
    "quoted mail": lambda text: "\n".join(f"> > {line}" for line in text.split("\n")),
    "time stamps": lambda text: "\n".join(f"2024-11-23T23:51:59.121283 - {line}" for line in text.split("\n")),
    "log": lambda text: "\n".join(f"[2025-01-02 10:11:12,345] {line}" for line in text.split("\n")),
    "clock": lambda text: "\n".join(f"10:11:12.3 {line}" for line in text.split("\n")),
    "docker": lambda text: "\n".join(f"comfyui-1  | {line}" for line in text.split("\n")),
    "ranks": lambda text: "\n".join(f"[rank0]: {line}" for line in text.split("\n")),
    "pytest": lambda text: "\n".join(f"E       {line}" for line in text.split("\n")),
    "box": lambda text: "\n".join(f"│ {line:<200} │" for line in text.split("\n")),
    "soft wraps": lambda text: "\n".join(
        textwrap.fill(line, 60, subsequent_indent="    ") for line in text.split("\n")
    ),
    "hard wraps": hard_wrapped,
    "bars": lambda text: f"Loading pipeline components...: 57%|█████▋    | 4/7 [00:01<00:00,  3.54it/s]{text}",
    "carriage returns": lambda text: f"  0%|  | 0/30 [00:00<?, ?it/s]\r  3%|▎ | 1/30 [00:01<00:29, 1.0s/it]\r{text}",
    "typographic quotes": lambda text: text.replace(' "', " “").replace('",', "”,").replace('".', "”."),
    "byte order mark": lambda text: f"\ufeff{text}",
}


@pytest.mark.parametrize("way", WAYS)
def test_what_stands_around_an_error_does_not_hide_it(way: str) -> None:
    found = explain(WAYS[way](PLAIN))
    assert [cause.code for cause in found.causes] == ["wrong-encoder", "rewritten-class"]
    assert [number.value for number in found.causes[0].evidence[0].numbers] == [1280, 1664]
    assert found.causes[1].evidence[0].keys == ("queries", "layers.0.0.norm.weight")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(encoding: str) -> None:
    assert explain(f"é {PLAIN}".encode(encoding)).causes[0].code == "wrong-encoder"


def test_a_line_is_counted_as_an_editor_counts_it() -> None:
    found = explain("\n\n" + PLAIN)
    assert [cause.evidence[0].line for cause in found.causes] == [6, 7]
    assert explain(notebook(PLAIN)).causes[0].evidence[0].line is None


def test_the_code_of_a_notebook_is_no_error() -> None:
    cell = {"cell_type": "code", "source": ["# dim (2048) must be divisible by heads (12)"], "outputs": []}
    assert not explain(json.dumps({"cells": [cell]})).recognised


def test_an_error_at_the_end_of_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "comfyui.log"
    log.write_text("".join(f"2025-01-01 10:00:00,{n:03} INFO step {n} of ip-adapter\n" for n in range(20_000)) + PLAIN)
    found = explain(log)
    assert found.causes[0].code == "wrong-encoder"
    assert found.causes[0].evidence[0].line == 20_004


def test_of_a_text_without_end_the_end_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pasted_text, "MOST_BYTES", 5 << 20)
    kept = read_end(io.BytesIO(b"x\n" * (6 << 20) + b"end"))
    assert (len(kept), kept[-3:]) == (5 << 20, b"end")
    assert explain("word " * 1_000_000 + PLAIN).causes[0].code == "wrong-encoder"


@pytest.mark.parametrize("data", [b"", b"plain", "käse".encode(), "käse".encode("cp1252"), b"\xff\xfea\0b\0"])
def test_texts(data: bytes) -> None:
    assert decoded(data) is not None


@pytest.mark.parametrize("data", [bytes(100), bytes(range(256)) * 10, b"PK\x03\x04" + bytes(500)])
def test_no_texts(data: bytes) -> None:
    assert decoded(data) is None


@pytest.mark.parametrize(
    "piece",
    [
        "a", "1", ".", " ", "\n", "|", "[", "\x1b[", "100%|", "\\n", '"a", ', "<span ", "> ", "../", "[[[{\"a\":",
        "Missing key(s) in state_dict: ", 'Missing key(s) in state_dict: "a.b", ', "_IncompatibleKeys(missing_keys=[",
        "size mismatch for a: copying a param with shape ", "KeyError: '",
        "mat1 and mat2 shapes cannot be multiplied (",
        "Cannot load x because y expected shape ", "FaceAnalysis(instantid ", "ip-adapter", "Removed shared tensor {",
        "couldn't connect to 'https://x to load this model", "No such file or directory: '", "tensor([nan, ",
        "serialization.py ", "dim (2048) must be ", "Repo id must be in the form ", "PermissionError: '",
    ],
)  # fmt: skip
def test_no_repetition_runs_away(piece: str) -> None:
    """A pattern that backtracks without bound would run for hours on these, not for a second."""
    explain(piece * (300_000 // len(piece)))


def test_every_cut_of_an_error_is_read() -> None:
    for path in sorted(FOLDER.glob("*.txt"))[::7]:
        text = path.read_text(encoding="utf-8")[:3000]
        for end in range(0, len(text), 97):
            explain(text[:end])


def test_a_letter_that_becomes_two_in_small_shifts_nothing() -> None:
    reading = next(readings("İİİ " + NAMES))
    assert len(reading.lowered) == len(reading.text)
    assert explain("İİİ: dim (2048) must be divisible by heads (12)").causes[0].evidence[0].text.endswith("(12)")
