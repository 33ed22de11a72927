"""Folders of pictures judged in this process: known detections give the scores that GenEval's own evaluation gave."""

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.faults import Unscored
from cluster.judged_folder import judge_folder
from cluster.summary import headline, scoring, summarise
from configs.verifiers import GenevalReward
from reward_server.server import RewardServer
from reward_server.verifiers.geneval import GenevalVerifier
from tests.reward_server.fakes import Picture, Seen
from unigrpo.geneval_folder import write_painted_prompt
from unigrpo.shapes.plan import corrupt_plan, draw_plan
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.render import render
from unigrpo.types import Prompt, Score, ScoreFailure

CASES = Path(__file__).parents[1] / "golden" / "geneval" / "cases.jsonl.gz"
SHAPES = GenevalReward(detector="shapes")


def golden_cases() -> Iterator[dict[str, Any]]:
    """Those without suppression: metadata, detections and the verdict of the published evaluation."""
    with gzip.open(CASES, "rt", encoding="utf-8") as lines:
        cases = [json.loads(line) for line in lines]
    return (case for case in cases if case["nms_threshold"] == 1.0)


def test_known_detections_give_genevals_overall_score(tmp_path: Path) -> None:
    cases = list(golden_cases())
    for number, case in enumerate(cases):
        picture = torch.tensor([[[number // 256, number % 256, 0]]], dtype=torch.uint8)  # its only pixel says which case it is
        write_painted_prompt(tmp_path, Prompt(index=number, text="", metadata=case["metadata"]), [picture])

    def known(image: Tensor) -> Picture:
        high, low, _ = image[0, 0].tolist()
        seen = cases[256 * high + low]["detections"]
        return Picture([Seen(each["label"], tuple(each["box"]), each["score"], each["color"]) for each in seen])

    reward = GenevalReward(detector="mask2former")
    judged = judge_folder(tmp_path, reward, GenevalVerifier(reward, detector=known))
    correct = [case["expected"]["correct"] for case in cases]
    assert [each.scores[0].breakdown["geneval"] for each in judged] == correct

    by_tag = defaultdict(list)
    for case in cases:
        by_tag[case["metadata"]["tag"]].append(case["expected"]["correct"])
    scores = summarise(judged, is_seen=lambda prompt: False, scoring=scoring(reward), seed=0)
    assert headline(scores) == pytest.approx(fmean(fmean(each) for each in by_tag.values()))
    assert scores["geneval"] == pytest.approx(fmean(correct))
    assert scores["geneval"] != headline(scores)
    assert {tag: each["geneval"] for tag, each in scores["by_category"].items()} == pytest.approx(
        {tag: fmean(each) for tag, each in by_tag.items()}
    )


def test_rendered_pictures_are_judged_as_they_were_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    prompts = [shapes_prompts("held_out")[place] for place in (0, 80, 200, 300)]
    for prompt in prompts:
        scene = draw_plan(prompt.metadata, rng)
        images = [render(drawn, rng) for drawn in (scene, corrupt_plan(prompt.metadata, scene, rng), scene)]
        write_painted_prompt(tmp_path, prompt, [torch.from_numpy(image) for image in images[: 2 + prompt.index % 2]])
    judged = judge_folder(tmp_path, SHAPES, RewardServer(SHAPES))
    assert [each.prompt for each in judged] == prompts
    for each in judged:
        assert [score.breakdown["strict"] for score in each.scores] == [1.0, 0.0, 1.0][: len(each.files)]


class FakeServer:
    """Scores every picture but the fourth."""

    def __init__(self) -> None:
        self.number = 0

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        verdicts: list[Score | ScoreFailure] = []
        for _ in images:
            self.number += 1
            good = Score(value=1.0, breakdown={})
            verdicts.append(ScoreFailure(reason="the judge said 'maybe'") if self.number == 4 else good)
        return verdicts


def test_a_score_that_failed_ends_the_evaluation(tmp_path: Path) -> None:
    for prompt in shapes_prompts("train")[:2]:
        write_painted_prompt(tmp_path, prompt, [torch.zeros(2, 2, 3, dtype=torch.uint8)] * 2)
    with pytest.raises(Unscored, match=r"pictures of .*00001/samples could not be judged: the judge said 'maybe'"):
        judge_folder(tmp_path, SHAPES, FakeServer())


def test_prompts_that_the_judge_could_not_judge_are_found_before_any_picture_is(tmp_path: Path) -> None:
    dog = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
    write_painted_prompt(
        tmp_path, Prompt(index=0, text="a photo of a dog", metadata=dog), [torch.zeros(2, 2, 3, dtype=torch.uint8)]
    )
    with pytest.raises(ValueError, match=r"00000/metadata.jsonl:1: .*'dog', which the detector cannot name"):
        judge_folder(tmp_path, SHAPES, FakeServer())
