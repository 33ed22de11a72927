"""A two-expert stand-in for the policy, small enough to train in a second, and plain torch AdamW as the thing to agree with."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from learner.optimizer import AdamWSettings, Rank
from learner.partition import Flat
from learner.zero import ZeroEngine

ADAMW = AdamWSettings(betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, max_grad_norm=1.0)
LEARNING_RATES = {"text": 1e-3, "generation": 1e-3}
TIMEOUT = 120.0
"""Seconds; more than any collective of these tests takes."""
NUM_MICRO_BATCHES = 4
NUM_STEPS = 3


class StandIn(nn.Module):
    """Text: embedding, linear, head. Flow: reads the text's hidden state too, so both kinds reach the text expert.

    Sizes are odd, so that partitions over two ranks need padding.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Embedding(31, 13)
        self.text = nn.Linear(13, 13)
        self.head = nn.Linear(13, 31)
        self.flow_in = nn.Linear(7, 13)
        self.flow_out = nn.Linear(13, 7)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)

    def groups(self) -> dict[str, list[str]]:
        names = [name for name, _ in self.named_parameters()]
        generation = [name for name in names if name.startswith("flow_")]
        return {"text": [name for name in names if name not in generation], "generation": generation}

    def hidden(self, ids_ST: Tensor) -> Tensor:
        return torch.tanh(self.text(self.embed(ids_ST)))

    def text_loss(self, ids_ST: Tensor) -> Tensor:
        logits_STV = self.head(self.hidden(ids_ST[:, :-1]))
        return nn.functional.cross_entropy(logits_STV.flatten(0, 1), ids_ST[:, 1:].flatten(), reduction="sum") / 8

    def flow_loss(self, ids_ST: Tensor, x_SLC: Tensor) -> Tensor:
        context_S1H = self.hidden(ids_ST).mean(1, keepdim=True)
        velocity_SLC = self.flow_out(torch.tanh(self.flow_in(x_SLC) + context_S1H))
        return (velocity_SLC - x_SLC).square().sum() / 50


def flat_of(tensors: Mapping[str, Tensor]) -> Flat:
    """What a weights file of these tensors would give."""
    return lambda name, start, stop: tensors[name].flatten()[start:stop]


def make_engine(
    stage: int,
    rank: Rank,
    *,
    dtype: torch.dtype = torch.float32,
    trains: Sequence[str] = ("text", "generation"),
    reference: nn.Module | None = None,
) -> tuple[StandIn, ZeroEngine]:
    """A fresh stand-in in this compute dtype under an engine, with a reference of the same values if one is given."""
    start = StandIn()
    model = StandIn().to(dtype).to("meta")
    groups = {name: model.groups()[name] for name in trains}
    engine = ZeroEngine(
        model, groups, flat_of(start.state_dict()), reference=reference, stage=stage, adamw=ADAMW, rank=rank, timeout=TIMEOUT
    )
    return model, engine


def micro_batches(model: StandIn, step: int, indices: Sequence[int], *, flow_first: bool) -> list[Callable[[], Tensor]]:
    """Text and flow micro-batches of the named samples, in either order."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 31, (NUM_MICRO_BATCHES, 2, 6), generator=generator)
    x = torch.randn(NUM_MICRO_BATCHES, 2, 5, 7, generator=generator)
    text = [lambda i=i: model.text_loss(ids[i]) for i in indices]
    flow = [lambda i=i: model.flow_loss(ids[i], x[i]) for i in indices]
    return [*flow, *text] if flow_first else [*text, *flow]


def plain_adamw() -> tuple[dict[str, Tensor], list[tuple[float, float, float]]]:
    """Parameters after three steps of torch.optim.AdamW over all micro-batches; (all, text, generation) norms of each step."""
    model = StandIn()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=ADAMW.betas, eps=ADAMW.eps, weight_decay=ADAMW.weight_decay
    )
    norms = []
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        for loss in micro_batches(model, step, range(NUM_MICRO_BATCHES), flow_first=False):
            loss().backward()
        text, generation = (
            torch.cat([gradient.flatten() for name in names if (gradient := model.get_parameter(name).grad) is not None])
            .norm()
            .item()
            for names in model.groups().values()
        )
        norms.append(((text**2 + generation**2) ** 0.5, text, generation))
        nn.utils.clip_grad_norm_(model.parameters(), ADAMW.max_grad_norm)
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}, norms


def deviations(stage: int, rank: Rank, *, flow_first: bool) -> tuple[float, float]:
    """Three updates of a fresh stand-in against plain AdamW: largest parameter difference, largest relative norm difference."""
    expected, expected_norms = plain_adamw()
    model, engine = make_engine(stage, rank)
    indices = range(rank.rank, NUM_MICRO_BATCHES, rank.world_size)
    norms = []
    for step in range(NUM_STEPS):
        stats = engine.update(micro_batches(model, step, indices, flow_first=flow_first), LEARNING_RATES)
        norms += [stats.grad_norm, stats.grad_norms["text"], stats.grad_norms["generation"]]
    parameters = max((value - expected[name]).abs().max().item() for name, value in engine.parameters())
    flat = [norm for step_norms in expected_norms for norm in step_norms]
    return parameters, max(abs(norm / wanted - 1) for norm, wanted in zip(norms, flat, strict=True))
