"""The tower and the connector against the reference's own answers, and against what packing must not change."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.unigrpo.models import released
from unigrpo.models.bagel.attention import Attend, Block, block_attention
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.model import PositionTable
from unigrpo.models.bagel.preprocess import table_rows, to_patches
from unigrpo.models.bagel.vision import Connector, VisionModel

assert released.RELEASED.vision is not None
RELEASED = released.RELEASED.vision
SMALL = replace(
    RELEASED,
    hidden_size=12,
    intermediate_size=20,
    num_layers=2,
    num_heads=3,
    patch_size=2,
    image_size=10,
    max_patches_per_side=5,
)
GRIDS = [(2, 3), (1, 1), (5, 4), (2, 3)]


def attend_within(lengths: Sequence[int], dtype: torch.dtype) -> Attend:
    """Pictures of so many patches, end to end, each seeing all of itself."""
    ends = torch.tensor(lengths).cumsum(0).tolist()
    places = [tuple(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    return block_attention([Block(place, place, causal=False) for place in places], torch.device("cpu"), dtype)


class Eyes(nn.Module):
    """Everything between pixels and the language model, with the weights of the reference."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        super().__init__()
        whole = BagelConfig.from_folder(folder)
        assert whole.vision is not None
        self.config, hidden = whole.vision, whole.hidden_size
        self.vit_model = VisionModel(self.config)
        self.connector = Connector(self.config.hidden_size, hidden)
        self.vit_pos_embed = PositionTable(self.config.max_patches_per_side, hidden)
        names = tuple(f"{name}." for name, _ in self.named_children())
        weights = load_file(folder / "state_dict.safetensors")
        self.load_state_dict({name: value for name, value in weights.items() if name.startswith(names)})
        self.to(dtype).requires_grad_(False)
        self.dtype = dtype

    def outputs(self, images: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """The reference's vit/* of these pictures (its number -> [3, H, W]), all in one row."""
        patch, side = self.config.patch_size, self.config.max_patches_per_side
        grids = [(image.shape[1] // patch, image.shape[2] // patch) for image in images.values()]
        patches = [to_patches(image.to(self.dtype), patch) for image in images.values()]
        places = [table_rows(grid, side) for grid in grids]
        lengths = [len(each) for each in patches]
        encoded_VE = self.vit_model(torch.cat(patches), torch.cat(places), attend_within(lengths, self.dtype))
        embedded_VH = self.connector(encoded_VE) + self.vit_pos_embed.pos_embed[torch.cat(places)]
        return {
            f"vit/{name}.{number}": each
            for name, row in {"encoder_out": encoded_VE, "llm_embed": embedded_VH}.items()
            for number, each in zip(images, row.split(lengths), strict=True)
        } | {
            f"vit/{name}.{number}": each
            for name, row in {"patches": patches, "pos_ids": places}.items()
            for number, each in zip(images, row, strict=True)
        }


@pytest.fixture
def images(golden_folder: Path) -> dict[int, Tensor]:
    """The reference's pictures by number."""
    inputs = load_file(golden_folder / "inputs.safetensors")
    return {int(name.rpartition(".")[2]): image for name, image in inputs.items() if name.startswith("vit/image.")}


def golden_of(folder: Path, bits: int) -> dict[str, Tensor]:
    return {name: value for name, value in load_file(folder / f"golden_f{bits}.safetensors").items() if name.startswith("vit/")}


def drawn(*sizes: int, seed: int = 1) -> Tensor:
    return torch.rand(sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


@pytest.fixture
def small() -> VisionModel:
    """Random in every parameter, in float64."""
    generator = torch.Generator().manual_seed(0)
    model = VisionModel(SMALL).to(torch.float64)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(0.0, 0.4, generator=generator)
    return model


def row_of(grids: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Attend]:
    """Random patches of pictures with these grids, their places, and who sees whom."""
    lengths = [rows * columns for rows, columns in grids]
    places = torch.cat([table_rows(grid, SMALL.max_patches_per_side) for grid in grids])
    return drawn(sum(lengths), SMALL.patch_channels), places, attend_within(lengths, torch.float64)


@pytest.mark.parametrize("together", [True, False], ids=["one row", "one by one"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-5), (torch.float64, 1e-9)], ids=["float32", "float64"])
def test_every_answer_of_the_reference_is_reproduced(
    golden_folder: Path, images: dict[int, Tensor], dtype: torch.dtype, tolerance: float, together: bool
) -> None:
    eyes, golden = Eyes(golden_folder, dtype), golden_of(golden_folder, torch.finfo(dtype).bits)
    rows = [images] if together else [{number: image} for number, image in images.items()]
    outputs = {name: value for row in rows for name, value in eyes.outputs(row).items()}
    assert outputs.keys() == golden.keys()
    for name, expected in golden.items():
        assert (outputs[name].dtype, outputs[name].shape) == (expected.dtype, expected.shape)
        assert (outputs[name] - expected).abs().max() <= tolerance * expected.abs().max(), name


def test_bfloat16_is_as_near_as_it_can_be(golden_folder: Path, images: dict[int, Tensor]) -> None:
    outputs = Eyes(golden_folder, torch.bfloat16).outputs(images)
    for name, expected in golden_of(golden_folder, 64).items():
        assert (outputs[name].double() - expected).norm() <= 2e-2 * expected.double().norm(), name
        assert outputs[name].dtype == (torch.int64 if "pos_ids" in name else torch.bfloat16)


def test_names_and_shapes_are_the_released_ones(released_folder: Path) -> None:
    with torch.device("meta"):
        modules = {"vit_model": VisionModel(RELEASED), "connector": Connector(RELEASED.hidden_size, 3584)}
    built = {
        f"{prefix}.{name}": list(value.shape)
        for prefix, module in modules.items()
        for name, value in module.state_dict().items()
    }
    released = json.loads((released_folder / "released_keys.json").read_text())
    assert built == {name: shape for name, shape in released.items() if name.startswith(("vit_model.", "connector."))}


def test_pictures_of_one_row_do_not_see_each_other(small: VisionModel) -> None:
    patches_VC, place_V, attend = row_of(GRIDS)
    seen_VE = small(patches_VC, place_V, attend)
    begin = 0
    for grid in GRIDS:
        end = begin + grid[0] * grid[1]
        alone_VE = small(patches_VC[begin:end], place_V[begin:end], attend_within([end - begin], torch.float64))
        torch.testing.assert_close(seen_VE[begin:end], alone_VE, rtol=0.0, atol=1e-12)
        begin = end


def test_every_patch_sees_all_of_its_picture(small: VisionModel) -> None:
    patches_VC, place_V, attend = row_of([(2, 3), (1, 2)])
    patches_VC.requires_grad_()
    reached = torch.stack(
        [torch.autograd.grad(small(patches_VC, place_V, attend)[row, 0], patches_VC)[0].abs().sum(1) > 0 for row in range(8)]
    )
    assert reached.tolist() == [[True] * 6 + [False] * 2] * 6 + [[False] * 6 + [True] * 2] * 2


def test_a_patch_knows_its_place(small: VisionModel) -> None:
    patches_VC, place_V, attend = row_of([(2, 3)])
    moved_V = place_V.flip(0)
    flipped_VE = small(patches_VC.flip(0), moved_V, attend).flip(0)
    torch.testing.assert_close(flipped_VE, small(patches_VC, place_V, attend), rtol=0.0, atol=1e-12)
    assert not torch.allclose(small(patches_VC, moved_V, attend), small(patches_VC, place_V, attend))


def modules_run(model: nn.Module, *inputs: Tensor | Attend | None) -> tuple[Tensor, list[str]]:
    """What a model returns, and the names of the modules that ran for it."""
    ran: list[str] = []
    handles = [
        module.register_forward_hook(partial(lambda name, *_: ran.append(name), name)) for name, module in model.named_modules()
    ]
    output = model(*inputs)
    for handle in handles:
        handle.remove()
    return output, ran


def test_no_pictures_run_the_same_modules_and_give_no_gradient(small: VisionModel) -> None:
    """On ranks that share weights a module that is passed over, forwards or backwards, leaves the others waiting."""
    _, ran = modules_run(small, *row_of(GRIDS))
    nothing_VE, ran_empty = modules_run(small, torch.empty(0, SMALL.patch_channels), torch.empty(0, dtype=torch.int64), None)
    nothing_VE.sum().backward()
    assert nothing_VE.shape == (0, SMALL.hidden_size)
    assert ran_empty == ran
    for name, value in small.named_parameters():
        assert value.grad is not None, name
        assert not value.grad.any(), name


def test_recomputed_blocks_give_the_same_bits_and_run_again_for_gradients_alone(small: VisionModel) -> None:
    runs: list[nn.Module] = []
    for layer in small.vision_model.encoder.layers:
        layer.register_forward_pre_hook(lambda module, _: runs.append(module))
    row = row_of(GRIDS)
    nothing = torch.empty(0, SMALL.patch_channels), torch.empty(0, dtype=torch.int64), None

    def answers_and_gradients() -> list[Tensor]:
        seen_VE = small(*row)
        return [seen_VE, *torch.autograd.grad(seen_VE.square().sum() + small(*nothing).sum(), list(small.parameters()))]

    kept = answers_and_gradients()
    assert len(runs) == 2 * SMALL.num_layers
    small.checkpoint_layers = True
    recomputed = answers_and_gradients()
    assert len(runs) == 6 * SMALL.num_layers
    assert all(torch.equal(one, other) for one, other in zip(kept, recomputed, strict=True))
    with torch.no_grad():
        small(*row)
    assert len(runs) == 7 * SMALL.num_layers


def test_patches_without_a_kernel_are_a_mistake(small: VisionModel) -> None:
    patches_VC, place_V, _ = row_of([(1, 2)])
    with pytest.raises(AssertionError, match="2 patches and nothing that says"):
        small(patches_VC, place_V, None)
