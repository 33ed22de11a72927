"""The worker that paints: the whole model in torch, prefilled once a sample, denoised in batches, decoded to pictures.

It starts from the checkpoint's frozen autoencoder and serves nothing until `load` has filled the model.

Shapes: S samples, T tokens, L latent tokens of a picture, C channels of a latent token, HW3 a picture.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from configs.load import model_folder
from configs.schema import TrainConfig
from rollout_workers.weights import collect, require
from unigrpo.algo.flow import time_grid
from unigrpo.buckets import Bucket
from unigrpo.denoise import denoise, seeded_noise, trajectories
from unigrpo.layout import segments_to_ids
from unigrpo.models.bagel.autoencoder import from_tokens, to_uint8
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.models.bagel.model import Context
from unigrpo.types import Painting, Trajectory

PIXELS_AT_ONCE = 1 << 20
"""Pixels decoded in one call: one painting of 1024 px, whose activations are gigabytes, or a few hundred small ones."""


class Denoiser:
    """Paints batches without guidance: stochastic in the step's window, deterministic elsewhere."""

    def __init__(self, config: TrainConfig) -> None:
        """Read the model of `model.path`. Raises ValueError when it is not whole, or cannot paint the size asked for."""
        assert config.model.path is not None, "checked before anything starts"
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded = load_model(model_folder(config.model.path), dtype=getattr(torch, config.denoiser.dtype))
        self._model = loaded.model.to(self._device).requires_grad_(False)
        self._autoencoder = loaded.autoencoder.to(self._device).requires_grad_(False)
        self._sampler = config.sampler
        self._grid_hw = loaded.config.grid_hw(config.sampler.height, config.sampler.width)
        self._version: int | None = None

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

    @torch.no_grad()
    def paint(
        self,
        contexts_S: Sequence[Sequence[Sequence[int]]],
        seeds_S: Sequence[int],
        num_points: int,
        window_start: int | None,
        version: int,
    ) -> tuple[list[Painting], list[Trajectory]]:
        """Paint one picture a context; a sample's noise depends on its seed alone.

        Args:
            contexts_S: the bare text segments each picture follows: system prompt, prompt, closed thought.
            seeds_S: one seed a sample.
            num_points: points of the time grid; training's own or evaluation's.
            window_start: first stochastic step; None paints deterministically and leaves no trajectories.
            version: of the weights that must paint.

        Raises:
            NotServing: another version is served, or none.
            ValueError: the window does not lie within the grid.
        """
        require(version, self._version)
        context = self._prefill(contexts_S)
        rows, columns = self._grid_hw
        shape_LC = (rows * columns, self._model.config.latent_channels)
        noise_SLC = seeded_noise(seeds_S, "start", shape_LC).to(self._device)
        window = range(0) if window_start is None else range(window_start, window_start + self._sampler.window_size)

        def velocity(x_SLC: Tensor, t: float) -> Tensor:
            t_S = torch.full((len(seeds_S),), t, dtype=torch.float64, device=self._device)
            return self._model.velocity(x_SLC, t_S, context, self._grid_hw)

        grid_N = time_grid(num_points, self._sampler.shift)
        denoised = denoise(
            velocity, noise_SLC, grid_N, window, self._sampler.noise_level, lambda k: seeded_noise(seeds_S, k, shape_LC)
        )
        paintings = [
            Painting(image_HW3=image_HW3, latent_LC=latent_LC.clone(), policy_version=version)
            for image_HW3, latent_LC in zip(self._decode(denoised.latent_SLC), denoised.latent_SLC.cpu(), strict=True)
        ]
        traces = trajectories(denoised, grid_hw=self._grid_hw, cfg_scale=1.0, policy_version=version) if window else []
        return paintings, traces

    def _prefill(self, contexts_S: Sequence[Sequence[Sequence[int]]]) -> Context:
        """What siblings share, everything but the last segment, is read once and handed to each."""
        shared_S = [tuple(map(tuple, segments[:-1])) for segments in contexts_S]
        place = {shared: index for index, shared in enumerate(dict.fromkeys(shared_S))}
        _, context = self._model.prefill(*self._padded([segments_to_ids(shared, self._model.config) for shared in place]))
        index_S = torch.tensor([place[shared] for shared in shared_S], device=self._device)
        last_S = [segments_to_ids(segments[-1:], self._model.config) for segments in contexts_S]
        return self._model.prefill(*self._padded(last_S), context.select(index_S))[1]

    def _padded(self, ids_S: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids_ST = pad_sequence([torch.tensor(ids, dtype=torch.int64) for ids in ids_S], batch_first=True)
        return ids_ST.to(self._device), torch.tensor([len(ids) for ids in ids_S], device=self._device)

    def _decode(self, latent_SLC: Tensor) -> list[Tensor]:
        at_once = max(1, PIXELS_AT_ONCE // (self._sampler.height * self._sampler.width))
        images = []
        for some_SLC in latent_SLC.split(at_once):
            latent_SZhw = from_tokens(some_SLC, self._grid_hw, self._model.config.latent_patch_size)
            images += [image.cpu().clone() for image in to_uint8(self._autoencoder.decode(latent_SZhw))]
        return images
