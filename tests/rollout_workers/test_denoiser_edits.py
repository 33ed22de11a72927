"""A denoiser before pictures: what it sees, thinks and paints, guided, against the training forward of one sample alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from configs.guidance import Guidance
from rollout_workers.denoiser import Denoiser
from tests.rollout_workers.fakes import SEEING, buckets_of, random_model, save_checkpoint, train_config
from unigrpo.algo.flow import sde_step, time_grid
from unigrpo.algo.guidance import guided_velocity
from unigrpo.contexts import ContextSpan
from unigrpo.errors import NotServing
from unigrpo.models.bagel.autoencoder import to_tokens
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import Noised, Text, pack, splits_of
from unigrpo.types import Given, GivenPicture, Thought

SYSTEM, PROMPT, OTHER = Given(token_ids=(1, 2, 3)), Given(token_ids=(4, 5)), Given(token_ids=(6,))
SAID = Thought(token_ids=(7, 8), behavior_logp=(0.0, 0.0), truncated=True, policy_version=5)
POINTS = 6
"""Times 1, .92, .82, .67, .43 and 0: four of five steps lie in INTERVAL, the first one does not."""
INTERVAL = (0.4, 0.95)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a tiny random model that sees pictures."""
    return save_checkpoint(tmp_path_factory.mktemp("seeing") / "checkpoint", SEEING)


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> Denoiser:
    worker = Denoiser(train_config(folder))
    worker.load(5, buckets_of(random_model(1, SEEING), 5))
    return worker


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (17, 25, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "source.png")
    return tmp_path / "source.png"


def alone(model: Bagel, spans: Sequence[Any], **last: Any) -> Any:
    """The training forward of one sample: `text` ids, or latents `x` at `t`, after these spans."""
    own = Text(last["text"]) if "text" in last else Noised(last["x"], last["t"], (4, 6))
    row = pack([[*splits_of(spans, model.config), own]], model.config, device=torch.device("cpu"), dtype=model.dtype)
    return model(row)


def test_a_picture_is_seen_as_drawn_latents_and_as_patches(folder: Path, file: Path) -> None:
    fresh = Denoiser(train_config(folder))
    [picture, same, other], sizes = fresh.see([(file, 11), (file, 11), (file, 12)])
    sized = Image.open(file).resize((24, 16), Image.Resampling.BICUBIC)
    assert picture.grid_hw == (4, 6)
    assert picture.seen_HW3 is not None
    assert torch.equal(picture.seen_HW3, torch.from_numpy(np.array(sized.resize((32, 20), Image.Resampling.BICUBIC))))
    assert sizes == [24 + 2 + 5 * 8 + 2] * 3
    autoencoder = load_model(folder).autoencoder
    pixels = torch.from_numpy(np.array(sized)).permute(2, 0, 1)[None] / 127.5 - 1
    mean, logvar = autoencoder.posterior(pixels)
    eps = torch.randn(4, 8, 12, generator=torch.Generator().manual_seed(11))
    expected = autoencoder.config.scale_factor * (mean + (logvar / 2).exp() * eps - autoencoder.config.shift_factor)
    assert_close(picture.latent_LC, to_tokens(expected, 2)[0].detach(), rtol=1e-4, atol=1e-4)
    assert_close(same.latent_LC, picture.latent_LC, rtol=0, atol=0)
    with pytest.raises(AssertionError):
        assert_close(other.latent_LC, picture.latent_LC, rtol=0, atol=0.1)


def test_thoughts_about_pictures_have_the_log_probabilities_of_the_training_forward(denoiser: Denoiser, file: Path) -> None:
    [cat, dog], _ = denoiser.see([(file, 11), (file, 12)])
    given_P = [(SYSTEM, cat, PROMPT), (dog, OTHER)]
    thoughts_PG = denoiser.think(given_P, [[1, 2, 3], [4, 5, 6]], 1.0, 5)
    model = random_model(1, SEEING)
    bos, eos = SEEING.bos_token_id, SEEING.eos_token_id
    for given, thoughts in zip(given_P, thoughts_PG, strict=True):
        for thought in thoughts:
            text_UH = alone(model, given, text=(bos, *thought.token_ids)).text_UH[-1 - len(thought.token_ids) :]
            logp = model.token_logp(text_UH[:-1], torch.tensor(thought.token_ids))
            assert_close(torch.tensor(thought.behavior_logp), logp, rtol=0, atol=1e-4)
            assert thought.truncated == (thought.token_ids[-1] != eos)
            assert len(thought.token_ids) <= 12
            assert thought.policy_version == 5
    assert len({thought.token_ids for thoughts in thoughts_PG for thought in thoughts}) > 3
    [[again]] = denoiser.think([given_P[1]], [[5]], 1.0, 5)
    assert again.token_ids == thoughts_PG[1][1].token_ids


