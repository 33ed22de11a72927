"""Parity with the reference implementation, group by group: every golden tensor of a group must be produced, and agree.

`--golden FOLDER` runs another folder of the same layout. Pictures in, guidance and packed training have no groups yet.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unigrpo.algo.flow import time_grid
from unigrpo.denoise import denoise
from unigrpo.models.bagel.autoencoder import AutoEncoder, from_tokens, to_tokens, to_uint8
from unigrpo.models.bagel.checkpoint import VISION_PREFIXES, load_weights
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.generate import generate
from unigrpo.models.bagel.model import Bagel

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Setup:
    """The reference's models in one dtype, its inputs and what it answered."""

    dtype: torch.dtype
    model: Bagel
    autoencoder: AutoEncoder
    cases: Mapping[str, Any]
    inputs: Mapping[str, Tensor]
    golden: Mapping[str, Tensor]

    def input(self, name: str) -> Tensor:
        return self.inputs[name].to(self.dtype)

    def context(self, segments: list[str]) -> Context:
        """One sample that said these named segments, each wrapped."""
        config, context = self.model.config, self.model.empty_context(1)
        for name in segments:
            ids = torch.tensor([[config.bos_token_id, *self.cases["segments"][name], config.eos_token_id]])
            _, context = self.model.prefill(ids, torch.tensor([ids.shape[1]]), context)
        return context


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def setup(request: pytest.FixtureRequest, golden_folder: Path) -> Setup:
    config = BagelConfig.from_folder(golden_folder)
    model, autoencoder = Bagel(config).to(request.param), AutoEncoder(config.vae).to(request.param)
    load_weights(model, golden_folder / "state_dict.safetensors", skip=VISION_PREFIXES)
    load_weights(autoencoder, golden_folder / "ae_state_dict.safetensors")
    return Setup(
        dtype=request.param,
        model=model.requires_grad_(False),
        autoencoder=autoencoder.requires_grad_(False),
        cases=json.loads((golden_folder / "cases.json").read_text()),
        inputs=load_file(golden_folder / "inputs.safetensors"),
        golden=load_file(golden_folder / f"golden_f{32 if request.param == torch.float32 else 64}.safetensors"),
    )


@contextmanager
def outputs_of(*modules: nn.Module) -> Iterator[list[Any]]:
    """Collects what the modules return, in call order."""
    seen: list[Any] = []
    handles = [module.register_forward_hook(lambda _, __, output: seen.append(output)) for module in modules]
    yield seen
    for handle in handles:
        handle.remove()


def text(setup: Setup) -> Outputs:
    outputs: Outputs = {}
    for index, ids in enumerate(setup.cases["text.raw"]["ids"]):
        hidden, _ = setup.model.prefill(torch.tensor([ids]), torch.tensor([len(ids)]))
        outputs |= {f"text/raw.{index}/hidden": hidden[0], f"text/raw.{index}/logits": setup.model.logits(hidden)[0]}
    return outputs | chat(setup) | greedy(setup, "text/greedy", None) | greedy(setup, "text/greedy_stop", "end_token_id")


def chat(setup: Setup) -> Outputs:
    case, model = setup.cases["text.chat"], setup.model
    ids = torch.tensor([case["ids"]])
    with outputs_of(*model.language_model.model.layers) as layers:
        hidden, context = model.prefill(ids, torch.tensor([ids.shape[1]]))
    think = slice(case["think_start"], case["think_start"] + len(case["think_targets"]))
    return {
        "text/chat/hidden": hidden[0],
        "text/chat/logits": model.logits(hidden)[0],
        "text/chat/layers": torch.stack([und[0] for und, _, _ in layers]),
        "text/chat/k": torch.stack([k[0].transpose(0, 1) for k in context.k]),
        "text/chat/v": torch.stack([v[0].transpose(0, 1) for v in context.v]),
        "text/chat/think_logprob": model.token_logp(hidden[:, think], torch.tensor([case["think_targets"]]))[0],
    }


def greedy(setup: Setup, key: str, end: str | None) -> Outputs:
    """The reference returns what it fed: bos and all sampled tokens but the last, be it the end token or the limit's."""
    case, config = setup.cases[key.replace("/", ".")], setup.model.config
    with outputs_of(setup.model.language_model.lm_head) as logits:
        (said,) = generate(
            setup.model,
            setup.context(case["context"]),
            start_id=config.bos_token_id,
            end_id=None if end is None else case[end],
            max_tokens=case["max_length"],
        )
    ids = {f"{key}/ids": torch.tensor([config.bos_token_id, *said.token_ids[:-1]])}
    return ids if end else ids | {f"{key}/logits": torch.cat(logits)[:, 0]}


def time_embed(setup: Setup) -> Outputs:
    t = setup.golden["time_embed/t"]
    return {"time_embed/t": t, "time_embed/out": setup.model.time_embedder(t, setup.dtype)}


def flow(setup: Setup) -> Outputs:
    return {f"{case['key']}/v": velocity(setup, case) for case in setup.cases["flow"]}


