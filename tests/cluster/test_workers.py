"""Started workers that serve one config after another: what is placed, what is rebuilt, and what is refused."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import workers as module
from cluster.actors import Built, ReasonerActor
from cluster.placement import Role
from cluster.roles import reasoner_role
from cluster.system import training_roles
from cluster.workers import Workers, differences, require_alike
from configs.load import QUICKSTART, ConfigError, load
from configs.roles import ClusterConfig, Placement
from configs.schema import TrainConfig


def quickstart(*overrides: str) -> TrainConfig:
    config = load(QUICKSTART, overrides)
    assert isinstance(config, TrainConfig)
    return config


def fake_role(name: str, *arguments: object, num_cpus: float = 1.0, num_workers: int = 1) -> Role:
    return Role(
        name=name,
        actor=object,
        placement=Placement(num_cpus=num_cpus),
        num_workers=num_workers,
        arguments=lambda index: (*arguments, index),
        environment={},
        keeps={},
    )


class FakeObject:
    """What an actor builds: counts how often it was."""

    built = 0

    def __init__(self, *arguments: object) -> None:
        FakeObject.built += 1
        self.arguments = arguments


class FakeActor(Built[FakeObject]):
    kind = FakeObject


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles that were placed, by fake actors in this process on a cluster of four CPUs."""
    names: list[str] = []

    def place(role: Role, _: ClusterConfig) -> list[Any]:
        names.append(role.name)
        actors = [FakeActor() for _ in range(role.num_workers)]
        return [SimpleNamespace(actor=actor, start=SimpleNamespace(remote=actor.start)) for actor in actors]

    monkeypatch.setattr(module, "place", place)
    monkeypatch.setattr(module, "wait_all", lambda calls, timeout: list(calls))
    monkeypatch.setattr(module, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0}))
    return names


def arguments_of(handles: Sequence[Any]) -> list[tuple[object, ...]]:
    return [handle.actor.built.arguments for handle in handles]


def test_the_next_config_is_served_by_the_same_workers_and_those_that_were_missing(placed: list[str]) -> None:
    workers, config = Workers(), ClusterConfig()
    painter, judge = fake_role("denoiser", "one", num_workers=2), fake_role("reward", "lenient")
    assert workers.missing([painter, judge]) == ["denoiser", "reward"]
    first = workers.serve([painter, judge], config)
    assert arguments_of(first["denoiser"]) == [("one", 0), ("one", 1)]
    second = workers.serve([fake_role("denoiser", "two", num_workers=2), fake_role("panel.reward", "strict")], config)
    assert placed == ["denoiser", "reward", "panel.reward"]
    assert list(second["denoiser"]) == list(first["denoiser"])
    assert arguments_of(second["denoiser"]) == [("two", 0), ("two", 1)]
    assert list(second) == ["denoiser", "panel.reward"]
    assert arguments_of(first["reward"]) == [("lenient", 0)]


def test_room_is_asked_for_what_runs_already_too(placed: list[str]) -> None:
    workers = Workers()
    workers.serve([fake_role("denoiser", num_cpus=3)], ClusterConfig())
    with pytest.raises(ConfigError, match=r"the roles ask for 5 CPU \(denoiser 1 x 3, reward 1 x 2\)"):
        workers.serve([fake_role("reward", num_cpus=2)], ClusterConfig())
    assert placed == ["denoiser"]


def test_an_actor_is_rebuilt_for_other_arguments_only() -> None:
    actor, before = FakeActor(), FakeObject.built
    actor.start("one")
    first = actor.built
    actor.start("one")
    assert actor.built is first
    actor.start("two")
    assert (actor.built.arguments, FakeObject.built - before) == (("two",), 2)


def test_a_build_that_failed_leaves_nothing_of_the_one_before() -> None:
    actor: Any = FakeActor()
    actor.start("one")
    actor.kind = failing
    with pytest.raises(ValueError, match="cannot"):
        actor.start("two")
    actor.kind = FakeObject
    actor.start("one")  # is built anew
    assert actor.built.arguments == ("one",)


def failing(*_: object) -> None:
    raise ValueError("cannot")


def test_an_engine_stays_as_it_is_and_a_restarted_one_is_built_from_the_config_it_is_filled_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine: Any = ReasonerActor()
    engine.kind = FakeObject
    engine.start("one")
    engine.start("two")
    assert engine.built.arguments == ("one",)
    monkeypatch.setattr("cluster.actors.ray.get", lambda refs: refs)
    restarted: Any = ReasonerActor()
    restarted.kind = lambda *arguments: SimpleNamespace(arguments=arguments, load=lambda version, buckets: None)
    restarted.load("two", 3, [])
    assert restarted.built.arguments == ("two",)


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("reasoner.max_num_seqs=16", "reasoner was .*max_num_seqs=32.* and is .*max_num_seqs=16"),
        ("rollout.max_thought_tokens=40", "rollout.max_thought_tokens was 48 and is 40"),
        ("denoiser.num_workers=2", "the workers of denoiser were 1 and are 2"),
        ("reward.placement.num_cpus=0.5", "reward.placement was .*0.1.* and is .*0.5"),
    ],
)
def test_what_a_started_system_cannot_become_is_refused(override: str, fault: str) -> None:
    systems = [(name, training_roles(config)) for name, config in (("one", quickstart()), ("two", quickstart(override)))]
    with pytest.raises(ConfigError, match=rf"two: one started system serves configs whose workers are alike: .*{fault}"):
        require_alike(systems)


def test_methods_learning_rates_and_other_judges_share_a_system() -> None:
    others = [
        quickstart("algorithm={kind: text_grpo}", "learner.generation_learning_rate=3.0e-5"),
        quickstart("reward={kind: random, placement: {num_cpus: 0.1}}", "seed=3", "rollout.group_size=4"),
        quickstart("evaluation.reward={kind: random}", "sampler.num_points=12"),
    ]
    require_alike([(str(number), training_roles(config)) for number, config in enumerate([quickstart(), *others])])


def test_another_size_of_model_is_refused() -> None:
    role = reasoner_role(quickstart())
    [key] = [key for key in role.keeps if key.startswith("the sizes")]
    larger = replace(role, keeps={**role.keeps, key: "larger"})
    assert [fault.split(" was ")[0] for fault in differences({"reasoner": role}, [larger])] == [key]


def test_who_never_thinks_starts_no_reasoner() -> None:
    silent = ("algorithm={kind: flow_grpo, ppo_epochs: 1}", "learner.text_learning_rate=1.0e-6", "rollout.thinks=false")
    names: Callable[[TrainConfig], list[str]] = lambda config: [role.name for role in training_roles(config)]  # noqa: E731
    assert "reasoner" not in names(quickstart(*silent))
    assert "reasoner" in names(quickstart(*silent, "evaluation.thinks=true"))
    assert "reasoner" not in names(quickstart(*silent, "evaluation.thinks=true", "evaluation.every=null"))
