"""What `ckptfix --version` prints."""

from __future__ import annotations

import platform

from ckptfix import __version__
from ckptfix.requirements import installed_version

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
        lines.append(f"  {name:<16} {installed_version(name) or 'not installed':<16} {purpose}")
    return "\n".join(lines)