def velocity(setup: Setup, case: Mapping[str, Any]) -> Tensor:
    x, t = setup.input(case["x_t"])[None], torch.tensor([case["t"]], dtype=setup.dtype)
    return setup.model.velocity(x, t, setup.context(case["context"]), setup.model.config.grid_hw(*case["size_hw"]))[0]


def flow_debug(setup: Setup) -> Outputs:
    """The reference's rows: start marker, latents, end marker."""
    case = next(case for case in setup.cases["flow"] if case["key"] == setup.cases["flow_debug"]["same_as"])
    transformer, first = setup.model.language_model.model, []
    context = setup.context(case["context"])
    first_layer = transformer.layers[0].register_forward_pre_hook(lambda _, args: first.append(args[:2]))
    x, t = setup.input(case["x_t"])[None], torch.tensor([case["t"]], dtype=setup.dtype)
    with outputs_of(*transformer.layers) as layers, outputs_of(transformer) as final:
        v = setup.model.velocity(x, t, context, setup.model.config.grid_hw(*case["size_hw"]))
    first_layer.remove()

    def rows(und: Tensor, gen: Tensor) -> Tensor:
        return torch.cat((und[0, :1], gen[0], und[0, 1:]))

    return {
        "flow_debug/embed": rows(*first[0]),
        "flow_debug/layers": torch.stack([rows(und, gen) for und, gen, _ in layers]),
        "flow_debug/final": rows(*final[0][:2]),
        "flow_debug/v": v[0],
    }


def trajectories(setup: Setup) -> Outputs:
    outputs: Outputs = {}
    for case in setup.cases["traj"]:
        if case["cfg_text_context"] is None and case["cfg_img_context"] is None:
            outputs |= trajectory(setup, case)
    return outputs


def trajectory(setup: Setup, case: Mapping[str, Any]) -> Outputs:
    context, grid_hw = setup.context(case["context"]), setup.model.config.grid_hw(*case["size_hw"])
    x, v = [], []

    def record(x_SLC: Tensor, t: float) -> Tensor:
        x.append(x_SLC[0])
        v_SLC = setup.model.velocity(x_SLC, torch.tensor([t], dtype=setup.dtype), context, grid_hw)
        v.append(v_SLC[0])
        return v_SLC

    grid = time_grid(case["num_timesteps"], case["timestep_shift"])
    done = denoise(record, setup.input(case["noise"])[None], grid, range(0), 0.0, lambda _: torch.empty(0))
    assert len(v) == case["model_evals"]
    key = case["key"]
    return {f"{key}/t": grid.to(setup.dtype), f"{key}/x": torch.stack([*x, done.latent_SLC[0]]), f"{key}/v": torch.stack(v)}


def vae(setup: Setup) -> Outputs:
    outputs: Outputs = {}
    patch = setup.model.config.latent_patch_size
    for index, (height, width) in enumerate(setup.cases["vae"]["sizes_hw"]):
        image, tokens = setup.input(f"vae/image.{index}"), setup.input(f"vae/tokens.{index}")[None]
        mean, logvar = setup.autoencoder.posterior(image)
        latent = from_tokens(tokens, setup.model.config.grid_hw(height, width), patch)
        assert torch.equal(to_tokens(latent, patch), tokens)
        outputs |= {
            f"vae/mean.{index}": mean,
            f"vae/logvar.{index}": logvar,
            f"vae/encoded.{index}": setup.autoencoder.encode(image, setup.input(f"vae/eps.{index}")),
            f"vae/decoded.{index}": setup.autoencoder.decode(setup.input(f"vae/latent.{index}")),
            f"vae/tokens_uint8.{index}": to_uint8(setup.autoencoder.decode(latent))[0],
        }
    return outputs


GROUPS: dict[str, Callable[[Setup], Outputs]] = {
    "text/": text,
    "time_embed/": time_embed,
    "flow/": flow,
    "flow_debug/": flow_debug,
    "traj/nocfg": trajectories,
    "vae/": vae,
}


@pytest.mark.parametrize("group", GROUPS)
def test_every_golden_of_a_group_is_reproduced(setup: Setup, group: str) -> None:
    golden = {key: value for key, value in setup.golden.items() if key.startswith(group)}
    outputs = GROUPS[group](setup)
    assert outputs.keys() == golden.keys()
    single, steps = (1e-9, 1e-9) if setup.dtype == torch.float64 else (5e-5, 2e-4)
    errors = {key: distance(outputs[key], golden[key]) for key in golden}
    tolerance = steps if group.startswith("traj") else single
    assert {key: error for key, error in errors.items() if error > tolerance} == {}
    print(f"\n{group}* {setup.dtype}: {len(errors)} tensors, largest error {max(errors.values()):.1e}")


def distance(output: Tensor, golden: Tensor) -> float:
    """max|d| / max|golden|; ids must be equal, pictures may differ by one level in one number of a hundred."""
    assert output.shape == golden.shape
    if golden.dtype == torch.int64:
        return 0.0 if torch.equal(output, golden) else 1.0
    difference = (output.double() - golden.double()).abs()
    if golden.dtype == torch.uint8:
        return 0.0 if difference.max() <= 1 and difference.mean() <= 0.01 else 1.0
    assert output.dtype == golden.dtype
    return (difference.max() / golden.double().abs().max()).item()
