"""Where one rank's part of a parameter lies, and how it is filled from a file that no rank reads whole.

At ZeRO-3 a parameter is cut into equal flat partitions, the last one padded; at stages 1 and 2 a rank holds the master of any
stretch of it, or of nothing; at stage 0 of all of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

Flat = Callable[[str, int, int], Tensor]
"""Elements start .. stop of a named tensor laid flat, in any floating dtype and on any device."""


class Part(NamedTuple):
    """A stretch of a flattened parameter that this rank holds. Example: the last 5 of 10 elements -> start 5, values [5]."""

    start: int
    """Its first element."""
    values: Tensor
    """A flat view, written in place; empty where the rank holds nothing."""

    def fill(self, name: str, flat: Flat) -> None:
        """Take over the same stretch of the tensor of this name."""
        if count := self.values.numel():
            self.values.copy_(flat(name, self.start, self.start + count))


def place(module: nn.Module, device: torch.device, *, in_turn: bool) -> None:
    """Take a tree of modules from the meta device to `device`, without values; its parameters are new objects.

    `in_turn`: parameters share room for the largest, since each is cut up before the next is looked at.
    """
    sizes = [parameter.numel() for parameter in module.parameters()]
    shared = next(module.parameters()).new_empty(max(sizes), device=device) if in_turn else None
    for each in module.modules():
        for name, buffer in list(each.named_buffers(recurse=False)):
            setattr(each, name, torch.empty_like(buffer, device=device))
        for name, parameter in list(each.named_parameters(recurse=False)):
            room = torch.empty_like(parameter, device=device) if shared is None else shared[: parameter.numel()]
            setattr(each, name, nn.Parameter(room.view(parameter.shape), parameter.requires_grad))


def compute_part(parameter: Any) -> Part:
    """This rank's part of what is computed with: a ZeRO-3 partition, the whole tensor otherwise."""
    if hasattr(parameter, "ds_tensor"):
        return unpadded(parameter.ds_tensor, parameter.ds_numel)
    return Part(0, parameter.data.view(-1))


def master_part(parameter: Any, kind: str | None) -> Part:
    """This rank's part of a master (kind None) or moment at stages 1 and 2."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return Part(0, torch.empty(0))
    return Part(mapping.lp_fragment_address.start, mapping.get_hp_fragment(kind).data)


def unpadded(partition: Tensor, num_elements: int) -> Part:
    """What of this rank's ZeRO-3 partition is the parameter's; the padding behind it is set to zero."""
    start = partition.numel() * dist.get_rank()
    count = max(0, min(partition.numel(), num_elements - start))
    partition.data[count:].zero_()
    return Part(start, partition.data[:count])


def fill_frozen(module: nn.Module, flat: Flat) -> None:
    """Fill the buffers and the frozen parameters of a module, each rank its own part."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            compute_part(parameter).fill(name, flat)
    for name, buffer in module.named_buffers():
        Part(0, buffer.view(-1)).fill(name, flat)
