"""The order of a study's rows, and how it stands to the paper's: pair by pair, run by run."""

from collections.abc import Iterator, Sequence
from itertools import chain

from cluster.studies.cells import NONE, folded, gain_cell, mean_cell, signed, table
from cluster.studies.figures import Difference, baseline_of, differences, label_of, row_mean, score_name, values
from cluster.studies.result import Result
from configs.study import StudyConfig


def ranking(study: StudyConfig, results: Sequence[Result], mode: str) -> str:
    """The rows by their mean, greatest first. Example: "unigrpo .743 [.701, .785] > sft .500 [.450, .550]†"."""
    name = score_name(results, mode)
    means = {row: mean for row in study.rows if (mean := row_mean(results, row, mode, name)) is not None}
    ranked = sorted(means, key=lambda row: -means[row].mean)
    return " > ".join(f"{label_of(study, row)} {mean_cell(means[row])}" for row in ranked)


def differences_of(study: StudyConfig, results: Sequence[Result], mode: str) -> list[Difference]:
    """Every two rows in one mode."""
    name = score_name(results, mode)
    scores = {row: runs for row in study.rows if (runs := values(results, row, mode, name))}
    return differences(scores, {row: each.paper[mode] for row, each in study.rows.items() if mode in each.paper})


def order_lines(study: StudyConfig, results: Sequence[Result], mode: str) -> Iterator[str]:
    """How the paper's order shows: the pairs with its best row and with the baseline, all others folded away. Where it has no
    figures, the pairs of trained rows; folded away in a mode of a study that has some. Of pairs with an interval.
    """
    found = [each for each in differences_of(study, results, mode) if each.ours.interval is not None]
    paper = {row: each.paper[mode] for row, each in study.rows.items() if mode in each.paper}
    known = [each for each in found if each.paper]
    if not known:
        if trained := _trained(study, found):
            compares = any(row.paper for row in study.rows.values())
            yield from folded(f"Pairs of trained rows, {mode}", pair_table(trained)) if compares else pair_table(trained)
        return
    turning = {max(paper, key=lambda row: paper[row]), baseline_of(study)}
    picked = [each for each in found if turning & {each.above, each.below}]
    yield from (f"The paper's order: {' > '.join(sorted(paper, key=lambda row: -paper[row]))}.", "", *pair_table(picked), "")
    counted = {verdict: [each for each in known if each.verdict == verdict] for verdict in ("above", "below", "undecided")}
    above, below, undecided = map(len, counted.values())
    told = f"{above} as in the paper, {below} the other way round, {undecided} undecided"
    yield f"Of all {len(known)} pairs that the paper tells apart: {told}."
    if below:
        yield f"The other way round: {', '.join(f'{each.below} above {each.above}' for each in counted['below'])}."
    if rest := [each for each in known if each not in picked]:
        yield from ("", *folded(f"The paper's other pairs, {mode}", pair_table(rest)))


def replication_table(found: Sequence[tuple[str, Sequence[Difference]]]) -> list[str]:
    """The same pairs from several starts side by side. found: start -> its pairs; those of the last one are told."""
    known = [(start, {frozenset((each.above, each.below)): each for each in pairs}) for start, pairs in found]
    body = []
    for pair in found[-1][1]:
        beside = [pairs.get(frozenset((pair.above, pair.below))) for _, pairs in known]
        cells = chain.from_iterable((NONE, NONE) if each is None else (gain_cell(each.ours), _verdict(each)) for each in beside)
        body.append([f"{pair.above} - {pair.below}", signed(pair.paper), *cells])
    heads = chain.from_iterable((f"from {start}", f"verdict, {start}") for start, _ in known)
    return table(["pair", "paper", *heads], body)


def pair_table(found: Sequence[Difference]) -> list[str]:
    """The paper's difference of two rows, where it has any, and ours."""
    compares = any(each.paper is not None for each in found)
    body = [
        [f"{each.above} - {each.below}"]
        + ([signed(each.paper)] if compares else [])
        + [gain_cell(each.ours), str(each.ours.runs), _verdict(each)]
        for each in found
    ]
    return table(["pair", *(["paper"] if compares else []), "here", "runs compared", "verdict"], body)


def _trained(study: StudyConfig, found: Sequence[Difference]) -> list[Difference]:
    """The pairs of rows that were trained, without the control."""
    asked = {name for name, row in study.rows.items() if row.trains and name != study.control}
    return [each for each in found if {each.above, each.below} <= asked]


def _verdict(each: Difference) -> str:
    if each.verdict == "undecided" or not each.paper:
        return each.verdict
    return {"above": "as in the paper", "below": "the other way round"}[each.verdict]
