"""How much of a velocity evaluation is its matrix products, timed alone, in a middle-sized model with random weights.

The products are every linear layer with its own weights, and QK and PV of every layer, on tensors of the shapes that the
evaluation gives them: no norm, rotation, softmax, activation, mask or concatenation.

Shapes: 1 sample, T tokens of its context, L latent tokens, C channels, Q queries (L and two markers), M keys (T and Q), N query
heads, D head dim.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import Figure, Timings, report, take_turns
from benchmarks.workload import MIDDLE
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.model import Bagel

CONTEXT = 128
GRID_HW = (32, 32)


def measure() -> Iterator[Figure]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        model = Bagel(MIDDLE)
        evaluate = evaluation(model, CONTEXT, GRID_HW)
        linears = linear_layers(model, evaluate)
        products = attention_products(MIDDLE, CONTEXT, GRID_HW)
        turns = take_turns(
            {"velocity": evaluate, "linear layers": partial(_run, linears), "QK and PV": partial(_run, products)}
        )
    both = [sum(pair) for pair in zip(turns.seconds["linear layers"], turns.seconds["QK and PV"], strict=True)]
    times = Timings({**turns.seconds, "products": both})
    shape = (
        f"hidden {MIDDLE.hidden_size}, {MIDDLE.num_layers} layers, {MIDDLE.num_heads} heads of {MIDDLE.head_dim}, "
        f"{MIDDLE.num_kv_heads} of keys and values, intermediate {MIDDLE.intermediate_size}, "
        f"{GRID_HW[0] * GRID_HW[1]} latents, {CONTEXT} tokens of context, float32"
    )
    yield Figure(
        name=f"matrix products alone over a velocity evaluation ({shape})",
        value=times.ratio("products", "velocity"),
        unit="x",
        at_least=0.75,
        note=times.note("products", "velocity"),
    )
    for name in ("linear layers", "QK and PV"):
        yield Figure(
            name=f"{name} alone over it", value=times.ratio(name, "velocity"), unit="x", note=times.note(name, "velocity")
        )


def evaluation(model: Bagel, context_length: int, grid_hw: tuple[int, int]) -> Callable[[], Tensor]:
    """One velocity evaluation of random latents over a random text."""
    ids_1T = torch.randint(4, model.config.vocab_size, (1, context_length))
    _, context = model.prefill(ids_1T, torch.tensor([context_length]))
    x_1LC = torch.randn(1, grid_hw[0] * grid_hw[1], model.config.latent_channels)
    return partial(model.velocity, x_1LC, torch.tensor([0.5], dtype=torch.float64), context, grid_hw)


def linear_layers(model: Bagel, evaluate: Callable[[], object]) -> list[Callable[[], Tensor]]:
    """The linear layers that an evaluation runs, in their order, each over a ready tensor of the shape it gets there."""
    calls: list[Callable[[], Tensor]] = []
    ready: dict[torch.Size, Tensor] = {}

    def note(linear: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        assert isinstance(linear, nn.Linear)
        shape = inputs[0].shape
        if shape not in ready:
            ready[shape] = torch.randn(shape)
        calls.append(partial(F.linear, ready[shape], linear.weight, linear.bias))

    handles = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, nn.Linear)]
    evaluate()
    for handle in handles:
        handle.remove()
    return calls


def attention_products(config: BagelConfig, context_length: int, grid_hw: tuple[int, int]) -> list[Callable[[], Tensor]]:
    """QK and PV of every layer as batched products into ready tensors, each query head over the keys and values it reads."""
    queries = grid_hw[0] * grid_hw[1] + 2
    keys = context_length + queries
    q_NQD = torch.randn(config.num_heads, queries, config.head_dim)
    k_NDM = torch.randn(config.num_heads, keys, config.head_dim).transpose(1, 2)
    p_NQM = torch.empty(config.num_heads, queries, keys)
    v_NMD = torch.randn(config.num_heads, keys, config.head_dim)
    scores, mixed = partial(torch.bmm, out=p_NQM), partial(torch.bmm, out=torch.empty_like(q_NQD))
    return [partial(scores, q_NQD, k_NDM), partial(mixed, p_NQM, v_NMD)] * config.num_layers


def _run(calls: list[Callable[[], Tensor]]) -> None:
    for call in calls:
        call()


if __name__ == "__main__":
    report("velocity", measure())
