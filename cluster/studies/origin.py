"""How a study is run again, and on what its results were made."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from cluster.studies.cells import folded, short, table
from cluster.studies.figures import baseline_of, score_name, value_of
from cluster.studies.plan import run_name
from cluster.studies.result import Result
from configs.study import StudyConfig


def origin_lines(study: StudyConfig, name: str, results: Sequence[Result], modes: Sequence[str]) -> Iterator[str]:
    """Commands to give, then those that worked on results with their commit, host and versions, and what every run came to."""
    again = shlex.join(["unigrpo", "reproduce", name, *_overrides(results)])
    tried = [row for row in study.rows if study.rows[row].trains and row != study.control]
    row = (tried or list(study.rows))[-1]
    yield from ("All of it; one row and what it began from; the same with another seed:", "", "```", again)
    both = ",".join(dict.fromkeys([baseline_of(study) or row, row]))
    yield from (f"{again} --rows {both}", f"{again} --rows {both} --seeds {max(study.seeds) + 1}", "```", "")
    yield from ("What worked on the runs; a run that was cut off counts under each command that went on with it:", "")
    counted: Counter[tuple[str, ...]] = Counter()
    for result in results:
        for made in result.provenance:
            versions = ", ".join(f"{package} {version}" for package, version in made["versions"].items())
            host = f"{made['host']['cores']} cores, {made['host']['system']}"
            counted[(f"`{made['command']}`", str(made["commit"]), host, versions)] += 1
    yield from table(["command", "commit", "host", "versions", "runs"], [[*key, str(count)] for key, count in counted.items()])
    names = {mode: score_name(results, mode) for mode in modes}
    runs = []
    for each in results:
        told = [short(value_of(each.scores[mode], names[mode]) if mode in each.scores else None) for mode in modes]
        commits = ", ".join(dict.fromkeys(str(made["commit"]) for made in each.provenance))
        runs.append([run_name(each.row, each.start, each.seed), *told, each.config_hash, commits])
    heads = [f"{score}, {mode}" for mode, score in names.items()]
    yield from ("", *folded("Scores, configs and commits, by run", table(["run", *heads, "config", "commits"], runs)))


def _overrides(results: Sequence[Result]) -> list[str]:
    """The study's keys that the last command set."""
    last = max((result.provenance[-1] for result in results), key=lambda made: str(made["began"]))
    return [word for word in shlex.split(last["command"]) if "=" in word and not word.startswith("-")]
