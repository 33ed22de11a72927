"""One section a role of the cluster: how many, where, and what each may use."""

from collections.abc import Collection
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from configs.base import Section

Decay = Annotated[float, Field(ge=0, lt=1)]
Dtype = Literal["float32", "bfloat16"]
ParameterGroup = Literal["text", "generation", "vision"]


class Placement(Section):
    """What one worker asks of Ray. Each role has a placement group of its own."""

    num_cpus: PositiveFloat = 1.0
    """CPU cores of one worker; fractions share a core."""
    num_gpus: NonNegativeFloat = 0.0
    """GPUs of one worker."""
    resources: dict[str, PositiveFloat] = {}
    """Custom Ray resources of one worker, to pin a role to some nodes."""
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How Ray lays the role's workers over nodes."""
    num_threads: PositiveInt = 1
    """Threads of torch and OpenMP in one worker; more than its cores costs many times the gain."""


class ReasonerConfig(Section):
    num_workers: PositiveInt = 1
    """vLLM engines."""
    placement: Placement = Placement()
    dtype: Dtype = "float32"
    """Of weights and activations."""
    max_num_seqs: PositiveInt = 64
    """Thoughts one engine samples at once."""
    max_model_len: PositiveInt = 2048
    """Longest prompt and thought in tokens; a longer prompt is refused."""
    kv_cache_bytes: PositiveInt = 1 << 30
    """Memory of the engine's key-value cache in bytes; sized so that nothing is preempted."""


class DenoiserConfig(Section):
    num_workers: PositiveInt = 1
    """Painting workers."""
    placement: Placement = Placement()
    dtype: Dtype = "float32"
    """Of weights and activations; latents are float32 always."""


class LearnerConfig(Section):
    num_ranks: PositiveInt = 1
    """Data-parallel ranks."""
    placement: Placement = Placement()
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO: 1 shards optimizer state, 2 gradients, 3 parameters. The frozen reference is held as the policy is: below
    3 every rank has a whole copy of each, so large models take 3."""
    dtype: Dtype = "float32"
    """Of the compute; masters and moments are float32 always."""
    trains: tuple[ParameterGroup, ...] | None = None
    """What is trained; the rest is frozen and costs neither gradient nor optimizer state. null is what the objective has terms
    for: of a fine-tuning text and generation. A fine-tuning may leave one of them out, and its loss with it; `vision`, which
    has no term of its own, may be added."""
    text_learning_rate: NonNegativeFloat = 1e-6
    """AdamW rate of the text expert, embeddings and head."""
    generation_learning_rate: NonNegativeFloat = 3e-5
    """AdamW rate of the generation expert, time embedder and latent projections."""
    vision_learning_rate: NonNegativeFloat = 1e-6
    """AdamW rate of the vision tower and its connector."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """AdamW moment decay."""
    eps: PositiveFloat = 1e-10
    """AdamW epsilon; flow gradients are small, so it must be too."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW decoupled decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Global gradient norm that updates are clipped to."""
    warmup_updates: NonNegativeInt = 0
    """Updates over which both rates rise from zero."""
    decay_updates: NonNegativeInt = 0
    """Last updates of the run over which both rates fall to zero."""
    text_micro_batch: PositiveInt = 8
    """Samples in one forward and backward of the text term."""
    flow_micro_batch: PositiveInt = 2
    """Paintings (each with its window or draws) in one forward and backward of the flow term."""
    activation_checkpointing: bool = False
    """Keep only what enters each layer and compute the rest again for the gradient: slower, in far less memory."""
    bucket_bytes: int = Field(default=256 << 20, ge=1 << 16)
    """Size of one bucket of published weights in bytes."""

    @model_validator(mode="after")
    def _has_masters(self) -> Self:
        if self.zero_stage == 0 and self.dtype == "bfloat16":
            raise ValueError(
                "learner.zero_stage is 0 with learner.dtype bfloat16, which keeps no float32 masters; use stage 1, 2 or 3"
            )
        return self

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if self.trains is None:
            return self
        if not self.trains or len(set(self.trains)) < len(self.trains):
            raise ValueError(
                f"learner.trains is {list(self.trains)}; name at least one of {', '.join(get_args(ParameterGroup))}, each once"
            )
        if self.trains == ("vision",):
            raise ValueError(
                "learner.trains is ['vision'], which leaves no term of the objective; add text, generation or both"
            )
        return self


def require_rates(learner: LearnerConfig, trained: Collection[str]) -> None:
    """Raises ValueError for a learning rate that was set and belongs to an expert that is not trained."""
    for group in get_args(ParameterGroup):
        key = f"{group}_learning_rate"
        given, default = getattr(learner, key), LearnerConfig.model_fields[key].default
        if given != default and group not in trained:
            alone = f"{' and '.join(sorted(trained))} alone {'is' if len(trained) == 1 else 'are'} trained"
            raise ValueError(f"learner.{key} is {given}: of no use while {alone}; leave it out")


class ClusterConfig(Section):
    address: str = "local"
    """`local` starts a fresh Ray on this machine; `auto` or host:port attaches to a running one."""
    start_timeout: PositiveFloat = 300.0
    """Seconds until every actor must be placed and ready."""
    call_timeout: PositiveFloat = 600.0
    """Seconds any one call may take before the run ends and names it."""
