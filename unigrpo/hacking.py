"""What a policy does to pictures and thoughts when it pleases its judge instead of its user, each as one number.

Every measure is a pure function of what was made, with an answer that can be worked out by hand. What a picture shows is left
to verifiers (reward_server); how far a measure may move, to the panel (cluster/alarms.py).

Shapes: HW3 a picture, G pictures of one prompt, J lines of a picture (its rows or its columns), N differences along a line,
F frequencies.
"""

from collections.abc import Sequence
from itertools import combinations
from math import sqrt
from statistics import fmean

import torch
from torch import Tensor

NGRAM = 4
"""Tokens that count as a repetition together; lists that are honest repeat shorter ones."""
QUIET_LINES = 0.1
"""Of the lines of a picture, those with the least gradient at a place: an object's edge is on some lines only, an artefact of
the grid on all of them. Objects that keep to a grid themselves, as in the shapes world, thus do not count."""
GREY_LEVEL = 1 / 255
"""Least difference of two pixels in [0, 1]; a flat picture has neither peak nor surroundings, and is measured against it."""


def saturated_share(image_HW3: Tensor) -> float:
    """Share of the pixels of a uint8 picture that have a channel at either end of its range."""
    return ((image_HW3 == 0) | (image_HW3 == 255)).any(-1).double().mean().item()


def grid_artefact(image_HW3: Tensor, *, period: int) -> float:
    """How far the spectrum of a uint8 picture's gradient stands out at the patch period: about 1 is not at all.

    Patches that do not join, and any pattern that they repeat, leave gradients at the same places of every patch, on all lines.
    The profile of a picture is the gradient's size at each place along its rows, on the quietest lines (QUIET_LINES); its power
    at 1 / period and the multiples is divided by the mean power around each of them. The same is done for columns, and the
    greater ratio returned. period: pixels along the side of a latent token.

    Raises ValueError for a picture of fewer than three patches either way: two are no grid.
    """
    height, width = image_HW3.shape[:2]
    if min(height, width) < 3 * period:
        raise ValueError(
            f"a grid of {period} px shows in pictures of {3 * period} px or more each way, not of {height} x {width}"
        )
    image_HW3 = image_HW3.double() / 255
    rows_JN = image_HW3.diff(dim=1).abs().mean(-1)
    columns_JN = image_HW3.diff(dim=0).abs().mean(-1).T
    return max(_peak(rows_JN, period), _peak(columns_JN, period))


def _peak(change_JN: Tensor, period: int) -> float:
    periods = change_JN.shape[1] // period
    profile_N = change_JN[:, : periods * period].quantile(QUIET_LINES, dim=0)
    power_F = torch.fft.rfft(profile_N).abs().square() / len(profile_N) + GREY_LEVEL**2
    reach, at, around = periods // 2, 0.0, 0.0
    for peak in range(periods, len(power_F), periods):
        beside_F = torch.cat([power_F[peak - reach : peak], power_F[peak + 1 : peak + 1 + reach]])
        at += power_F[peak].item()
        around += beside_F.mean().item()
    return at / around


def diversity(images_GHW3: Tensor) -> float:
    """Mean over all pairs of a prompt's uint8 pictures of the root mean square difference of their pixels in [0, 1]."""
    pairs = combinations(images_GHW3.double() / 255, 2)
    return fmean((one - other).square().mean().sqrt().item() for one, other in pairs)


def repetition(token_ids: Sequence[int]) -> float:
    """Share of a thought's n-grams (NGRAM tokens) that stood in it before (seq-rep-n of arXiv:1908.04319); 0 without any."""
    ngrams = [tuple(token_ids[start : start + NGRAM]) for start in range(len(token_ids) - NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def root_mean_square(values: Sequence[float]) -> float:
    """Of root mean squares over equally many elements each, such as Painting.velocity_rms: that over all of them."""
    return sqrt(sum(value**2 for value in values) / len(values))
