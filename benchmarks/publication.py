"""Bytes a second of publishing weights: packed by the learner, put into Ray's store, fetched, checked and loaded by a denoiser.

Held against two limits of the same run and size: a plain copy in memory, and a socket over the loopback device.
"""

import multiprocessing
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import ray
import torch
from ray import ObjectRef
from ray.actor import ActorHandle

from benchmarks.harness import Figure, report, take_turns
from benchmarks.workload import SMALL, checkpoint, quickstart, save_random
from cluster.placement import connect
from cluster.roles import denoiser_role
from cluster.wait import wait_all
from cluster.workers import Workers
from configs.schema import TrainConfig
from unigrpo.buckets import Bucket, pack
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.models.bagel.model import Bagel

LARGE = replace(SMALL, hidden_size=512, intermediate_size=2048, num_layers=12, num_heads=8, head_dim=64)
"""Some 375 MB in float32, where bandwidth shows and not latency."""
STAGES = ("pack", "put", "load")


@dataclass
class Publication:
    """The stages of one publication, each working on what the one before left here."""

    config: TrainConfig
    model: Bagel
    denoiser: ActorHandle
    buckets: list[Bucket] = field(default_factory=list)
    refs: list[ObjectRef] = field(default_factory=list)

    def pack(self) -> None:
        self.buckets = pack(self.model.named_parameters(), version=0, bucket_bytes=self.config.learner.bucket_bytes)

    def put(self) -> None:
        self.refs = [ray.put(bucket) for bucket in self.buckets]

    def load(self) -> None:
        wait_all({"load": self.denoiser.load.remote(self.config, 0, self.refs)}, timeout=60)


def measure() -> Iterator[Figure]:
    torch.set_num_threads(1)
    with checkpoint() as folder:
        yield from _figures("quickstart's model", folder)
    with TemporaryDirectory() as temporary:
        yield from _figures("larger model", save_random(Path(temporary) / "model", LARGE))


def _figures(label: str, folder: Path) -> Iterator[Figure]:
    config = quickstart(folder)
    model = load_model(folder).model
    num_bytes = sum(value.numel() * value.element_size() for value in model.parameters())
    connect(config.cluster)
    try:
        role = denoiser_role(config)
        [denoiser] = Workers().serve([role], config.cluster)[role.name]
        publication = Publication(config, model, denoiser)
        with Loopback(num_bytes) as loopback:
            times = take_turns(
                {stage: getattr(publication, stage) for stage in STAGES}
                | {"memcpy": copier(num_bytes), "loopback": loopback.send},
            )
    finally:
        ray.shutdown()
    rates = {name: num_bytes / times.median(name) / 1e9 for name in times.seconds}
    total = num_bytes / sum(times.median(stage) for stage in STAGES) / 1e9
    note = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
    size = f"{label}, {num_bytes / 1e6:.3g} MB"
    yield Figure(name=f"weight publication ({size})", value=total, unit="GB/s", note=f"each alone, GB/s: {note}")
    for limit in ("memcpy", "loopback"):
        yield Figure(name=f"publication over {limit} ({label})", value=100 * total / rates[limit], unit="%")


def copier(num_bytes: int) -> Callable[[], None]:
    """Copies so many bytes between two buffers that exist."""
    source, target = (np.ones(num_bytes, dtype=np.uint8) for _ in range(2))
    return lambda: np.copyto(target, source)


class Loopback:
    """A TCP connection to a process that reads everything and answers with one byte."""

    def __init__(self, num_bytes: int) -> None:
        self._payload = b"\1" * num_bytes

    def __enter__(self) -> "Loopback":
        with socket.create_server(("127.0.0.1", 0)) as server:
            arguments = (server.getsockname()[1], len(self._payload))
            self._reader = multiprocessing.get_context("spawn").Process(target=_read, args=arguments)
            self._reader.start()
            self._connection, _ = server.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._reader.join()

    def send(self) -> None:
        """One payload, until it is acknowledged."""
        self._connection.sendall(self._payload)
        self._connection.recv(1)


def _read(port: int, num_bytes: int) -> None:
    target = memoryview(bytearray(num_bytes))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        have = 0
        while got := connection.recv_into(target[have:]):
            have += got
            if have == num_bytes:
                connection.sendall(b"!")
                have = 0


if __name__ == "__main__":
    report("publication", measure())
