"""The worker that sees and paints: the whole model in torch, prefilled once a sample, denoised in batches, decoded to pictures.

It starts from the checkpoint's frozen autoencoder; but for seeing, which needs no more, it serves nothing until `load` has
filled the model. It also thinks where a prompt holds a picture, in plain torch.

Shapes: P prompts, G siblings of a prompt, S samples, L latent tokens of a picture, C channels of a latent token, HW3 a picture.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from configs.guidance import Guidance
from configs.load import model_folder
from configs.schema import TrainConfig
from rollout_workers.contexts import read, read_thoughts
from rollout_workers.guidance import Velocity, guided
from rollout_workers.weights import collect, require
from unigrpo.algo.flow import time_grid
from unigrpo.buckets import Bucket
from unigrpo.contexts import Spans, without_last_text, without_pictures
from unigrpo.denoise import denoise, seeded_noise, trajectories
from unigrpo.models.bagel.attention import device_name, kernel_name
from unigrpo.models.bagel.autoencoder import from_tokens, to_uint8
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.encode import given_picture
from unigrpo.models.bagel.generate import Continuation, generate
from unigrpo.models.bagel.packing import picture_splits
from unigrpo.models.bagel.preprocess import latent_rule, read_source
from unigrpo.types import GivenPicture, Painting, Thought, Trajectory

PIXELS_AT_ONCE = 1 << 20
"""Pixels decoded in one call: one painting of 1024 px, whose activations are gigabytes, or a few hundred small ones."""


class Denoiser:
    """Paints batches: recorded inside each sample's window, deterministic elsewhere; without guidance unless asked for it."""

    def __init__(self, config: TrainConfig) -> None:
        """Read the model of `model.path`. Raises ValueError when it is not whole, or cannot paint the size asked for."""
        assert config.model.path is not None, "checked before anything starts"
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded = load_model(model_folder(config.model.path), dtype=getattr(torch, config.denoiser.dtype))
        self._model = loaded.model.to(self._device).requires_grad_(False)
        self._autoencoder = loaded.autoencoder.to(self._device).requires_grad_(False)
        self._sampler = config.sampler
        self._max_thought_tokens = config.rollout.max_thought_tokens
        self._grid_hw = loaded.config.grid_hw(config.sampler.height, config.sampler.width)
        self._version: int | None = None

    def describe(self) -> str:
        """Where and how this worker computes, for the log."""
        dtype = self._model.dtype
        return (
            f"{device_name(self._device)}, {str(dtype).removeprefix('torch.')}, attention by {kernel_name(self._device, dtype)}"
        )

    def version(self) -> int | None:
        """The version served; None for a fresh worker and after a load that failed."""
        return self._version

    def load(self, version: int, buckets: Iterable[Bucket]) -> None:
        """Serve another version.

        Raises ValueError when the buckets are not exactly this model's tensors; nothing is served then.
        """
        self._version = None
        parameters = dict(self._model.named_parameters())
        tensors = collect(version, buckets, {name: tuple(value.shape) for name, value in parameters.items()})
        for name, value in parameters.items():
            value.copy_(tensors[name])
        self._version = version

    def see(self, pictures_P: Sequence[tuple[Path, int]]) -> tuple[list[GivenPicture], list[int]]:
        """Pictures to edit as the policy sees them, and how many tokens each one is; (file, seed of its latents) for each.

        Raises ValueError, naming the file, for what is no picture (any more).
        """
        config = self._model.config
        seen_P = [
            given_picture(
                read_source(file), latent_rule(config), self._autoencoder, config, torch.Generator().manual_seed(seed)
            )
            for file, seed in pictures_P
        ]
        return seen_P, [sum(split.num_tokens for split in picture_splits(picture, config)) for picture in seen_P]

    @torch.no_grad()
    def think(
        self, given_P: Sequence[Spans], seeds_PG: Sequence[Sequence[int]], temperature: float, version: int
    ) -> list[list[Thought]]:
        """`Reasoner.think` where pictures are given, which vLLM does not read as BAGEL does: it stretches them to one size and
        counts positions otherwise. Log-probabilities are those of temperature 1.

        Raises NotServing when another version is served, or none.
        """
        require(version, self._version)
        tokens = self._model.config
        continuations = generate(
            self._model,
            read(self._model, given_P),
            start_id=tokens.bos_token_id,
            end_id=tokens.eos_token_id,
            max_tokens=self._max_thought_tokens,
            siblings=len(seeds_PG[0]),
            temperature=temperature,
            generators=[torch.Generator().manual_seed(seed) for seeds in seeds_PG for seed in seeds],
        )
        thoughts = iter([self._thought(each, version) for each in continuations])
        return [[next(thoughts) for _ in seeds] for seeds in seeds_PG]

    @torch.no_grad()
    def paint(
        self,
        contexts_S: Sequence[Spans],
        seeds_S: Sequence[int],
        num_points: int,
        windows_S: Sequence[range] | None,
        noise_level: float,
        guidance: Guidance | None,
        version: int,
    ) -> tuple[list[Painting], list[Trajectory]]:
        """Paint one picture a context; a sample's noise depends on its seed alone.

        Args:
            contexts_S: what each picture follows: system prompt, picture to edit, prompt, thought if any. The last is a text.
            seeds_S: one seed a sample.
            num_points: points of the time grid; training's own or evaluation's.
            windows_S: the steps to record of each sample, equally many, or empty ranges where the finished latent is enough;
                None leaves no trajectories.
            noise_level: eta of the recorded steps; 0 takes them deterministically.
            guidance: how the velocity is pushed away from that of shorter contexts; None for not at all.
            version: of the weights that must paint.

        Raises:
            NotServing: another version is served, or none.
            ValueError: a window does not lie within the grid.
        """
        require(version, self._version)
        rows, columns = self._grid_hw
        shape_LC = (rows * columns, self._model.config.latent_channels)
        denoised = denoise(
            self._velocity(contexts_S, guidance),
            seeded_noise(seeds_S, "start", shape_LC).to(self._device),
            time_grid(num_points, self._sampler.shift),
            windows_S,
            noise_level,
            lambda k: seeded_noise(seeds_S, k, shape_LC),
        )
        paintings = [
            Painting(image_HW3=image_HW3, latent_LC=latent_LC.clone(), velocity_rms=velocity_rms, policy_version=version)
            for image_HW3, latent_LC, velocity_rms in zip(
                self._decode(denoised.latent_SLC), denoised.latent_SLC.cpu(), denoised.velocity_rms_S.tolist(), strict=True
            )
        ]
        if windows_S is None:
            return paintings, []
        scale = 1.0 if guidance is None else guidance.text_scale
        return paintings, trajectories(denoised, grid_hw=self._grid_hw, cfg_scale=scale, policy_version=version)

    def _velocity(self, contexts_S: Sequence[Spans], guidance: Guidance | None) -> Velocity:
        """With the contexts that guidance asks for beside the whole ones."""
        conditional = self._velocity_after(read_thoughts(self._model, contexts_S))
        if guidance is None or guidance.text_scale == 1:
            return conditional
        without_text = self._velocity_after(read(self._model, [without_last_text(each) for each in contexts_S]))
        if guidance.image_scale == 1:
            return guided(conditional, without_text, None, guidance)
        texts_S = [without_pictures(each) for each in contexts_S]
        return guided(conditional, without_text, self._velocity_after(read(self._model, texts_S)), guidance)

    def _velocity_after(self, context: Context) -> Velocity:
        def velocity(x_SLC: Tensor, t: float) -> Tensor:
            t_S = torch.full((len(x_SLC),), t, dtype=torch.float64, device=self._device)
            return self._model.velocity(x_SLC, t_S, context, self._grid_hw)

        return velocity

    def _thought(self, said: Continuation, version: int) -> Thought:
        truncated = said.token_ids[-1] != self._model.config.eos_token_id
        return Thought(token_ids=said.token_ids, behavior_logp=said.logp, truncated=truncated, policy_version=version)

    def _decode(self, latent_SLC: Tensor) -> list[Tensor]:
        at_once = max(1, PIXELS_AT_ONCE // (self._sampler.height * self._sampler.width))
        images = []
        for some_SLC in latent_SLC.split(at_once):
            latent_SZhw = from_tokens(some_SLC, self._grid_hw, self._model.config.latent_patch_size)
            images += [image.cpu().clone() for image in to_uint8(self._autoencoder.decode(latent_SZhw))]
        return images
