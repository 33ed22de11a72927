"""Weights as flat buckets with a version and a checksum: the one format every transport carries.

A bucket is one byte array holding whole tensors behind one another, so that a few large messages replace many small ones. Its
payload is a numpy array, which pickle protocol 5 (and so Ray's object store) moves out of band: workers of one node share one
copy. Compression and sharding are left out: who needs a part of a tensor slices it on its own side.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
}
ALIGNMENT = 16
"""Every tensor starts at a multiple of this, so that a view of any dtype is possible."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies. Example: Entry("a.weight", "bfloat16", (8, 4), offset=32, num_bytes=64)."""

    name: str
    """Parameter name in the released checkpoint's naming."""
    dtype: str
    """A key of DTYPES."""
    shape: tuple[int, ...]
    """Shape; () is a scalar."""
    offset: int
    """First byte in the payload, a multiple of ALIGNMENT."""
    num_bytes: int
    """Bytes without padding."""


@dataclass(frozen=True, eq=False)
class Bucket:
    """Some tensors of one version of the weights. Example: the third of five -> index 2, num_buckets 5."""

    version: int
    """The step these weights belong to."""
    index: int
    """Position among the version's buckets."""
    num_buckets: int
    """How many buckets make the version whole."""
    entries: tuple[Entry, ...]
    """The tensors within."""
    payload: NDArray[np.uint8]
    """[bytes] uint8; read-only once it came out of Ray's object store."""
    checksum: int
    """crc32 over payload and header."""


def pack(tensors: Iterable[tuple[str, Tensor]], *, version: int, bucket_bytes: int) -> list[Bucket]:
    """Copy named tensors (any device) into buckets of at most bucket_bytes each, in the order given.

    Each tensor is copied as the iterable gives it and not held any longer, so a generator may gather one parameter at a time.
    One larger than a bucket gets one alone.

    Raises:
        ValueError: nothing to pack, an empty tensor, a name given twice, or a dtype that no bucket carries.
    """
    groups: list[tuple[list[Entry], NDArray[np.uint8]]] = []
    names: set[str] = set()
    end = 0
    for name, tensor in tensors:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise ValueError(f"{name} is {dtype}, which no weight bucket carries; use one of {', '.join(DTYPES)}")
        if tensor.numel() == 0:
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} is empty; gather it from its ZeRO-3 ranks before packing")
        if name in names:
            raise ValueError(f"{name} is packed twice; give every tensor one name")
        names.add(name)
        num_bytes = tensor.numel() * tensor.element_size()
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        if not groups or offset + num_bytes > bucket_bytes:
            offset = 0
            groups.append(([], np.zeros(max(bucket_bytes, num_bytes), dtype=np.uint8)))
        entries, buffer = groups[-1]
        entries.append(Entry(name, dtype, tuple(tensor.shape), offset, num_bytes))
        _view(torch.from_numpy(buffer), entries[-1]).copy_(tensor.detach())
        end = offset + num_bytes
    if not groups:
        raise ValueError("there are no tensors to pack; a version of the weights holds at least one")
    return [_seal(version, index, len(groups), tuple(entries), buffer) for index, (entries, buffer) in enumerate(groups)]


def unpack(bucket: Bucket) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a bucket, as views of its payload: zero-copy, to be read and never written to.

    Raises:
        ValueError: at the call, not while iterating, when the checksum does not match.
    """
    actual = _checksum(bucket.version, bucket.index, bucket.num_buckets, bucket.entries, bucket.payload)
    if actual != bucket.checksum:
        raise ValueError(
            f"bucket {bucket.index} of {bucket.num_buckets} of version {bucket.version} has checksum {actual:#010x} instead of "
            f"{bucket.checksum:#010x}; it was damaged on the way, publish the weights again"
        )
    # DLPack, unlike torch.from_numpy, takes read-only arrays without a warning.
    flat: Tensor = torch.from_dlpack(bucket.payload)  # type: ignore[attr-defined]
    return ((entry.name, _view(flat, entry)) for entry in bucket.entries)


class Assembly:
    """Checks that the buckets of one version, arriving in any order, make up exactly the expected weights."""

    def __init__(self, version: int, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Expect every name of `expected` once, with its shape."""
        self.version = version
        self._expected = expected
        self._num_buckets: int | None = None
        self._indices: set[int] = set()
        self._names: set[str] = set()

    def add(self, bucket: Bucket) -> Iterator[tuple[str, Tensor]]:
        """Check a bucket whole, then give its tensors (views, see `unpack`).

        Raises:
            ValueError: before any tensor is given: a damaged bucket, another version, a bucket that came twice or belongs to
                another division, a tensor that is unexpected, misshapen or came twice.
        """
        if bucket.version != self.version:
            raise ValueError(
                f"a bucket of version {bucket.version} came while version {self.version} is loaded; load one at a time"
            )
        if self._num_buckets not in (None, bucket.num_buckets):
            raise ValueError(
                f"version {self.version} came as {self._num_buckets} buckets and as {bucket.num_buckets}; publish it once"
            )
        if bucket.index in self._indices:
            raise ValueError(f"bucket {bucket.index} of version {self.version} came twice; send each once")
        tensors = unpack(bucket)
        faults = [fault for entry in bucket.entries if (fault := self._fault(entry))]
        if faults:
            raise ValueError(f"the weights of version {self.version} are not this model's: {'; '.join(faults)}")
        self._num_buckets = bucket.num_buckets
        self._indices.add(bucket.index)
        self._names.update(entry.name for entry in bucket.entries)
        return tensors

    def finish(self) -> None:
        """Confirm that everything arrived.

        Raises:
            ValueError: naming the buckets and tensors that are missing.
        """
        if self._num_buckets is None:
            raise ValueError(f"no bucket of version {self.version} arrived; publish the weights again")
        buckets = sorted(set(range(self._num_buckets)) - self._indices)
        names = sorted(set(self._expected) - self._names)
        if buckets or names:
            raise ValueError(
                f"version {self.version} is not complete: missing buckets {buckets} of {self._num_buckets}, "
                f"missing tensors {names}; publish the weights again"
            )

    def _fault(self, entry: Entry) -> str | None:
        if entry.name not in self._expected:
            return f"{entry.name} is not expected"
        if entry.name in self._names:
            return f"{entry.name} came twice"
        shape = tuple(self._expected[entry.name])
        return None if entry.shape == shape else f"{entry.name} has shape {entry.shape} instead of {shape}"


def _seal(version: int, index: int, num_buckets: int, entries: tuple[Entry, ...], buffer: NDArray[np.uint8]) -> Bucket:
    payload = buffer[: entries[-1].offset + entries[-1].num_bytes]
    return Bucket(version, index, num_buckets, entries, payload, _checksum(version, index, num_buckets, entries, payload))


def _view(flat: Tensor, entry: Entry) -> Tensor:
    return flat[entry.offset : entry.offset + entry.num_bytes].view(DTYPES[entry.dtype]).view(entry.shape)


def _checksum(version: int, index: int, num_buckets: int, entries: tuple[Entry, ...], payload: NDArray[np.uint8]) -> int:
    rows = [(entry.name, entry.dtype, entry.shape, entry.offset, entry.num_bytes) for entry in entries]
    return zlib.crc32(json.dumps([version, index, num_buckets, rows]).encode(), zlib.crc32(payload.data))
