from dataclasses import replace

import torch

from benchmarks.velocity import attention_products, evaluation, linear_layers
from benchmarks.workload import MIDDLE
from unigrpo.models.bagel.model import Bagel

TINY = replace(
    MIDDLE, vocab_size=16, hidden_size=32, intermediate_size=48, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8
)


def test_linear_layers_are_all_that_an_evaluation_runs_at_its_shapes() -> None:
    with torch.no_grad():
        model = Bagel(TINY)
        calls = linear_layers(model, evaluation(model, context_length=5, grid_hw=(2, 3)))
        outputs = [tuple(call().shape) for call in calls]
    layer = [
        (1, rows, size) for rows in (2, 6) for size in (32, 16, 16, 32, 48, 48, 32)
    ]  # q k v o gate up down; markers, latents
    outside = [(1, 6, 32), (1, 32), (1, 32), (1, 6, TINY.latent_channels)]
    assert sorted(outputs) == sorted(layer * 3 + outside)


def test_attention_products_are_those_of_every_layer() -> None:
    shapes = [tuple(call().shape) for call in attention_products(TINY, context_length=5, grid_hw=(2, 3))]
    assert shapes == [(4, 8, 13), (4, 8, 8)] * 3  # heads, latents and markers, keys of those and the context; head dim
