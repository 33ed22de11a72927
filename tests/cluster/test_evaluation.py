"""What an evaluation asks of the rollouts, and which prompts count as seen."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from cluster import evaluation_files
from cluster.evaluate import evaluate_into
from cluster.evaluation import Benchmark, benchmark as benchmark_of, evaluate, forgotten_prompts, seen_by
from cluster.evaluation_files import write_config
from cluster.evaluation_subject import evaluation_config
from cluster.faults import Stalled, Unscored
from cluster.judging import Tally
from cluster.pieces import Sampling
from cluster.rollouts import Group, Rollouts
from cluster.summary import ROW, scoring
from configs.load import QUICKSTART, load, model_folder
from configs.schema import TrainConfig
from configs.verifiers import GenevalReward
from tests.cluster.fakes import fake_group, fake_painting
from unigrpo.geneval_folder import read_geneval_folder
from unigrpo.prompts import write_prompt_file
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.tokenizer import load_tokenizer
from unigrpo.types import Prompt

GROUPS = [
    fake_group(0, "colors", [1.0, 1.0]),
    fake_group(1, "counting", [1.0, 0.0]),
    fake_group(2, "position", [0.0, 0.0]),
    fake_group(3, "counting", [1.0, 1.0]),
]
SAMPLING = Sampling(seed=0, step=0, group_size=2, temperature=1.0, num_points=3, prompts_per_piece=1, judge="evaluation")
PAINTS_ALONE = ("algorithm={kind: flow_grpo}", "learner.text_learning_rate=1e-6", "rollout.thinks=false")
SCORING = scoring(GenevalReward(detector="shapes"))


def is_seen(prompt: Prompt) -> bool:
    return prompt.metadata["tag"] == "colors"


@dataclass
class FakeJudges:
    versions: dict[str, str] = field(default_factory=lambda: {"geneval": "7"})


class FakeRollouts:
    """Returns groups made by hand and remembers what was asked; of its first batches so many groups are dropped."""

    def __init__(self, *dropped: int, fails: bool = False) -> None:
        self.dropped, self.fails = list(dropped), fails
        self.asked: list[Sampling] = []
        self.judges = {"evaluation": FakeJudges()}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, painted: Any = None) -> list[Group]:
        self.asked.append(sampling)
        dropped = self.dropped.pop(0) if self.dropped else 0
        self.tally = Tally(groups=4, asked=10 * len(self.asked), retried=2, dropped=dropped)
        if painted is not None:
            for group in GROUPS[: 2 if self.fails else 4]:
                painted(group)
        if self.fails:
            raise Stalled("no judge can be reached")
        return GROUPS[dropped:] if sampling.plan is None else [fake_group(1, "counting", [1.0, 1.0])]


def benchmark(plan: Any) -> Benchmark:
    return Benchmark(prompts=[group.prompt for group in GROUPS], sampling=SAMPLING, is_seen=is_seen, scoring=SCORING, plan=plan)


def test_given_plans_are_scored_beside_own_thoughts_from_the_same_seeds() -> None:
    rollouts = FakeRollouts()
    scores, own = evaluate(cast(Rollouts, rollouts), benchmark(lambda prompt, sibling: (1, 2)))
    assert scores["ground_truth_plan"] == 1.0
    assert scores["strict"] == pytest.approx(3 / 6)
    assert own == GROUPS
    assert [asked.plan is None for asked in rollouts.asked] == [True, False]
    assert rollouts.asked[0].seed == rollouts.asked[1].seed


def test_without_plans_only_own_thoughts_are_scored() -> None:
    scores, _ = evaluate(cast(Rollouts, FakeRollouts()), benchmark(None))
    assert "ground_truth_plan" not in scores


def test_what_was_asked_of_judges_is_summed_over_both_batches() -> None:
    scores, _ = evaluate(cast(Rollouts, FakeRollouts()), benchmark(lambda prompt, sibling: (1, 2)))
    counts = {name: value for name, value in scores.items() if name.startswith(("scores/", "groups/"))}
    assert counts == {
        "groups/asked": 8,
        "groups/dropped": 0,
        "scores/asked": 10 + 20,
        "scores/retried": 4,
        "scores/cached": 0,
        "scores/failed": 0,
    }
    assert scores["versions"] == {"geneval": "7"}
    assert {name for name in scores if "/" not in name} <= ROW | {"strict", "graded", "geneval"}


@pytest.mark.parametrize(("dropped", "batches"), [((1,), 1), ((0, 1), 2), ((4,), 1)])
def test_a_score_that_failed_leaves_no_means(dropped: tuple[int, ...], batches: int) -> None:
    rollouts = FakeRollouts(*dropped)
    scores, own = evaluate(cast(Rollouts, rollouts), benchmark(lambda prompt, sibling: (1, 2)))
    assert {name: value for name, value in scores.items() if "/" not in name} == {
        "unscored": sum(dropped),
        "versions": {"geneval": "7"},
    }
    assert scores["groups/dropped"] == sum(dropped)
    assert len(rollouts.asked) == batches
    assert own == GROUPS[dropped[0] :]


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two black pictures a group, from no object store."""
    monkeypatch.setattr(evaluation_files, "paintings_of", lambda groups, timeout: [[fake_painting()] * 2 for _ in groups])