def test_thoughts_of_another_version_are_not_sampled(denoiser: Denoiser) -> None:
    with pytest.raises(NotServing, match=r"version 6 .* serves 5"):
        denoiser.think([(SYSTEM, PROMPT)], [[1]], 1.0, 6)


@pytest.mark.parametrize("image_scale", [1.0, 1.5])
def test_a_guided_painting_takes_the_steps_of_three_velocities(denoiser: Denoiser, file: Path, image_scale: float) -> None:
    [cat], _ = denoiser.see([(file, 11)])
    guidance = Guidance(text_scale=3.0, image_scale=image_scale, interval=INTERVAL, renorm="channel", renorm_min=0.2)
    contexts: list[list[ContextSpan]] = [
        [SYSTEM, cat, PROMPT, SAID],
        [cat, OTHER, SAID],
        [SYSTEM, OTHER, SAID],
        [cat, PROMPT],
    ]
    _, traces = denoiser.paint(contexts, [21, 22, 23, 24], POINTS, [range(2)] * 4, 0.8, guidance, 5)
    model, times = random_model(1, SEEING), time_grid(POINTS, 3.0).tolist()
    without_text: list[list[Any]] = [[SYSTEM, cat], [cat], [SYSTEM], [cat]]
    texts: list[list[Any]] = [[SYSTEM, PROMPT], [OTHER], [SYSTEM, OTHER], [PROMPT]]
    for branches, trace in zip(zip(contexts, without_text, texts, strict=True), traces, strict=True):
        assert trace.cfg_scale == 3.0
        for k in range(2):
            v_LC, v_text_LC, v_img_LC = (
                alone(model, spans, x=trace.x_WLC[k], t=times[k]).velocity_NC[None] for spans in branches
            )
            if k == 1:
                v_LC = guided_velocity(
                    v_LC,
                    v_text_LC,
                    v_img_LC,
                    text_scale=3.0,
                    image_scale=image_scale,
                    renorm="channel",
                    renorm_min=0.2,
                )
            step = sde_step(trace.x_WLC[k], v_LC[0], times[k], times[k + 1], noise_level=0.8)
            assert_close(trace.mean_WLC[k], step.mean, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("guidance", "evaluations"),
    [
        (None, 5),
        (Guidance(text_scale=1.0), 5),
        (Guidance(interval=INTERVAL), 5 + 4),
        (Guidance(interval=INTERVAL, image_scale=1.5), 5 + 4 + 4),
    ],
)
def test_only_needed_velocities_are_evaluated(
    denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch, guidance: Guidance | None, evaluations: int
) -> None:
    velocity, times = denoiser._model.velocity, list[float]()

    def counted(x_SLC: torch.Tensor, t_S: torch.Tensor, *arguments: Any) -> torch.Tensor:
        times.append(float(t_S[0]))
        return velocity(x_SLC, t_S, *arguments)

    monkeypatch.setattr(denoiser._model, "velocity", counted)
    denoiser.paint([[SYSTEM, PROMPT, SAID]] * 2, [1, 2], POINTS, None, 0.0, guidance, 5)
    assert len(times) == evaluations
    assert times.count(1.0) == 1


def test_a_guided_picture_does_not_depend_on_its_batch(denoiser: Denoiser, file: Path) -> None:
    [cat], _ = denoiser.see([(file, 11)])
    contexts: list[list[ContextSpan]] = [[SYSTEM, cat, PROMPT, SAID], [SYSTEM, OTHER, SAID]]
    together, _ = denoiser.paint(contexts, [1, 2], POINTS, None, 0.0, Guidance(image_scale=2.0), 5)
    for context, seed, painting in zip(contexts, (1, 2), together, strict=True):
        [single], _ = denoiser.paint([context], [seed], POINTS, None, 0.0, Guidance(image_scale=2.0), 5)
        assert_close(single.latent_LC, painting.latent_LC, rtol=0, atol=5e-4)


def test_a_picture_for_a_model_without_vision_is_refused(checkpoint: Path, file: Path) -> None:
    blind = Denoiser(train_config(checkpoint))
    blind.load(5, buckets_of(random_model(1), 5))
    picture = GivenPicture(latent_LC=torch.zeros(24, 16), grid_hw=(4, 6), seen_HW3=torch.zeros(20, 32, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="this model has no vision tower"):
        blind.paint([[picture, PROMPT, SAID]], [1], POINTS, None, 0.0, None, 5)
