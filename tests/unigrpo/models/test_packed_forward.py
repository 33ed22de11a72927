"""The packed forward: it says what prefill and velocity say, runs what it should, and gradient goes where it should.

Shapes: S samples, T tokens, L latent tokens, C channels.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unigrpo.models.fakes import random_model, said
from tests.unigrpo.models.released import SEEING
from tests.unigrpo.models.splits import clean, drawn, noised, packed_row, random_sample, seen, text
from unigrpo.models.bagel import recompute
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import Gap, Noised, Packed, Split


@pytest.fixture
def seeing() -> Bagel:
    """A model with eyes, in float64."""
    return random_model(torch.float64, SEEING)


def velocity(model: Bagel, of: Noised, *context: Split) -> Tensor:
    """[L, C] of one noised picture, from a cached context."""
    t_S = torch.tensor([of.t], dtype=torch.float64)
    return model.velocity(of.x_LC[None], t_S, model.read([list(context)]), of.grid_hw)[0]


def assert_equal(one: Tensor, other: Tensor) -> None:
    """Up to the order of sums in float64."""
    torch.testing.assert_close(one, other, rtol=0.0, atol=1e-11)


def test_text_and_noise_say_what_prefill_and_velocity_say(seeing: Bagel) -> None:
    first, second, picture = text(5), text(4, seed=1), noised((2, 3))
    hidden = seeing(packed_row([[first, second, picture]]))
    context = said(seeing, *(torch.tensor(each.ids) for each in (first, second)))
    ids_1T = torch.tensor([[*first.ids, *second.ids]])
    assert_equal(hidden.text_UH[:9], seeing.prefill(ids_1T, torch.tensor([9]))[0][0])
    t_S = torch.tensor([picture.t], dtype=torch.float64)
    assert_equal(hidden.velocity_NC, seeing.velocity(picture.x_LC[None], t_S, context, (2, 3))[0])


def test_pictures_in_the_context_say_the_same_cached_and_packed(seeing: Bagel) -> None:
    given: list[Split] = [text(3), clean((2, 2)), seen((2, 3)), Gap(), text(4, seed=1)]
    picture = noised((3, 1), seed=2)
    assert_equal(seeing(packed_row([[*given, picture]])).velocity_NC, velocity(seeing, picture, *given))


def test_a_text_is_read_after_pictures_as_it_is_prefilled(seeing: Bagel) -> None:
    pictures: list[Split] = [clean((2, 2)), seen((2, 3))]
    follows = text(6)
    hidden = seeing(packed_row([[*pictures, follows]]))
    ids_1T = torch.tensor([follows.ids])
    prefilled_1TH, _ = seeing.prefill(ids_1T, torch.tensor([6]), seeing.read([pictures]))
    assert_equal(hidden.text_UH[-6:], prefilled_1TH[0])


def test_one_context_serves_several_noised_pictures_and_what_follows_sees_none(seeing: Bagel) -> None:
    pictures = [noised((2, 3), 0.9), noised((2, 3), 0.3, seed=1), noised((1, 2), 1.0, seed=2)]
    before, after = text(5), text(3, seed=1)
    hidden = seeing(packed_row([[before, *pictures, after]]))
    assert_equal(hidden.velocity_NC, torch.cat([velocity(seeing, each, before) for each in pictures]))
    assert_equal(hidden.text_UH[-3:], seeing(packed_row([[before, after]])).text_UH[-3:])


def test_samples_of_a_row_are_what_they_are_alone(seeing: Bagel) -> None:
    generator = random.Random(7)
    samples = [random_sample(generator) for _ in range(6)]
    together, alone = seeing(packed_row(samples)), [seeing(packed_row([sample])) for sample in samples]
    assert_equal(together.text_UH, torch.cat([hidden.text_UH for hidden in alone]))
    assert_equal(together.velocity_NC, torch.cat([hidden.velocity_NC for hidden in alone]))


def test_a_batch_of_contexts_is_each_alone_and_may_hold_an_empty_one(seeing: Bagel) -> None:
    samples: list[list[Split]] = [[text(3), seen((2, 2)), text(2, seed=1)], [], [clean((2, 1)), text(1, seed=2)]]
    context = seeing.read(samples)
    x_SLC, t_S = drawn(0, 3, 6, SEEING.latent_channels), torch.full((3,), 0.4, dtype=torch.float64)
    v_SLC = seeing.velocity(x_SLC, t_S, context, (2, 3))
    for at, sample in enumerate(samples):
        assert_equal(v_SLC[at], velocity(seeing, Noised(x_SLC[at], 0.4, (2, 3)), *sample))
    assert context.position_S.tolist() == [6, 0, 2]
    assert context.valid_ST.sum(1).tolist() == [11, 0, 5]


@contextmanager
def calls(model: nn.Module) -> Iterator[list[str]]:
    """Names of the modules that own parameters, as they run."""
    names: list[str] = []
    owners = [(name, module) for name, module in model.named_modules() if list(module.parameters(recurse=False))]
    handles = [module.register_forward_hook(lambda *_, name=name: names.append(name)) for name, module in owners]
    yield names
    for handle in handles:
        handle.remove()


def vision_or_generation(model: Bagel) -> set[str]:
    """Modules that a row of text has no use for."""
    named = (*model.vision_parameters(), *model.generation_parameters())
    return {name.rpartition(".")[0] for name, _ in named}


def modules_run(model: Bagel, row: Packed) -> list[str]:
    with calls(model) as names:
        model(row)
    return names


def test_a_row_of_text_runs_the_modules_of_a_row_of_everything_if_asked(seeing: Bagel) -> None:
    """In their order and each once, as ranks that share weights (ZeRO-3) need; else the text expert alone."""
    everything = modules_run(seeing, packed_row([[seen((1, 2)), text(2), noised((1, 1))]]))
    assert len(set(everything)) == len(everything)
    assert modules_run(seeing, packed_row([[text(2)]], sees=True, paints=True)) == everything
    texts = [name for name in everything if name not in vision_or_generation(seeing)]
    assert modules_run(seeing, packed_row([[text(2)]])) == texts


def test_what_ran_over_nothing_takes_part_in_the_backward_pass(seeing: Bagel) -> None:
    hidden = seeing(packed_row([[text(2)]], sees=True, paints=True))
    assert hidden.velocity_NC.shape == (0, SEEING.latent_channels)
    (hidden.text_UH.sum() + hidden.velocity_NC.sum()).backward()
    for name, parameter in (*seeing.vision_parameters(), *seeing.generation_parameters()):
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


LAST = f"language_model.model.layers.{SEEING.num_layers - 1}."
ONLY_OWN = ("self_attn.q_", "self_attn.o_proj", "mlp", "post_attention_layernorm")
"""Parts of a last layer that change a token's own answer, and no other token's."""


def speaks_last(name: str) -> bool:
    return name.startswith(("language_model.model.norm", *(LAST + part for part in ONLY_OWN)))


@pytest.mark.parametrize(
    ("sample", "of_velocity", "sees", "paints"),
    [
        ([text(4)], False, False, False),
        ([seen((2, 2)), text(4)], False, True, False),
        ([clean((2, 2)), text(4)], False, False, True),
        ([text(4), noised((2, 2))], True, False, True),
        ([seen((2, 2)), text(4), noised((2, 2))], True, True, True),
    ],
)
def test_gradient_reaches_exactly_what_was_used(
    seeing: Bagel, sample: list[Split], of_velocity: bool, sees: bool, paints: bool
) -> None:
    hidden = seeing(packed_row([sample]))
    (hidden.velocity_NC.square().sum() if of_velocity else hidden.text_UH[-4:].square().sum()).backward()
    reached = {name for name, value in seeing.named_parameters() if value.grad is not None and value.grad.abs().max() > 1e-9}
    text_names, generation = dict(seeing.text_parameters()), dict(seeing.generation_parameters())
    used = set(text_names) - {"language_model.lm_head.weight"}
    if sees:
        used |= {name for name, _ in seeing.vision_parameters() if not name.endswith("k_proj.bias")}  # softmax cancels it
    if paints:
        used |= set(generation)
    if of_velocity:
        # Markers are text that stands in the picture's block: they answer nothing, so the last layer's own parts are unused.
        used -= {name for name in text_names if speaks_last(name)}
    else:
        used -= {name for name in generation if speaks_last(name) or name.startswith("llm2vae.")}
    assert reached == used


def answers_and_gradients(model: Bagel, row: Packed) -> list[Tensor]:
    model.zero_grad()
    hidden = model(row)
    (hidden.text_UH.square().sum() + hidden.velocity_NC.square().sum()).backward()
    return [*hidden, *(value.grad for value in model.parameters() if value.grad is not None)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_recomputed_layers_give_the_same_bits(dtype: torch.dtype) -> None:
    model = random_model(dtype, SEEING)
    row = packed_row([[text(4), seen((2, 2)), noised((2, 2)), text(2)], [text(3), noised((1, 2))]], dtype=dtype)
    runs: list[Any] = []
    for layer in model.language_model.model.layers:
        layer.register_forward_pre_hook(lambda module, _: runs.append(module))
    kept = answers_and_gradients(model, row)
    assert len(runs) == SEEING.num_layers
    model.language_model.model.checkpoint_layers = True
    recomputed = answers_and_gradients(model, row)
    assert len(runs) == 3 * SEEING.num_layers
    assert all(torch.equal(one, other) for one, other in zip(kept, recomputed, strict=True))


def test_nothing_is_kept_for_recomputing_without_gradients(seeing: Bagel, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []

    def checkpoint(layer: nn.Module, *args: Any, **_: Any) -> Any:
        kept.append(layer)
        return layer(*args)

    monkeypatch.setattr(recompute, "checkpoint", checkpoint)
    seeing.language_model.model.checkpoint_layers = True
    row = packed_row([[text(4), noised((2, 2))]])
    with torch.no_grad():
        seeing(row)
    assert not kept
    seeing(row)
    assert len(kept) == SEEING.num_layers


def test_half_precision_is_near_and_answers_in_float32() -> None:
    exact, half = random_model(torch.float32, SEEING), random_model(torch.bfloat16, SEEING)
    sample: list[Split] = [text(4), clean((2, 2)), seen((2, 2)), text(3), noised((2, 3)), text(2)]
    expected, found = (model(packed_row([sample], dtype=model.dtype)) for model in (exact, half))
    assert found.text_UH.dtype == torch.bfloat16
    assert found.velocity_NC.dtype == expected.velocity_NC.dtype == torch.float32
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() / other.norm() < 0.05
