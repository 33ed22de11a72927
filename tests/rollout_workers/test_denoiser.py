import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from rollout_workers.denoiser import Denoiser
from tests.rollout_workers.fakes import MODEL, buckets_of, random_model, train_config
from unigrpo.algo.flow import sde_step, time_grid
from unigrpo.contexts import ContextSpan
from unigrpo.errors import NotServing
from unigrpo.models.bagel.autoencoder import from_tokens, to_uint8
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.types import Given, Thought, Trajectory


def chain(*segments: tuple[int, ...]) -> list[ContextSpan]:
    """Given texts, the last of several a thought that was cut."""
    *given, last = segments
    said = Thought(token_ids=last, behavior_logp=(0.0,) * len(last), truncated=True, policy_version=5)
    return [*(Given(token_ids=ids) for ids in given), said if given else Given(token_ids=last)]


SEGMENTS: list[list[tuple[int, ...]]] = [
    [(1, 2, 3), (4, 5)],
    [(6,), (7, 8, 9, 10)],
    [(1, 2, 3), ()],
    [(1,), (6,), (7, 8)],
    [(6,)],
]
"""Unequal in length and number of segments; some share a beginning, one has no thought."""
CONTEXTS = [chain(*segments) for segments in SEGMENTS]
SEEDS = [11, 12, 13, 14, 15]
POINTS, START = 6, 1
WINDOWS = [range(START, START + 2)] * 5


@pytest.fixture
def denoiser(checkpoint: Path) -> Denoiser:
    worker = Denoiser(train_config(checkpoint))
    worker.load(5, buckets_of(random_model(1), 5))
    return worker


def velocity_alone(segments: Sequence[tuple[int, ...]], x_LC: torch.Tensor, t: float) -> torch.Tensor:
    """The velocity of one sample from nothing: no batch, no padding, no cache shared between steps."""
    model = random_model(1)
    ids = [token for segment in segments for token in (MODEL.bos_token_id, *segment, MODEL.eos_token_id)]
    _, context = model.prefill(torch.tensor([ids]), torch.tensor([len(ids)]))
    return model.velocity(x_LC[None], torch.tensor([t]), context, (4, 6))[0]


def test_it_says_how_it_computes(denoiser: Denoiser) -> None:
    assert denoiser.describe() == "cpu, float32, attention by scaled_dot_product_attention"


def test_a_fresh_worker_serves_nothing(checkpoint: Path) -> None:
    worker = Denoiser(train_config(checkpoint))
    assert worker.version() is None
    with pytest.raises(NotServing, match="version 0 was asked for"):
        worker.paint(CONTEXTS, SEEDS, POINTS, WINDOWS, 0.8, None, 0)


def test_another_version_is_not_painted_with(denoiser: Denoiser) -> None:
    with pytest.raises(NotServing, match=r"version 6 .* serves 5"):
        denoiser.paint(CONTEXTS, SEEDS, POINTS, WINDOWS, 0.8, None, 6)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "bucket"])
def test_weights_that_are_not_the_models_are_refused_and_nothing_is_served(denoiser: Denoiser, fault: str) -> None:
    tensors = dict(random_model(2).named_parameters())
    if fault == "missing":
        del tensors["llm2vae.weight"]
    if fault == "extra":
        tensors["llm2vae.gain"] = torch.nn.Parameter(torch.ones(3))
    if fault == "shape":
        tensors["llm2vae.weight"] = torch.nn.Parameter(torch.ones(3, 4))
    buckets = buckets_of(tensors.items(), 6)
    with pytest.raises(ValueError, match=r"missing buckets \[1\]" if fault == "bucket" else r"llm2vae\.(weight|gain)"):
        denoiser.load(6, buckets[:1] + buckets[2:] if fault == "bucket" else buckets)
    assert denoiser.version() is None
    denoiser.load(6, buckets_of(random_model(2), 6))
    assert denoiser.version() == 6


