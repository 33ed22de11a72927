"""Verifiers, one variant each: what judges a picture, and what it needs to."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from configs.base import AbsolutePath, Section
from configs.remote import Remote
from configs.roles import Placement


class Policy(Section):
    """What a run does about scores that fail."""

    max_retries: NonNegativeInt = 1
    """Times a wrong answer (no number, out of range, not of its schema) is asked again before its group is dropped."""
    outage: Literal["pause", "drop", "stop"] = "pause"
    """When no answer can be had at all: wait and ask again, drop the group, or end the run."""
    outage_timeout: PositiveFloat = 3600.0
    """Seconds that `pause` waits for judges that are out before it ends the run."""


class Judge(Policy):
    """What every verifier has: how many actors judge, where, and how much at once."""

    kind: str
    num_workers: PositiveInt = 1
    """Reward actors."""
    placement: Placement = Placement()
    batch_size: PositiveInt = 32
    """Pictures that the verifier judges together; of `http`, of one request. What asks endpoints is handed all at once, and
    has many calls under way."""
    judge_timeout: PositiveFloat = 600.0
    """Seconds for one call of the verifier before a reward actor counts as hung: it is started again, and asked again."""
    cache_entries: NonNegativeInt = 4096
    """Verdicts an actor remembers, by the content of picture, prompt and verifier version; 0 remembers none."""

    @property
    def call_size(self) -> int | None:
        """Pictures of one call of the verifier; None for all that are asked together."""
        return self.batch_size

    def open_keys(self) -> list[str]:
        """Keys that are still to be given."""
        return []

    def files(self) -> dict[str, Path]:
        """Files and folders that it names, by key."""
        return {}


class GenevalReward(Judge):
    kind: Literal["geneval"] = "geneval"
    detector: Literal["shapes", "mask2former"] | None = None
    """What finds the objects: `shapes` reads the pixels of the shapes world, `mask2former` photographs; null is to be given."""
    detector_path: AbsolutePath | None = None
    """Folder of a Mask2Former checkpoint in transformers' format (COCO instances); for detector mask2former."""
    clip_path: AbsolutePath | None = None
    """Folder of the CLIP checkpoint that names colours; for detector mask2former."""
    nms_threshold: float = Field(default=1.0, gt=0, le=1)
    """Overlap (IoU) from which of two objects of one class the weaker is dropped; 1 drops none, as published."""
    score: Literal["graded", "strict", "geneval"] = "graded"
    """Which score counts: share of strict clauses, all of them, or GenEval's own verdict."""

    @model_validator(mode="after")
    def _paths_count(self) -> Self:
        if self.detector == "shapes" and (self.detector_path or self.clip_path):
            raise ValueError("detector_path and clip_path have no effect with detector shapes; leave them out")
        return self

    def open_keys(self) -> list[str]:
        if self.detector is None:
            return ["detector"]
        paths = ("detector_path", "clip_path") if self.detector == "mask2former" else ()
        return [name for name in paths if getattr(self, name) is None]

    def files(self) -> dict[str, Path]:
        given = {"detector_path": self.detector_path, "clip_path": self.clip_path}
        return {name: path for name, path in given.items() if path is not None}


class RandomReward(Judge):
    """The control: a score that knows nothing, drawn from the picture's bytes."""

    kind: Literal["random"] = "random"


class OcrReward(Judge):
    """How much of the quoted text of a prompt can be read in the picture."""

    kind: Literal["ocr"] = "ocr"
    case_sensitive: bool = False
    """Whether capitals count."""


class PreferenceReward(Judge):
    """Agreement of prompt and picture by a CLIP-type model."""

    kind: Literal["preference"] = "preference"
    path: AbsolutePath | None = None
    """Folder of a CLIP checkpoint in transformers' format (PickScore, CLIP); null is still to be given."""
    formula: Literal["pick_score", "clip_score"] = "pick_score"
    """The model's scaled cosine / 100 (PickScore), or 2.5 max(cosine, 0) (CLIPScore)."""

    def open_keys(self) -> list[str]:
        return ["path"] if self.path is None else []

    def files(self) -> dict[str, Path]:
        return {} if self.path is None else {"path": self.path}


