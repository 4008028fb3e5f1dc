"""Files on the net: few small requests, one version of the file, no secret told, and the same output as from disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from ckptfix import copying
from ckptfix.cli import run
from ckptfix.comparison import diff
from ckptfix.compatibility import judge
from ckptfix.consumers.outcome import Declared
from ckptfix.conversion import convert
from ckptfix.detection import plan_for
from ckptfix.errors import (
    CkptfixError,
    DamagedError,
    ExitCode,
    OutputError,
    UnavailableError,
    UnreadableError,
    UsageError,
)
from ckptfix.formats import open_checkpoint, ranges
from ckptfix.formats.address import address_of, file_name, shown
from ckptfix.formats.bytesource import chunks_of, read_at
from ckptfix.formats.checkpoint import open_source
from ckptfix.formats.remote import open_remote
from ckptfix.formats.safetensors_writer import write_safetensors
from ckptfix.inspection import inspect
from tests.adapters import adapter as golden_adapter
from tests.adapters import write
from tests.fixtures import broken_files as files
from tests.fixtures.adapters import TINY, adapter, manifest_file, save, tiny

SECRET = "hf_verysecret"


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    sent: int = 0


@dataclass
class Site:
    """A server on this machine: `data` under every path unless `answers` knows better; `asked` is what it saw."""

    url: str = ""
    data: Callable[[int, int], bytes] = lambda start, stop: b""
    size: int = 0
    etag: str = '"one"'
    ranges: bool = True
    cut_after: int = 0  # bytes of an answer after which the next connections break
    cuts: int = 0
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # answered first, in order
    redirect: str = ""
    stated: str = ""  # the sha256 that its redirects name
    stated_size: int = 0
    asked: list[Asked] = field(default_factory=list)

    def serve(self, data: bytes) -> None:
        self.size = len(data)
        self.data = lambda start, stop: data[start:stop]

    @property
    def sent(self) -> int:
        return sum(one.sent for one in self.asked)


@contextmanager
def running() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = Asked(self.path, dict(self.headers.items()))
            site.asked.append(asked)
            if site.failures:
                status, headers = site.failures.pop(0)
                self.head(status, headers)
                return
            if site.redirect:
                linked = {"X-Linked-Etag": f'"{site.stated}"', "X-Linked-Size": str(site.stated_size)}
                self.head(302, {"Location": site.redirect} | (linked if site.stated else {}))
                return
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
            assert span is not None
            start, stop = int(span[1]), min(int(span[2]) + 1, site.size)
            if not site.ranges:
                start, stop = 0, site.size
            elif start >= site.size:
                self.head(416, {"Content-Range": f"bytes */{site.size}"})
                return
            headers = {"Content-Length": str(stop - start), "ETag": site.etag}
            headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{site.size}"} if site.ranges else {}
            self.head(206 if site.ranges else 200, headers)
            if site.cuts and stop - start > site.cut_after:
                site.cuts -= 1
                stop = start + site.cut_after
            with contextlib.suppress(ConnectionError):  # whoever has read enough goes
                for at in range(start, stop, 1 << 20):
                    piece = site.data(at, min(at + (1 << 20), stop))
                    self.wfile.write(piece)
                    asked.sent += len(piece)

        def head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path.parent / "no-such-home"))


@pytest.fixture
def site() -> Iterator[Site]:
    with running() as one:
        yield one


def refused(
    kind: type[CkptfixError], name: str, sleep: Callable[[float], object] = lambda seconds: None
) -> CkptfixError:
    with pytest.raises(kind) as caught:
        open_source(open_remote(name, sleep=sleep))
    assert SECRET not in str(caught.value) + caught.value.hint + json.dumps(caught.value.to_dict())
    return caught.value


def large_bin(path: Path) -> int:
    """InstantID's tensors as torch itself lays them out, 1.69 GB, the data being a hole; its size."""
    tree: dict[str, dict[str, torch.Tensor]] = {}
    for info in manifest_file("nested-bin+resampler+odd").tensors.values():
        group, name = info.path
        tree.setdefault(group, {})[name] = torch.empty(info.shape)
    with torch.serialization.skip_data():
        torch.save(tree, path)
    return path.stat().st_size


