"""One verdict out of those of a reward's verifiers."""

from collections.abc import Mapping

from configs.reward import CombinedReward, Reward
from unigrpo.types import Score, ScoreFailure


def combine_verdicts(reward: Reward, verdicts: Mapping[str, Score | ScoreFailure]) -> Score | ScoreFailure:
    """The verdict on one picture; `verdicts` are its parts', by the names of `configs.reward.parts_of`.

    A reward of one verifier passes its verdict on. A combined one adds weighted scores and keeps each part's score as
    breakdown[name] and the rest of its breakdown as breakdown["name/key"]. If any part failed there is no score: the failure
    names every part that did, and is an outage when any of them is. Asking again cures an outage and may cure a wrong answer,
    and once the outage is over only the wrong answer is left to be told.
    """
    if not isinstance(reward, CombinedReward):
        [verdict] = verdicts.values()
        return verdict
    failures = {name: verdict for name, verdict in verdicts.items() if isinstance(verdict, ScoreFailure)}
    if failures:
        return ScoreFailure(
            reason="; ".join(f"{name}: {failure.reason}" for name, failure in failures.items()),
            outage=any(failure.outage for failure in failures.values()),
        )
    breakdown: dict[str, float | str] = {}
    value = 0.0
    for name in reward.parts:
        score = verdicts[name]
        assert isinstance(score, Score)
        value += reward.weights[name] * score.value
        breakdown[name] = score.value
        breakdown |= {f"{name}/{key}": part for key, part in score.breakdown.items()}
    return Score(value=value, breakdown=breakdown)