class RewardModelChoice(Section):
    """A reward model whose score carries gradients to the pixels."""

    model: Literal["shapes", "internvl"] = "shapes"
    """The small model of the shapes world, or a VLM's probability of "yes" that the picture fits the prompt."""
    path: AbsolutePath | None = None
    """Folder of the reward model; null is the bundled one for shapes, and still to be given for internvl."""

    def open_keys(self) -> list[str]:
        """Keys that are still to be given."""
        return ["path"] if self.path is None and self.model == "internvl" else []

    def files(self) -> dict[str, Path]:
        """Files and folders that it names, by key."""
        return {} if self.path is None else {"path": self.path}


class DifferentiableReward(RewardModelChoice, Judge):
    """A reward model as a judge."""

    kind: Literal["differentiable"] = "differentiable"


class RemoteJudge(Judge):
    """What every verifier has that asks endpoints."""

    remote: Remote = Remote()
    """Whom to ask, and how."""

    @property
    def call_size(self) -> int | None:
        return None

    @model_validator(mode="after")
    def _hangs_later_than_its_calls(self) -> Self:
        if self.judge_timeout <= self.remote.batch_timeout:
            raise ValueError(
                f"judge_timeout is {self.judge_timeout}, not above remote.batch_timeout={self.remote.batch_timeout}: an actor "
                "that waits for its endpoints would count as hung; raise the first or lower the second"
            )
        return self

    def open_keys(self) -> list[str]:
        return [] if self.remote.endpoints else ["remote.endpoints"]

    def files(self) -> dict[str, Path]:
        given = {"remote.token_file": self.remote.token_file, "remote.ca_file": self.remote.ca_file}
        return {name: path for name, path in given.items() if path is not None}


class ChatJudge(RemoteJudge):
    """What every verifier has that asks a vision-language model behind an OpenAI-compatible API."""

    model: str | None = None
    """Name of the model at the endpoint; null is still to be given."""
    template: AbsolutePath | None = None
    """JSON file with the instructions and the question, {prompt} standing for the user's prompt; null is the shipped one."""

    def open_keys(self) -> list[str]:
        return [*super().open_keys(), *(["model"] if self.model is None else [])]

    def files(self) -> dict[str, Path]:
        return super().files() | ({} if self.template is None else {"template": self.template})


class VlmJudgeReward(ChatJudge):
    """One question a picture: does it fit the prompt?"""

    kind: Literal["vlm_judge"] = "vlm_judge"
    answer: Literal["yes_no", "scale", "yes_probability"] = "yes_no"
    """A schema of yes or no; a schema of 1 to `scale`, mapped to 0 to 1; or the probability of yes from log-probabilities."""
    scale: int = Field(default=5, ge=2, le=100)
    """Best grade of answer `scale`."""

    @model_validator(mode="after")
    def _scale_counts(self) -> Self:
        if self.answer != "scale" and self.scale != type(self).model_fields["scale"].default:
            raise ValueError(f"scale is {self.scale}, which has no effect with answer {self.answer}; leave it out")
        return self


class ExamReward(ChatJudge):
    """Share of a prompt's exam points that a judge answers with yes (the paper's TA protocol)."""

    kind: Literal["exam"] = "exam"


class HttpReward(RemoteJudge):
    """A service that speaks the reward protocol (docs/reward_protocol.md), such as `unigrpo reward serve`."""

    kind: Literal["http"] = "http"


class PythonReward(Judge):
    """A verifier of the user's own."""

    kind: Literal["python"] = "python"
    verifier: str | None = None
    """`package.module:Class`, or the name of an entry point in the group unigrpo.verifiers; null is still to be given."""
    folder: AbsolutePath | None = None
    """Folder put on the import path, where the class is not installed; every node must see it."""
    options: dict[str, JsonValue] = {}
    """What the class is given."""

    def open_keys(self) -> list[str]:
        return ["verifier"] if self.verifier is None else []

    def files(self) -> dict[str, Path]:
        return {} if self.folder is None else {"folder": self.folder}


Verifier = Annotated[
    GenevalReward
    | RandomReward
    | OcrReward
    | PreferenceReward
    | DifferentiableReward
    | VlmJudgeReward
    | ExamReward
    | HttpReward
    | PythonReward,
    Field(discriminator="kind"),
]
