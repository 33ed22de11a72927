"""`make bench`: every measurement in a process of its own, one after another, then one table.

Each can also be run alone, as `python -m benchmarks.painting`. Results and logs go to benchmarks/results/. A missed target is
shown, not an error; a measurement that fails is.
"""

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # `python benchmarks/run.py` puts this folder there instead

from benchmarks.harness import RESULTS, read, show  # noqa: E402

MEASUREMENTS = (
    "velocity",
    "packing",
    "checkpoint_io",
    "painting",
    "thoughts",
    "learner_step",
    "idle",
    "publication",
    "rewards",
    "reward_service",
)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "DS_ACCELERATOR": "cpu",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def main() -> int:
    console = Console()
    RESULTS.mkdir(exist_ok=True)
    failed = [name for name in MEASUREMENTS if not _measure(name, console)]
    done = [read(name) for name in MEASUREMENTS if name not in failed]
    show(console, done)
    with (RESULTS / "table.txt").open("w", encoding="utf-8") as file:
        show(Console(file=file, width=180), done)
    return 1 if failed else 0


def _measure(name: str, console: Console) -> bool:
    """Run one measurement; whether it ended well. Its output is kept, and shown when it failed."""
    log = RESULTS / f"{name}.log"
    console.print(f"measuring {name} ...")
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        code = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, stdout=file, stderr=file).returncode
    if code:
        console.print(f"{name} failed with status {code}; the end of {log}:", style="red")
        console.print("\n".join(log.read_text(encoding="utf-8").splitlines()[-20:]), markup=False, highlight=False)
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
