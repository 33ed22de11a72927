"""One rank of the learner: a model, its optimizer and an objective, behind four verbs.

A plain class, one instance a process; the cluster makes it an actor. All ranks call the same verbs in the same order, since
most are collective.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from configs.load import start_folder
from configs.schema import SftConfig, TrainConfig
from learner.checkpoint import (
    InTurn,
    State,
    check_resumable,
    checkpoints_folder,
    newest_checkpoint,
    read_state,
    saved_tensors,
    verify,
    write_checkpoint,
)
from learner.objectives import needs_reference
from learner.optimizer import AdamWSettings, Rank, UpdateStats, schedule
from learner.sft import SftUpdate
from learner.start import Start
from learner.update import Update
from learner.zero import KINDS, ZeroEngine
from unigrpo.buckets import Bucket, pack
from unigrpo.models.bagel.attention import device_name, kernel_name
from unigrpo.models.bagel.model import Bagel


class Learner:
    """Learns on one rank of `world_size`; rank 0, at master_addr and master_port, waits for the others."""

    def __init__(self, config: TrainConfig | SftConfig, rank: int, world_size: int, master_addr: str, master_port: int) -> None:
        """Build everything from the checkpoint that the run starts from.

        Raises ValueError when that is not whole, cannot paint the size asked for, or lacks what is to be trained.
        """
        torch.set_num_threads(config.learner.placement.num_threads)
        self._config, self._rank = config, rank
        self._start = Start(start_folder(config))
        dtype = getattr(torch, config.learner.dtype)
        model = self._start.model(dtype)
        model.recompute_layers(config.learner.activation_checkpointing)
        compares = isinstance(config, TrainConfig) and needs_reference(config)
        reference = self._start.model(dtype) if compares else None
        self._engine = ZeroEngine(
            model,
            parameter_groups(model, config.trains),
            self._start.flat,
            reference=reference,
            stage=config.learner.zero_stage,
            adamw=AdamWSettings(
                betas=config.learner.betas,
                eps=config.learner.eps,
                weight_decay=config.learner.weight_decay,
                max_grad_norm=config.learner.max_grad_norm,
            ),
            rank=Rank(rank=rank, world_size=world_size, master_addr=master_addr, master_port=master_port),
            timeout=max(config.cluster.start_timeout, config.cluster.call_timeout),
        )
        self._reference_hash = self._from_rank_0(lambda: self._start.hash(dtype))
        self._objective: Update | SftUpdate
        if isinstance(config, TrainConfig):
            self._objective = Update(config, self._engine, model, reference, self._start.folder)
            self._num_updates = config.steps * config.algorithm.updates
        else:
            self._objective = SftUpdate(config, self._engine, model)
            self._num_updates = config.steps

    def describe(self) -> str:
        """Where and how this rank computes, for the log."""
        device, dtype = self._engine.device, getattr(torch, self._config.learner.dtype)
        stage = self._config.learner.zero_stage
        return f"{device_name(device)}, {self._config.learner.dtype}, ZeRO-{stage}, attention by {kernel_name(device, dtype)}"

    def update(self, step: int, mini_batches: Sequence[Sequence[Any]]) -> dict[str, float]:
        """Learn from this rank's share of a step's mini-batches; metrics, those of all ranks together.

        Raises ValueError for samples the objective refuses, before anything is learned, FloatingPointError where a loss or
        gradient is not finite, and ArithmeticError where ratios are off before the first update.
        """
        return self._objective(step, mini_batches, self._take)

    def publish(self, version: int) -> list[Bucket]:
        """The weights in buckets, in the compute dtype; none on ranks other than 0."""
        if self._rank == 0:
            return pack(self._engine.parameters(), version=version, bucket_bytes=self._config.learner.bucket_bytes)
        for _ in self._engine.parameters():
            pass
        return []

    def save(self, step: int) -> None:
        """Write the checkpoint of `step` from rank 0, one gathered tensor at a time.

        Raises OSError there if the disk refuses; the one before still loads.
        """
        gathered = {kind: InTurn(self._engine.trained, self._engine.state(kind)) for kind in KINDS}
        try:
            if self._rank == 0:
                state = State(
                    step=step,
                    updates=self._engine.updates,
                    reference_hash=self._reference_hash,
                    config=self._config.model_dump(mode="json"),
                    objective=self._objective.state(),
                )
                write_checkpoint(
                    checkpoints_folder(self._config), gathered, state, self._start, keep=self._config.checkpoint.keep
                )
        finally:
            # The other ranks gather along to the end, whatever becomes of the file.
            for tensors in gathered.values():
                tensors.finish()

    def restore(self) -> int:
        """Continue from the newest complete checkpoint of the run; its step, 0 if there is none.

        Rank 0 finds and checks it; then every rank reads its own part, from a folder that all of them see. Raises ValueError
        for a damaged checkpoint, another config, or another reference than the run began with, on every rank.
        """
        found = self._from_rank_0(self._resumable)
        if not found:
            return 0
        newest = checkpoints_folder(self._config) / found
        expected = {name: self._start.shapes[name] for name in self._engine.trained}
        state = read_state(newest)
        self._objective.load(state.objective)
        for kind in KINDS:
            with saved_tensors(newest, kind, expected) as file:
                self._engine.load(kind, file.flat)
        self._engine.updates = state.updates
        return state.step

    def _resumable(self) -> str:
        """Name of the newest complete checkpoint, found whole and of this very run; empty if there is none."""
        newest = newest_checkpoint(checkpoints_folder(self._config))
        if newest is None:
            return ""
        verify(newest)
        check_resumable(self._config)
        began_from = read_state(newest).reference_hash
        if began_from != self._reference_hash:
            raise ValueError(
                f"{newest} began from weights with hash {began_from}, but {self._start.folder} has "
                f"{self._reference_hash}; a run keeps its reference: put those weights back, or give another run_dir"
            )
        return newest.name

    def _from_rank_0(self, work: Callable[[], str]) -> str:
        """What `work` returns on rank 0, which alone does it, on every rank. A collective call.

        What it raises ends every rank: rank 0 as it is, the others with its message, as ValueError where the fault is of the
        user's making (ValueError, OSError) and as RuntimeError otherwise.
        """
        outcome, fault = ("answer", ""), None
        if self._rank == 0:
            try:
                outcome = ("answer", work())
            except Exception as error:
                fault = error
                outcome = ("refused" if isinstance(error, ValueError | OSError) else "failed", str(error))
        kind, told = json.loads(self._engine.shared(json.dumps(outcome)))
        if fault is not None:
            raise fault
        if kind == "refused":
            raise ValueError(told)
        if kind == "failed":
            raise RuntimeError(told)
        return str(told)

    def _take(self, losses: Iterable[Callable[[], Tensor]]) -> UpdateStats:
        settings = self._config.learner
        factor = schedule(
            self._engine.updates,
            num_updates=self._num_updates,
            warmup_updates=settings.warmup_updates,
            decay_updates=settings.decay_updates,
        )
        rates: dict[str, float] = {group: getattr(settings, f"{group}_learning_rate") for group in self._config.trains}
        return self._engine.update(losses, {group: factor * rate for group, rate in rates.items()})


def parameter_groups(model: Bagel, trains: Sequence[str]) -> dict[str, list[str]]:
    """Names of the parameters of each group that is trained. Raises ValueError for a group that the model has nothing of."""
    members = {
        "text": model.text_parameters(),
        "generation": model.generation_parameters(),
        "vision": model.vision_parameters(),
    }
    groups = {group: [name for name, _ in members[group]] for group in trains}
    for group, names in groups.items():
        if not names:
            there = ", ".join(name for name, parameters in members.items() if parameters)
            raise ValueError(
                f"learner.trains asks for {group}, but the model has no {group} parameters; it has {there}. "
                f"Leave {group} out, or give a model.path with them"
            )
    return groups
