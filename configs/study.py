"""What a study compares: rows, each a training config or a checkpoint alone, from some starts and with some seeds."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints, model_validator

from configs.base import AbsolutePath, Section
from configs.roles import ClusterConfig
from configs.sections import Prompts, ShapesPrompts

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]
"""Of a row, a start or a mode: a part of folder names."""


class CheckpointPath(Section):
    """A start that is there."""

    kind: Literal["checkpoint"]
    path: AbsolutePath
    """Folder in the released BAGEL layout, or `bundled:NAME`."""


class FineTuned(Section):
    """A start that the study makes once, by `unigrpo sft`, in its own run_dir."""

    kind: Literal["sft"]
    config: Path
    """An SFT config, from the folder of the study's file."""
    overrides: tuple[str, ...] = ()
    """dotted.key=value on top of it."""


StudyStart = Annotated[CheckpointPath | FineTuned, Field(discriminator="kind")]


class Row(Section):
    """One line of the table."""

    config: Path
    """A training config, from the folder of the study's file."""
    overrides: tuple[str, ...] = ()
    """dotted.key=value on top of it."""
    trains: bool = True
    """Whether anything is trained; off, its starts are evaluated as they are."""
    starts: tuple[Name, ...] = ()
    """Where it begins, each with every seed; empty takes the study's first start."""
    paper: dict[Name, float] = {}
    """Mode -> the score that the paper gives this row (`compares` says which)."""


class Validation(Section):
    """What is evaluated while a row trains, in the headline mode, on prompts that choices may be made by."""

    every: PositiveInt = 20
    """Steps between evaluations, step 0 and the last included."""
    prompts: Prompts = ShapesPrompts(split="tuning")
    images_per_prompt: PositiveInt = 1


class StudyConfig(Section):
    """A table of methods or settings over several seeds: what `unigrpo reproduce` reads."""

    task: Literal["study"]
    name: Name
    """Of the study, in its report."""
    question: str
    """What it answers, in one sentence."""
    run_dir: AbsolutePath
    """Folder of all of its runs and of its report; what is finished there is not run again."""
    steps: PositiveInt
    """Turns of the loop of every row; a row of two stages shares them out."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2), min_length=1)
    """Of the training runs: every row runs once with each."""
    starts: dict[Name, StudyStart] = Field(min_length=1)
    """What rows begin from."""
    modes: dict[Name, tuple[str, ...]] = Field(min_length=1)
    """How every finished row is evaluated: evaluation.key=value on top of its config; the first one is the headline."""
    rows: dict[Name, Row] = Field(min_length=1)
    control: Name | None = None
    """The row trained on scores that know nothing: what it gains, no method has earned."""
    prompts: Prompts = ShapesPrompts(split="held_out")
    """Of the final evaluations."""
    images_per_prompt: PositiveInt = 2
    """Of the final evaluations."""
    validation: Validation = Validation()
    compares: str = ""
    """Which of the paper's figures the rows' `paper` are."""
    sheet_pictures: PositiveInt = 24
    """Pictures of a sample sheet: the same prompts and seeds in every run."""
    keeps_policy: bool = True
    """Whether a finished run keeps its last policy; everything else of its checkpoints is removed."""
    cluster: ClusterConfig | None = None
    """Where all of its runs work, and how long it waits, in place of the rows' own sections; null leaves them."""
    lanes: PositiveInt | None = None
    """Systems that run at the same time, if the cluster has room for them; null is as many as it has room for."""

    def starts_of(self, row: Row) -> tuple[str, ...]:
        """Where a row begins."""
        return row.starts or (next(iter(self.starts)),)

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}; give each once")
        for name, row in self.rows.items():
            for kind, asked, known in (("starts", row.starts, self.starts), ("paper", row.paper, self.modes)):
                if unknown := [each for each in asked if each not in known]:
                    raise ValueError(f"rows.{name}.{kind} names {', '.join(unknown)}; known are {', '.join(known)}")
            if len(set(row.starts)) < len(row.starts):
                raise ValueError(f"rows.{name}.starts is {list(row.starts)}; give each once")
        if self.control is not None and self.control not in self.rows:
            raise ValueError(f"control is {self.control}, which is no row; rows are {', '.join(self.rows)}")
        return self

    @model_validator(mode="after")
    def _modes_are_evaluations(self) -> Self:
        for name, overrides in self.modes.items():
            fixed = ("evaluation.every=", "evaluation.prompts", "evaluation.images_per_prompt=", "evaluation.reward")
            wrong = [each for each in overrides if not each.startswith("evaluation.") or each.startswith(fixed)]
            if wrong:
                raise ValueError(
                    f"modes.{name} sets {', '.join(wrong)}; a mode sets keys of `evaluation` alone, and not the prompts, "
                    "pictures and judges, which are the same for all"
                )
        return self
