"""Weight buckets: what goes in comes out bit by bit, without a copy, and whatever is wrong is named."""

import dataclasses
import pickle
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from unigrpo.buckets import ALIGNMENT, Assembly, Bucket, pack, unpack


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "wide": torch.randn(3, 5, generator=generator),
        "half": torch.randn(7, generator=generator).bfloat16(),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "transposed": torch.randn(4, 6, generator=generator).t(),
        "counts": torch.arange(3),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }


def shapes() -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights().items()}


def as_from_object_store(buckets: list[Bucket]) -> list[Bucket]:
    """Through pickle 5 with read-only out-of-band memory, as Ray's plasma store does it."""
    held: list[pickle.PickleBuffer] = []
    header = pickle.dumps(buckets, protocol=5, buffer_callback=held.append)
    received: list[Bucket] = pickle.loads(header, buffers=[bytes(buffer.raw()) for buffer in held])
    return received


@pytest.mark.parametrize("bucket_bytes", [1, 64, 100, 10**6])
def test_tensors_survive_bit_by_bit_through_read_only_memory(bucket_bytes: int) -> None:
    buckets = as_from_object_store(pack(weights().items(), version=3, bucket_bytes=bucket_bytes))
    assert not any(bucket.payload.flags.writeable for bucket in buckets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        received = [pair for bucket in buckets for pair in unpack(bucket)]
    assert [name for name, _ in received] == list(weights())
    for name, tensor in received:
        torch.testing.assert_close(tensor, weights()[name], rtol=0, atol=0)


def test_division_into_buckets_worked_out_by_hand() -> None:
    # Bytes: wide 60, half 14, scalar 8, transposed 96, counts 24, bytes 5; every tensor starts at a multiple of 16.
    buckets = pack(weights().items(), version=3, bucket_bytes=90)
    layout = [[(entry.name, entry.offset, entry.num_bytes) for entry in bucket.entries] for bucket in buckets]
    assert layout == [
        [("wide", 0, 60), ("half", 64, 14), ("scalar", 80, 8)],
        [("transposed", 0, 96)],
        [("counts", 0, 24), ("bytes", 32, 5)],
    ]
    assert [bucket.payload.size for bucket in buckets] == [88, 96, 37]
    assert [(bucket.version, bucket.index, bucket.num_buckets) for bucket in buckets] == [(3, 0, 3), (3, 1, 3), (3, 2, 3)]


def test_padding_counts_towards_the_size_of_a_bucket() -> None:
    # 60 bytes, 4 of padding and 16 bytes make 80.
    pair = [("a", torch.zeros(15)), ("b", torch.zeros(4))]
    assert [len(pack(pair, version=0, bucket_bytes=size)) for size in (79, 80)] == [2, 1]


def test_offsets_are_aligned_for_every_dtype() -> None:
    (bucket,) = pack(weights().items(), version=0, bucket_bytes=10**6)
    assert all(entry.offset % ALIGNMENT == 0 for entry in bucket.entries)


def test_views_share_the_payload_and_pickling_leaves_it_out_of_band() -> None:
    (bucket,) = pack([("a", torch.zeros(250_000))], version=0, bucket_bytes=10**7)
    ((_, view),) = unpack(bucket)
    assert view.data_ptr() == bucket.payload.ctypes.data
    held: list[pickle.PickleBuffer] = []
    assert len(pickle.dumps(bucket, protocol=5, buffer_callback=held.append)) < 1000
    assert [buffer.raw().nbytes for buffer in held] == [1_000_000]


def test_tensors_are_copied_as_they_come_so_that_gathering_can_reuse_its_memory() -> None:
    def gathered() -> Iterator[tuple[str, Tensor]]:
        scratch = torch.nn.Parameter(torch.empty(4))
        for index in range(4):
            scratch.data.fill_(index)
            yield f"t{index}", scratch

    (bucket,) = pack(gathered(), version=0, bucket_bytes=64)
    assert [tensor.tolist() for _, tensor in unpack(bucket)] == [[0.0] * 4, [1.0] * 4, [2.0] * 4, [3.0] * 4]


@pytest.mark.parametrize(
    "damage",
    [
        lambda bucket: dataclasses.replace(bucket, payload=np.where(np.arange(bucket.payload.size) == 40, 255, bucket.payload)),
        lambda bucket: dataclasses.replace(bucket, version=bucket.version + 1),
        lambda bucket: dataclasses.replace(bucket, num_buckets=2),
        lambda bucket: dataclasses.replace(bucket, entries=bucket.entries[::-1]),
    ],
    ids=["payload", "version", "num_buckets", "entries"],
)
def test_damage_anywhere_is_found_before_a_tensor_is_given(damage: Callable[[Bucket], Bucket]) -> None:
    (bucket,) = pack(weights().items(), version=3, bucket_bytes=10**6)
    with pytest.raises(ValueError, match=r"has checksum 0x.* instead of 0x"):
        unpack(damage(bucket))


def test_assembly_takes_buckets_in_any_order() -> None:
    assembly = Assembly(3, shapes())
    received: dict[str, Tensor] = {}
    for bucket in reversed(pack(weights().items(), version=3, bucket_bytes=64)):
        received.update(assembly.add(bucket))
    assembly.finish()
    assert received.keys() == weights().keys()


def test_assembly_names_what_is_missing() -> None:
    buckets = pack(weights().items(), version=3, bucket_bytes=90)
    assembly = Assembly(3, shapes() | {"never_sent": (2,)})
    assembly.add(buckets[0])
    assembly.add(buckets[2])
    with pytest.raises(ValueError, match=r"missing buckets \[1\] of 3, missing tensors \['never_sent', 'transposed'\]"):
        assembly.finish()
    with pytest.raises(ValueError, match="no bucket of version 4 arrived"):
        Assembly(4, shapes()).finish()


def test_assembly_refuses_the_tensors_of_another_model_before_giving_any() -> None:
    (bucket,) = pack(weights().items(), version=3, bucket_bytes=10**6)
    expected = {name: shape for name, shape in shapes().items() if name != "half"} | {"wide": (5, 3)}
    with pytest.raises(ValueError, match=r"wide has shape \(3, 5\) instead of \(5, 3\); half is not expected"):
        Assembly(3, expected).add(bucket)


def test_assembly_refuses_mixed_versions_repeats_and_other_divisions() -> None:
    first, *_ = pack(weights().items(), version=3, bucket_bytes=90)
    _, second = pack(list(weights().items())[:4], version=3, bucket_bytes=90)
    assembly = Assembly(3, shapes())
    assembly.add(first)
    with pytest.raises(ValueError, match="bucket 0 of version 3 came twice"):
        assembly.add(first)
    with pytest.raises(ValueError, match="version 3 came as 3 buckets and as 2"):
        assembly.add(second)
    with pytest.raises(ValueError, match="a bucket of version 3 came while version 4 is loaded"):
        Assembly(4, shapes()).add(first)


def test_assembly_refuses_a_tensor_that_came_in_another_bucket() -> None:
    a, b = pack([("a", torch.zeros(4)), ("b", torch.zeros(4))], version=0, bucket_bytes=16)
    c, _ = pack([("b", torch.ones(4)), ("a", torch.zeros(4))], version=0, bucket_bytes=16)
    assembly = Assembly(0, {"a": (4,), "b": (4,)})
    assembly.add(b)
    assert (a.index, c.index) == (0, 0)
    with pytest.raises(ValueError, match="b came twice"):
        assembly.add(c)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "there are no tensors to pack"),
        ([("a", torch.zeros(1)), ("a", torch.zeros(1))], "a is packed twice"),
        ([("a", torch.zeros(1, dtype=torch.complex64))], "a is complex64, which no weight bucket carries"),
        ([("a", torch.zeros(0))], r"a of shape \(0,\) is empty; gather it"),
    ],
)
def test_what_cannot_be_packed_is_refused(tensors: list[tuple[str, Tensor]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(tensors, version=0, bucket_bytes=64)
