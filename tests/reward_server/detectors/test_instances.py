"""Mask2Former's post-processing against a slow transcription of its rule in plain Python, on random logits."""

import math

import pytest
import torch
from torch import Tensor

from reward_server.detectors.instances import Sizes, at_picture_size, box_of, certainty, instances


def transcription(
    class_logits_QC: list[list[float]], mask_logits_QHW: list[list[list[float]]], *, max_instances: int, floor: float
) -> list[tuple[int, float, tuple[int, ...], list[list[bool]]]]:
    """Label, score, box and mask of each candidate: softmax, the best pairs, mean probability within the mask, its corners."""
    pairs = []
    for query, row in enumerate(class_logits_QC):
        total = sum(math.exp(logit) for logit in row)
        pairs += [(math.exp(logit) / total, query, label) for label, logit in enumerate(row[:-1])]
    answer: list[tuple[int, float, tuple[int, ...], list[list[bool]]]] = []
    for probability, query, label in sorted(pairs, key=lambda pair: -round(pair[0], 9))[:max_instances]:
        if probability <= floor:
            continue
        inside = [(x, y, z) for y, row in enumerate(mask_logits_QHW[query]) for x, z in enumerate(row) if z > 0]
        mean = sum(1 / (1 + math.exp(-z)) for _, _, z in inside) / (len(inside) + 1e-6)
        xs, ys = [x for x, _, _ in inside], [y for _, y, _ in inside]
        box = (min(xs), min(ys), max(xs) + 1, max(ys) + 1) if inside else (0, 0, 0, 0)
        answer.append((label, probability * mean, box, [[z > 0 for z in row] for row in mask_logits_QHW[query]]))
    return answer


def bilinear(grid_hw: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Resampled with pixel centres at halves, the border's value beyond it."""

    def places(old: int, new: int) -> list[tuple[int, int, float]]:
        at = [max((i + 0.5) * old / new - 0.5, 0.0) for i in range(new)]
        return [(int(a), min(int(a) + 1, old - 1), a - int(a)) for a in at]

    def mixed(a: float, b: float, share: float) -> float:
        return a * (1 - share) + b * share

    return [
        [
            mixed(mixed(grid_hw[y0][x0], grid_hw[y0][x1], dx), mixed(grid_hw[y1][x0], grid_hw[y1][x1], dx), dy)
            for x0, x1, dx in places(len(grid_hw[0]), width)
        ]
        for y0, y1, dy in places(len(grid_hw), height)
    ]


def logits(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def as_given(height: int, width: int) -> Sizes:
    return Sizes((height, width), (height, width), (height, width))


@pytest.mark.parametrize("max_instances", [1, 7, 100])
@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize(("queries", "classes", "height", "width"), [(1, 2, 1, 1), (6, 5, 7, 4), (20, 80, 9, 16)])
@pytest.mark.parametrize("seed", range(3))
def test_instances_equal_the_transcription(
    seed: int, queries: int, classes: int, height: int, width: int, floor: float, max_instances: int
) -> None:
    class_logits_QC, mask_logits_QHW = logits(seed, queries, classes + 1), logits(seed + 100, queries, height, width)
    mask_logits_QHW[0] = -mask_logits_QHW[0].abs()  # an empty mask
    mask_logits_QHW[-1, 0, 0] = 0.0  # neither in nor out: out
    if queries > 2:  # ties: a whole query, and two classes of another
        class_logits_QC[1] = class_logits_QC[queries - 1]
        class_logits_QC[2, 0] = class_logits_QC[2, classes - 1]
    found = instances(class_logits_QC, mask_logits_QHW, as_given(height, width), max_instances=max_instances, floor=floor)
    expected = transcription(class_logits_QC.tolist(), mask_logits_QHW.tolist(), max_instances=max_instances, floor=floor)
    assert [(one.label, one.box, one.mask_HW.tolist()) for one in found] == [
        (label, box, mask) for label, _, box, mask in expected
    ]
    assert [one.score for one in found] == pytest.approx([score for _, score, _, _ in expected], abs=1e-9)


def test_candidates_are_query_class_pairs_so_that_one_mask_may_be_two_objects() -> None:
    class_logits_QC = torch.tensor([[5.0, 5.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0]])
    mask_logits_QHW = torch.full((2, 2, 3), 4.0)
    found = instances(class_logits_QC, mask_logits_QHW, as_given(2, 3), floor=0.3)
    assert [one.label for one in found] == [0, 1]
    share = math.exp(5) / (2 * math.exp(5) + 2)
    assert [one.score for one in found] == pytest.approx([share / (1 + math.exp(-4))] * 2, rel=1e-5)


def test_a_candidate_at_the_floor_is_left_out() -> None:
    even_QC, mask_logits_QHW = torch.zeros(1, 2), torch.ones(1, 2, 2)
    assert instances(even_QC, mask_logits_QHW, as_given(2, 2), floor=0.5) == []
    assert len(instances(even_QC, mask_logits_QHW, as_given(2, 2), floor=0.49)) == 1


def test_a_box_goes_from_the_first_pixel_to_one_past_the_last() -> None:
    mask_HW = torch.zeros(6, 8, dtype=torch.bool)
    mask_HW[2, 3] = mask_HW[4, 1] = True
    assert box_of(mask_HW) == (1, 2, 4, 5)
    assert box_of(torch.zeros(6, 8, dtype=torch.bool)) == (0, 0, 0, 0)
    assert box_of(torch.ones(6, 8, dtype=torch.bool)) == (0, 0, 8, 6)


def test_certainty_is_the_mean_probability_of_the_masks_own_pixels() -> None:
    logits_HW = torch.tensor([[math.log(3), -50.0], [math.log(9), 0.0]])
    assert certainty(logits_HW) == pytest.approx((0.75 + 0.9) / 2, rel=1e-5)
    assert certainty(-logits_HW.abs()) == 0


@pytest.mark.parametrize(
    "sizes", [Sizes((8, 12), (7, 9), (14, 20)), Sizes((8, 12), (8, 12), (3, 5)), Sizes((4, 4), (1, 4), (2, 9))]
)
def test_mask_logits_lose_the_padding_on_their_way_to_the_picture(sizes: Sizes) -> None:
    grid_hw = logits(5, 2, 3)
    (height, width) = sizes.content
    content = [row[:width] for row in bilinear(grid_hw.tolist(), *sizes.padded)[:height]]
    expected_HW = torch.tensor(bilinear(content, *sizes.picture), dtype=torch.float64)
    torch.testing.assert_close(at_picture_size(grid_hw, sizes), expected_HW)


@pytest.mark.parametrize("broken", ["class", "mask"])
def test_logits_that_are_not_finite_are_no_empty_picture(broken: str) -> None:
    class_logits_QC, mask_logits_QHW = torch.zeros(2, 3), torch.zeros(2, 4, 4)
    (class_logits_QC if broken == "class" else mask_logits_QHW)[1, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        instances(class_logits_QC, mask_logits_QHW, as_given(4, 4))
