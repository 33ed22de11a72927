"""A finished policy in a folder as something that paints: the roles of a rollout with its weights, and no learner."""

from pathlib import Path

import ray
import torch
from ray import ObjectRef

from cluster.rollouts import Rollouts
from cluster.system import judges_of, rollout_roles, rollouts_of
from cluster.view import View
from cluster.workers import Workers
from configs.load import model_folder
from configs.schema import TrainConfig
from rollout_workers.weights import parameter_shapes
from unigrpo.buckets import pack
from unigrpo.models.bagel.config import WEIGHTS_FILE, BagelConfig
from unigrpo.models.bagel.weights_file import WeightsFile
from unigrpo.tokenizer import Tokenizer


def policy_rollouts(config: TrainConfig, tokenizer: Tokenizer, view: View, workers: Workers, *, thinks: bool) -> Rollouts:
    """Reasoners (if anything is thought), denoisers and the judges of evaluations, serving the weights of `model.path`."""
    assert config.model.path is not None, "checked before anything starts"
    role, reward = judging_role(config), config.evaluation_reward
    handles = workers.serve(rollout_roles(config, {role: reward}, thinks=thinks), config.cluster)
    judges = {"evaluation": judges_of(role, reward, handles, view)}
    rollouts = rollouts_of(config, handles, judges, tokenizer, view)
    rollouts.load(_published(model_folder(config.model.path), config.learner.bucket_bytes), version=0)
    return rollouts


def judging_role(config: TrainConfig) -> str:
    """The config section of those who judge evaluations."""
    return "reward" if config.evaluation.reward is None else "evaluation.reward"


def _published(folder: Path, bucket_bytes: int) -> list[ObjectRef]:
    """A checkpoint's weights for the workers, read a tensor at a time, in the precision of its file."""
    shapes = parameter_shapes(BagelConfig.from_folder(folder))
    with WeightsFile(folder / WEIGHTS_FILE) as file:
        named = ((name, file.tensor(name)) for name in shapes)
        carried = ((name, value if value.dtype == torch.bfloat16 else value.float()) for name, value in named)
        return [ray.put(bucket) for bucket in pack(carried, version=0, bucket_bytes=bucket_bytes)]
