"""What `ckptfix --version` prints."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from ckptfix import __version__

# Distribution -> what it is for.
OPTIONAL = {
    "torch": "verify, load",
    "diffusers": "generate",
    "transformers": "generate",
    "accelerate": "generate",
    "peft": "generate --lora",
    "onnxruntime": "generate",
    "huggingface_hub": "hub",
}


def version_text() -> str:
    """Our version, Python's, and one line per optional part."""
    lines = [f"ckptfix {__version__} (Python {platform.python_version()})"]
    for name, purpose in OPTIONAL.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "not installed"
        lines.append(f"  {name:<16} {found:<16} {purpose}")
    return "\n".join(lines)
