"""The way of a piece through the workers, and who is handed its paintings."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.judging import Judges, Tally
from cluster.pieces import Plan, Sampling
from cluster.pool import Pool
from cluster.rollouts import Rollouts, Unjudged
from cluster.spans import Kept, unloaded
from configs.algorithms import Window
from configs.guidance import Guidance
from unigrpo.seeds import derive_seed
from unigrpo.types import Given, Prompt, Score, Thought

SAMPLING = Sampling(seed=3, step=5, group_size=2, temperature=1.0, num_points=4, prompts_per_piece=2, judge="training")
SYSTEM = Given(token_ids=(8, 9))
WINDOW = Window(range=(1, 3), size=2, noise_level=0.8)


class FakeJudges:
    """Scores every group at once, but drops those of prompt 7."""

    def __init__(self) -> None:
        self.tally, self.pools = Tally(), dict[str, Any]()

    def judge(self, name: str, prompt: Prompt, paintings: Any, size: int, done: Callable[[Sequence[Score]], None]) -> None:
        if prompt.index == 7:
            self.tally.dropped += 1
        else:
            done([Score(value=1.0, breakdown={})] * size)


class FakeVerb:
    """A remote method that is done at once and returns what it says, each part of it its own reference."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self._answer, self.calls = answer, list[tuple[Any, ...]]()

    def options(self, num_returns: int) -> "FakeVerb":
        self._num_returns = num_returns
        return self

    def remote(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        answer = self._answer(*arguments)
        if hasattr(self, "_num_returns"):
            assert len(answer) == self._num_returns
        return answer


def said(given: Sequence[Any], seeds: Sequence[Sequence[int]], *_: Any) -> list[list[Thought]]:
    assert len(given) == len(seeds)
    return [
        [Thought(token_ids=(seed % 90,), behavior_logp=(-1.0,), truncated=True, policy_version=2) for seed in row]
        for row in seeds
    ]


def painted(groups: int, contexts: Sequence[Any], arguments: Any, *objects: Any) -> tuple[Any, ...]:
    _, _, windows, *_ = arguments
    traces = () if windows is None else tuple(f"trace {i}" for i in range(len(contexts)))
    return (None, *(f"paintings {group}" for group in range(groups)), *traces)


def seen(pictures: Sequence[tuple[Path, int]]) -> tuple[Any, ...]:
    return ([40 + place for place in range(len(pictures))], *(f"seen {file.name}" for file, _ in pictures))


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch) -> Rollouts:
    """One fake worker of either kind; jobs run when they are their pool's oldest, in this process."""
    reasoner: Any = SimpleNamespace(think=FakeVerb(said))
    denoiser: Any = SimpleNamespace(think=FakeVerb(said), see=FakeVerb(seen), paint_groups=FakeVerb(painted))

    def drive(pools: Sequence[Pool], **_: Any) -> None:
        while waiting := [pool for pool in pools if pool.queue]:
            job = waiting[0].queue.popleft()
            job.done(job.submit(waiting[0].workers[0]))

    monkeypatch.setattr("cluster.rollouts.drive", drive)
    monkeypatch.setattr("cluster.rollouts.ray.get", lambda ref: ref)
    return Rollouts(
        cast(Any, None),
        reasoners=[reasoner],
        denoisers=[denoiser],
        judges={"training": cast(Judges, FakeJudges())},
        encode=lambda text: (len(text),),
        system=(SYSTEM,),
        timeout=1.0,
        watch=lambda pools, tally: None,
    )


def worker(rollouts: Rollouts, role: str) -> Any:
    return {"reasoner": rollouts.thinking, "denoiser": rollouts.painting}[role].workers[0]


def prompts_of(indices: list[int], pictures: Sequence[int] = ()) -> list[Prompt]:
    return [
        Prompt(index=index, text="x" * index, picture=Path(f"/{index}.png") if index in pictures else None, metadata={})
        for index in indices
    ]


def text_of(index: int) -> Given:
    return Given(token_ids=(index,))


def test_prompts_of_text_are_thought_through_by_the_reasoner_and_painted(rollouts: Rollouts) -> None:
    groups = rollouts.generate(prompts_of([4, 2, 5]), replace(SAMPLING, leaves_trajectories=True, window=WINDOW))
    thinking = worker(rollouts, "reasoner").think.calls
    assert [given for given, *_ in thinking] == [[(SYSTEM, text_of(4)), (SYSTEM, text_of(2))], [(SYSTEM, text_of(5))]]
    assert [rest for _, _, *rest in thinking] == [[1.0, None]] * 2
    assert worker(rollouts, "denoiser").think.calls == worker(rollouts, "denoiser").see.calls == []
    assert [group.given for group in groups] == [(SYSTEM, text_of(index)) for index in (4, 2, 5)]
    assert groups[1].trajectories == ("trace 2", "trace 3")
    number, contexts, (seeds, *how) = worker(rollouts, "denoiser").paint_groups.calls[0]
    assert (number, how) == (2, [4, [range(1, 3)] * 4, 0.8, None, None])
    assert contexts == [(*group.given, thought) for group in groups[:2] for thought in group.thoughts]
    assert seeds == [derive_seed(3, "painting", 5, index, sibling) for index in (4, 2) for sibling in range(2)]


