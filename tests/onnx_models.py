"""Small ONNX models with the signatures of the face models, written byte by byte (field numbers: onnx/onnx.proto).

The detector finds a pure colour: red squares are its faces. The recogniser is a seeded linear map of 16 mean colours.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Size = int | str
Shape = Sequence[Size]
INT, FLOAT = 7, 1  # TensorProto.DataType


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, *parts: bytes | str) -> bytes:
    data = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return varint(field << 3 | 2) + varint(len(data)) + data


def attribute(name: str, value: int | float | Sequence[int]) -> bytes:
    if isinstance(value, float):
        return block(5, block(1, name), varint(2 << 3 | 5) + struct.pack("<f", value), number(20, 1))
    if isinstance(value, int):
        return block(5, block(1, name), number(3, value), number(20, 2))
    return block(5, block(1, name), *(number(8, item) for item in value), number(20, 7))


def node(operator: str, inputs: Sequence[str], output: str, **attributes: int | float | Sequence[int]) -> bytes:
    names = [block(1, name) for name in inputs] + [block(2, output)]
    return block(1, *names, block(4, operator), *(attribute(*item) for item in attributes.items()))


def constant(name: str, array: NDArray[np.float32] | NDArray[np.int64]) -> bytes:
    kind = INT if array.dtype == np.int64 else FLOAT
    return block(
        5, *(number(1, size) for size in array.shape), number(2, kind), block(8, name), block(9, array.tobytes())
    )


def port(field: int, name: str, shape: Shape) -> bytes:
    sizes = [block(1, number(1, size) if isinstance(size, int) else block(2, size)) for size in shape]
    return block(field, block(1, name), block(2, block(1, number(1, FLOAT), block(2, *sizes))))


def model(
    nodes: Sequence[bytes], constants: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]
) -> bytes:
    graph = block(7, *nodes, block(2, "graph"), *constants, *inputs, *outputs)
    return number(1, 8) + block(2, "tests") + graph + block(8, number(2, 13))


# Reach of a box to its four sides, and offsets of the five points, in pixels, for every stride.
REACH = (20.0, 24.0, 28.0, 32.0)
OFFSETS = (-8.0, -6.0, 8.0, -6.0, 0.0, 1.0, -6.0, 8.0, 6.0, 8.0)


def write_detector(path: Path, size: Size = "?", smallest: float = 0.9) -> Path:
    """A detector for red cells: a score over 0.5 where the mean of a cell is at least `smallest` red.

    Like SCRFD it takes RGB as (x - 127.5) / 128 and has two anchors at each cell; the second never fires.
    """
    nodes: list[bytes] = []
    constants: list[bytes] = []
    names: dict[str, list[bytes]] = {"score": [], "box": [], "kps": []}
    constants.append(constant("rows", np.array([-1, 1], np.int64)))
    red = np.array([[1, -0.5, -0.5], [0, 0, 0]], np.float32).reshape(2, 3, 1, 1)
    threshold = smallest * 127.5 / 128 * 2 - 0.02
    for stride in (8, 16, 32):
        pooled = f"pooled{stride}"
        nodes.append(node("AveragePool", ["picture"], pooled, kernel_shape=[stride] * 2, strides=[stride] * 2))
        parts: dict[str, tuple[int, NDArray[np.float32], NDArray[np.float32]]] = {
            "score": (1, red * 50, np.array([-50 * threshold, -50], np.float32)),
            "box": (4, np.zeros((8, 3, 1, 1), np.float32), np.tile(np.array(REACH, np.float32) / stride, 2)),
            "kps": (10, np.zeros((20, 3, 1, 1), np.float32), np.tile(np.array(OFFSETS, np.float32) / stride, 2)),
        }
        for part, (columns, weight, bias) in parts.items():
            name = f"{part}{stride}"
            constants += [constant(f"{name}w", weight), constant(f"{name}b", bias)]
            constants.append(constant(f"{name}s", np.array([-1, columns], np.int64)))
            nodes.append(node("Conv", [pooled, f"{name}w", f"{name}b"], f"{name}c"))
            nodes.append(node("Transpose", [f"{name}c"], f"{name}t", perm=[0, 2, 3, 1]))
            last = f"{name}r" if part == "score" else name
            nodes.append(node("Reshape", [f"{name}t", f"{name}s"], last))
            if part == "score":
                nodes.append(node("Sigmoid", [last], name))
            names[part].append(port(12, name, ["cells", columns]))
    outputs = names["score"] + names["box"] + names["kps"]
    path.write_bytes(model(nodes, constants, [port(11, "picture", [1, 3, size, size])], outputs))
    return path


def recogniser_weight(width: int = 512) -> NDArray[np.float32]:
    """(48, width): from the mean colours of 4 × 4 tiles, channels first."""
    return np.random.default_rng(11).standard_normal((48, width)).astype(np.float32)


def write_recogniser(path: Path, width: int = 512, convolutions: int = 103, batch: Size = "None") -> Path:
    """`convolutions` identities, then the mean of 28 × 28 tiles, then the seeded map to `width` numbers."""
    nodes, last = [], "face"
    identity = constant("identity", np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1))
    for index in range(convolutions):
        nodes.append(node("Conv", [last, "identity"], f"conv{index}"))
        last = f"conv{index}"
    nodes.append(node("AveragePool", [last], "tiles", kernel_shape=[28, 28], strides=[28, 28]))
    nodes.append(node("Flatten", ["tiles"], "flat"))
    nodes.append(node("MatMul", ["flat", "map"], "embedding"))
    constants = [identity, constant("map", recogniser_weight(width))]
    inputs = [port(11, "face", [batch, 3, 112, 112])]
    path.write_bytes(model(nodes, constants, inputs, [port(12, "embedding", [batch, width])]))
    return path


def write_pack(folder: Path, convolutions: int = 103) -> Path:
    """A folder with both files of the pack, stand-ins."""
    folder.mkdir(parents=True)
    write_detector(folder / "scrfd_10g_bnkps.onnx")
    write_recogniser(folder / "glintr100.onnx", convolutions=convolutions)
    return folder
