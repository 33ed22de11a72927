"""What caching the context and batching save a painter, each alone, and how much of its time is matrix products.

Shapes: S samples, T tokens of the context.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Figure, report, take_turns
from benchmarks.workload import checkpoint, prompts_and_thoughts, quickstart
from configs.schema import TrainConfig
from unigrpo.algo.flow import time_grid
from unigrpo.denoise import denoise, seeded_noise
from unigrpo.layout import segments_to_ids
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.models.bagel.model import Bagel

BATCH = 32
LONG = 45
"""Tokens of a longer context than the shapes world's own, as prompts with a system prompt would have."""
MATRIX_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product_flash_attention_for_cpu")


class Texts(NamedTuple):
    """Contexts to paint from."""

    ids_ST: Tensor
    length_S: Tensor


def measure() -> Iterator[Figure]:
    torch.set_num_threads(1)
    with checkpoint() as folder:
        config, loaded = quickstart(folder), load_model(folder)
    model = loaded.model.requires_grad_(False)
    for label, texts in (("the world's own contexts", world_texts(model)), ("longer contexts", long_texts(model))):
        yield from _figures(label, texts, model, config)


def world_texts(model: Bagel) -> Texts:
    """Prompts with right thoughts, of unequal lengths."""
    rows = [torch.tensor(segments_to_ids(segments, model.config)) for segments in prompts_and_thoughts(BATCH)]
    length_S = torch.tensor([len(row) for row in rows])
    return Texts(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), length_S)


def long_texts(model: Bagel) -> Texts:
    """Random ids of unequal lengths around LONG."""
    length_S = torch.arange(BATCH) % 11 + LONG - 5
    return Texts(torch.randint(4, model.config.vocab_size, (BATCH, int(length_S.max()))), length_S)


@torch.no_grad()
def paint(model: Bagel, config: TrainConfig, texts: Texts, *, cached: bool) -> Tensor:
    """Latents of one batch; without the cache every velocity evaluation reads the context anew."""
    num_samples = len(texts.length_S)
    grid_hw = model.config.grid_hw(config.sampler.height, config.sampler.width)
    shape_LC = (grid_hw[0] * grid_hw[1], model.config.latent_channels)
    _, kept = model.prefill(*texts)

    def velocity(x_SLC: Tensor, t: float) -> Tensor:
        context = kept if cached else model.prefill(*texts)[1]
        return model.velocity(x_SLC, torch.full((num_samples,), t, dtype=torch.float64), context, grid_hw)

    seeds_S, window = range(num_samples), config.algorithm.window
    assert window is not None, "the quickstart trains paintings"
    return denoise(
        velocity,
        seeded_noise(seeds_S, "start", shape_LC),
        time_grid(config.sampler.num_points, config.sampler.shift),
        [range(1, 1 + window.size)] * num_samples,
        window.noise_level,
        lambda k: seeded_noise(seeds_S, k, shape_LC),
    ).latent_SLC


def _figures(label: str, texts: Texts, model: Bagel, config: TrainConfig) -> Iterator[Figure]:
    ones = [Texts(texts.ids_ST[row : row + 1, :length], texts.length_S[row : row + 1]) for row, length in enumerate(texts[1])]
    whole = partial(paint, model, config, texts, cached=True)
    times = take_turns(
        {
            "cached": whole,
            "not cached": partial(paint, model, config, texts, cached=False),
            "one by one": lambda: [paint(model, config, one, cached=True) for one in ones],
        }
    )
    label = f"{label}, {texts.length_S.float().mean():.0f} tokens"
    yield Figure(
        name=f"cached context alone, batch {BATCH} ({label})",
        value=times.ratio("not cached", "cached"),
        unit="x",
        at_least=2.3,
        note=times.note("not cached", "cached"),
    )
    yield Figure(
        name=f"one batch of {BATCH} over {BATCH} single ones, both cached ({label})",
        value=times.ratio("one by one", "cached"),
        unit="x",
        at_least=3,
        note=times.note("one by one", "cached"),
    )
    yield Figure(
        name=f"time in matrix products, cached, batch {BATCH} ({label})",
        value=100 * matrix_share(whole),
        unit="%",
        note="mm, addmm, bmm and fused attention of all operators' own time under torch.profiler",
    )


def matrix_share(run: Callable[[], object]) -> float:
    """Share of the operators' own CPU time that is spent in matrix products."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    own = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    return sum(own.get(name, 0.0) for name in MATRIX_PRODUCTS) / sum(own.values())


if __name__ == "__main__":
    report("painting", measure())
