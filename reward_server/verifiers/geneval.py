"""GenEval: a detector's answer against what the prompt asks for.

`published_verdict` is the benchmark's own scoring (GenEval, arXiv:2310.11513) over any detector: at least the asked number of
objects, extras allowed. Beside it stand the strict and graded scores of clauses.py, which allow none. Left out on purpose:
finding objects and naming colours, which is the detector's part. On photographs the whole is unproven (detectors/mask2former.py
says what of it is).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from configs.verifiers import GenevalReward
from reward_server.clauses import clauses, graded, strict
from reward_server.detections import Box, Detection, Detector, relations, select
from reward_server.detectors.coco import CLASSES
from reward_server.detectors.colors import COLORS
from reward_server.detectors.mask2former import photo_detector
from reward_server.fingerprint import fingerprint
from reward_server.requirements import Group, Requirements, validate_metadata
from reward_server.verifiers.base import LocalVerifier, judge_each
from unigrpo.shapes import world
from unigrpo.shapes.detect import detect
from unigrpo.types import Prompt, Score, ScoreFailure

_THRESHOLD = 0.3
_COUNTING_THRESHOLD = 0.9
"""For the tag `counting`, where a doubtful object would spoil the count."""
_MAX_PER_CLASS = 16


@dataclass(frozen=True, slots=True)
class PublishedVerdict:
    """GenEval's answer. Example: PublishedVerdict(correct=False, reason="expected cat>=2, found 1", kept={"cat": 1})."""

    correct: bool
    """Whether every requirement is met."""
    reason: str
    """One line for each that is not; empty when correct."""
    kept: Mapping[str, int]
    """Detections of each class that counted."""


def published_verdict(wanted: Requirements, detections: Sequence[Detection], *, nms_threshold: float = 1.0) -> PublishedVerdict:
    """GenEval's published scoring. An include group is judged on its best detections, as many as it asks for.

    Raises ValueError for a detection whose box or score is not finite.
    """
    kept = select(detections, threshold=_threshold(wanted), max_per_class=_MAX_PER_CLASS, nms_threshold=nms_threshold)
    complaints: list[str] = []
    met: list[Sequence[Detection] | None] = []
    for group in wanted.include:
        found = kept.get(group.label, [])[: group.count]
        complaint = _complaint(group, found, met)
        met.append(found if complaint is None else None)
        if complaint is not None:
            complaints.append(complaint)
    for ban in wanted.exclude:
        number = len(kept.get(ban.label, []))
        if number >= ban.count:
            complaints.append(f"expected {ban.label}<{ban.count}, found {number}")
    return PublishedVerdict(not complaints, "\n".join(complaints), {label: len(found) for label, found in kept.items()})


def _complaint(group: Group, found: Sequence[Detection], met: Sequence[Sequence[Detection] | None]) -> str | None:
    """The first thing wrong with a group: too few, then the colour, then the position; None when it is met."""
    if len(found) < group.count:
        return f"expected {group.label}>={group.count}, found {len(found)}"
    if group.color is not None:
        colors = [seen.color for seen in found]
        if colors.count(group.color) < group.count:
            tally = ", ".join(f"{colors.count(color)} {color}" for color in COLORS if color in colors)
            right = f"{colors.count(group.color)} {group.color}"
            return f"expected {group.color} {group.label}>={group.count}, found {right}; and {tally}"
    if group.position is None:
        return None
    targets = met[group.position.target]
    if targets is None:
        return f"no target for {group.label} to be {group.position.relation}"
    for seen in found:
        for target in targets:
            stands = relations(seen.box, target.box)
            if group.position.relation not in stands:
                return f"expected {group.label} {group.position.relation} target, found {' and '.join(stands)} target"
    return None


def _threshold(wanted: Requirements) -> float:
    return _COUNTING_THRESHOLD if wanted.tag == "counting" else _THRESHOLD


@dataclass(frozen=True, slots=True)
class Eye:
    """A kind of detector."""

    labels: Collection[str]
    """Classes that it can name."""
    colors: Collection[str]
    """Colours that it can name."""
    build: Callable[[GenevalReward], Detector]
    """Loads what it needs to see."""


def _photo_detector(config: GenevalReward) -> Detector:
    if config.detector_path is None or config.clip_path is None:
        missing = " and ".join(f"reward.{key}" for key in config.open_keys())
        raise ValueError(f"detector mask2former needs {missing}; set what is missing to the folder of a checkpoint")
    return photo_detector(config.detector_path, config.clip_path, floor=_THRESHOLD)


EYES: Mapping[str, Eye] = {
    "shapes": Eye(world.SHAPES, world.COLORS, lambda config: detect),
    "mask2former": Eye(CLASSES, COLORS, _photo_detector),
}
"""What GenevalReward.detector may name."""


def eye(config: GenevalReward) -> Eye:
    """The configured kind of detector. Raises ValueError where the config leaves it open."""
    if config.detector is None:
        raise ValueError(f"reward.detector is null; set it to what finds the objects, one of {sorted(EYES)}")
    return EYES[config.detector]


@dataclass(frozen=True, slots=True)
class Uncolored:
    """A detection whose colour nobody asks for, so that nobody need look."""

    label: str
    box: Box
    score: float
    color: None = None


class GenevalVerifier(LocalVerifier):
    """Judges by what the detector sees; trains on the score the config chooses and reports all three.

    `detector`, where given, sees in place of the configured one, of which nothing is loaded then.
    """

    breakdown_keys = frozenset({"strict", "graded", "geneval", "reason", "unmet"})

    def __init__(self, config: GenevalReward, *, detector: Detector | None = None) -> None:
        self._config = config
        self._detect = eye(config).build(config) if detector is None else detector
        files = config.files().values() if detector is None else ()
        deciding = config.model_dump(mode="json", include={"detector", "nms_threshold", "score"})
        self.version = fingerprint(*files, settings={"rules": 1, "given": detector is not None, **deciding})

    @staticmethod
    def validate_metadata(config: GenevalReward, metadata: Mapping[str, Any]) -> None:
        sees = eye(config)
        validate_metadata(metadata, labels=sees.labels, colors=sees.colors)

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        return judge_each(self._judge, prompts, images)

    def _judge(self, prompt: Prompt, image: Tensor) -> Score:
        wanted = Requirements.parse(prompt.metadata)
        seen = self._detect(image)
        published = published_verdict(wanted, seen.objects, nms_threshold=self._config.nms_threshold)
        judged = clauses(wanted, self._counted(wanted, seen.objects), unrecognised=seen.unrecognised)
        scores = {"strict": strict(judged), "graded": graded(judged), "geneval": float(published.correct)}
        unmet = "; ".join(clause.name for clause in judged if not clause.holds)
        return Score(value=scores[self._config.score], breakdown={**scores, "reason": published.reason, "unmet": unmet})

    def _counted(self, wanted: Requirements, objects: Sequence[Detection]) -> list[Detection]:
        """What GenEval counts, without its cap. Colours are read only in classes of which the prompt names a colour."""
        kept = select(objects, threshold=_threshold(wanted), nms_threshold=self._config.nms_threshold)
        colored = {group.label for group in wanted.include if group.color is not None}
        return [
            seen if label in colored else Uncolored(label, seen.box, seen.score)
            for label, members in kept.items()
            for seen in members
        ]