@pytest.mark.skipif(not hasattr(torch.serialization, "skip_data"), reason="torch before 2.6 writes all data")
def test_inspect_of_a_large_file_costs_little(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "ip-adapter.bin"
    site.size = large_bin(path)
    assert site.size > 1_690_000_000
    with path.open("rb") as stream:
        site.data = lambda start, stop: os.pread(stream.fileno(), stop - start, start)
        found = inspect(f"{site.url}/ip-adapter.bin?signature={SECRET}")
    assert len(site.asked) <= 8 and site.sent <= 128 << 10
    local = inspect(path)
    assert found.manifest.tensors == local.manifest.tensors
    assert (found.exit_code, found.findings, found.constructor) == (local.exit_code, local.findings, local.constructor)
    assert found.manifest.source == f"{site.url}/ip-adapter.bin"
    assert SECRET not in json.dumps(found.to_dict())
    assert {one.headers["Accept-Encoding"] for one in site.asked} == {"identity"}


@pytest.mark.parametrize(("suffix", "wrapper"), [(".bin", "nested-bin"), (".safetensors", "flat-st")])
@pytest.mark.parametrize("to", ["canonical", "instantid"])
def test_convert_gives_what_it_gives_from_disk(site: Site, tmp_path: Path, suffix: str, wrapper: str, to: str) -> None:
    path = save(tmp_path / f"my adapter{suffix}", tiny().layout(wrapper, "resampler-fused-qkv"))
    site.serve(path.read_bytes())
    out, end = tmp_path / "out", ".bin" if to == "instantid" else ".safetensors"
    out.mkdir()
    local = convert(path, out / f"disk{end}", to=to)
    remote = convert(f"{site.url}/my%20adapter{suffix}?signature={SECRET}", out / f"net{end}", to=to)
    assert (out / f"disk{end}").read_bytes() == (out / f"net{end}").read_bytes()
    assert remote.written and remote.compared == local.compared
    assert remote.sources == (f"{site.url}/my%20adapter{suffix}",)
    assert SECRET not in json.dumps(remote.to_dict())


def test_convert_downloads_the_tensors_once(site: Site, tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", adapter(replace(TINY, output_dim=280), scale=4).canonical())
    site.serve(path.read_bytes())
    convert(f"{site.url}/a.safetensors", tmp_path / "out.safetensors")
    assert site.size > 4 << 20
    assert site.sent < 1.1 * site.size


def test_what_is_written_wrong_is_found_without_reading_the_source_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.bin", tiny().layout())
    site.serve(path.read_bytes())
    convert(path, tmp_path / "right.safetensors")
    last = (tmp_path / "right.safetensors").read_bytes()[-1]

    def failing(stream: BinaryIO, *arguments: Any, **options: Any) -> int:
        size = write_safetensors(stream, *arguments, **options)
        stream.seek(size - 1)
        stream.write(bytes([last ^ 1]))
        return size

    monkeypatch.setattr(copying, "write_safetensors", failing)
    with pytest.raises(OutputError) as caught:
        convert(f"{site.url}/a.bin", tmp_path / "out.safetensors")
    assert caught.value.code == "compare"
    assert not (tmp_path / "out.safetensors").exists()


def test_a_cut_transfer_is_taken_up_where_it_broke(site: Site) -> None:
    data = random.Random(0).randbytes(3 << 20)
    site.serve(data)
    waited: list[float] = []
    source = open_remote(f"{site.url}/a.bin", sleep=waited.append)
    site.asked.clear()
    site.cuts, site.cut_after = 3, 1 << 19
    assert b"".join(map(bytes, chunks_of(source, 7, len(data) - 7))) == data[7:]
    assert len(waited) == 3 and site.sent < len(data) + (64 << 10)
    source.close()


def test_failing_servers_are_asked_again_with_growing_pauses(site: Site) -> None:
    site.serve(files.healthy_safetensors())
    site.failures = [(503, {}), (500, {}), (429, {"Retry-After": "7"})]
    waited: list[float] = []
    with open_source(open_remote(f"{site.url}/a.safetensors", sleep=waited.append)) as checkpoint:
        assert checkpoint.manifest.tensors
    assert waited == [0.5, 1.0, 7.0]


def test_patience_ends(site: Site) -> None:
    site.failures = [(503, {})] * 99
    waited: list[float] = []
    error = refused(UnavailableError, f"{site.url}/a.bin?{SECRET}", waited.append)
    assert (error.code, error.exit_code, len(waited)) == ("network", ExitCode.UNAVAILABLE, 4)
    site.failures = [(429, {"Retry-After": "3600"})]
    assert "asks to wait 3,600 s" in refused(UnavailableError, f"{site.url}/a.bin", waited.append).message


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (401, UnavailableError, "access"),
        (403, UnavailableError, "access"),
        (404, UsageError, "no-such-file"),
        (418, UnavailableError, "network"),
    ],
)
def test_a_refusal_says_what_to_do(site: Site, status: int, kind: type[CkptfixError], code: str) -> None:
    site.failures = [(status, {})]
    error = refused(kind, f"{site.url}/a.bin?{SECRET}")
    assert (error.code, error.source) == (code, f"{site.url}/a.bin") and str(status) in error.message
    assert len(site.asked) == 1


