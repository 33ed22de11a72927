"""`unigrpo sft`: supervised fine-tuning by the same learner, on generated data or a user's own.

The driver prepares the data: it decodes, resizes and encodes the pictures of a step while the learner is busy with the step
before, so that only the first step's pictures, and what takes longer than an update, keep the learner waiting.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import torch

from cluster.learners import LearnerGroup
from cluster.metrics import Clock, Metrics
from cluster.placement import connect
from cluster.preflight import prepare_sft
from cluster.roles import learner_role
from cluster.run import session
from cluster.run_folder import run_folder
from cluster.sft_data import Material, num_tokens, step_examples
from cluster.sharding import shard
from cluster.view import View
from cluster.workers import Workers, join_ranks
from configs.load import start_folder
from configs.schema import SftConfig
from configs.sft import NewStart
from learner.batch import SftExample
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import AUTOENCODER_FILE, load_weights
from unigrpo.models.bagel.config import AutoEncoderConfig, BagelConfig
from unigrpo.shapes.autoencoder_training import Progress
from unigrpo.shapes.start import make_start
from unigrpo.tokenizer import load_tokenizer

REPORT_EVERY = 50
"""Updates or autoencoder steps between lines on the terminal, if these come faster than SILENT_SECONDS."""


def run_sft(config: SftConfig) -> None:
    """Fine-tune until `config.steps`, resuming what is found in `run_dir`. Raises ConfigError for what the user can mend."""
    lines = prepare_sft(config)
    with session(), run_folder(config), View(config.steps) as view:
        start = start_folder(config)
        if isinstance(config.start, NewStart) and not start.exists():
            _make_start(start, config.start, config.seed, view)
        model = BagelConfig.from_folder(start)
        autoencoder = load_autoencoder(start, model.vae)
        material = Material(model=model, autoencoder=autoencoder, tokenizer=load_tokenizer(start), lines=lines)
        view.say("starting Ray and the learner")
        connect(config.cluster)
        workers = Workers().serve([learner_role(config)], config.cluster)
        view.say(f"learner: {join_ranks(workers['learner'], config.cluster)}")
        fine_tune(config, LearnerGroup(workers["learner"], timeout=config.cluster.call_timeout), material, view)
        view.say(
            f"done: checkpoints are in {config.run_dir}/checkpoints; score one with `unigrpo evaluate {config.run_dir} "
            "--config FILE`, a training config whose evaluation section says how"
        )


def fine_tune(config: SftConfig, learner: LearnerGroup, material: Material, view: View) -> None:
    """One update after another on data that is a function of (seed, step)."""
    step = learner.restore()
    metrics = Metrics(config.run_dir)
    metrics.resume(step)
    with closing(prepared(config, step, material)) as steps:
        while step < config.steps:
            clock = Clock()
            with clock("data"):
                shares = shares_of(next(steps), config.learner.num_ranks, material.model)
            with clock("update"):
                stats = learner.fit(step, shares)
            step += 1
            row = {**stats, **clock.seconds}
            metrics.log("train", step, row)
            view.step(step, row, told=step % REPORT_EVERY == 0 or step == config.steps)
            if config.checkpoint.due(step, config.steps):
                learner.save(step)


def prepared(config: SftConfig, first: int, material: Material) -> Generator[list[SftExample]]:
    """The examples of step `first` and of all that follow, each made while those before it are used."""
    with ThreadPoolExecutor(max_workers=1) as ahead:
        futures = (ahead.submit(step_examples, config, step, material) for step in range(first, config.steps))
        current = next(futures, None)
        while current is not None:
            examples = current.result()
            current = next(futures, None)
            yield examples


def shares_of(examples: list[SftExample], num_ranks: int, model: BagelConfig) -> list[list[SftExample]]:
    """Each rank's share of a step, balanced by tokens."""
    places = shard([float(num_tokens(example, model)) for example in examples], num_ranks)
    return [[examples[i] for i in mine] for mine in places]


def load_autoencoder(folder: Path, sizes: AutoEncoderConfig) -> AutoEncoder:
    """The frozen autoencoder of a checkpoint folder in float32, on the driver's GPU if it has one.

    Raises ValueError for weights that are damaged or not of these sizes.
    """
    with torch.device("meta"):
        autoencoder = AutoEncoder(sizes)
    autoencoder.to_empty(device="cpu")
    load_weights(autoencoder, folder / AUTOENCODER_FILE)
    return autoencoder.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False)


def _make_start(folder: Path, start: NewStart, seed: int, view: View) -> None:
    def report(progress: Progress) -> None:
        if progress.step % REPORT_EVERY == 0:
            view.say(
                f"autoencoder {progress.step}/{start.autoencoder.steps}  pixel error {progress.reconstruction:.4f}  "
                f"KL {progress.kl:.3f}"
            )

    view.say("training the autoencoder")
    make_start(folder, start.architecture, start.autoencoder, seed=seed, report=report)
