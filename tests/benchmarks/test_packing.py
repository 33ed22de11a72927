from collections.abc import Callable
from dataclasses import replace
from math import log
from statistics import fmean, median

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.packing import CONFIG, Example, example, lognormal_lengths, padded, training_pass
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import Noised, pack

TINY = replace(CONFIG, hidden_size=32, intermediate_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16)


def training_run(model: Bagel, examples: list[Example]) -> Callable[[], Tensor]:
    packed = pack([each.splits for each in examples], TINY, device=torch.device("cpu"), dtype=torch.float32)
    return training_pass(model, examples, packed)


def test_lengths_are_lognormal() -> None:
    lengths = lognormal_lengths(2000, 100, 0.6)
    assert abs(log(median(lengths) / 100)) < 0.05
    spread = [log(length / 100) ** 2 for length in lengths]
    assert abs(fmean(spread) - 0.36) < 0.03


def test_padding_reaches_the_longest_and_is_not_trained_on() -> None:
    torch.manual_seed(0)
    examples = [example(3, (2, 2)), example(5, (1, 2)), example(4, None)]
    wider = padded(examples)
    assert [len(each.ids) for each in wider] == [5, 5, 5]
    assert [len(noised.x_LC) for each in wider if (noised := each.noised)] == [4, 4]
    model = Bagel(TINY)
    alone = [each for each in wider if each.noised is None] + [replace(each, noised=None) for each in wider]
    real = [replace(each, ids=each.ids[: each.length]) for each in alone]
    torch.testing.assert_close(training_run(model, alone)(), training_run(model, real)())


def test_loss_is_that_of_the_samples_one_by_one() -> None:
    torch.manual_seed(0)
    model = Bagel(TINY)
    examples = [example(3, (2, 2)), example(6, (1, 2))]
    logp, errors = [], []
    for each in examples:
        ids = torch.tensor([each.ids])
        hidden, context = model.prefill(ids, torch.tensor([len(each.ids)]))
        logp.append(F.cross_entropy(model.logits(hidden)[0, :-1], ids[0, 1:], reduction="none"))
        assert isinstance(each.noised, Noised)
        x_1LC = each.noised.x_LC[None]
        errors.append(model.velocity(x_1LC, torch.tensor([0.5]), context, each.noised.grid_hw)[0].square())
    expected = torch.cat(logp).mean() + torch.cat(errors).mean()
    torch.testing.assert_close(training_run(model, examples)(), expected.detach())
    assert all(value.grad is not None for name, value in model.named_parameters() if "lm_head" in name or "llm2vae" in name)
