"""Verdicts of several verifiers as one."""

import pytest

from configs.reward import CombinedReward, parts_of
from configs.verifiers import HttpReward, OcrReward, RandomReward
from reward_server.combine import combine_verdicts
from unigrpo.types import Score, ScoreFailure

BOTH = CombinedReward(parts={"text": OcrReward(), "judge": HttpReward()}, weights={"text": 0.25, "judge": -2.0})
TEXT = Score(value=0.5, breakdown={"ocr": 0.5, "read": "HELLO"})
JUDGE = Score(value=0.75, breakdown={"answer": "yes"})
WRONG, OUT = ScoreFailure(reason="answered nan"), ScoreFailure(reason="nobody there", outage=True)


def test_scores_are_added_by_weight_and_every_part_keeps_its_breakdown() -> None:
    combined = combine_verdicts(BOTH, {"judge": JUDGE, "text": TEXT})
    assert combined == Score(
        value=0.25 * 0.5 - 2.0 * 0.75,
        breakdown={"text": 0.5, "text/ocr": 0.5, "text/read": "HELLO", "judge": 0.75, "judge/answer": "yes"},
    )


@pytest.mark.parametrize(
    ("text", "judge", "reason", "outage"),
    [
        (TEXT, WRONG, "judge: answered nan", False),
        (OUT, JUDGE, "text: nobody there", True),
        (OUT, WRONG, "text: nobody there; judge: answered nan", True),
        (WRONG, WRONG, "text: answered nan; judge: answered nan", False),
        (OUT, OUT, "text: nobody there; judge: nobody there", True),
    ],
)
def test_a_part_that_failed_leaves_no_score(
    text: Score | ScoreFailure, judge: Score | ScoreFailure, reason: str, outage: bool
) -> None:
    assert combine_verdicts(BOTH, {"text": text, "judge": judge}) == ScoreFailure(reason=reason, outage=outage)


@pytest.mark.parametrize("verdict", [TEXT, WRONG, OUT])
def test_a_verifier_alone_speaks_for_itself(verdict: Score | ScoreFailure) -> None:
    assert parts_of(RandomReward()) == {"random": RandomReward()}
    assert combine_verdicts(RandomReward(), {"random": verdict}) is verdict
