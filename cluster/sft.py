"""`unigrpo sft`: the checkpoint that reinforcement starts from, made of generated data by the same learner."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cluster import actors
from cluster.learners import LearnerGroup
from cluster.metrics import Clock, Metrics
from cluster.placement import connect
from cluster.run import session
from cluster.run_folder import run_folder
from cluster.sharding import shard
from cluster.view import View
from configs.schema import SftConfig
from learner.batch import MiniBatch, SftExample
from learner.learner import START_FOLDER
from unigrpo.models.bagel.autoencoder import to_tokens
from unigrpo.models.bagel.checkpoint import Loaded, load_model
from unigrpo.seeds import derive_seed
from unigrpo.shapes.autoencoder_training import Progress
from unigrpo.shapes.sft_data import sft_items
from unigrpo.shapes.start import make_start

REPORT_EVERY = 50
"""Updates or autoencoder steps between lines on the terminal."""


def run_sft(config: SftConfig) -> None:
    """Fine-tune until `config.steps`, resuming what is found in `run_dir`. Raises ConfigError for what the user can mend."""
    with session(), run_folder(config) as folder, View(config.steps) as view:
        start = folder / START_FOLDER
        if not start.exists():
            view.say("training the autoencoder")
            make_start(
                start,
                config.architecture,
                config.autoencoder,
                seed=config.seed,
                report=lambda progress: _report_autoencoder(view, progress, config.autoencoder.steps),
            )
        loaded = load_model(start)
        view.say("starting Ray and the learner")
        connect(config.cluster)
        workers = actors.start([actors.learner_role(config)], config.cluster)
        actors.join_ranks(workers["learner"], config.cluster)
        fine_tune(config, LearnerGroup(workers["learner"], timeout=config.cluster.call_timeout), loaded, view)
        view.say(f"done: checkpoints are in {config.run_dir}/checkpoints; score one with `unigrpo evaluate {config.run_dir}`")


def fine_tune(config: SftConfig, learner: LearnerGroup, loaded: Loaded, view: View) -> None:
    """One update after another on data that is a function of (seed, step)."""
    step = learner.restore()
    metrics = Metrics(config.run_dir)
    metrics.resume(step)
    while step < config.steps:
        clock = Clock()
        with clock("data"):
            examples = step_examples(config, step, loaded)
        with clock("update"):
            shares = shard([float(len(example.thought or ())) for example in examples], config.learner.num_ranks)
            stats = learner.fit(
                step,
                [MiniBatch(samples=tuple(examples[i] for i in share), global_count=len(examples)) for share in shares],
            )
        step += 1
        row = {**stats, **clock.seconds}
        metrics.log("train", step, row)
        if step % REPORT_EVERY == 0:
            view.step(step, row)
        if config.checkpoint.due(step, config.steps):
            learner.save(step)


def step_examples(config: SftConfig, step: int, loaded: Loaded) -> list[SftExample]:
    """What a step imitates: generated items with their pictures encoded, logit-normal flow times and noise (BAGEL.md 8)."""
    data = config.data
    items = sft_items(
        config.seed,
        step,
        count=config.batch_size,
        wrong_plans=data.wrong_plans,
        wrong_objects=data.wrong_objects,
        without_thought=data.without_thought,
    )
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "sft noise", step))
    latent_SLC, grid_hw = encoded([item.image_HW3 for item in items], loaded, generator)
    return [
        SftExample(
            given=(item.prompt_ids,),
            thought=item.thought_ids,
            latent_LC=latent_LC,
            grid_hw=grid_hw,
            t_K=torch.randn(config.noise_draws, generator=generator).sigmoid(),
            noise_KLC=torch.randn((config.noise_draws, *latent_LC.shape), generator=generator),
        )
        for item, latent_LC in zip(items, latent_SLC, strict=True)
    ]


@torch.no_grad()
def encoded(images_HW3: Sequence[Tensor], loaded: Loaded, generator: torch.Generator) -> tuple[Tensor, tuple[int, int]]:
    """Latent tokens [S, L, C] of pictures of one size, drawn from the autoencoder's posterior (BAGEL.md 7), and their grid."""
    images_S3HW = torch.stack(list(images_HW3)).permute(0, 3, 1, 2).float() / 127.5 - 1
    mean, _ = loaded.autoencoder.posterior(images_S3HW[:1])
    eps = torch.randn((len(images_HW3), *mean.shape[1:]), generator=generator)
    latent_SZhw = loaded.autoencoder.encode(images_S3HW, eps)
    _, _, height, width = images_S3HW.shape
    return to_tokens(latent_SZhw, loaded.config.latent_patch_size), loaded.config.grid_hw(height, width)


def _report_autoencoder(view: View, progress: Progress, total: int) -> None:
    if progress.step % REPORT_EVERY == 0:
        view.say(f"autoencoder {progress.step}/{total}  pixel error {progress.reconstruction:.4f}  KL {progress.kl:.3f}")
