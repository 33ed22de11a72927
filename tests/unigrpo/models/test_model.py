import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.unigrpo.models.fakes import CONFIG, flash_varlen, padded, random_model, said, segments
from tests.unigrpo.models.released import SEEING
from unigrpo.models.bagel import attention
from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.model import Bagel, is_generation_name, position_table, text_expert_name
from unigrpo.models.bagel.preprocess import table_rows

GRIDS = [(1, 1), (2, 5), (3, 2)]


def assert_equal(one: Tensor, other: Tensor) -> None:
    """Up to the order of sums in float64."""
    torch.testing.assert_close(one, other, rtol=0.0, atol=1e-12)


def noised(grid_hw: tuple[int, int], num_samples: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = (num_samples, grid_hw[0] * grid_hw[1], CONFIG.latent_channels)
    x_SLC = torch.randn(size, generator=generator, dtype=torch.float64)
    return x_SLC, torch.rand(num_samples, generator=generator, dtype=torch.float64)


def test_prefill_of_a_batch_equals_one_by_one(model: Bagel) -> None:
    prompts, thoughts = segments(5, 0, 9, 1), segments(3, 7, 0, 2, seed=1)
    _, context = model.prefill(*padded(prompts))
    hidden_STH, context = model.prefill(*padded(thoughts), context)
    for row, (prompt, thought) in enumerate(zip(prompts, thoughts, strict=True)):
        alone_1TH, alone = model.prefill(thought[None], torch.tensor([len(thought)]), said(model, prompt))
        assert_equal(hidden_STH[row, : len(thought)], alone_1TH[0])
        kept = context.valid_ST[row]
        for layer in range(CONFIG.num_layers):
            assert_equal(context.k[layer][row][:, kept], alone.k[layer][0])
            assert_equal(context.v[layer][row][:, kept], alone.v[layer][0])
    assert context.position_S.tolist() == [8, 7, 9, 3]


def test_a_text_prefilled_in_pieces_equals_it_in_one(model: Bagel) -> None:
    (ids,) = segments(11)
    whole = said(model, ids)
    pieces = said(model, ids[:4], ids[4:5], ids[5:])
    for layer in range(CONFIG.num_layers):
        assert_equal(whole.k[layer], pieces.k[layer])


def test_what_pads_a_segment_changes_nothing(model: Bagel) -> None:
    prompts, thoughts = segments(2, 6), segments(5, 1, seed=1)
    x_SLC, t_S = noised((2, 3), 2)
    answers = []
    for pad in (0, 41):
        _, context = model.prefill(*padded(prompts, pad))
        hidden_STH, context = model.prefill(*padded(thoughts, pad), context)
        answers.append((hidden_STH[0], hidden_STH[1, :1], model.velocity(x_SLC, t_S, context, (2, 3))))
    for one, other in zip(*answers, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("grid_hw", GRIDS)
def test_velocity_of_a_batch_equals_one_by_one(model: Bagel, grid_hw: tuple[int, int]) -> None:
    prompts, thoughts = segments(4, 0, 7, 0), segments(6, 3, 1, 0, seed=1)
    _, context = model.prefill(*padded(prompts))
    _, context = model.prefill(*padded(thoughts), context)
    x_SLC, t_S = noised(grid_hw, 4)
    v_SLC = model.velocity(x_SLC, t_S, context, grid_hw)
    for row, spoken in enumerate(zip(prompts, thoughts, strict=True)):
        alone = model.velocity(x_SLC[row : row + 1], t_S[row : row + 1], said(model, *spoken), grid_hw)
        assert_equal(v_SLC[row], alone[0])
    nothing = model.velocity(x_SLC[3:], t_S[3:], model.empty_context(1), grid_hw)
    assert_equal(v_SLC[3], nothing[0])


def test_denoising_leaves_the_context_as_it_was(model: Bagel) -> None:
    context = said(model, *segments(5))
    before = [tensor.clone() for tensor in (*context.k, *context.v)]
    x_SLC, t_S = noised((2, 2), 1)
    first = model.velocity(x_SLC, t_S, context, (2, 2))
    assert torch.equal(first, model.velocity(x_SLC, t_S, context, (2, 2)))
    assert all(torch.equal(tensor, old) for tensor, old in zip((*context.k, *context.v), before, strict=True))


def test_select_rearranges_samples(model: Bagel) -> None:
    _, context = model.prefill(*padded(segments(3, 5)))
    chosen = context.select(torch.tensor([1, 0, 1]))
    assert chosen.position_S.tolist() == [5, 3, 5]
    assert torch.equal(chosen.valid_ST, context.valid_ST[[1, 0, 1]])
    assert torch.equal(chosen.k[1], context.k[1][[1, 0, 1]])
    assert torch.equal(chosen.v[0], context.v[0][[1, 0, 1]])


@pytest.mark.parametrize("lengths", [(4, 0, 7), (5, 5, 5)], ids=["padded", "full"])
def test_flash_attention_continues_a_context_as_well(
    monkeypatch: pytest.MonkeyPatch, model: Bagel, lengths: tuple[int, int, int]
) -> None:
    def everything() -> tuple[Tensor, Tensor, Tensor]:
        _, context = model.prefill(*padded(segments(*lengths)))
        ids_ST, length_S = padded(segments(6, 3, 1, seed=1))
        hidden_STH, context = model.prefill(ids_ST, length_S, context)
        next_S1H, context = model.prefill(ids_ST[:, :1], torch.ones_like(length_S), context)
        real_ST = torch.arange(ids_ST.shape[1]) < length_S[:, None]
        return hidden_STH[real_ST], next_S1H, model.velocity(*noised((2, 3), 3), context, (2, 3))

    expected = everything()
    monkeypatch.setattr(attention, "has_varlen", lambda *_: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", flash_varlen)
    for one, other in zip(everything(), expected, strict=True):
        assert_equal(one, other)


def loss_through(model: Bagel, *, detach: bool) -> Tensor:
    with torch.no_grad() if detach else nullcontext():
        context = said(model, *segments(5, 4))
    x_SLC, t_S = noised((2, 2), 1)
    return model.velocity(x_SLC, t_S, context, (2, 2)).square().sum()


def test_the_picture_teaches_the_text_expert_through_the_context(model: Bagel) -> None:
    embedding = model.language_model.model.embed_tokens.weight
    token = int(segments(5, 4)[0][2])
    (gradient,) = torch.autograd.grad(loss_through(model, detach=False), embedding)
    with torch.no_grad():
        embedding[token, 7] += 1e-5
        above = loss_through(model, detach=False)
        embedding[token, 7] -= 2e-5
        below = loss_through(model, detach=False)
    assert gradient[token, 7].abs() > 1e-3
    assert gradient[token, 7].item() == pytest.approx(((above - below) / 2e-5).item(), rel=1e-6)


def test_a_detached_context_passes_no_gradient(model: Bagel) -> None:
    (gradient,) = torch.autograd.grad(loss_through(model, detach=True), model.language_model.model.embed_tokens.weight)
    reached = set(gradient.abs().sum(1).nonzero().flatten().tolist())
    assert reached == {CONFIG.start_of_image, CONFIG.end_of_image}


def flat_hidden(model: Bagel) -> tuple[Tensor, Tensor]:
    """Hidden states [N, H] of two segments, and an id for each."""
    ids_ST, length_S = padded(segments(7, 7))
    return model.prefill(ids_ST, length_S)[0].flatten(0, 1), ids_ST.flatten()


def test_token_logp_is_the_log_softmax_of_the_logits(model: Bagel) -> None:
    hidden_NH, target_N = flat_hidden(model)
    expected = torch.log_softmax(model.logits(hidden_NH), -1)[torch.arange(len(target_N)), target_N]
    assert_equal(model.token_logp(hidden_NH, target_N), expected)


def test_token_logp_in_pieces_is_the_same(model: Bagel) -> None:
    parameters = [value for _, value in model.text_parameters()]
    answers = []
    for num_pieces in (1, 3, 20):
        hidden_NH, target_N = flat_hidden(model)
        logp_N = model.token_logp(hidden_NH, target_N, num_pieces)
        answers.append((logp_N, *torch.autograd.grad(logp_N.square().sum(), parameters)))
    for whole, *in_pieces in zip(*answers, strict=True):
        for pieces in in_pieces:
            assert_equal(whole, pieces)


def test_the_head_runs_once_a_piece_over_nothing_too(model: Bagel) -> None:
    hidden_NH, target_N = flat_hidden(model)
    calls: list[int] = []
    model.language_model.lm_head.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    model.token_logp(hidden_NH[:2], target_N[:2], 4)
    assert calls == [1, 1, 0, 0]


def test_half_precision_computes_half_and_answers_in_float32() -> None:
    exact, half = random_model(torch.float32), random_model(torch.bfloat16)
    x_SLC, t_S = noised((3, 3), 2)
    velocities = []
    for model in (exact, half):
        hidden_STH, context = model.prefill(*padded(segments(5, 8)))
        assert hidden_STH.dtype == context.k[0].dtype == model.dtype
        assert model.token_logp(hidden_STH[0], padded(segments(5, 8))[0][0]).dtype == torch.float32
        velocities.append(model.velocity(x_SLC.float(), t_S, context, (3, 3)))
    assert velocities[1].dtype == torch.float32
    assert (velocities[1] - velocities[0]).norm() / velocities[0].norm() < 0.05


def test_every_parameter_belongs_to_one_group() -> None:
    model = random_model(torch.float32, SEEING)
    groups = [dict(model.text_parameters()), dict(model.generation_parameters()), dict(model.vision_parameters())]
    assert sorted(name for group in groups for name in group) == sorted(dict(model.named_parameters()))
    text, generation, vision = groups
    assert {name.split(".")[0] for name in text} == {"language_model"}
    assert {name.split(".")[0] for name in vision} == {"vit_model", "connector"}
    twins = {name.replace("_moe_gen", "") for name in generation if "_moe_gen" in name}
    untwinned = {"language_model.model.embed_tokens.weight", "language_model.lm_head.weight"}
    assert twins == text.keys() - untwinned


def test_both_stacks_recompute_their_layers_or_neither() -> None:
    model = random_model(torch.float32, SEEING)
    for recompute in (True, False):
        model.recompute_layers(recompute)
        assert model.language_model.model.checkpoint_layers is recompute
        assert model.vit_model.vision_model.encoder.checkpoint_layers is recompute


def test_a_model_without_eyes_has_no_vision_parameters(model: Bagel) -> None:
    assert model.vision_parameters() == []


def test_what_vllm_is_sent(released_folder: Path) -> None:
    released = json.loads((released_folder / "released_keys.json").read_text())
    sent = [name for key in released if (name := text_expert_name(key)) is not None]
    assert len(sent) == 28 * 14 + 3
    assert {name for name in sent if "layers" not in name} == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
    }
    assert "model.layers.27.self_attn.q_norm.weight" in sent
    assert "model.layers.0.self_attn.k_proj.bias" in sent
    assert not any(is_generation_name(name) for name in sent)


def test_position_table_puts_the_column_first() -> None:
    table = position_table(3, 8)
    row, column, w = 2, 1, torch.tensor([1.0, 10000.0**-0.5])
    expected = torch.cat([(column * w).sin(), (column * w).cos(), (row * w).sin(), (row * w).cos()])
    torch.testing.assert_close(table[row * 3 + column], expected)


def test_latents_sit_in_the_table_by_its_side_not_by_their_width(model: Bagel) -> None:
    side = CONFIG.max_latent_size
    rows = model.latent_pos_embed(table_rows((2, 3), side))
    expected = model.latent_pos_embed.pos_embed[[0, 1, 2, side, side + 1, side + 2]]
    assert torch.equal(rows, expected)


@contextmanager
def sharded(model: nn.Module) -> Iterator[None]:
    """As ZeRO-3 does: a parameter has its values only while the module that owns it runs."""
    handles = []
    whole = {id(parameter): parameter.data for parameter in model.parameters()}

    def gather(module: nn.Module, _: object) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = whole[id(parameter)]

    def release(module: nn.Module, _: object, __: object) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = torch.empty(0, dtype=parameter.dtype)

    for module in model.modules():
        release(module, None, None)
        handles += [module.register_forward_pre_hook(gather), module.register_forward_hook(release)]
    yield
    for handle in handles:
        handle.remove()
    for parameter in model.parameters():
        parameter.data = whole[id(parameter)]


def everything(model: Bagel) -> tuple[Tensor, Tensor]:
    ids_ST, length_S = padded(segments(4, 6))
    hidden_STH, context = model.prefill(ids_ST, length_S)
    x_SLC, t_S = noised((2, 2), 2)
    return model.token_logp(hidden_STH[0], ids_ST[0]), model.velocity(x_SLC, t_S, context, (2, 2))


@torch.no_grad()
def test_parameters_are_used_only_by_the_module_that_owns_them(model: Bagel) -> None:
    expected = everything(model)
    with sharded(model):
        found = everything(model)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_models_without_projection_biases_are_built() -> None:
    built = Bagel(replace(CONFIG, attention_bias=False))
    assert not any("self_attn" in name and name.endswith("bias") for name, _ in built.named_parameters())


def test_an_empty_context_holds_nothing(model: Bagel) -> None:
    context: Context = model.empty_context(3)
    assert context.valid_ST.shape == (3, 0)
    assert context.position_S.tolist() == [0, 0, 0]


def test_the_text_expert_is_qwen3_with_biases() -> None:
    """Hugging Face's Qwen3 has the q/k norm; head dim, grouping, RoPE base and eps differ here from the parity cases'."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = random_model(torch.float32)
    sizes = {key: value for key, value in CONFIG.llm_dict().items() if key not in ("model_type", "architectures", "rope_theta")}
    rope = {"rope_type": "default", "rope_theta": CONFIG.rope_theta}
    qwen = Qwen3ForCausalLM(Qwen3Config(**sizes, attention_bias=True, rope_parameters=rope))
    weights = {name: value for key, value in model.state_dict().items() if (name := text_expert_name(key)) is not None}
    no_bias = {name: torch.zeros_like(value) for name, value in qwen.state_dict().items() if name.endswith("o_proj.bias")}
    qwen.load_state_dict(weights | no_bias)
    ids_ST, length_S = padded(segments(30))
    torch.testing.assert_close(model.logits(model.prefill(ids_ST, length_S)[0]), qwen(ids_ST).logits, rtol=1e-5, atol=1e-5)
