"""Parity with the reference implementation: every golden tensor is produced by this model, and agrees.

`--golden FOLDER` runs another folder of the same layout. In bfloat16 the distance is a relative L2 norm, and what a rounded
choice would change altogether (greedy ids, what follows from them, pictures in bytes) is left out by name.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unigrpo.algo.flow import time_grid
from unigrpo.algo.guidance import guided_velocity, is_guided
from unigrpo.denoise import denoise
from unigrpo.models.bagel.autoencoder import AutoEncoder, from_tokens, to_tokens, to_uint8
from unigrpo.models.bagel.checkpoint import load_weights
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.generate import generate
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import Clean, Noised, Seen, Split, Text, pack
from unigrpo.models.bagel.preprocess import ResizeRule, table_rows, to_patches

Outputs = dict[str, Tensor]
CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
SINGLE = {torch.float32: 5e-5, torch.float64: 1e-9, torch.bfloat16: 2e-2}
"""Of one forward pass."""
STEPS = {torch.float32: 2e-4, torch.float64: 1e-9, torch.bfloat16: 5e-2}
"""Of trajectories."""
GUIDED = {torch.float32: 2e-4, torch.float64: 1e-9, torch.bfloat16: 1e-1}
"""Of guided velocities, which extrapolate the differences of two or three: rounding grows by up to both scales' product."""
MAX_PIXELS = 14 * 14 * 9 * 1024
FED_BACK = ("text/greedy", "und/two/greedy_ids", "e2e/think_ids", "e2e/image_uint8", "vae/tokens_uint8")
"""Not compared in bfloat16."""


