"""What each of two ranks runs in a process of its own; the parent test reads the answers from JSON files."""

import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from learner.optimizer import Rank
from tests.learner.conftest import free_port


def run(worker: Callable[..., Any], folder: Path, *, timeout: float = 240) -> list[Any]:
    """worker(rank, folder) on two spawned ranks; what each returned (as JSON carries it), rank 0 first."""
    port = free_port()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_entry, args=(worker, rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0], f"ranks ended with {codes} (None: still running after {timeout} s)"
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def _entry(worker: Callable[..., Any], rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    answer = worker(Rank(rank=rank, world_size=2, master_addr="127.0.0.1", master_port=port), folder)
    (folder / f"{rank}.json").write_text(json.dumps(answer))
    torch.distributed.destroy_process_group()
