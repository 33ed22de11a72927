"""What a run writes down: metrics.jsonl and TensorBoard, cut back to the restored step when a run is resumed."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

WALL_CLOCK = "seconds/"
"""Prefix of the fields that differ between two otherwise equal runs."""


class Clock:
    """Seconds a stage, by name: `with clock("update"): ...`; `begins` hears of each stage as it begins."""

    def __init__(self, begins: Callable[[str], None] = lambda stage: None) -> None:
        self._begins = begins
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._begins(stage)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[WALL_CLOCK + stage] = time.perf_counter() - started


class Metrics:
    """The rows of one run. A training row carries the step it led to, an evaluation row the step it judged."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "metrics.jsonl"
        self._board = run_dir / "tensorboard"
        self._writer: SummaryWriter | None = None

    def resume(self, step: int) -> None:
        """Cut training rows after the restored step and evaluation rows from it on: they are about to be written again."""
        rows = [row for row in read_rows(self._path) if row["step"] < step + (row["kind"] == "train")]
        beside = self._path.with_suffix(".new")
        beside.write_text("".join(_line(row) for row in rows), encoding="utf-8")
        os.replace(beside, self._path)
        self._writer = SummaryWriter(str(self._board), purge_step=step + 1)

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one row and send its numbers to TensorBoard. Raises FloatingPointError for one that is not finite."""
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise FloatingPointError(
                    f"metric {name} of step {step} is {value}; the run ends here, its last checkpoint still loads"
                )
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line({"kind": kind, "step": step, **values}))
        assert self._writer is not None, "resume() comes first"
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Nothing more is logged."""
        if self._writer is not None:
            self._writer.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a metrics file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
