"""Spans that stay in the object store come back where they were."""

from cluster.spans import Chain, Freight, Kept, Stored, unloaded
from tests.cluster.fakes import fake_ref
from unigrpo.types import Given, Sample, Thought

PROMPT = Given(token_ids=(1, 2))
THOUGHT = Thought(token_ids=(3,), behavior_logp=(-1.0,), truncated=True, policy_version=0)


def test_an_object_travels_once_and_comes_back_in_every_chain() -> None:
    picture, first, second = fake_ref(), fake_ref(), fake_ref()
    freight = Freight()
    chains = [freight.load((Kept(picture, 9), PROMPT, THOUGHT, Kept(each, 0))) for each in (first, second)]
    assert chains[0] == (Stored(0), PROMPT, THOUGHT, Stored(1))
    assert chains[1] == (Stored(0), PROMPT, THOUGHT, Stored(2))
    assert freight.refs == [picture, first, second]
    objects = ["picture", "first", "second"]
    assert [unloaded(chain, objects) for chain in chains] == [
        ("picture", PROMPT, THOUGHT, "first"),
        ("picture", PROMPT, THOUGHT, "second"),
    ]


def test_a_chain_becomes_the_sample_it_stands_for() -> None:
    chain = Chain(spans=(PROMPT, Stored(0)), advantage=0.5)
    assert chain.sample(["trajectory"]) == Sample(spans=(PROMPT, "trajectory"), advantage=0.5)  # type: ignore[arg-type]
