"""The traps of BAGEL's details: which test holds which, and the tests of those that nothing else holds by name.

Shapes: S samples, L latent tokens, C channels, V patches, E width of the vision tower, H hidden size, F time features.
"""

import ast
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.unigrpo.models.fakes import random_model
from tests.unigrpo.models.released import SEEING
from tests.unigrpo.models.splits import clean, noised, packed_row, seen, text
from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import Split

TESTS = Path(__file__).parents[2]
MODELS = "unigrpo/models/"
HERE = MODELS + "test_traps.py"
TRAPS = {
    "N points, N-1 steps": ("unigrpo/test_denoise.py", "test_n_points_are_n_minus_1_evaluations_at_all_but_the_last"),
    "marker routing": (HERE, "test_every_token_goes_through_its_expert_alone"),
    "gen twins of q/k norms and final norm": (HERE, "test_every_token_goes_through_its_expert_alone"),
    "shared image position": (MODELS + "test_packing.py", "test_random_samples_see_what_the_specification_says"),
    "noised block does not advance RoPE": (MODELS + "test_packing.py", "test_a_row_by_hand"),
    "table stride is the table's side": (MODELS + "test_preprocess.py", "test_rows_of_a_table_step_by_its_side"),
    "t unscaled": (HERE, "test_time_features_are_cosines_then_sines_of_the_unscaled_time"),
    "cos before sin": (HERE, "test_time_features_are_cosines_then_sines_of_the_unscaled_time"),
    "(dy, dx, c) of latents": (MODELS + "test_autoencoder.py", "test_a_token_runs_over_rows_then_columns_then_channels"),
    "(dy, dx, c) of patches": (MODELS + "test_preprocess.py", "test_a_patch_runs_down_across_then_through_the_channels"),
    "stale max_latent_size": (MODELS + "test_config.py", "test_the_weights_overrule_a_stale_latent_size"),
    "26 ViT layers": (MODELS + "test_vision.py", "test_names_and_shapes_are_the_released_ones"),
    "post-LN": (HERE, "test_the_tower_ends_with_its_last_norm"),
    "posterior sampling": (MODELS + "test_encode.py", "test_latent_tokens_are_a_draw_from_the_posterior"),
    "default image CFG 1.5": (
        "configs/test_guidance.py",  # ours is 1.0: no image guidance that nobody asked for
        "test_evaluations_are_unguided_unless_they_say_otherwise_and_then_as_bagels_demo",
    ),
    "batch-global renorm": ("unigrpo/algo/test_guidance.py", "test_a_picture_does_not_depend_on_its_batch"),
    "think re-tokenisation": (
        "unigrpo/test_layout.py",  # the sampled ids are kept
        "test_the_painter_reads_the_same_ids_whether_eos_was_sampled_or_not",
    ),
    "text-uncond keeps the system prompt": (
        "rollout_workers/test_contexts.py",
        "test_the_contexts_that_guidance_compares_with",
    ),
    "und frozen: constant context": (HERE, "test_with_a_frozen_text_expert_a_context_of_text_is_constant"),
    "und trained: the graph is kept": (
        MODELS + "test_model.py",
        "test_the_picture_teaches_the_text_expert_through_the_context",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_the_test_of_a_trap_exists(trap: str) -> None:
    file, name = TRAPS[trap]
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.fixture
def seeing() -> Bagel:
    """A model with eyes, in float64."""
    return random_model(torch.float64, SEEING)


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """First arguments of its calls."""
    given: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    yield given
    handle.remove()


def pack_everything(model: Bagel) -> tuple[int, int]:
    """Runs a packed row; its tokens of text, markers and patches, and its latent tokens."""
    model(packed_row([[text(3), clean((2, 1)), seen((1, 2)), noised((1, 3)), text(2)]]))
    return 3 + 2 + 2 + 2 + 2 + 2, 2 + 3


def paint(model: Bagel) -> tuple[int, int]:
    """Runs a velocity; two markers, and the latent tokens."""
    model.velocity(noised((1, 3)).x_LC[None], torch.tensor([0.5], dtype=torch.float64), model.empty_context(1), (1, 3))
    return 2, 3


@pytest.mark.parametrize("run", [pack_everything, paint])
def test_every_token_goes_through_its_expert_alone(seeing: Bagel, run: Callable[[Bagel], tuple[int, int]]) -> None:
    """Markers around latents too are the understanding expert's; a latent token's norms are the generation expert's."""
    twins = [name for name, _ in seeing.named_modules() if name.endswith("_moe_gen")]
    assert {name.rpartition(".")[2].removesuffix("_moe_gen") for name in twins} >= {"q_norm", "k_norm", "norm", "q_proj", "mlp"}
    counts: dict[str, int] = {}
    for name in (*twins, *(name.removesuffix("_moe_gen") for name in twins)):
        seeing.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: counts.update({name: args[0].shape[1]}))
    num_und, num_gen = run(seeing)
    assert counts == dict.fromkeys(twins, num_gen) | {name.removesuffix("_moe_gen"): num_und for name in twins}


def test_time_features_are_cosines_then_sines_of_the_unscaled_time(seeing: Bagel) -> None:
    half = SEEING.time_features // 2
    with inputs_of(seeing.time_embedder.mlp) as given:
        seeing.time_embedder(torch.tensor([0.75, 0.0], dtype=torch.float64), torch.float64)
    frequencies = [10000 ** -(k / half) for k in range(half)]
    features_F = [wave(0.75 * frequency) for wave in (math.cos, math.sin) for frequency in frequencies]
    expected_SF = torch.tensor([features_F, [1.0] * half + [0.0] * half], dtype=torch.float64)
    torch.testing.assert_close(given[0], expected_SF, rtol=0, atol=1e-12)


def test_the_tower_ends_with_its_last_norm(seeing: Bagel) -> None:
    tower, last = seeing.vit_model.vision_model, SEEING.vision
    assert last is not None
    with inputs_of(tower.post_layernorm) as before, inputs_of(seeing.connector) as after:
        seeing(packed_row([[seen((2, 3))]]))
    centred_VE = before[0] - before[0].mean(-1, keepdim=True)
    scaled_VE = centred_VE / (centred_VE.square().mean(-1, keepdim=True) + last.layer_norm_eps).sqrt()
    expected_VE = scaled_VE * tower.post_layernorm.weight + tower.post_layernorm.bias
    torch.testing.assert_close(after[0], expected_VE, rtol=0, atol=1e-12)


def velocity_loss(model: Bagel, context: Context) -> Tensor:
    picture = noised((2, 2))
    v_SLC = model.velocity(picture.x_LC[None], torch.tensor([picture.t], dtype=torch.float64), context, picture.grid_hw)
    return v_SLC.square().sum()


def generation_gradients(model: Bagel, context: Context) -> list[Tensor]:
    return list(torch.autograd.grad(velocity_loss(model, context), [value for _, value in model.generation_parameters()]))


SAID: list[list[Split]] = [[text(5), text(4, seed=1)]]


def test_with_a_frozen_text_expert_a_context_of_text_is_constant(seeing: Bagel) -> None:
    """One without gradient serves all steps: the same keys after any update, the same gradients as with its graph."""
    for _, value in seeing.text_parameters():
        value.requires_grad_(False)
    context = seeing.read(SAID)
    assert not any(each.requires_grad for each in (*context.k, *context.v))
    with torch.no_grad():
        for _, value in seeing.generation_parameters():
            value.add_(0.1)
        later = seeing.read(SAID)
    assert all(torch.equal(*pair) for pair in zip((*context.k, *context.v), (*later.k, *later.v), strict=True))
    for one, other in zip(generation_gradients(seeing, seeing.read(SAID)), generation_gradients(seeing, later), strict=True):
        assert torch.equal(one, other)


def test_a_given_picture_keeps_a_context_from_being_constant(seeing: Bagel) -> None:
    """Its latents are the generation expert's, whoever else is frozen."""
    for _, value in (*seeing.text_parameters(), *seeing.vision_parameters()):
        value.requires_grad_(False)
    assert seeing.read([[clean((1, 2)), text(3)]]).k[-1].requires_grad
    assert not seeing.read([[seen((1, 2)), text(3)]]).k[-1].requires_grad