def test_every_step_is_what_the_model_says(denoiser: Denoiser) -> None:
    paintings, trajectories = denoiser.paint(CONTEXTS, SEEDS, POINTS, WINDOWS, 0.8, None, 5)
    grid = time_grid(POINTS, 3.0)
    for segments, painting, trace in zip(SEGMENTS, paintings, trajectories, strict=True):
        assert (trace.start, trace.grid_hw, trace.cfg_scale, trace.policy_version) == (START, (4, 6), 1.0, 5)
        assert_close(trace.grid_N, grid, rtol=0, atol=0)
        for w, k in enumerate(range(START, START + 2)):
            t, t_next = grid[k].item(), grid[k + 1].item()
            velocity = velocity_alone(segments, trace.x_WLC[w], t)
            step = sde_step(trace.x_WLC[w], velocity, t, t_next, noise_level=0.8)
            assert_close(trace.mean_WLC[w], step.mean, rtol=0, atol=2e-5)
            assert_close(step.std.item(), trace.sigma_W[w].item() * (t - t_next) ** 0.5)
            xi = (trace.x_next_WLC[w] - trace.mean_WLC[w]) / step.std
            assert 0.7 < xi.std().item() < 1.3
        assert torch.equal(trace.x_next_WLC[0], trace.x_WLC[1])
        x_LC = trace.x_next_WLC[-1]
        for k in range(START + 2, POINTS - 1):
            t, t_next = grid[k].item(), grid[k + 1].item()
            x_LC = x_LC - (t - t_next) * velocity_alone(segments, x_LC, t)
        assert_close(painting.latent_LC, x_LC, rtol=0, atol=5e-5)


def test_a_batch_paints_what_each_sample_paints_alone(denoiser: Denoiser) -> None:
    paintings, trajectories = denoiser.paint(CONTEXTS, SEEDS, POINTS, WINDOWS, 0.8, None, 5)
    for i in (2, 0, 4, 1, 3):
        [painting], [trajectory] = denoiser.paint([CONTEXTS[i]], [SEEDS[i]], POINTS, WINDOWS[:1], 0.8, None, 5)
        assert_close(painting.latent_LC, paintings[i].latent_LC, rtol=0, atol=5e-5)
        for field in fields(Trajectory):
            alone, batched = getattr(trajectory, field.name), getattr(trajectories[i], field.name)
            if isinstance(alone, torch.Tensor):
                assert_close(alone, batched, rtol=0, atol=5e-5)
            else:
                assert alone == batched


def test_noise_belongs_to_the_seed(denoiser: Denoiser) -> None:
    same = [CONTEXTS[0]] * 3
    _, (a, b, c) = denoiser.paint(same, [7, 8, 7], POINTS, [range(2)] * 3, 0.8, None, 5)
    assert_close(a.x_WLC, c.x_WLC)
    assert_close(a.x_next_WLC, c.x_next_WLC)
    assert (a.x_WLC[0] - b.x_WLC[0]).abs().max() > 1
    assert (a.x_next_WLC[0] - a.mean_WLC[0] - (b.x_next_WLC[0] - b.mean_WLC[0])).abs().max() > 0.1


def test_an_evaluation_is_deterministic_and_leaves_no_trajectories(denoiser: Denoiser) -> None:
    paintings, trajectories = denoiser.paint(CONTEXTS, SEEDS, 9, None, 0.0, None, 5)
    assert trajectories == []
    [again], _ = denoiser.paint(CONTEXTS[:1], SEEDS[:1], 9, None, 0.0, None, 5)
    assert_close(again.latent_LC, paintings[0].latent_LC, rtol=0, atol=5e-5)


def test_every_sample_has_a_window_of_its_own(denoiser: Denoiser) -> None:
    windows = [range(start, start + 2) for start in (2, 0, 1, 2, 0)]
    _, together = denoiser.paint(CONTEXTS, SEEDS, POINTS, windows, 0.8, None, 5)
    assert [trace.start for trace in together] == [2, 0, 1, 2, 0]
    for i in (0, 1, 2):
        _, [alone] = denoiser.paint([CONTEXTS[i]], [SEEDS[i]], POINTS, [windows[i]], 0.8, None, 5)
        for name in ("x_WLC", "x_next_WLC", "mean_WLC", "sigma_W"):
            assert_close(getattr(alone, name), getattr(together[i], name), rtol=0, atol=5e-5)