def test_prompts_with_pictures_are_seen_thought_through_and_painted_by_the_denoiser(rollouts: Rollouts) -> None:
    groups = rollouts.generate(prompts_of([4, 2, 5], pictures=[4, 5]), SAMPLING)
    denoiser = worker(rollouts, "denoiser")
    assert [group.prompt.index for group in groups] == [4, 2, 5]
    assert [given for given, *_ in worker(rollouts, "reasoner").think.calls] == [[(SYSTEM, text_of(2))]]
    assert denoiser.see.calls == [([(Path(f"/{index}.png"), derive_seed(3, "picture", 5, index)) for index in (4, 5)],)]
    edit = groups[2]
    assert edit.given == (SYSTEM, Kept(cast(Any, "seen 5.png"), 41), text_of(5))
    [(given, _, temperature, _, *objects)] = denoiser.think.calls
    assert (temperature, objects) == (1.0, ["seen 4.png", "seen 5.png"])
    assert unloaded(given[1], objects) == (SYSTEM, "seen 5.png", text_of(5))
    [contexts, objects] = next(
        [contexts, objects] for number, contexts, _, *objects in denoiser.paint_groups.calls if number == 2
    )
    assert objects == ["seen 4.png", "seen 5.png"]
    assert unloaded(contexts[3], objects) == (SYSTEM, "seen 5.png", text_of(5), edit.thoughts[1])


def test_guidance_reaches_the_painter(rollouts: Rollouts) -> None:
    guidance = Guidance(text_scale=3.0)
    rollouts.generate(prompts_of([4]), replace(SAMPLING, guidance=guidance))
    [(_, _, (_, _, _, _, given, _))] = worker(rollouts, "denoiser").paint_groups.calls
    assert given == guidance


def test_without_thinking_prompts_go_straight_to_the_painter_and_no_system_prompt_stands_before_them(
    rollouts: Rollouts,
) -> None:
    plain = replace(SAMPLING, thinks=False, leaves_trajectories=True)
    groups = rollouts.generate(prompts_of([4, 2, 5], pictures=[5]), plain)
    denoiser = worker(rollouts, "denoiser")
    assert worker(rollouts, "reasoner").think.calls == denoiser.think.calls == []
    assert [group.given for group in groups[:2]] == [(text_of(4),), (text_of(2),)]
    assert [group.thoughts for group in groups] == [()] * 3
    assert [group.thoughts_G for group in groups] == [[None, None]] * 3
    [[_, texts, _], [_, edits, _, picture]] = denoiser.paint_groups.calls
    assert texts == [(text_of(4),), (text_of(4),), (text_of(2),), (text_of(2),)]
    assert [unloaded(spans, [picture]) for spans in edits] == [("seen 5.png", text_of(5))] * 2
    assert [group.trajectories for group in groups] == [("trace 0", "trace 1"), ("trace 2", "trace 3"), ("trace 0", "trace 1")]


@pytest.mark.parametrize("plan", [None, lambda prompt, number: [prompt.index, number]])
def test_a_thought_is_painted_several_times_in_a_row(rollouts: Rollouts, plan: Plan | None) -> None:
    nested = replace(SAMPLING, group_size=4, images_per_thought=2, leaves_trajectories=True, plan=plan)
    rollouts._version = 2
    group, other = rollouts.generate(prompts_of([4, 2]), nested)
    [(_, contexts, (seeds, *_))] = worker(rollouts, "denoiser").paint_groups.calls
    assert (len(group.thoughts), group.images_per_thought) == (2, 2)
    first, second = group.thoughts
    assert first != second
    assert group.thoughts_G == [first, first, second, second]
    assert [context[-1] for context in contexts] == [*group.thoughts_G, *other.thoughts_G]
    assert len(set(seeds)) == 8
    assert other.trajectories == ("trace 4", "trace 5", "trace 6", "trace 7")
    if plan is not None:
        assert [thought.token_ids for thought in group.thoughts] == [(4, 0), (4, 1)]


def test_paintings_are_handed_on_before_they_are_judged_and_then_let_go(rollouts: Rollouts) -> None:
    handed = list[Unjudged]()
    groups = rollouts.generate(prompts_of([4, 7, 2]), SAMPLING, handed.append)
    assert [each.prompt.index for each in handed] == [4, 7, 2]
    assert [each.paintings for each in handed] == ["paintings 0", "paintings 1", "paintings 0"]
    assert [(group.prompt.index, group.paintings) for group in groups] == [(4, None), (2, None)]
    assert rollouts.tally.dropped == 1
    assert all(group.paintings is not None for group in rollouts.generate(prompts_of([4, 2]), SAMPLING))
