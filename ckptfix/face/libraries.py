"""The libraries that faces need, imported when they are first used: OpenCV, Pillow and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ckptfix.errors import UnavailableError, UnreadableError
from ckptfix.requirements import missing_dependency, requirement
from ckptfix.text import printable

_HEADLESS = "opencv-python-headless"


def opencv() -> Any:
    """`cv2`. UnavailableError if it is not installed, or a library of the system that it wants is not there."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise missing_dependency(_HEADLESS) from error
    except ImportError as error:  # opencv-python wants libGL, which servers rarely have; an old build wants numpy 1
        raise UnavailableError(
            f"OpenCV is installed but cannot be loaded: {error}",
            hint=f"pip uninstall opencv-python; pip install --upgrade --force-reinstall '{requirement(_HEADLESS)}'",
            code="dependency",
            dependency=_HEADLESS,
        ) from error
    return cv2


def pillow() -> Any:
    """`PIL.Image`. UnavailableError if Pillow is not installed."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise missing_dependency("pillow") from error
    return Image


@contextmanager
def quiet_opencv() -> Iterator[Any]:
    """`cv2` with its warnings off: OpenCV 5 prints one on stderr for every network that it reads."""
    cv2 = opencv()
    log = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 moved the two functions
    before = log.getLogLevel()
    log.setLogLevel(0)
    try:
        yield cv2
    finally:
        log.setLogLevel(before)


class OnnxModel:
    """An ONNX file ready to run on the CPU, where results do not depend on the machine's GPU.

    `inputs` and `outputs` are the shapes that the file declares, in its order; sizes left open are None.
    """

    def __init__(self, path: Path) -> None:
        runtime = _onnxruntime()
        self.path = path
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        with self._translated("cannot be loaded by ONNX Runtime"):
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = [node.name for node in self._session.get_inputs()]
        self.inputs = [_sizes(node.shape) for node in self._session.get_inputs()]
        self.outputs = [_sizes(node.shape) for node in self._session.get_outputs()]

    def run(self, array: Any) -> list[Any]:
        """All outputs for one input, as float32 arrays. UnreadableError if the graph fails on it."""
        with self._translated("fails when it is run"):
            return list(self._session.run(None, {self._input[0]: array}))

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        failures = (
            state.EPFail,
            state.Fail,
            state.InvalidArgument,
            state.InvalidGraph,
            state.InvalidProtobuf,
            state.NoModel,
            state.NoSuchFile,
            state.NotImplemented,
            state.RuntimeException,
        )
        try:
            yield
        except failures as error:
            reason = printable(str(error).rpartition(" : ")[2].strip() or type(error).__name__, 160)
            raise UnreadableError(
                f"{what}: {reason}", hint="get the model file again", code="model", source=str(self.path)
            ) from error


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise missing_dependency("onnxruntime") from error
    onnxruntime.disable_telemetry_events()  # on by default in the Windows builds
    return onnxruntime


def _sizes(shape: list[int | str | None]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)