@dataclass(frozen=True)
class Setup:
    """The reference's models in one dtype, its inputs and what it answered."""

    folder: Path
    dtype: torch.dtype
    model: Bagel
    autoencoder: AutoEncoder
    cases: Mapping[str, Any]
    inputs: Mapping[str, Tensor]
    golden: Mapping[str, Tensor]

    @property
    def config(self) -> BagelConfig:
        return self.model.config

    def input(self, name: str) -> Tensor:
        """Latents, noise and times stay wide in a bfloat16 model."""
        return self.inputs[name].to(torch.float64 if self.dtype == torch.float64 else torch.float32)

    def text(self, name: str) -> Text:
        """A named segment, wrapped."""
        return Text((self.config.bos_token_id, *self.cases["segments"][name], self.config.eos_token_id))

    def seen(self, name: str) -> Seen:
        """A named picture for the vision tower."""
        assert self.config.vision is not None
        image, patch = self.input(name), self.config.vision.patch_size
        return Seen(to_patches(image, patch), (image.shape[1] // patch, image.shape[2] // patch))

    def context(self, segments: Sequence[str]) -> Context:
        """One sample that said these named segments."""
        return self.model.read([[self.text(name) for name in segments]])


@pytest.fixture(scope="module", params=DTYPES)
def setup(request: pytest.FixtureRequest, golden_folder: Path) -> Setup:
    return load_setup(golden_folder, DTYPES[request.param])


def load_setup(folder: Path, dtype: torch.dtype) -> Setup:
    config = BagelConfig.from_folder(folder)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    model, autoencoder = Bagel(config).to(dtype), AutoEncoder(config.vae).to(wide)
    load_weights(model, folder / "state_dict.safetensors")
    load_weights(autoencoder, folder / "ae_state_dict.safetensors")
    return Setup(
        folder=folder,
        dtype=dtype,
        model=model.requires_grad_(False),
        autoencoder=autoencoder.requires_grad_(False),
        cases=json.loads((folder / "cases.json").read_text()),
        inputs=load_file(folder / "inputs.safetensors"),
        golden=load_file(folder / f"golden_f{32 if dtype == torch.float32 else 64}.safetensors"),
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
        "text/chat/layers": torch.stack([und[0] for und, _ in layers]),
        "text/chat/k": torch.stack([k[0].transpose(0, 1) for k in context.k]),
        "text/chat/v": torch.stack([v[0].transpose(0, 1) for v in context.v]),
        "text/chat/think_logprob": model.token_logp(hidden[0, think], torch.tensor(case["think_targets"])),
    }


def greedy(setup: Setup, key: str, end: str | None) -> Outputs:
    """The reference returns what it fed: bos and all sampled tokens but the last, be it the end token or the limit's."""
    case, config = setup.cases[key.replace("/", ".")], setup.config
    with outputs_of(setup.model.language_model.lm_head) as logits:
        said = greedily(setup, setup.context(case["context"]), case["max_length"], None if end is None else case[end])
    ids = {f"{key}/ids": torch.tensor([config.bos_token_id, *said[:-1]])}
    return ids if end else ids | {f"{key}/logits": torch.cat(logits)[:, 0]}


def greedily(setup: Setup, context: Context, max_tokens: int, end: int | None) -> tuple[int, ...]:
    [said] = generate(setup.model, context, start_id=setup.config.bos_token_id, end_id=end, max_tokens=max_tokens)
    return said.token_ids


def time_embed(setup: Setup) -> Outputs:
    t = setup.golden["time_embed/t"]
    return {"time_embed/t": t, "time_embed/out": setup.model.time_embedder(t, setup.dtype)}


def flow(setup: Setup) -> Outputs:
    return {f"{case['key']}/v": velocity(setup, case, setup.context(case["context"])) for case in setup.cases["flow"]}


def velocity(setup: Setup, case: Mapping[str, Any], context: Context) -> Tensor:
    grid_hw = setup.config.grid_hw(*case["size_hw"])
    return setup.model.velocity(
        setup.input(case["x_t"])[None], torch.tensor([case["t"]], dtype=torch.float64), context, grid_hw
    )[0]


def flow_debug(setup: Setup) -> Outputs:
    """The reference's rows: start marker, latents, end marker."""
    case = next(case for case in setup.cases["flow"] if case["key"] == setup.cases["flow_debug"]["same_as"])
    transformer, first = setup.model.language_model.model, []
    context = setup.context(case["context"])
    first_layer = transformer.layers[0].register_forward_pre_hook(lambda _, args: first.append(args[:2]))
    with outputs_of(*transformer.layers) as layers, outputs_of(transformer) as final:
        v = velocity(setup, case, context)
    first_layer.remove()

    def rows(und: Tensor, gen: Tensor) -> Tensor:
        return torch.cat((und[0, :1], gen[0], und[0, 1:]))

    return {
        "flow_debug/embed": rows(*first[0]),
        "flow_debug/layers": torch.stack([rows(und, gen) for und, gen in layers]),
        "flow_debug/final": rows(*final[0]),
        "flow_debug/v": v,
    }


def guidance(setup: Setup) -> Outputs:
    case = setup.cases["cfg"]
    contexts = [setup.context(case[name]) for name in ("cond", "cfg_text", "cfg_img")]
    v_cond, v_text, v_img = (velocity(setup, case, context) for context in contexts)
    guided = {combo["key"]: guide([v_cond[None], v_text[None], v_img[None]], combo)[0] for combo in case["combos"]}
    return {"cfg/v_cond": v_cond, "cfg/v_text": v_text, "cfg/v_img": v_img, **guided}


def guide(velocities: Sequence[Tensor], case: Mapping[str, Any]) -> Tensor:
    """The cases spell the two renormalisation keys in two ways."""
    v_cond, v_text, v_img = velocities
    return guided_velocity(
        v_cond,
        v_text,
        v_img,
        text_scale=case["cfg_text_scale"],
        image_scale=case["cfg_img_scale"],
        renorm=case.get("renorm_type") or case["cfg_renorm_type"],
        renorm_min=case.get("renorm_min", case.get("cfg_renorm_min")),
    )


def trajectories(setup: Setup) -> Outputs:
    outputs: Outputs = {}
    for case in setup.cases["traj"]:
        contexts = [setup.context(case[name] or ()) for name in ("context", "cfg_text_context", "cfg_img_context")]
        grid_hw = setup.config.grid_hw(*case["size_hw"])
        t, x, v = trajectory(setup, case, contexts, setup.input(case["noise"]), grid_hw)
        assert len(v) == case["model_evals"]
        outputs |= {f"{case['key']}/t": t, f"{case['key']}/x": x, f"{case['key']}/v": v}
    return outputs


def trajectory(
    setup: Setup, case: Mapping[str, Any], contexts: Sequence[Context], noise_LC: Tensor, grid_hw: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Times, latents and velocities of a deterministic painting, guided where the case says so."""
    x, v = [], []

    def record(x_SLC: Tensor, t: float) -> Tensor:
        x.append(x_SLC[0])
        guided = "cfg_text_scale" in case and is_guided(t, case["cfg_interval"])
        used = contexts if guided else contexts[:1]
        velocities = [setup.model.velocity(x_SLC, torch.tensor([t], dtype=torch.float64), context, grid_hw) for context in used]
        v.append((guide(velocities, case) if guided else velocities[0])[0])
        return v[-1][None]

    grid = time_grid(case["num_timesteps"], case["timestep_shift"])
    done = denoise(record, noise_LC[None], grid, None, 0.0, lambda _: torch.empty(0))
    return grid.to(noise_LC.dtype), torch.stack([*x, done.latent_SLC[0]]), torch.stack(v)


def vae(setup: Setup) -> Outputs:
    outputs: Outputs = {}
    patch = setup.config.latent_patch_size
    for index, (height, width) in enumerate(setup.cases["vae"]["sizes_hw"]):
        image, tokens = setup.input(f"vae/image.{index}"), setup.input(f"vae/tokens.{index}")[None]
        mean, logvar = setup.autoencoder.posterior(image)
        latent = from_tokens(tokens, setup.config.grid_hw(height, width), patch)
        assert torch.equal(to_tokens(latent, patch), tokens)
        outputs |= {
            f"vae/mean.{index}": mean,
            f"vae/logvar.{index}": logvar,
            f"vae/encoded.{index}": setup.autoencoder.encode(image, setup.input(f"vae/eps.{index}")),
            f"vae/decoded.{index}": setup.autoencoder.decode(setup.input(f"vae/latent.{index}")),
            f"vae/tokens_uint8.{index}": to_uint8(setup.autoencoder.decode(latent))[0],
        }
    return outputs


def vit(setup: Setup) -> Outputs:
    outputs: Outputs = {}
    assert setup.config.vision is not None
    for index in range(sum(name.startswith("vit/image.") for name in setup.inputs)):
        picture = setup.seen(f"vit/image.{index}")
        packed = pack([[picture]], setup.config, device=CPU, dtype=setup.dtype)
        with outputs_of(setup.model.vit_model, setup.model.language_model.model.layers[0]) as seen:
            first: list[Tensor] = []
            handle = setup.model.language_model.model.layers[0].register_forward_pre_hook(
                lambda _, args, first=first: first.append(args[0])
            )
            setup.model(packed)
            handle.remove()
        outputs |= {
            f"vit/patches.{index}": picture.patches_VC,
            f"vit/pos_ids.{index}": table_rows(picture.grid_hw, setup.config.vision.max_patches_per_side),
            f"vit/encoder_out.{index}": seen[0],
            f"vit/llm_embed.{index}": first[0][0, 2:],
        }
    return outputs


def understanding(setup: Setup) -> Outputs:
    prompt = setup.text("prompt")
    one: list[Split] = [setup.seen("vit/image.0"), prompt]
    two: list[Split] = [setup.text("prompt2"), setup.seen("vit/image.0"), setup.seen("vit/image.1"), prompt]
    case = setup.cases["und.two"]
    before = setup.model.read([two[:-1]])
    assert [before.k[0].shape[2], int(before.position_S)] == [*case["kv_len_before_text"], *case["rope_before_text"]]
    limit = len(setup.golden["und/two/greedy_ids"])
    said = greedily(setup, setup.model.read([two]), limit, None)
    return {
        "und/one/logits": last_logits(setup, one),
        "und/two/logits": last_logits(setup, two),
        "und/two/greedy_ids": torch.tensor([setup.config.bos_token_id, *said[:-1]]),
    }


def last_logits(setup: Setup, splits: Sequence[Split]) -> Tensor:
    """Of the last split, a text."""
    packed = pack([splits], setup.config, device=CPU, dtype=setup.dtype)
    return setup.model.logits(setup.model(packed).text_UH[list(packed.places[0][-1])])


def edit(setup: Setup) -> Outputs:
    case, config = setup.cases["edit"], setup.config
    grid_hw = config.grid_hw(*case["size_hw"])
    latent = setup.autoencoder.encode(setup.input("edit/vae_image")[None], setup.input("edit/vae_eps"))
    clean = Clean(to_tokens(latent, config.latent_patch_size)[0], grid_hw)
    pictures: list[Split] = [clean, setup.seen("edit/vit_image")]
    prompt = setup.text("prompt")
    contexts = [setup.model.read([splits]) for splits in ([*pictures, prompt], pictures, [prompt])]
    assert [contexts[1].k[0].shape[2], int(contexts[1].position_S)] == [*case["kv_after_images"], *case["rope_after_images"]]
    assert [contexts[0].k[0].shape[2], int(contexts[0].position_S)] == [*case["kv_after_text"], *case["rope_after_text"]]
    first = setup.model.read([[clean]])
    noise, t = setup.input("edit/noise"), torch.tensor([case["single_step_t"]], dtype=torch.float64)
    v_cond, v_text, v_img = (setup.model.velocity(noise[None], t, context, grid_hw)[0] for context in contexts)
    points, x, v = trajectory(setup, case["traj"], contexts, noise, grid_hw)
    return {
        "edit/cond_latent_tokens": clean.latent_LC,
        "edit/k_after_vae": torch.stack([k[0].transpose(0, 1) for k in first.k]),
        "edit/v_after_vae": torch.stack([v[0].transpose(0, 1) for v in first.v]),
        "edit/text_logits": last_logits(setup, [*pictures, prompt]),
        "edit/v_cond": v_cond,
        "edit/v_text": v_text,
        "edit/v_img": v_img,
        "edit/traj/t": points,
        "edit/traj/x": x,
        "edit/traj/v": v,
    }


@dataclass(frozen=True)
class Training:
    """The reference's two packed samples, as splits, with what is predicted."""

    samples: list[list[Split]]
    thoughts: list[tuple[int, int]]
    """(sample, split) of each text with cross-entropy."""
    target_NC: Tensor
    """noise - picture of every noised token."""


def training(setup: Setup) -> Training:
    config, given = setup.config, setup.input
    grids, shift = setup.cases["train"]["patchified_vae_latent_shapes"], setup.cases["train"]["timestep_shift_used"]
    pictures, offset = [], 0
    for padded, (rows, columns) in zip(given("train/padded_latent"), grids, strict=True):
        patch = config.latent_patch_size
        latent_LC = to_tokens(padded[None, :, : rows * patch, : columns * patch], patch)[0]
        size = rows * columns
        noise_LC = given("train/noise")[offset : offset + size]
        t = given("train/packed_timesteps_raw")[offset].sigmoid().item()
        t = shift * t / (1 + (shift - 1) * t)
        pictures.append((latent_LC, noise_LC, t, (rows, columns)))
        offset += size
    noised = [Noised((1 - t) * latent + t * noise, t, grid) for latent, noise, t, grid in (pictures[0], pictures[2])]
    patches = given("train/packed_vit_tokens")
    assert config.vision is not None
    rows_V = setup.inputs["train/packed_vit_position_ids"]
    side = config.vision.max_patches_per_side
    seen = Seen(patches, (int(rows_V.max()) // side + 1, int((rows_V % side).max()) + 1))
    first: list[Split] = [setup.text("sys"), setup.text("prompt"), setup.text("think"), noised[0]]
    clean = Clean(pictures[1][0], pictures[1][3])
    second: list[Split] = [clean, seen, setup.text("prompt"), noised[1], setup.text("prompt2")]
    target = torch.cat([noise - latent for latent, noise, _, _ in (pictures[0], pictures[2])])
    return Training([first, second], [(0, 2), (1, 4)], target)


def train(setup: Setup) -> Outputs:
    made = training(setup)
    packed = pack(made.samples, setup.config, device=CPU, dtype=setup.dtype)
    require_same_layout(setup, made, packed)
    hidden = setup.model(packed)
    rows = [row for sample, split in made.thoughts for row in packed.places[sample][split][:-1]]
    labels = setup.inputs["train/packed_label_ids"]
    logits = setup.model.logits(hidden.text_UH[rows])
    ce = -setup.model.token_logp(hidden.text_UH[rows], labels)
    mse = (hidden.velocity_NC - made.target_NC).square()
    return {
        "train/logits": logits,
        "train/ce": ce,
        "train/v_pred": hidden.velocity_NC,
        "train/mse": mse,
        "train/loss": (ce.mean() + mse.mean())[None],
    }


def require_same_layout(setup: Setup, made: Training, packed: Any) -> None:
    """Positions and masks equal the reference's, read in its token order."""
    order = [place for tokens in packed.tokens for place in tokens]
    assert torch.equal(packed.position_T[order], setup.inputs["train/packed_position_ids"])
    assert [len(tokens) for tokens in packed.tokens] == setup.cases["train"]["sample_lens"]
    for sample, tokens in enumerate(packed.tokens):
        alone = pack([made.samples[sample]], setup.config, device=CPU, dtype=setup.dtype)
        allowed = allowed_pairs(alone)[list(alone.tokens[0])][:, list(alone.tokens[0])]
        assert torch.equal(allowed, setup.inputs[f"train/attn_allowed.{sample}"].bool())
        assert len(tokens) == len(alone.tokens[0])


def allowed_pairs(packed: Any) -> Tensor:
    """[T, T] which key a query attends to, found out by attending: values one-hot, scores equal."""
    num_tokens = len(packed.position_T)
    value = torch.eye(num_tokens)[None, :, None]
    nothing = torch.zeros(1, num_tokens, 1, num_tokens)
    return packed.attend(nothing, nothing, value)[0, :, 0] > 0


def end_to_end(setup: Setup) -> Outputs:
    case, config = setup.cases["e2e"], setup.config
    head = [setup.text("sys"), setup.text("prompt")]
    said = greedily(setup, setup.model.read([head]), case["max_think_token_n"], config.eos_token_id)
    thought = said[:-1]  # the end token, or the one the reference drops at its limit
    if setup.dtype == torch.bfloat16:
        thought = tuple(setup.golden["e2e/think_ids"].tolist())
    full = [*head, Text((config.bos_token_id, *thought, config.eos_token_id))]
    contexts = [setup.model.read([splits]) for splits in (full, head[:1], head)]
    lengths = case["context_lens"]
    wanted = [*lengths["key_values_lens"], *lengths["cfg_text_key_values_lens"], *lengths["cfg_img_key_values_lens"]]
    assert [context.k[0].shape[2] for context in contexts] == wanted
    renorm, least = case["renorm"].split("/")
    case = {**case, "renorm_type": renorm, "renorm_min": float(least)}
    grid_hw = config.grid_hw(*case["size_hw"])
    _, x, _ = trajectory(setup, case, contexts, setup.input(case["noise"]), grid_hw)
    image = setup.autoencoder.decode(from_tokens(x[-1][None], grid_hw, config.latent_patch_size))
    return {"e2e/think_ids": torch.tensor(thought), "e2e/x": x, "e2e/image_uint8": to_uint8(image)[0]}


GROUPS: dict[str, Callable[[Setup], Outputs]] = {
    "text/": text,
    "time_embed/": time_embed,
    "flow/": flow,
    "flow_debug/": flow_debug,
    "cfg/": guidance,
    "traj/": trajectories,
    "vae/": vae,
    "vit/": vit,
    "und/": understanding,
    "edit/": edit,
    "train/": train,
    "e2e/": end_to_end,
}


def errors_of(setup: Setup, group: str) -> dict[str, float]:
    """Each golden of a group by its name: how far off this model is, in tolerances of that golden."""
    golden = {key: value for key, value in setup.golden.items() if key.startswith(group)}
    outputs = GROUPS[group](setup)
    assert outputs.keys() == golden.keys()
    left_out = FED_BACK if setup.dtype == torch.bfloat16 else ()
    return {
        key: distance(outputs[key], value, setup.dtype) / tolerance(key)[setup.dtype]
        for key, value in golden.items()
        if not key.startswith(left_out)
    }


def tolerance(key: str) -> Mapping[torch.dtype, float]:
    """Of one golden tensor, by dtype."""
    if key.startswith(("cfg/global", "cfg/channel", "cfg/text_channel", "edit/traj/v")):
        return GUIDED
    if key.startswith("traj/cfg") and key.endswith("/v"):
        return GUIDED
    return STEPS if key.startswith(("traj/", "edit/traj/", "e2e/")) else SINGLE


@pytest.mark.parametrize("group", GROUPS)
def test_every_golden_of_a_group_is_reproduced(setup: Setup, group: str) -> None:
    errors = errors_of(setup, group)
    assert {key: error for key, error in errors.items() if not error <= 1} == {}


def test_every_golden_is_in_a_group(golden_folder: Path) -> None:
    for name in ("golden_f32", "golden_f64"):
        keys = set(load_file(golden_folder / f"{name}.safetensors"))
        compared = {key for group in GROUPS for key in keys if key.startswith(group)}
        assert keys - compared == set()


def test_every_gradient_of_the_packed_loss_is_the_reference(golden_folder: Path) -> None:
    for dtype, relative in ((torch.float64, 1e-6), (torch.float32, 1e-3)):  # they are stored in float32
        setup = load_setup(golden_folder, dtype)
        setup.model.requires_grad_(True)
        train(setup)["train/loss"].sum().backward()
        golden = load_file(golden_folder / "train_grads.safetensors")
        own = {name: parameter.grad for name, parameter in setup.model.named_parameters()}
        assert own.keys() == golden.keys()
        whole = sum(gradient.double().square().sum() for gradient in golden.values()) ** 0.5
        for name, gradient in golden.items():
            computed = own[name]
            assert computed is not None, name
            allowed = relative * gradient.double().norm() + 1e-2 * relative * whole
            assert gradient.isfinite().all(), name
            assert (computed.double() - gradient.double()).norm() <= allowed, name


def test_sizes_after_resizing_are_the_reference(setup: Setup) -> None:
    assert setup.cases["resize_table"]
    for name, rows in setup.cases["resize_table"].items():
        assert rows
        *_, longest, shortest, stride = name.split("_")
        rule = ResizeRule(int(longest), int(shortest), int(stride), MAX_PIXELS)
        assert [rule.size(*row["in_wh"][::-1]) for row in rows] == [tuple(row["out_wh"][::-1]) for row in rows]


def test_schedules_are_the_reference(setup: Setup) -> None:
    assert setup.cases["schedule"]
    for case in setup.cases["schedule"]:
        expected = torch.tensor(case["t"], dtype=torch.float64)
        torch.testing.assert_close(time_grid(case["num_timesteps"], case["shift"]), expected, rtol=0, atol=1e-12)


def distance(output: Tensor, golden: Tensor, dtype: torch.dtype) -> float:
    """max|d| / max|golden|, in bfloat16 |d| / |golden|; ids must be equal, bytes differ by one in one number of a hundred."""
    assert output.shape == golden.shape
    assert not golden.is_floating_point() or golden.isfinite().all()
    if golden.dtype == torch.int64:
        return 0.0 if torch.equal(output, golden) else float("inf")
    difference = (output.double() - golden.double()).abs()
    if golden.dtype == torch.uint8:
        return 0.0 if difference.max() <= 1 and difference.mean() <= 0.01 else float("inf")
    if dtype == torch.bfloat16:
        return (difference.norm() / golden.double().norm()).item()
    assert output.dtype == golden.dtype
    return (difference.max() / golden.double().abs().max()).item()