def test_the_hub_asks_for_a_token(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    site.failures = [(401, {}), (403, {})]
    assert "set HF_TOKEN" in refused(UnavailableError, "hf://a/b/c.bin").hint
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert "gated" in refused(UnavailableError, "hf://a/b/c.bin").hint
    assert site.asked[1].headers["Authorization"] == f"Bearer {SECRET}"


def test_a_server_without_ranges_is_named_where_the_whole_file_would_be_needed(site: Site, tmp_path: Path) -> None:
    site.serve(save(tmp_path / "a.bin", adapter(replace(TINY, output_dim=280), scale=4).layout()).read_bytes())
    site.ranges = False
    error = refused(UnavailableError, f"{site.url}/a.bin")
    assert error.code == "no-ranges" and "download the file first" in error.hint and f"{site.size:,}" in error.message


def test_a_server_without_ranges_is_read_forwards(site: Site, tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", adapter(replace(TINY, output_dim=280), scale=4).canonical())
    site.serve(path.read_bytes())
    site.ranges = False
    url = f"{site.url}/a.safetensors"
    assert inspect(url).manifest.tensors == inspect(path).manifest.tensors
    convert(path, tmp_path / "disk.safetensors")
    site.asked.clear()
    convert(url, tmp_path / "net.safetensors")
    assert (tmp_path / "disk.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()
    assert len(site.asked) == 2  # the header, then all


@pytest.mark.parametrize("change", ["etag", "size"])
def test_two_versions_are_never_mixed(site: Site, change: str) -> None:
    site.serve(bytes(1 << 20))
    source = open_remote(f"{site.url}/a.bin")
    if change == "etag":
        site.etag = '"two"'
    else:
        site.size += 1
    with pytest.raises(DamagedError) as caught:
        read_at(source, 1 << 19, 100)
    assert caught.value.code == "changed"


def test_a_token_does_not_go_on_to_another_server(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    with running() as store:
        store.serve(files.healthy_safetensors())
        site.redirect = f"{store.url}/blob?X-Amz-Signature=1"
        with open_checkpoint("hf://a/b@refs/pr/1/dir/c d.safetensors") as checkpoint:
            assert checkpoint.manifest.source == "hf://a/b@refs/pr/1/dir/c d.safetensors"
    assert site.asked[0].path == "/a/b/resolve/refs%2Fpr%2F1/dir/c%20d.safetensors"
    assert site.asked[0].headers["Authorization"] == f"Bearer {SECRET}"
    assert store.asked and not any("Authorization" in one.headers for one in store.asked)
    assert all("Range" in one.headers for one in store.asked)


@contextmanager
def hub(site: Site, monkeypatch: pytest.MonkeyPatch, data: bytes, stated: bytes | None = None) -> Iterator[Site]:
    """`site` as the hub, which leads to the store that is yielded and states size and sha256 of `stated`."""
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    with running() as store:
        store.serve(data)
        site.redirect = f"{store.url}/blob?X-Amz-Signature={SECRET}"
        site.stated = hashlib.sha256(data if stated is None else stated).hexdigest()
        site.stated_size = len(data)
        yield store


def test_where_the_hub_leads_is_asked_directly_from_then_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = save(tmp_path / "a.bin", adapter(replace(TINY, output_dim=280), scale=4).layout())
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with hub(site, monkeypatch, path.read_bytes()) as store:
        convert("hf://a/b/a.bin", tmp_path / "net.safetensors")
        assert len(site.asked) == 1 and 2 <= len(store.asked) <= 4
        assert "Authorization" in site.asked[0].headers
        assert not any("Authorization" in one.headers for one in store.asked)
    convert(path, tmp_path / "disk.safetensors")
    assert (tmp_path / "disk.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_address_whose_signature_is_over_is_got_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    data = random.Random(0).randbytes(1 << 20)
    with hub(site, monkeypatch, data) as store:
        source = open_remote("hf://a/b/a.bin", sleep=lambda seconds: pytest.fail("waited"))
        store.failures = [(status, {})]
        assert read_at(source, 1 << 19, 1 << 18) == data[1 << 19 :][: 1 << 18]
        assert len(site.asked) == 2
        store.failures = [(status, {})] * 3
        with pytest.raises((UsageError, UnavailableError)):
            read_at(source, 100_000, 1 << 17)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_the_sha256_that_the_hub_states_is_checked(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str
) -> None:
    made = adapter(replace(TINY, output_dim=280), scale=4)
    data = save(tmp_path / f"a{suffix}", made.layout() if suffix == ".bin" else made.canonical()).read_bytes()
    out = tmp_path / "out.safetensors"
    with hub(site, monkeypatch, data) as store:
        found = convert(f"hf://a/b/a{suffix}", out)
        assert [one.severity for one in found.findings if one.code == "sha256"] == ["note"]
        assert site.stated in next(one.message for one in found.findings if one.code == "sha256")
        assert store.sent < 1.1 * len(data) + (128 << 10)
    out.unlink()
    with hub(site, monkeypatch, data, stated=data[:-1]), pytest.raises(DamagedError) as caught:
        convert(f"hf://a/b/a{suffix}", out)
    assert caught.value.code == "checksum" and site.stated in caught.value.message
    assert list(tmp_path.iterdir()) == [tmp_path / f"a{suffix}"]


def test_what_is_not_read_whole_is_not_called_checked(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = save(tmp_path / "a.bin", tiny().layout()).read_bytes()
    with hub(site, monkeypatch, data, stated=data[:-1]):
        found = convert("hf://a/b/a.bin", tmp_path / "out.bin", to="instantid")
    assert "was not checked" in next(one.message for one in found.findings if one.code == "sha256")


def test_a_store_with_another_size_than_the_hub_states_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(site, monkeypatch, files.healthy_safetensors()):
        site.stated_size += 1
        with pytest.raises(DamagedError) as caught:
            open_checkpoint("hf://a/b/a.safetensors")
    assert caught.value.code == "truncated"


def test_the_proof_of_a_remote_conversion_is_that_of_a_local_one(site: Site, tmp_path: Path) -> None:
    path = save(tmp_path / "a.bin", tiny().layout("nested-bin", "diffusers-plus"))
    site.serve(path.read_bytes())
    for name, source in (("disk", path), ("net", f"{site.url}/a.bin?{SECRET}")):
        (tmp_path / name).mkdir()
        convert(source, tmp_path / name / "out.safetensors", proof=True)
    proofs = [(tmp_path / name / "out.safetensors.proof.json").read_text() for name in ("disk", "net")]
    assert proofs[0] == proofs[1]
    assert (tmp_path / "disk/out.safetensors").read_bytes() == (tmp_path / "net/out.safetensors").read_bytes()
    with pytest.raises(UsageError):
        convert(f"{site.url}/a.bin", tmp_path / "out.bin", to="instantid", proof=True)


def test_a_server_that_trickles_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.serve(bytes(1 << 20))
    source = open_remote(f"{site.url}/a.bin", sleep=lambda seconds: None)
    monkeypatch.setattr(ranges, "_PATIENCE", -1.0)  # any wait is too long
    monkeypatch.setattr(ranges, "_LITTLE", 1 << 40)  # for less than this
    site.cuts, site.cut_after = 99, 1000
    with pytest.raises(UnavailableError) as caught:
        read_at(source, 1 << 19, 1 << 18)
    assert "next to nothing" in caught.value.message


@pytest.mark.parametrize(
    "word", ["Mon, 01 Jan 2024 00:00:00 +99999999999999999", "Mon, 01 Jan 0001 00:00:00 +2359", "soon"]
)
def test_a_strange_retry_after_is_no_traceback(site: Site, word: str) -> None:
    site.serve(files.healthy_safetensors())
    site.failures = [(503, {"Retry-After": word})]
    waited: list[float] = []
    open_source(open_remote(f"{site.url}/a.safetensors", sleep=waited.append)).close()
    assert len(waited) == 1


def test_a_circle_of_addresses_is_named(site: Site) -> None:
    site.redirect = f"{site.url}/a.bin"
    assert "without end" in refused(UnavailableError, f"{site.url}/a.bin").message


def test_a_token_goes_to_the_hub_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    site.serve(files.healthy_safetensors())
    open_checkpoint(f"{site.url}/a.safetensors").close()
    assert not any("Authorization" in one.headers for one in site.asked)
    assert address_of("https://huggingface.co/a/b/resolve/main/c.bin").token == SECRET
    assert address_of("https://huggingface.co.example.org/a/b/resolve/main/c.bin").token == ""


def test_the_stored_token_is_used(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text(f"{SECRET}\n")
    assert address_of("hf://a/b/c.bin").token == SECRET
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert address_of("hf://a/b/c.bin").token == ""
    monkeypatch.delenv("HF_HUB_DISABLE_IMPLICIT_TOKEN")
    (tmp_path / "other").write_text("hf_other")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "other"))
    assert address_of("hf://a/b/c.bin").token == "hf_other"
    monkeypatch.setenv("HF_TOKEN", "hf_first")
    assert address_of("hf://a/b/c.bin").token == "hf_first"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("hf://a/b/c.bin", "/a/b/resolve/main/c.bin"),
        ("hf://a/b@v1/d/c.bin", "/a/b/resolve/v1/d/c.bin"),
        ("hf://a/b@refs/pr/1/c.bin", "/a/b/resolve/refs%2Fpr%2F1/c.bin"),
        ("hf://a/b@refs%2Fpr%2F1/c.bin", "/a/b/resolve/refs%2Fpr%2F1/c.bin"),
        ("hf://datasets/a/b/c.bin", "/datasets/a/b/resolve/main/c.bin"),
        ("hf://spaces/a/b@dev/d/c.bin", "/spaces/a/b/resolve/dev/d/c.bin"),
    ],
)
def test_names_on_the_hub(name: str, path: str) -> None:
    assert address_of(name).url == f"https://huggingface.co{path}"


def test_a_page_of_the_hub_stands_for_its_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    site.serve(files.healthy_safetensors())
    with open_checkpoint(f"{site.url}/a/b/blob/main/c.safetensors") as checkpoint:
        assert [(one.code, one.severity) for one in checkpoint.manifest.findings] == [("address", "note")]
    assert site.asked[0].path == "/a/b/resolve/main/c.safetensors"


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_makes_no_request(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    variable: str,
) -> None:
    site.serve(files.healthy_safetensors())
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    for name in (f"{site.url}/a.safetensors", "hf://a/b/c.bin"):
        reading = [["inspect"], ["convert", "--out", str(tmp_path / "out.safetensors")], ["diff", name], ["compat"]]
        for command in (*reading, ["verify"]):
            assert run([*command, name, "--json"]) == 5
            assert json.loads(capsys.readouterr().out)["error"]["code"] == "offline"
    assert site.asked == []


@pytest.mark.parametrize(
    "name",
    [
        "http://example.org/a.bin",
        "http://localhost.example.org/a.bin",
        "http:///a.bin",
        "https://user:" + SECRET + "@example.org/a.bin",
        "https://example.org:x/a.bin",
        "hf://a",
        "hf://a/b",
        "hf://a/b@/c",
        "hf://a/b/",
    ],
)
def test_an_address_of_no_use_is_refused_before_any_request(name: str) -> None:
    assert refused(UsageError, name).code == "address"


def test_a_redirect_to_plain_http_elsewhere_is_refused(site: Site) -> None:
    site.redirect = "http://example.org/a.bin"
    assert refused(UsageError, f"{site.url}/a.bin").code == "address"


def test_what_is_shown_holds_no_secret() -> None:
    assert shown(f"HTTPS://me:{SECRET}@example.org/a/b.bin?{SECRET}#{SECRET}") == "https://example.org/a/b.bin"
    assert shown("hf://a/b@v1/c.bin") == "hf://a/b@v1/c.bin"
    assert file_name(f"https://example.org/a/b%20c.bin?{SECRET}/d") == "b c.bin"


def test_a_page_or_nothing_is_no_checkpoint(site: Site) -> None:
    site.serve(files.html_page())
    assert refused(UnreadableError, f"{site.url}/a.bin").code == "html-page"
    site.serve(b"")
    assert refused(UnreadableError, f"{site.url}/b.bin").code == "empty-file"


def test_a_header_that_contradicts_the_directory_is_found_when_its_record_is_read(site: Site) -> None:
    data = files.healthy_zip()
    at = data.index(b"archive/data/0")
    site.serve(data[:at] + b"archive/data/9" + data[at + 14 :])
    with open_checkpoint(f"{site.url}/a.bin") as checkpoint, pytest.raises(UnreadableError) as caught:
        checkpoint.read("archive/data/0", 0, 4)
    assert caught.value.code == "archive"


@pytest.mark.parametrize("make", [files.healthy_zip, files.healthy_legacy, files.healthy_safetensors])
def test_every_container_reads_alike(site: Site, tmp_path: Path, make: Callable[[], bytes]) -> None:
    for wrap in (bytes, files.gzipped, files.zip_in_zip):
        site.serve(wrap(make()))
        path = tmp_path / "a"
        path.write_bytes(wrap(make()))
        with open_checkpoint(path) as local, open_checkpoint(f"{site.url}/a") as remote:
            assert remote.manifest.tensors == local.manifest.tensors
            for name, record in local.manifest.records.items():
                assert remote.read(name, 0, record.size) == local.read(name, 0, record.size)


def test_diff_finds_a_remote_file_and_its_copy_alike(site: Site, tmp_path: Path) -> None:
    path = save(tmp_path / "a.bin", tiny().layout())
    site.serve(path.read_bytes())
    convert(path, tmp_path / "fixed.safetensors")
    url = f"{site.url}/a.bin?{SECRET}"
    same = diff(url, tmp_path / "fixed.safetensors")
    assert same.exit_code == 0 and same.to_dict()["a"]["path"] == f"{site.url}/a.bin"
    other = save(tmp_path / "b.bin", tiny(seed=1).layout())
    assert diff(other, url).exit_code == 1


def test_compat_names_no_command_that_renames_an_address() -> None:
    cures: list[list[str]] = []
    for source in ("dir/ip-adapter.safetensors", "https://example.org/ip-adapter.safetensors"):
        manifest = replace(manifest_file("nested-bin+resampler+odd"), source=source)
        found = judge(manifest, plan_for(manifest), Declared())
        cures.append([one.cure for one in found.consumers])
    renamed = [cure.startswith("mv dir/") for cure in cures[0]]
    assert any(renamed)
    assert [cure.startswith("download it as ") for cure in cures[1]] == renamed


def test_verify_and_explain_read_what_is_not_here(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.serve(write(tmp_path / "a.safetensors", golden_adapter()).read_bytes())
    url = f"{site.url}/a.safetensors?{SECRET}"
    for command in (["verify", url], ["explain", url], ["explain", "KeyError: 'latents'", "--file", url]):
        assert run([*command, "--json"]) == 0
        out, err = capsys.readouterr()
        assert f"{site.url}/a.safetensors" in out or command[0] == "verify"
        assert SECRET not in out + err


def test_several_files_go_on_past_one_that_fails(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.serve(files.healthy_safetensors())
    site.failures = [(404, {})]
    names = [f"{site.url}/{name}.safetensors?{SECRET}" for name in "ab"]
    assert run(["inspect", "--ndjson", *names]) == 2
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert first["error"]["code"] == "no-such-file" and second["file"]["path"] == f"{site.url}/b.safetensors"
    assert SECRET not in out + err
