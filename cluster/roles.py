"""How many workers of each role a config wants, where they run, and what each is built from."""

from collections.abc import Mapping

from cluster.actors import DenoiserActor, LearnerActor, ReasonerActor, RewardActor
from cluster.placement import Role
from configs.load import model_folder
from configs.reward import Reward, parts_of
from configs.roles import Placement
from configs.schema import SftConfig, TrainConfig
from configs.verifiers import Judge
from rollout_workers.reasoner import reasoner_environment
from unigrpo.models.bagel.config import BagelConfig


def learner_role(config: TrainConfig | SftConfig) -> Role:
    """The learner's ranks. A lost rank ends the run: its share of the optimizer is in the checkpoint only."""
    world_size = config.learner.num_ranks
    return Role(
        name="learner",
        actor=LearnerActor,
        placement=config.learner.placement,
        num_workers=world_size,
        arguments=lambda rank: (config, rank, world_size),
        environment=_threads(config.learner.placement)
        | ({} if config.learner.placement.num_gpus else {"DS_ACCELERATOR": "cpu"}),
        restarts=0,
        keeps={},
    )


def reasoner_role(config: TrainConfig) -> Role:
    """The vLLM engines: each takes other weights of the same sizes, and nothing else that differs."""
    assert config.model.path is not None, "checked before anything starts"
    return Role(
        name="reasoner",
        actor=ReasonerActor,
        placement=config.reasoner.placement,
        num_workers=config.reasoner.num_workers,
        arguments=lambda _: (config,),
        environment=reasoner_environment(config),
        keeps={
            "reasoner": config.reasoner,
            "rollout.max_thought_tokens": config.rollout.max_thought_tokens,
            "the sizes of the model at model.path": BagelConfig.from_folder(model_folder(config.model.path)),
        },
    )


def denoiser_role(config: TrainConfig) -> Role:
    """The painters."""
    return Role(
        name="denoiser",
        actor=DenoiserActor,
        placement=config.denoiser.placement,
        num_workers=config.denoiser.num_workers,
        arguments=lambda _: (config,),
        environment=_threads(config.denoiser.placement),
        keeps={},
    )


def reward_roles(name: str, reward: Reward) -> list[Role]:
    """The judges of training or of evaluations: one role for each verifier, named `name` or, of several, `name.parts.PART`."""
    parts = parts_of(reward)
    return [_judge_role(part_role(name, part, parts), judge) for part, judge in parts.items()]


def part_role(name: str, part: str, parts: Mapping[str, Judge]) -> str:
    """The config section of one verifier."""
    return name if len(parts) == 1 else f"{name}.parts.{part}"


def _judge_role(name: str, judge: Judge) -> Role:
    return Role(
        name=name,
        actor=RewardActor,
        placement=judge.placement,
        num_workers=judge.num_workers,
        arguments=lambda _: (judge,),
        environment=_threads(judge.placement),
        keeps={},
    )


def _threads(placement: Placement) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(placement.num_threads)}
