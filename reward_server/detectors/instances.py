"""From Mask2Former's logits to instances with masks, boxes and scores: pure functions of tensors.

The rule is that of mmdet's MaskFormerFusionHead (instance_postprocess, mask2bbox; mmdet 2, which GenEval runs): every pair of a
query and a class is a candidate; the best hundred by class probability are kept; a score is class probability times the mean
probability of the mask's own pixels.

Shapes: Q queries, C classes and, last, "no object", hw the model's grid of mask logits, HW the picture.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

_MAX_INSTANCES = 100
"""Candidates of one picture (mmdet's max_per_image)."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Height and width of a picture on its way through the model. Example: Sizes((800, 1088), (800, 1066), (768, 1024))."""

    padded: tuple[int, int]
    """What the model was given."""
    content: tuple[int, int]
    """The part of it, from the top left corner, that shows the resized picture; the rest is padding."""
    picture: tuple[int, int]
    """The picture itself."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One candidate. Example: Instance(label=16, score=0.93, box=(12.0, 40.0, 300.0, 411.0), mask_HW=...)."""

    label: int
    """Index of its class."""
    score: float
    """Class probability times mask certainty, in [0, 1]; 0 for an empty mask."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 as `box_of` gives them."""
    mask_HW: Tensor
    """bool, on the CPU."""


def instances(
    class_logits_QC: Tensor, mask_logits_Qhw: Tensor, sizes: Sizes, *, max_instances: int = _MAX_INSTANCES, floor: float = 0.0
) -> list[Instance]:
    """The `max_instances` best candidates, in descending class probability; of equal ones the first query and class first.

    A candidate whose class probability is not above `floor` is left out unseen: its score could not be above it either. Masks
    are taken to the picture's size one at a time, since all of them together would fill the memory on a large picture.
    Raises ValueError for logits that are not finite.
    """
    if not (class_logits_QC.isfinite().all() and mask_logits_Qhw.isfinite().all()):
        raise ValueError("the detector answered logits that are not finite; its weights are broken")
    probability_QC = class_logits_QC.softmax(-1)[:, :-1]
    ranked = probability_QC.flatten().sort(descending=True, stable=True)
    found = []
    for probability, pair in zip(ranked.values[:max_instances].tolist(), ranked.indices[:max_instances].tolist(), strict=True):
        if probability <= floor:
            break
        query, label = divmod(pair, probability_QC.shape[1])
        logits_HW = at_picture_size(mask_logits_Qhw[query], sizes)
        mask_HW = logits_HW > 0
        found.append(Instance(label, probability * certainty(logits_HW), box_of(mask_HW), mask_HW.cpu()))
    return found


def at_picture_size(mask_logits_hw: Tensor, sizes: Sizes) -> Tensor:
    """Mask logits [H, W] of the picture: bilinearly to the model's input, without its padding, bilinearly to the picture."""
    height, width = sizes.content
    padded_11HW = interpolate(mask_logits_hw[None, None], size=sizes.padded, mode="bilinear", align_corners=False)
    content_11HW = padded_11HW[:, :, :height, :width]
    return interpolate(content_11HW, size=sizes.picture, mode="bilinear", align_corners=False)[0, 0]


def certainty(mask_logits_HW: Tensor) -> float:
    """Mean probability of the pixels within a mask (logit above 0); 0 for an empty one."""
    inside_N = mask_logits_HW[mask_logits_HW > 0]
    return float(inside_N.sigmoid().sum() / (inside_N.numel() + 1e-6))


def box_of(mask_HW: Tensor) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of a bool mask: its first column and row, and one past its last; zeros for an empty one.

    One past, as mmdet has it, and GenEval's IoU and relations take these numbers as they are.
    """
    columns_N, rows_N = (torch.nonzero(mask_HW.any(axis)).flatten().tolist() for axis in (0, 1))
    if not columns_N:
        return 0.0, 0.0, 0.0, 0.0
    return float(columns_N[0]), float(rows_N[0]), float(columns_N[-1] + 1), float(rows_N[-1] + 1)
