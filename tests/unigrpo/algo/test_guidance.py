"""Guidance against the reference's velocities (`cfg/*` of the parity cases) and against numbers worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from unigrpo.algo.guidance import Renorm, guided_velocity, is_guided

# Shapes: S samples, L latent tokens, C channels.

BUNDLED = Path(__file__).parents[2] / "golden" / "bagel"

COND = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
TEXT = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
IMG = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
"""With text scale 2 the text step gives [[5, 0], [0, 6]]; with image scale 2 the image step then gives [[10, -1], [-1, 12]]."""


def guided(
    text: Tensor = TEXT,
    img: Tensor | None = None,
    *,
    cond: Tensor = COND,
    text_scale: float = 2.0,
    image_scale: float = 1.0,
    renorm: Renorm = "global",
    renorm_min: float = 0.0,
) -> Tensor:
    return guided_velocity(
        cond, text, img, text_scale=text_scale, image_scale=image_scale, renorm=renorm, renorm_min=renorm_min
    )


@pytest.mark.parametrize("bits", [32, 64])
def test_every_combination_of_the_reference(request: pytest.FixtureRequest, bits: int) -> None:
    folder: Path = request.config.getoption("--golden") or BUNDLED
    golden = load_file(folder / f"golden_f{bits}.safetensors")
    combos: list[dict[str, Any]] = json.loads((folder / "cases.json").read_text())["cfg"]["combos"]
    branches = {name: golden[f"cfg/{name}"][None] for name in ("v_cond", "v_text", "v_img")}
    for combo in combos:
        image_scale = combo["cfg_img_scale"]
        result_SLC = guided_velocity(
            branches["v_cond"],
            branches["v_text"],
            branches["v_img"] if image_scale > 1 else None,
            text_scale=combo["cfg_text_scale"],
            image_scale=image_scale,
            renorm=combo["renorm_type"],
            renorm_min=combo["renorm_min"],
        )
        expected_LC = golden[combo["key"]]
        assert result_SLC.dtype == expected_LC.dtype
        error = (result_SLC[0] - expected_LC).abs().max() / expected_LC.abs().max()
        assert error < {32: 5e-6, 64: 1e-12}[bits], combo["key"]
    known = {name for name in golden if name.startswith("cfg/")}
    assert known == {combo["key"] for combo in combos} | {f"cfg/{name}" for name in branches}


@pytest.mark.parametrize(
    ("renorm", "image_scale", "renorm_min", "expected"),
    [
        ("global", 1.0, 0.0, [[5 * 5 / math.sqrt(61), 0], [0, 6 * 5 / math.sqrt(61)]]),
        ("channel", 1.0, 0.0, [[3, 0], [0, 4]]),
        ("channel", 1.0, 0.64, [[5 * 0.64, 0], [0, 4]]),  # 3/5 is under the least factor, 4/6 is not
        ("text_channel", 1.0, 0.0, [[3, 0], [0, 4]]),
        ("global", 2.0, 0.0, [[50 / math.sqrt(246), -5 / math.sqrt(246)], [-5 / math.sqrt(246), 60 / math.sqrt(246)]]),
        ("channel", 2.0, 0.0, [[30 / math.sqrt(101), -3 / math.sqrt(101)], [-4 / math.sqrt(145), 48 / math.sqrt(145)]]),
        ("text_channel", 2.0, 0.0, [[6, -1], [-1, 8]]),  # 2 [[3, 0], [0, 4]] - v_img, and not shrunk again
    ],
)
def test_by_hand(renorm: Renorm, image_scale: float, renorm_min: float, expected: list[list[float]]) -> None:
    result = guided(img=IMG, image_scale=image_scale, renorm=renorm, renorm_min=renorm_min)
    torch.testing.assert_close(result, torch.tensor([expected], dtype=torch.float32))


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_a_least_factor_of_one_switches_renormalisation_off(renorm: Renorm) -> None:
    torch.testing.assert_close(guided(renorm=renorm, renorm_min=1.0), torch.tensor([[[5.0, 0.0], [0.0, 6.0]]]))


def test_what_is_shorter_than_without_guidance_is_not_made_longer() -> None:
    torch.testing.assert_close(guided(1.5 * COND), 0.5 * COND)


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_a_velocity_that_vanishes_stays_finite(renorm: Renorm) -> None:
    assert torch.equal(guided(0 * TEXT, cond=0 * COND, renorm=renorm), 0 * COND)


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_a_picture_does_not_depend_on_its_batch(renorm: Renorm) -> None:
    generator = torch.Generator().manual_seed(0)
    cond, text, img = (torch.randn(3, 5, 4, generator=generator) for _ in range(3))
    together = guided(text, img, cond=cond, image_scale=1.5, renorm=renorm)
    for s in range(3):
        one = slice(s, s + 1)
        alone = guided(text[one], img[one], cond=cond[one], image_scale=1.5, renorm=renorm)
        torch.testing.assert_close(together[one], alone)


def test_a_text_scale_of_one_is_no_guidance_whatever_the_image_scale() -> None:
    assert torch.equal(guided(img=IMG, text_scale=1.0, image_scale=2.0), COND)


def test_the_interval_is_open_below_and_closed_above() -> None:
    assert [t for t in (0.0, 0.4, 0.41, 0.7, 0.9, 0.91) if is_guided(t, (0.4, 0.9))] == [0.41, 0.7, 0.9]
    assert is_guided(1.0, (0.0, 1.0))
