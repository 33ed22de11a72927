import math
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from unigrpo.models.bagel.weights_file import WeightsFile, write_weights

TENSORS = {
    "narrow": torch.randn(3).to(torch.bfloat16),
    "table": torch.randn(5, 4, 3),
    "number": torch.tensor(2.5),
    "none": torch.zeros(0, 7),
    "wide": torch.randn(4, dtype=torch.float64),
    "half": torch.randn(2, 3).to(torch.float16),
}


def write(path: Path, tensors: dict[str, Tensor], tensor: Callable[[str], Tensor] | None = None) -> None:
    entries = [(name, tuple(value.shape), value.dtype) for name, value in tensors.items()]
    write_weights(path, entries, tensor or tensors.__getitem__)


def test_safetensors_reads_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write(path, TENSORS)
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in TENSORS.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_what_safetensors_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    with WeightsFile(path) as file:
        assert file.shapes == {name: tuple(value.shape) for name, value in TENSORS.items()}
        assert all(torch.equal(file.tensor(name), value) for name, value in TENSORS.items())


def test_tensors_are_asked_for_one_by_one_in_their_order_but_wider_first(tmp_path: Path) -> None:
    asked: list[str] = []

    def tensor(name: str) -> Tensor:
        asked.append(name)
        return TENSORS[name]

    write(tmp_path / "x.safetensors", TENSORS, tensor)
    assert asked == ["wide", "table", "number", "none", "narrow", "half"]


def test_the_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    entries = [(name, tuple(value.shape), value.dtype) for name, value in TENSORS.items()]
    assert write_weights(path, entries, TENSORS.__getitem__) == zlib.crc32(path.read_bytes())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_is_gone_when_the_next_is_asked_for(tmp_path: Path, dtype: torch.dtype) -> None:
    given: list[weakref.ref[numpy.ndarray]] = []

    def tensor(name: str) -> Tensor:
        assert all(each() is None for each in given)
        array = numpy.ones(3, numpy.float32)
        given.append(weakref.ref(array))
        return torch.from_numpy(array)

    write_weights(tmp_path / "x.safetensors", [(name, (3,), dtype) for name in "abc"], tensor)
    assert len(given) == 3


def test_tensors_are_cast_to_what_was_announced(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_weights(path, [("a", (5, 4, 3), torch.bfloat16)], lambda _: TENSORS["table"].transpose(0, 2).transpose(0, 2))
    assert torch.equal(load_file(path)["a"], TENSORS["table"].to(torch.bfloat16))


@pytest.mark.parametrize("name", TENSORS)
def test_every_flat_piece_of_a_tensor(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    size = math.prod(TENSORS[name].shape)
    with WeightsFile(path) as file:
        for start in range(size + 1):
            for stop in range(start, size + 1):
                assert torch.equal(file.flat(name, start, stop), TENSORS[name].flatten()[start:stop])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_counted_and_named(tmp_path: Path, dtype: torch.dtype, wrong: float) -> None:
    path = tmp_path / "x.safetensors"
    value = torch.full((5, 7), torch.finfo(dtype).max, dtype=dtype)
    value[1, 2] = value[4, 6] = wrong
    save_file({"a": value, "b": torch.full((9,), torch.finfo(dtype).min, dtype=dtype)}, path)
    with WeightsFile(path) as file:
        assert len(file.tensor("b")) == 9
        assert len(file.flat("a", 10, 34)) == 24
        for read, count in (
            (lambda: file.tensor("a"), 2),
            (lambda: file.flat("a", 9, 10), 1),
            (lambda: file.flat("a", 7, 35), 2),
        ):
            with pytest.raises(ValueError, match=rf"^a in {path} holds {count} numbers that are NaN or infinite; the weights"):
                read()


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    entries = [("a", (3,), torch.float32), ("b", (3,), torch.float32), ("a", (3,), torch.bfloat16)]
    with pytest.raises(ValueError, match=r"^a would be twice in .*x.safetensors"):
        write_weights(tmp_path / "x.safetensors", entries, lambda _: torch.zeros(3))


def test_a_tensor_of_another_shape_than_announced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a is \[3, 2\], but \[2, 3\] was announced"):
        write_weights(tmp_path / "x.safetensors", [("a", (2, 3), torch.float32)], lambda _: torch.zeros(3, 2))


def test_whole_numbers_are_not_weights(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS | {"packed": torch.zeros(2, dtype=torch.int8)}, path)
    with pytest.raises(ValueError, match=r"packed in .*x.safetensors is I8; weights are floating point \(F64, F32,"):
        WeightsFile(path)


@pytest.mark.parametrize("keep", [0, 4, 60, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(ValueError, match=r"x.safetensors cannot be read .*it is truncated or damaged; copy it again"):
        WeightsFile(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x.safetensors is missing"):
        WeightsFile(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"x.safetensors is missing"):
        WeightsFile(tmp_path / "x.safetensors")