def test_finished_latents_are_recorded_without_any_step(denoiser: Denoiser) -> None:
    plain, _ = denoiser.paint(CONTEXTS, SEEDS, POINTS, None, 0.0, None, 5)
    paintings, trajectories = denoiser.paint(CONTEXTS, SEEDS, POINTS, [range(0)] * 5, 0.0, None, 5)
    for painting, trace, as_plain in zip(paintings, trajectories, plain, strict=True):
        assert_close(painting.latent_LC, as_plain.latent_LC, rtol=0, atol=0)
        assert_close(trace.latent_LC, painting.latent_LC, rtol=0, atol=0)
        assert trace.x_WLC.shape == (0, 24, 16)


def test_the_size_of_the_velocity_is_that_of_the_steps_taken(denoiser: Denoiser) -> None:
    """Deterministic steps give their velocities away: v = (x - x') / h."""
    paintings, trajectories = denoiser.paint(CONTEXTS, SEEDS, POINTS, [range(POINTS - 1)] * 5, 0.0, None, 5)
    grid_N = time_grid(POINTS, 3.0)
    for painting, trace in zip(paintings, trajectories, strict=True):
        v_WLC = (trace.x_WLC - trace.x_next_WLC) / (grid_N[:-1] - grid_N[1:]).float()[:, None, None]
        assert painting.velocity_rms == pytest.approx(v_WLC.square().mean().sqrt().item(), rel=1e-4)


def test_pictures_are_the_decoded_latents(denoiser: Denoiser, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout_workers.denoiser.PIXELS_AT_ONCE", 2 * 16 * 24)
    paintings, _ = denoiser.paint(CONTEXTS, SEEDS, POINTS, WINDOWS, 0.8, None, 5)
    autoencoder = load_model(checkpoint).autoencoder
    for painting in paintings:
        with torch.no_grad():
            pixels = to_uint8(autoencoder.decode(from_tokens(painting.latent_LC[None], (4, 6), 2)))[0]
        assert painting.image_HW3.shape == (16, 24, 3)
        assert painting.image_HW3.dtype == torch.uint8
        assert (painting.image_HW3.int() - pixels.int()).abs().max() <= 1


def test_records_own_their_memory(denoiser: Denoiser) -> None:
    paintings, trajectories = denoiser.paint(CONTEXTS, SEEDS, POINTS, WINDOWS, 0.8, None, 5)
    for tensor in (paintings[0].latent_LC, paintings[0].image_HW3, trajectories[0].x_WLC):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_latents_stay_float32_under_bfloat16_weights(denoiser: Denoiser, checkpoint: Path) -> None:
    coarse = Denoiser(train_config(checkpoint, denoiser={"dtype": "bfloat16"}))
    coarse.load(5, buckets_of(random_model(1), 5))
    (painting, *_), (trace, *_) = coarse.paint(CONTEXTS, SEEDS, POINTS, WINDOWS, 0.8, None, 5)
    (exact, *_), _ = denoiser.paint(CONTEXTS, SEEDS, POINTS, WINDOWS, 0.8, None, 5)
    assert {painting.latent_LC.dtype, trace.x_WLC.dtype, trace.mean_WLC.dtype} == {torch.float32}
    assert (painting.latent_LC - exact.latent_LC).norm() < 0.1 * exact.latent_LC.norm()


def test_a_picture_the_model_cannot_paint_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="width is 26"):
        Denoiser(train_config(checkpoint, sampler={"num_points": 6, "height": 16, "width": 26}))


def test_painting_needs_no_vllm() -> None:
    probe = "import sys, rollout_workers.denoiser, rollout_workers.reasoner; assert 'vllm' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)