def into(folder: Path, rollouts: FakeRollouts) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return evaluate_into(folder, cast(Rollouts, rollouts), benchmark(None), lambda token_ids: "a thought", timeout=1.0)


@pytest.mark.usefixtures("painted")
def test_pictures_are_written_as_they_are_painted_and_told_row_by_row(tmp_path: Path) -> None:
    scores, rows = into(tmp_path, FakeRollouts())
    assert scores["strict"] == pytest.approx(3 / 6)
    assert [row["image"] for row in rows[2:4]] == ["00001/samples/0000.png", "00001/samples/0001.png"]
    assert [row["score"] for row in rows] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert rows[0]["thought"] == "a thought"


@pytest.mark.usefixtures("painted")
def test_pictures_of_groups_that_were_dropped_are_kept_to_be_judged_again(tmp_path: Path) -> None:
    with pytest.raises(Unscored) as raised:
        into(tmp_path, FakeRollouts(1))
    assert str(raised.value) == (
        "1 of 4 prompts could not be judged (see the lines above); the pictures of 4 of 4 prompts are kept, and "
        f"`unigrpo evaluate {tmp_path}` judges them again without painting"
    )
    kept = read_geneval_folder(tmp_path, lambda metadata: None)
    assert [(each.prompt.index, len(each.files)) for each in kept] == [(0, 2), (1, 2), (2, 2), (3, 2)]


@pytest.mark.usefixtures("painted")
def test_pictures_are_kept_when_the_evaluation_ends_half_way(tmp_path: Path) -> None:
    with pytest.raises(Stalled, match=r"^no judge can be reached; the pictures of 2 of 4 prompts are kept, and `unigrpo"):
        into(tmp_path, FakeRollouts(fails=True))
    assert len(read_geneval_folder(tmp_path, lambda metadata: None)) == 2
    write_config(tmp_path, quickstart("evaluation.images_per_prompt=2"))
    assert evaluation_config(tmp_path, None, None, []) == quickstart("evaluation.images_per_prompt=2")


def quickstart(*overrides: str) -> TrainConfig:
    config = load(QUICKSTART, overrides)
    assert isinstance(config, TrainConfig)
    return config


@pytest.mark.parametrize(
    ("overrides", "thinks"),
    [
        ([], True),
        (["evaluation.thinks=false"], False),
        ([*PAINTS_ALONE], False),
        ([*PAINTS_ALONE, "evaluation.thinks=true"], True),
    ],
)
def test_an_evaluation_without_thinking_knows_no_right_thought(overrides: list[str], thinks: bool) -> None:
    config = quickstart("evaluation.images_per_prompt=2", *overrides)
    assert config.model.path is not None
    asked = benchmark_of(config, load_tokenizer(model_folder(config.model.path)))
    assert (asked.plan is not None, asked.sampling.thinks) == (thinks, thinks)
    assert (asked.sampling.group_size, asked.sampling.num_thoughts) == (2, 2)


def seen(config: TrainConfig) -> set[str]:
    was_seen = seen_by(config)
    return {prompt.text for split in ("train", "held_out") for prompt in shapes_prompts(split) if was_seen(prompt)}


def test_seen_is_what_the_run_trains_on_and_on_the_shapes_world_what_fine_tuning_saw(tmp_path: Path) -> None:
    fine_tuned = {prompt.text for prompt in shapes_prompts("train")}
    assert seen(quickstart()) == fine_tuned
    file = tmp_path / "prompts.jsonl"
    write_prompt_file(file, shapes_prompts("held_out")[-2:])
    own = {prompt.text for prompt in shapes_prompts("held_out")[-2:]}
    trained_on_file = [f"prompts={{kind: file, path: {file}}}", "reward={kind: geneval}"]
    assert seen(quickstart(*trained_on_file)) == fine_tuned | own
    assert seen(quickstart(*trained_on_file, "evaluation.prompts={kind: exam}")) == own
    assert seen(quickstart("prompts={kind: file}", "evaluation.prompts={kind: exam}")) == set()


def test_training_prompts_of_another_machine_are_known_to_be_unknown(tmp_path: Path) -> None:
    config = quickstart(f"prompts={{kind: file, path: {tmp_path}/prompts.jsonl}}", "reward={kind: geneval}")
    assert forgotten_prompts(config) == tmp_path / "prompts.jsonl"
    assert seen(config) == {prompt.text for prompt in shapes_prompts("train")}
    write_prompt_file(tmp_path / "prompts.jsonl", shapes_prompts("held_out")[:1])
    assert forgotten_prompts(config) is None
    assert forgotten_prompts(quickstart()) is None
