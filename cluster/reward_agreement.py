"""How far a reward model of the shapes world can be trusted: next to the verifier, and where its own gradient leads.

Shapes: S pictures, HW pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cluster.agreement import Agreement, Numbers, agreement
from cluster.bundled_painter import paint
from configs.verifiers import GenevalReward
from reward_server.verifiers.geneval import GenevalVerifier
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import Loaded
from unigrpo.reward_models.shapes import ShapesRewardModel
from unigrpo.reward_models.shapes_pictures import rendered, spoilt, to_uint8_HW3
from unigrpo.seeds import derive_seed
from unigrpo.shapes.autoencoder_training import random_scene
from unigrpo.shapes.plan import corrupt_plan, draw_plan
from unigrpo.shapes.prompts import SEEN_KINDS, shapes_prompts
from unigrpo.types import Prompt, Score

PAINTED_PER_PROMPT = 2
AT_ONCE = 100
"""Pictures painted, judged or climbed in one call."""
CLIMB_STEPS, CLIMB_RATE = 100, 0.05
"""Adam steps of a climb, and their size in latents of unit scale."""
CLIMB_EVERY = 3
"""Of the wrong pictures, every how many'th climbs: a climb costs a hundred decodings and as many gradients."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Climb:
    """What becomes of wrong pictures that climb the model's gradient. Example: Climb(pictures=100, called_right=0.3, ...)."""

    pictures: int
    called_right: float
    """Share that the model scores above .5 in the end."""
    right: float
    """Share that the verifier calls right in the end; far less than `called_right` means that the model is being fooled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """All that is measured."""

    agreement: dict[str, Agreement]
    """By set: `rendered` from right and wrong plans, the same `spoilt`, and `painted` by a policy."""
    climb: Climb


def measured(model: ShapesRewardModel, loaded: Loaded, *, seed: int, num_prompts: int) -> Trust:
    """Figures on pictures of held-out prompts; `loaded` is who paints, and whose autoencoder spoils and climbs."""
    held_out = [prompt for prompt in shapes_prompts("held_out") if prompt.metadata["tag"] not in SEEN_KINDS]
    prompts = [held_out[len(held_out) * index // num_prompts] for index in range(num_prompts)]
    rng = np.random.default_rng(derive_seed(seed, "agreement"))
    right = [draw_plan(prompt.metadata, rng) for prompt in prompts]
    wrong = [corrupt_plan(prompt.metadata, scene, rng) for prompt, scene in zip(prompts, right, strict=True)]
    sound_S3HW = rendered([*right, *wrong], rng)
    others_S3HW = rendered([random_scene(rng) for _ in sound_S3HW], rng)
    spoilt_S3HW = spoilt(sound_S3HW, others_S3HW, loaded.autoencoder, derive_seed(seed, "agreement"))
    pictures = {"rendered": _pixels(sound_S3HW), "spoilt": _pixels(spoilt_S3HW), "painted": _painted(loaded, prompts, seed)}
    sets = {name: _agreement(model, prompts * (len(images) // num_prompts), images) for name, images in pictures.items()}
    wrong_S3HW = sound_S3HW[num_prompts:]
    return Trust(agreement=sets, climb=_climb(model, loaded.autoencoder, prompts[::CLIMB_EVERY], wrong_S3HW[::CLIMB_EVERY]))


def _pixels(images_S3HW: Tensor) -> list[Tensor]:
    return [torch.from_numpy(to_uint8_HW3(image)) for image in images_S3HW]


def _painted(loaded: Loaded, prompts: Sequence[Prompt], seed: int) -> list[Tensor]:
    texts = [prompt.text for prompt in prompts] * PAINTED_PER_PROMPT
    images: list[Tensor] = []
    for start in range(0, len(texts), AT_ONCE):
        chosen = texts[start : start + AT_ONCE]
        images += paint(loaded, chosen, [derive_seed(seed, "agreement", start + index) for index in range(len(chosen))])
    return images


def _agreement(model: ShapesRewardModel, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> Agreement:
    """The model's scores of [24, 24, 3] uint8 pictures against the strict and graded scores of the verifier."""
    images_S3HW = torch.stack(list(images)).permute(0, 3, 1, 2).float() / 255
    return agreement(
        _scores(model, prompts, images_S3HW), _verdicts(prompts, images, "strict"), _verdicts(prompts, images, "graded")
    )


@torch.no_grad()
def _scores(model: ShapesRewardModel, prompts: Sequence[Prompt], images_S3HW: Tensor) -> Numbers:
    scores: list[float] = []
    for start, some_S3HW in zip(range(0, len(prompts), AT_ONCE), images_S3HW.split(AT_ONCE), strict=True):
        scores += model.score([prompt.text for prompt in prompts[start : start + AT_ONCE]], some_S3HW).tolist()
    return np.array(scores)


def _verdicts(prompts: Sequence[Prompt], images: Sequence[Tensor], name: str) -> Numbers:
    """One of the verifier's partial scores a picture."""
    verdicts = GenevalVerifier(GenevalReward(detector="shapes")).score(prompts, images)
    parts = [verdict.breakdown[name] for verdict in verdicts if isinstance(verdict, Score)]
    assert len(parts) == len(verdicts), "the shapes world's own verifier judges every picture of its size"
    return np.array(parts, dtype=np.float64)


def _climb(model: ShapesRewardModel, autoencoder: AutoEncoder, prompts: Sequence[Prompt], wrong_S3HW: Tensor) -> Climb:
    """Climb from wrong pictures towards their prompts, moving the latents that a painter would."""
    ends = []
    for start, some_S3HW in zip(range(0, len(prompts), AT_ONCE), wrong_S3HW.split(AT_ONCE), strict=True):
        texts = [prompt.text for prompt in prompts[start : start + AT_ONCE]]
        latent = autoencoder.encode(2 * some_S3HW - 1, None).detach().requires_grad_()
        optimizer = torch.optim.Adam([latent], lr=CLIMB_RATE)
        for _ in range(CLIMB_STEPS):
            score = model.log_probability(texts, _decoded(autoencoder, latent)).sum()
            (latent.grad,) = torch.autograd.grad(-score, latent)
            optimizer.step()
        ends.append(_decoded(autoencoder, latent.detach()))
    images_S3HW = torch.cat(ends)
    return Climb(
        pictures=len(prompts),
        called_right=float((_scores(model, prompts, images_S3HW) > 0.5).mean()),
        right=float(_verdicts(prompts, _pixels(images_S3HW), "strict").mean()),
    )


def _decoded(autoencoder: AutoEncoder, latent: Tensor) -> Tensor:
    return (autoencoder.decode(latent) / 2 + 0.5).clamp(0, 1)
