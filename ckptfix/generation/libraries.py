"""The libraries that generate stands on: imported when needed, kept quiet, and kept off the network."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from ckptfix.errors import UnavailableError
from ckptfix.requirements import missing_dependency

# Import name -> distribution, as pip knows it.
NEEDED = {"torch": "torch", "diffusers": "diffusers", "transformers": "transformers", "accelerate": "accelerate"}
NEEDED_FOR_PICTURES = {"PIL": "pillow"}


def absent_dependencies(names: dict[str, str] | None = None) -> list[UnavailableError]:
    """One error for each package that cannot be imported; imports none."""
    wanted = NEEDED | NEEDED_FOR_PICTURES if names is None else names
    return [missing_dependency(pip_name) for name, pip_name in wanted.items() if find_spec(name) is None]


def library(name: str) -> ModuleType:
    """`import name` without its chatter; UnavailableError if it is not installed."""
    with quiet_libraries():
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                raise
            raise missing_dependency(NEEDED.get(name, name)) from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No warnings, bars or advice from the libraries on stderr; everything comes back as it was.

    All logging pauses: transformers sets its own level again while it is imported.
    """
    with ExitStack() as stack:
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        for module in ("diffusers.utils.logging", "transformers.utils.logging"):
            _silence_bars(module, stack)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def _silence_bars(module_name: str, stack: ExitStack) -> None:
    """Only in a library that is there already: importing one to silence it would cost seconds."""
    module: Any = sys.modules.get(module_name)
    if module is None or not module.is_progress_bar_enabled():
        return
    module.disable_progress_bar()
    stack.callback(module.enable_progress_bar)


@contextmanager
def offline() -> Iterator[None]:
    """No request leaves for the Hugging Face hub, whatever a library tries; environment and switch come back."""
    import huggingface_hub.constants as constants

    before = os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        if before[0] is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before[0]
        constants.HF_HUB_OFFLINE = before[1]
