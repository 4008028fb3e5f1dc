"""The pages of --report: whole, self-contained, to scale, and unmoved by what a file says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ckptfix.inspection import inspect
from ckptfix.report.html.document import Document, folded_part, name_list
from ckptfix.report.html.inspection import inspection_report
from ckptfix.report.html.tensor_map import pieces
from tests.adapters import adapter, write
from tests.calling import call
from tests.fixtures.make_checkpoints import SMALL, canonical, renamed, save_nested_bin

_VOID = {"meta", "br", "img", "input", "link", "hr"}
_HOSTILE = "image_proj.<script>alert(1)</script>\x1b[31m&amp;\u202e"


class Reader(HTMLParser):
    """Elements in order, all text, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def broken() -> dict[str, NDArray[np.float32]]:
    """One tensor missing, one unexpected with a name meant to do harm, one ill-shaped, one renamed."""
    arrays = dict(renamed(canonical(), ".latents", ".queries"))
    del arrays["image_proj.layers.1.0.to_q.weight"]
    arrays["image_proj.layers.0.0.to_out.weight"] = np.zeros((3, 5), np.float32)
    arrays[_HOSTILE] = np.zeros(7, np.float32)
    return arrays


def reported(tmp_path: Path, arrays: Mapping[str, NDArray[np.float32]]) -> tuple[str, Reader]:
    result = inspect(save_nested_bin(tmp_path / "ip-adapter.bin", arrays))
    page = inspection_report(result).html()
    return page, Reader(page)


def test_the_page_is_whole_and_asks_for_nothing(tmp_path: Path) -> None:
    page, read = reported(tmp_path, broken())
    assert page.startswith("<!doctype html>\n<html")
    assert read.open == []
    tags = {tag for tag, _ in read.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "form"}
    attributes = {key: value or "" for _, given in read.elements for key, value in given.items()}
    assert not attributes.keys() & {"src", "href", "srcset", "action", "onclick", "onload", "style"}
    assert "url(" not in page
    assert "@import" not in page
    policy = next(given for tag, given in read.elements if given.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_what_a_file_says_stays_text(tmp_path: Path) -> None:
    page, read = reported(tmp_path, broken())
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert r"image_proj.<script>alert(1)</script>\x1b[31m&amp;\u202e" in read.text


def test_it_says_what_inspect_says(tmp_path: Path) -> None:
    _, read = reported(tmp_path, broken())
    for words in (
        "not usable as it is: 1 tensor missing, 1 name unexpected, 1 tensor ill-shaped",
        "image_proj.layers.1.0.to_q.weight",
        "image_proj.queries -> image_proj.latents",
        "What would have to be invented, and is not: 1 tensor",
        "Resampler(dim=",
        "num queries",
    ):
        assert words in read.text


def test_a_bar_is_as_long_as_its_bytes(tmp_path: Path) -> None:
    result = inspect(save_nested_bin(tmp_path / "ip-adapter.bin", broken()))
    found = pieces(result.plan)
    states = {piece.name: piece.state for piece in found}
    assert states["image_proj.queries"] == "changed"
    assert states["image_proj.layers.1.0.to_q.weight"] == "gone"
    assert states["image_proj.layers.0.0.to_out.weight"] == "wrong"
    assert states[_HOSTILE] == "extra"
    assert states["image_proj.proj_in.weight"] == "kept"
    page = inspection_report(result).html()
    rectangles = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="0" width="([\d.]+)"', page)
    assert len(rectangles) == len(found)
    parts: dict[str, int] = {}
    for piece in found:
        parts[piece.part] = parts.get(piece.part, 0) + piece.nbytes
    widest = max(parts.values())
    largest = max(found, key=lambda piece: piece.nbytes)
    drawn = max(float(width) for _, _, width in rectangles)
    assert drawn == pytest.approx(10_000 * largest.nbytes / widest, abs=0.1)
    assert max(float(x) + float(width) for _, x, width in rectangles) == pytest.approx(10_000, abs=2)


def test_400_tensors_stay_far_below_a_megabyte(tmp_path: Path) -> None:
    arrays = dict(canonical(replace(SMALL, depth=20)))
    arrays |= {f"other.{number}.weight": np.zeros(3, np.float32) for number in range(400 - len(arrays))}
    assert len(arrays) == 400
    page, _ = reported(tmp_path, arrays)
    assert len(page) < 400_000


def test_every_command_that_offers_it_writes_one(tmp_path: Path) -> None:
    source = write(tmp_path / "adapter.safetensors", adapter())
    out, page = tmp_path / "out.safetensors", tmp_path / "page.html"
    for words, heading in (
        (("inspect", source), "Tensor map"),
        (("convert", source, "-o", out), "Ledger"),
        (("verify", source), "Checks"),
    ):
        called = call(*words, "--report", page, "--force")
        assert called.code == 0, called.err
        assert f"report: {page}" in called.err
        text = page.read_text(encoding="utf-8")
        assert Reader(text).open == []
        assert f"<h2>{heading}</h2>" in text


def test_a_page_in_the_way_is_kept_before_any_work_is_done(tmp_path: Path) -> None:
    source = write(tmp_path / "adapter.safetensors", adapter())
    page = tmp_path / "page.html"
    page.write_text("mine", encoding="utf-8")
    called = call("convert", source, "-o", tmp_path / "out.safetensors", "--report", page)
    assert called.code == 2
    assert (
        f"error: {page}: already exists\nhint: add --force to replace it, or choose another name with --report"
        in called.err
    )
    assert page.read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "out.safetensors").exists()


def test_a_report_never_replaces_its_input(tmp_path: Path) -> None:
    source = write(tmp_path / "adapter.safetensors", adapter())
    before = source.read_bytes()
    assert call("inspect", source, "--report", source, "--force").code == 2
    assert source.read_bytes() == before


def test_a_report_is_of_one_file(tmp_path: Path) -> None:
    source = write(tmp_path / "adapter.safetensors", adapter())
    called = call("inspect", source, source, "--report", tmp_path / "page.html")
    assert called.code == 2
    assert "--report shows one FILE" in called.err


def test_an_empty_document_is_a_page() -> None:
    assert Reader(Document("inspect", "a & b", "<c>", "red").html()).text.startswith("a & b: <c>")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_it_without_a_complaint(tmp_path: Path, width: int) -> None:
    """Nothing is wider than the window, and no rule of the page's own policy is broken."""
    page, _ = reported(tmp_path, broken())
    probe = (
        "<script>document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth"
        " + ' ' + document.querySelectorAll('svg rect').length</script>"
    )
    unguarded = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    path = tmp_path / "page.html"
    path.write_text(unguarded.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    shown = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path / 'user'}"),
            *(f"--window-size={width},900", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    found = re.search(r"<title>(\d+) of (\d+) (\d+)</title>", shown)
    assert found is not None
    assert int(found[1]) <= int(found[2])
    assert int(found[3]) > 100


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here")
def test_what_is_closed_on_a_screen_is_whole_on_paper(tmp_path: Path) -> None:
    document = Document("inspect", "a", "b", "green")
    name_list(folded_part(document.section("Names"), "in full"), [f"name {number}" for number in range(500)])
    path = tmp_path / "page.html"
    path.write_text(document.html(), encoding="utf-8")
    subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path / 'user'}"),
            *(f"--print-to-pdf={tmp_path / 'page.pdf'}", path.as_uri()),
        ],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", (tmp_path / "page.pdf").read_bytes())) > 5
