"""Safetensors files read and written one tensor at a time, so that a file may be larger than memory.

The format: 8 bytes that hold the header's length, a JSON header padded with spaces to a multiple of 8, then the bytes of all
tensors without a gap. Both ends check what they are given; the metadata written is {"format": "pt"}.
"""

import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""What weights may be, and the format's names for it."""
ALIGNMENT = 8

Entry = tuple[str, tuple[int, ...], torch.dtype]
"""Name, shape and dtype of a tensor to write."""


class WeightsFile:
    """A safetensors file of weights, open for reading. Nothing of a tensor is read before it is asked for.

    Example: with WeightsFile(path) as file: file.tensor("llm2vae.bias")
    """

    shapes: dict[str, tuple[int, ...]]
    """Of every tensor in the file."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError naming the file when it is missing, truncated or damaged, or a tensor that is no float in it."""
        self.path = path
        if not path.is_file():
            raise ValueError(f"{path} is missing; copy it again from where the weights come from")
        try:
            file: Any = safe_open(path, "pt")
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} cannot be read ({error}): it is truncated or damaged; copy it again") from error
        self._file = file
        self.shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
        for name, each in slices.items():
            if (kind := each.get_dtype()) not in DTYPES.values():
                raise ValueError(
                    f"{name} in {path} is {kind}; weights are floating point ({', '.join(DTYPES.values())}), "
                    "export them unquantised"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.__exit__(kind, error, trace)

    def tensor(self, name: str) -> Tensor:
        """One whole tensor, in the dtype of the file. Raises ValueError unless all of it is finite."""
        return self._finite(name, self._file.get_tensor(name))

    def flat(self, name: str, start: int, stop: int) -> Tensor:
        """Elements start .. stop of a flattened tensor, [stop - start]; of the file only the rows they lie in are read.

        Raises ValueError unless they are finite.
        """
        shape = self.shapes[name]
        assert 0 <= start <= stop <= math.prod(shape), f"{name} has {math.prod(shape)} elements, not {start} .. {stop}"
        if not shape or start == stop:
            return self.tensor(name).view(-1)[start:stop]
        row = math.prod(shape[1:])
        first, last = start // row, -(-stop // row)
        rows: Tensor = self._file.get_slice(name)[first:last]
        return self._finite(name, rows.reshape(-1)[start - first * row : stop - first * row])

    def _finite(self, name: str, value: Tensor) -> Tensor:
        # A NaN or an infinity anywhere is the least or the largest; to look at these takes no memory, and little time.
        if value.numel() and not torch.stack(torch.aminmax(value)).isfinite().all():
            count = int((~value.isfinite()).sum())
            raise ValueError(
                f"{name} in {self.path} holds {count} numbers that are NaN or infinite; the weights are damaged, take those of "
                "an earlier checkpoint or copy them again"
            )
        return value


def write_weights(path: Path, entries: Iterable[Entry], tensor: Callable[[str], Tensor]) -> int:
    """Write a safetensors file, asking `tensor` for one tensor after the other, each on any device and in any dtype.

    They are asked for in the order of the entries, but wider dtypes first: so each starts at a multiple of its item size.
    Each is cast to its entry's dtype. Returns the CRC-32 of what the file should hold, taken of memory as it is written.
    Raises ValueError for a name given twice and a tensor of another shape than its entry.
    """
    ordered = sorted(entries, key=lambda entry: -entry[2].itemsize)
    if twice := [name for name, count in Counter(name for name, _, _ in ordered).items() if count > 1]:
        raise ValueError(f"{', '.join(twice)} would be twice in {path}; give every tensor one name")
    with path.open("wb") as file:
        checksum = _written(file, _header(ordered), 0)
        for entry in ordered:
            checksum = _written(file, _content(entry, tensor(entry[0]), path), checksum)
    return checksum


def _written(file: BinaryIO, content: bytes | memoryview, checksum: int) -> int:
    """Write it; the CRC-32 of all so far."""
    file.write(content)
    return zlib.crc32(content, checksum)


def _content(entry: Entry, value: Tensor, path: Path) -> memoryview:
    """The bytes of a tensor; it lives no longer than they do, so that the next one finds its memory free."""
    name, shape, dtype = entry
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} is {list(value.shape)}, but {list(shape)} was announced in {path}")
    return value.detach().to("cpu", dtype).contiguous().view(-1).view(torch.uint8).numpy().data


def _header(entries: Iterable[Entry]) -> bytes:
    """The format's first bytes: length and JSON of names, dtypes, shapes and places."""
    content: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape, dtype in entries:
        end = offset + math.prod(shape) * dtype.itemsize
        content[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(content, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    return len(header).to_bytes(8, "little") + header
