"""Inspect, convert, verify and use InstantID and IP-Adapter checkpoints: the public functions and their results.

    import ckptfix
    ckptfix.inspect("ip-adapter.bin").exit_code
    ckptfix.convert("ip-adapter.bin", "fixed.safetensors").written

A name is imported when it is first used, so that `import ckptfix` loads neither torch nor numpy nor rich.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptfix.batches import inspect_many
    from ckptfix.comparison import Comparison, diff
    from ckptfix.compatibility import Compatibility, compat
    from ckptfix.conversion import Conversion, convert
    from ckptfix.errors import CkptfixError, ExitCode
    from ckptfix.explanation import Explanation, explain
    from ckptfix.findings import Finding
    from ckptfix.generation import Generation, Wishes, generate
    from ckptfix.generation.attachment import attach
    from ckptfix.inspection import Inspection, inspect
    from ckptfix.loading import load
    from ckptfix.verification import Verification, verify

__version__ = "0.1.0"
__all__ = [
    "CkptfixError",
    "Comparison",
    "Compatibility",
    "Conversion",
    "ExitCode",
    "Explanation",
    "Finding",
    "Generation",
    "Inspection",
    "Verification",
    "Wishes",
    "__version__",
    "attach",
    "compat",
    "convert",
    "diff",
    "explain",
    "generate",
    "inspect",
    "inspect_many",
    "load",
    "verify",
]

_HOME = {
    "CkptfixError": "errors",
    "Comparison": "comparison",
    "Compatibility": "compatibility",
    "Conversion": "conversion",
    "ExitCode": "errors",
    "Explanation": "explanation",
    "Finding": "findings",
    "Generation": "generation",
    "Inspection": "inspection",
    "Verification": "verification",
    "Wishes": "generation",
    "attach": "generation.attachment",
    "compat": "compatibility",
    "convert": "conversion",
    "diff": "comparison",
    "explain": "explanation",
    "generate": "generation",
    "inspect": "inspection",
    "inspect_many": "batches",
    "load": "loading",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ckptfix' has no attribute {name!r}")
    value = getattr(import_module(f"ckptfix.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
