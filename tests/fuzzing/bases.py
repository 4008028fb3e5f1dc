"""The sound files that mutants are made from: every container and every way to store, each a few hundred bytes."""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import pickletools
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from ckptfix.formats import open_checkpoint
from tests.fixtures import adapters
from tests.fixtures import broken_files as files
from tests.fixtures.arrivals import adapter, saved
from tests.fuzzing.samples import HeaderSample, LegacySample, RawSample, Sample, ZipSample


@dataclass(frozen=True, slots=True)
class Base:
    """`weight` is how often mutants are made of it; of an adapter, convert writes a file to compare."""

    name: str
    sample: Sample
    weight: float = 1.0
    adapter: bool = False


def zip_base(name: str, data: bytes, **options: Any) -> Base:
    return Base(name, ZipSample.parse(data), **options)


def legacy(content: Any) -> LegacySample:
    """A legacy file in parts. torch names storages after their addresses in memory; here they are numbered."""
    data = saved(content, _use_new_zipfile_serialization=False)
    stream = io.BytesIO(data)
    pickles = []
    for _ in range(5):
        start = stream.tell()
        collections.deque(pickletools.genops(stream), maxlen=0)
        pickles.append(data[start : stream.tell()])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "legacy.bin"
        path.write_bytes(data)
        with open_checkpoint(path) as checkpoint:
            manifest = checkpoint.manifest
    records = [manifest.records[tensor.span.record] for tensor in manifest.tensors.values()]
    tail = b""
    listed = []
    for number, record in enumerate(dict.fromkeys(records)):
        listed.append(files.text(f"{number:014}"))
        pickles[3] = pickles[3].replace(files.text(record.name), listed[-1])
        tail += data[record.position - 8 : record.position + record.size]
    pickles[4] = files.proto(files.EMPTY_LIST + files.MARK + b"".join(listed) + b"e")
    return LegacySample(pickles, tail)


def values() -> dict[str, Any]:
    """Every way to store a tensor, and what lies beside tensors."""
    matrix = torch.arange(12.0).reshape(3, 4)
    return {
        "image_proj": {"latents": matrix, "view": matrix[1:, 1:3], "turned": matrix.t(), "tied": matrix},
        "expanded": torch.tensor([1.5]).expand(2, 3),
        "half": torch.arange(4).to(torch.bfloat16),
        "flag": torch.tensor([True, False]),
        "none": torch.empty(0, 2),
        "scalar": torch.tensor(7),
        "p": torch.nn.Parameter(torch.ones(2)),
        "list": [torch.zeros(1), 3],
        "epoch": 3,
        "text": "x",
    }


def _many_dtypes() -> dict[str, torch.Tensor]:
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn)
    return {str(kind): torch.ones(3).to(kind) for kind in kinds} | {"scalar": torch.tensor(1.0), "no": torch.empty(0)}


def all_bases() -> list[Base]:
    foreign = {"a": torch.ones(2), "args": argparse.Namespace(lr=1e-4), "best": np.float64(1.5), "e": OrderedDict(a=1)}
    whole = adapter()
    hostile = files.running_pickles("false")
    return [
        zip_base("zip", files.healthy_zip(), weight=3),
        zip_base("zip-deflated", files.healthy_zip(compression=zipfile.ZIP_DEFLATED)),
        zip_base("zip-big-endian", files.healthy_zip(byteorder=b"big")),
        zip_base("zip-torch", saved(values()), weight=2),
        zip_base("zip-protocol-4", saved(values()["image_proj"], pickle_protocol=4)),
        zip_base("zip-foreign", saved(foreign)),
        zip_base("zip-module", saved(torch.nn.BatchNorm1d(2))),
        zip_base("zip-hostile", files.torch_zip(hostile["computed"])),
        zip_base("zip-hostile-builder", files.torch_zip(hostile["builder_argument"])),
        Base("legacy", legacy(values()), weight=3),
        Base("legacy-module", legacy(torch.nn.BatchNorm1d(1))),
        Base("safetensors", HeaderSample.parse(files.healthy_safetensors()), weight=3),
        Base("safetensors-dtypes", HeaderSample.parse(save_safetensors(_many_dtypes(), {"format": "pt"})), weight=2),
        Base("gzip", RawSample(files.gzipped(files.healthy_zip()))),
        Base("zip-in-zip", RawSample(files.zip_in_zip(files.healthy_zip()))),
        Base("zip-in-zip-deflated", RawSample(files.zip_in_zip(files.healthy_zip(), compression=zipfile.ZIP_DEFLATED))),
        *(Base(f"raw-{name}", RawSample(make()), weight=0.3) for name, make in _RAW.items()),
        zip_base("adapter-nested", saved(adapters.as_torch(whole.layout("nested-bin"))), weight=0.03, adapter=True),
        Base(
            "adapter-flat",
            HeaderSample.parse(save_safetensors(adapters.as_torch(whole.layout("flat-st")))),
            weight=0.03,
            adapter=True,
        ),
    ]


_RAW: dict[str, Callable[[], bytes]] = {
    "zip": files.healthy_zip,
    "torch": lambda: saved(values()),
    "legacy": lambda: legacy(values()).build(),
    "safetensors": files.healthy_safetensors,
    "pickle": lambda: pickle.dumps({"a": [1, 2.5, "x", b"y", None], "b": {1, 2}}, 4),
    "pickle-0": lambda: pickle.dumps({"a": [1, 2.5, "x", None]}, 0),
    "lfs": files.lfs_pointer,
    "html": files.html_page,
    "json": lambda: b'{"error":"Repository not found"}',
    "zeros": lambda: bytes(1024),
}
