"""Spans that stay in the object store come back where they were."""

from typing import Any

from cluster.spans import Chain, Freight, Held, Kept, Stored, unloaded
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
    freight, first, second = Freight(), fake_ref(), fake_ref()
    spans = (PROMPT, THOUGHT, Kept(first, 0), Kept(second, 0))
    held: Chain[Held] = Chain(prompt="x", spans=spans, advantages=(0.5, 0.25, -0.25))
    sent = held.loaded(freight)
    assert sent == Chain(prompt="x", spans=(PROMPT, THOUGHT, Stored(0), Stored(1)), advantages=held.advantages)
    expected: Any = (PROMPT, THOUGHT, first, second)
    assert sent.sample(freight.refs) == Sample(prompt="x", spans=expected, advantages=held.advantages)
