"""From buckets to a complete set of weights, or to nothing: what both kinds of worker do before they serve a version."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from unigrpo.buckets import Assembly, Bucket
from unigrpo.errors import NotServing
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.model import Bagel


def parameter_shapes(config: BagelConfig) -> dict[str, tuple[int, ...]]:
    """Released name and shape of every trained tensor of a model, without allocating it."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in Bagel(config).named_parameters()}


def collect(version: int, buckets: Iterable[Bucket], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Check that the buckets are exactly `expected`, and give their tensors as read-only views of the buckets.

    Raises ValueError naming what is missing, extra, misshapen, damaged or of another version; nothing was copied then.
    """
    assembly = Assembly(version, expected)
    tensors = {name: tensor for bucket in buckets for name, tensor in assembly.add(bucket)}
    assembly.finish()
    return tensors


def require(asked: int, served: int | None) -> int:
    """The version asked for, if it is the one served; raises NotServing otherwise."""
    if asked != served:
        raise NotServing(f"version {asked} was asked for, but this worker serves {'none yet' if served is None else served}")
    return asked
