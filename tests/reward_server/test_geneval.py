"""GenEval's published scoring against cases that the published evaluation answered, and corners worked out by hand."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.verifiers import GenevalReward
from reward_server.detections import Detector
from reward_server.requirements import Requirements
from reward_server.verifiers import validate_metadata
from reward_server.verifiers.geneval import GenevalVerifier, PublishedVerdict, published_verdict
from tests.reward_server.fakes import Picture, Seen, prompt, seen
from unigrpo.types import Score, ScoreFailure


def read_cases(path: Path) -> Iterator[dict[str, Any]]:
    content = path.read_bytes()
    text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return map(json.loads, text.decode().splitlines())


def detections(case: dict[str, Any]) -> list[Seen]:
    return [Seen(d["label"], tuple(d["box"]), d["score"], d["color"]) for d in case["detections"]]


def comparable(reason: str) -> list[object]:
    """Lines of a reason, the relations found in each as a set: GenEval prints them in the order of a hash."""
    lines: list[object] = []
    for line in reason.split("\n"):
        found = re.fullmatch(r"(expected .* target, found )(.*) target", line)
        lines.append((found[1], frozenset(found[2].split(" and "))) if found else line)
    return lines


def judge(metadata: dict[str, Any], *objects: Seen, nms_threshold: float = 1.0) -> PublishedVerdict:
    return published_verdict(Requirements.parse({"tag": "mixed", **metadata}), objects, nms_threshold=nms_threshold)


def test_every_case_is_scored_as_published(cases_file: Path) -> None:
    wrong, number = [], 0
    for number, case in enumerate(read_cases(cases_file), start=1):
        verdict = published_verdict(Requirements.parse(case["metadata"]), detections(case), nms_threshold=case["nms_threshold"])
        answer = (verdict.correct, comparable(verdict.reason), verdict.kept)
        expected = case["expected"]
        if answer != (expected["correct"], comparable(expected["reason"]), expected["kept"]):
            wrong.append(f"case {number}: answered {answer}, expected {expected}")
    assert number > 0
    assert not wrong, f"{len(wrong)} of {number} cases:\n" + "\n".join(wrong)


def test_thresholds_are_strict_and_higher_for_counting() -> None:
    two = {"include": [{"class": "cat", "count": 2}]}
    at, above = [Seen("cat", (0, 0, 9, 9), s) for s in (0.3, 0.3)], [Seen("cat", (0, 0, 9, 9), s) for s in (0.31, 0.9)]
    assert judge(two, *at).kept == {}
    assert judge(two, *above).correct
    assert judge({"tag": "counting", **two}, *above).reason == "expected cat>=2, found 0"


def test_a_group_is_judged_on_its_best_detections_and_extras_pass() -> None:
    red_cat = {"include": [{"class": "cat", "count": 1, "color": "red"}]}
    first, second = Seen("cat", (0, 0, 9, 9), 0.5, "blue"), Seen("cat", (0, 0, 9, 9), 0.9, "red")
    assert judge(red_cat, first, second, Seen("dog", (0, 0, 9, 9))).correct
    blue_best = judge(red_cat, Seen("cat", (0, 0, 9, 9), 0.95, "blue"), second)
    assert blue_best.reason == "expected red cat>=1, found 0 red; and 1 blue"


def test_of_equal_scores_the_later_detection_comes_first() -> None:
    red_cat = {"include": [{"class": "cat", "count": 1, "color": "red"}]}
    blue, red = Seen("cat", (0, 0, 9, 9), 0.5, "blue"), Seen("cat", (0, 0, 9, 9), 0.5, "red")
    assert judge(red_cat, blue, red).correct
    assert not judge(red_cat, red, blue).correct


def test_a_colour_nobody_could_name_is_not_listed() -> None:
    red_cats = {"include": [{"class": "cat", "count": 2, "color": "red"}]}
    verdict = judge(red_cats, Seen("cat", (0, 0, 9, 9), color=None), Seen("cat", (0, 0, 9, 9), color="red"))
    assert verdict.reason == "expected red cat>=2, found 1 red; and 1 red"
    assert judge(red_cats, *[Seen("cat", (0, 0, 9, 9))] * 2).reason == "expected red cat>=2, found 0 red; and "


def test_a_group_that_misses_its_place_is_no_target() -> None:
    chain = {
        "include": [
            {"class": "cat", "count": 1},
            {"class": "dog", "count": 1, "position": ["above", 0]},
            {"class": "cow", "count": 1, "position": ["above", 1]},
        ]
    }
    objects = [seen("red cat", row=1), seen("red dog", row=2), seen("red cow", row=0)]
    assert judge(chain, *objects).reason == "expected dog above target, found below target\nno target for cow to be above"


def test_excluded_numbers_count_every_kept_detection() -> None:
    metadata = {
        "include": [{"class": "cat", "count": 1}],
        "exclude": [{"class": "cat", "count": 2}, {"class": "dog", "count": 1}, {"class": "cow", "count": 1}],
    }
    objects = [seen("red cat"), seen("red cat"), seen("red cat"), seen("red cow", score=0.3), seen("red dog")]
    assert judge(metadata, *objects).reason == "expected cat<2, found 3\nexpected dog<1, found 1"


def test_sixteen_of_a_class_are_kept_before_suppression() -> None:
    spread = [Seen("cat", (20 * i, 0, 20 * i + 9, 9), 0.99 - i / 100) for i in range(20)]
    twins = [Seen("cat", (0, 0, 9, 9), 1.0)] * 3
    assert judge({"include": [{"class": "cat", "count": 16}]}, *spread).kept == {"cat": 16}
    assert judge({"include": [{"class": "cat", "count": 17}]}, *spread).reason == "expected cat>=17, found 16"
    assert judge({"include": [{"class": "cat", "count": 1}]}, *spread, *twins, nms_threshold=0.5).kept == {"cat": 13}


def test_suppression_begins_at_the_threshold_and_keeps_to_a_class() -> None:
    # 10 x 10 pixels each, shifted by 5: 50 shared of 150.
    cat, shifted, dog = (Seen(label, (x, 0, x + 9, 9)) for label, x in (("cat", 0), ("cat", 5), ("dog", 0)))
    metadata = {"include": [{"class": "cat", "count": 1}]}
    assert judge(metadata, cat, shifted, dog, nms_threshold=50 / 150).kept == {"cat": 1, "dog": 1}
    assert judge(metadata, cat, shifted, dog, nms_threshold=0.34).kept == {"cat": 2, "dog": 1}
    assert judge(metadata, cat, cat).kept == {"cat": 2}


@pytest.mark.parametrize("broken", [Seen("cat", (0, 0, float("nan"), 9)), Seen("cat", (0, 0, 9, 9), float("inf"))])
def test_a_detection_that_is_not_finite_is_refused(broken: Seen) -> None:
    with pytest.raises(ValueError, match="not finite"):
        judge({"include": [{"class": "cat", "count": 1}]}, broken)


RED_CIRCLE = {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}], "prompt": "a red circle"}


def verifier_that(detect: Detector, **config: Any) -> GenevalVerifier:
    return GenevalVerifier(GenevalReward(**{"detector": "shapes", **config}), detector=detect)


def seeing(picture: Picture) -> Detector:
    return lambda image: picture


def test_a_verifier_of_known_detections_answers_every_case_as_published(cases_file: Path) -> None:
    for case in read_cases(cases_file):
        picture, settings = Picture(detections(case)), {"score": "geneval", "nms_threshold": case["nms_threshold"]}
        verifier = verifier_that(seeing(picture), detector="mask2former", **settings)
        (score,) = verifier.score([prompt(case["metadata"])], [torch.zeros(1)])
        assert isinstance(score, Score)
        assert score.value == float(case["expected"]["correct"])
        assert comparable(str(score.breakdown["reason"])) == comparable(case["expected"]["reason"])


@pytest.mark.parametrize(("chosen", "value"), [("graded", 2 / 3), ("strict", 0.0), ("geneval", 1.0)])
def test_the_verifier_trains_on_the_chosen_score_and_reports_all(chosen: str, value: float) -> None:
    picture = Picture([seen("red circle"), seen("blue square", row=1)])
    verifier = verifier_that(lambda image: picture, score=chosen)
    (score,) = verifier.score([prompt(RED_CIRCLE)], [torch.zeros(24, 24, 3, dtype=torch.uint8)])
    assert isinstance(score, Score)
    assert score.value == value
    assert score.breakdown == {"strict": 0.0, "graded": 2 / 3, "geneval": 1.0, "reason": "", "unmet": "nothing extra"}


def test_our_scores_count_what_geneval_counts_without_its_cap() -> None:
    crowd = {"tag": "counting", "include": [{"class": "circle", "count": 16}]}
    sure = [seen("red circle", score=0.91) for _ in range(16)]
    extra, doubtful = seen("red circle", score=0.91), seen("red circle", score=0.9)
    pictures = iter([Picture(sure), Picture([*sure, doubtful]), Picture([*sure, extra])])
    verifier = verifier_that(lambda image: next(pictures))
    verdicts = verifier.score([prompt(crowd)] * 3, [torch.zeros(1)] * 3)
    parts = [score.breakdown for score in verdicts if isinstance(score, Score)]
    assert [part["strict"] for part in parts] == [1.0, 1.0, 0.0]
    assert [part["geneval"] for part in parts] == [1.0, 1.0, 1.0]


def test_an_item_that_breaks_the_detector_fails_alone() -> None:
    def detect(image: Tensor) -> Picture:
        if image.any():
            raise RuntimeError("lens cap on")
        return Picture([seen("red circle")])

    images = [torch.full((2, 2, 3), fill, dtype=torch.uint8) for fill in (0, 9, 0)]
    first, second, third = verifier_that(detect).score([prompt(RED_CIRCLE)] * 3, images)
    assert isinstance(first, Score)
    assert first.value == 1.0
    assert second == ScoreFailure(reason="RuntimeError: lens cap on")
    assert third == first


def test_metadata_beyond_the_detector_is_refused() -> None:
    config = GenevalReward(detector="shapes")
    validate_metadata(config, RED_CIRCLE)
    with pytest.raises(ValueError, match=r"include\[0\].class is 'bench', which the detector cannot name"):
        validate_metadata(config, {"tag": "colors", "include": [{"class": "bench", "count": 1}]})
    with pytest.raises(ValueError, match=r"include\[0\].color is 'mauve'"):
        validate_metadata(config, {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "mauve"}]})


def test_a_detector_left_open_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reward.detector is null; set it to .* one of \['mask2former', 'shapes'\]"):
        GenevalVerifier(GenevalReward())


def test_suppression_is_the_configs_for_all_three_scores() -> None:
    # 10 x 10 pixels each, shifted by 5: an IoU of 1/3.
    cats = [Seen("cat", (x, 0, x + 9, 9), score) for x, score in ((0, 0.95), (5, 0.92))]
    cat = {"tag": "counting", "include": [{"class": "cat", "count": 1}], "exclude": [{"class": "cat", "count": 2}]}
    for nms_threshold, expected in ((1.0, 0.0), (0.34, 0.0), (0.33, 1.0)):
        verifier = verifier_that(lambda image: Picture(cats), detector="mask2former", nms_threshold=nms_threshold)
        (score,) = verifier.score([prompt(cat)], [torch.zeros(10, 15, 3, dtype=torch.uint8)])
        assert isinstance(score, Score)
        assert (score.breakdown["strict"], score.breakdown["geneval"]) == (expected, expected)


class WatchedSeen:
    """A fake that notes whose colour is read."""

    score = 0.95

    def __init__(self, text: str, column: int, read: list[str]) -> None:
        self._seen, self._read = seen(text, column=column), read
        self.label, self.box = self._seen.label, self._seen.box

    @property
    def color(self) -> str | None:
        self._read.append(self.label)
        return self._seen.color


@dataclass(frozen=True)
class WatchedPicture:
    objects: list[WatchedSeen]
    unrecognised: int = 0


def test_colours_are_read_only_in_classes_of_which_the_prompt_names_one() -> None:
    read: list[str] = []
    texts = ("red cat", "red cat", "red dog", "red cow")
    picture = WatchedPicture([WatchedSeen(text, column, read) for column, text in enumerate(texts)])
    verifier = verifier_that(lambda image: picture, detector="mask2former")
    groups = [{"class": "cat", "count": 2, "color": "red"}, {"class": "dog", "count": 1, "position": ["right of", 0]}]
    (score,) = verifier.score([prompt({"tag": "mixed", "include": groups})], [torch.zeros(1)])
    assert isinstance(score, Score)
    assert score.breakdown["unmet"] == "nothing extra"
    assert set(read) == {"cat"}
    read.clear()
    verifier.score([prompt({"tag": "mixed", "include": [{"class": "cat", "count": 1}]})], [torch.zeros(1)])
    assert read == []


def test_the_version_names_what_decides() -> None:
    versions = {
        GenevalVerifier(GenevalReward(detector="shapes", **settings)).version
        for settings in ({}, {"score": "strict"}, {"nms_threshold": 0.9}, {"num_workers": 3}, {"batch_size": 5})
    }
    assert len(versions) == 3
    assert verifier_that(lambda image: Picture()).version not in versions


def test_photographs_need_folders() -> None:
    with pytest.raises(ValueError, match=r"needs reward.detector_path and reward.clip_path; set"):
        GenevalVerifier(GenevalReward(detector="mask2former"))
    with pytest.raises(ValueError, match=r"needs reward.clip_path; set"):
        GenevalVerifier(GenevalReward(detector="mask2former", detector_path=Path("/nowhere")))
