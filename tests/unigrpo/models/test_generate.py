import math
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unigrpo.models.fakes import CONFIG, padded, said, segments
from unigrpo.models.bagel.context import Growing
from unigrpo.models.bagel.generate import generate
from unigrpo.models.bagel.model import Bagel

START, END = CONFIG.bos_token_id, CONFIG.eos_token_id


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_greedy_follows_the_most_likely_token_of_a_full_pass(model: Bagel) -> None:
    (prompt,) = segments(5)
    (continuation,) = generate(model, said(model, prompt), start_id=START, end_id=None, max_tokens=6)
    ids = torch.cat((prompt, torch.tensor([START, *continuation.token_ids])))
    hidden_1TH, _ = model.prefill(ids[None], torch.tensor([len(ids)]))
    logp_TV = model.logits(hidden_1TH)[0].log_softmax(-1)
    assert logp_TV[5:-1].argmax(-1).tolist() == list(continuation.token_ids)
    assert logp_TV[5:-1].amax(-1).tolist() == pytest.approx(continuation.logp, abs=1e-12)


def test_a_sample_says_the_same_alone_and_in_a_batch(model: Bagel) -> None:
    prompts, seeds = segments(5, 0, 8, 3), (3, 1, 4, 5)
    _, context = model.prefill(*padded(prompts))
    speak = partial(generate, model, start_id=START, max_tokens=30, temperature=1.0)
    end = speak(context, end_id=None, generators=generators(*seeds))[0].token_ids[3]
    sample = partial(speak, end_id=end)
    together = sample(context, generators=generators(*seeds))
    for prompt, seed, continuation in zip(prompts, seeds, together, strict=True):
        (alone,) = sample(said(model, prompt), generators=generators(seed))
        assert alone.token_ids == continuation.token_ids
        assert alone.logp == pytest.approx(continuation.logp, abs=1e-12)
    assert len({len(continuation.token_ids) for continuation in together}) > 1


def test_siblings_go_on_from_one_sample(model: Bagel) -> None:
    _, context = model.prefill(*padded(segments(5, 8)))
    speak = partial(generate, model, start_id=START, end_id=END, max_tokens=30, temperature=1.0)
    copies = context.select(torch.tensor([0, 0, 0, 1, 1, 1]))
    assert speak(context, siblings=3, generators=generators(*range(6))) == speak(copies, generators=generators(*range(6)))
    with pytest.raises(ValueError, match="6 samples were given 2 generators"):
        speak(context, siblings=3, generators=generators(0, 1))


def test_a_token_leaves_what_was_said_where_it_lies(model: Bagel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context of pictures is gigabytes: nothing may copy it for a token."""
    said_N: list[tuple[int, int]] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def recorded(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
        said_N.append((k.data_ptr(), k.shape[2]))
        return kernel(q, k, v, *args, **options)

    context = said(model, *segments(5))
    before = [each.clone() for each in (*context.k, *context.v)]
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    generate(model, context, start_id=START, end_id=None, max_tokens=4, siblings=3)
    layers = [said_N[layer :: CONFIG.num_layers] for layer in range(CONFIG.num_layers)]
    assert [len({place for place, _ in layer}) for layer in layers] == [1] * CONFIG.num_layers
    assert [[length for _, length in layer] for layer in layers] == [[6, 7, 8, 9]] * CONFIG.num_layers
    assert all(torch.equal(one, other) for one, other in zip((*context.k, *context.v), before, strict=True))


def test_what_a_sample_said_is_let_go_when_it_ends(model: Bagel, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, ends = Growing.keep, list[list[Tensor]]()

    def watched(growing: Growing, index: Tensor) -> None:
        watch = [weakref.ref(each) for each in (*growing._k, *growing._v)]
        kept(growing, index)
        ends.append([each for reference in watch if (each := reference()) is not None])

    monkeypatch.setattr(Growing, "keep", watched)
    generate(model, said(model, *segments(5)), start_id=START, end_id=None, max_tokens=3, siblings=2)
    assert ends == [[]]


def test_the_end_token_ends_and_is_kept(model: Bagel) -> None:
    context = said(model, *segments(5))
    (free,) = generate(model, context, start_id=START, end_id=None, max_tokens=8)
    end = free.token_ids[3]
    (stopped,) = generate(model, context, start_id=START, end_id=end, max_tokens=8)
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(end) + 1]


def test_samples_are_drawn_from_the_tempered_distribution(model: Bagel) -> None:
    draws, temperature = 4000, 2.0
    context = said(model, *segments(4))
    hidden_11H, _ = model.prefill(torch.tensor([[START]]), torch.tensor([1]), context)
    p_V = (model.logits(hidden_11H)[0, 0] / temperature).softmax(-1)
    said_N = generate(
        model,
        context,
        start_id=START,
        end_id=None,
        max_tokens=1,
        siblings=draws,
        temperature=temperature,
        generators=generators(*range(draws)),
    )
    share_V = torch.bincount(torch.tensor([each.token_ids[0] for each in said_N]), minlength=CONFIG.vocab_size) / draws
    assert (share_V - p_V).abs().max() < 5 * math.sqrt(0.25 / draws)


def test_sampling_needs_a_generator_a_sample(model: Bagel) -> None:
    with pytest.raises(ValueError, match="2 samples were given 1 generators"):
        generate(
            model,
            model.empty_context(2),
            start_id=START,
            end_id=END,
            max_tokens=3,
            temperature=1.0,
            generators=generators(0),
        )
