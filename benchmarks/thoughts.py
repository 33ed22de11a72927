"""vLLM's thoughts against plain torch loops over the same model, and against vLLM without the wrapper.

Every thought is of the same length: the end of a text is made impossible by weights that cost nothing (`endless`), as the
product has no option for it. Runs in a process of its own with a reasoner's environment.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.harness import Figure, report, take_turns
from benchmarks.workload import checkpoint, prompts_and_thoughts, quickstart
from configs.schema import TrainConfig
from rollout_workers.reasoner import Reasoner, reasoner_environment
from unigrpo.buckets import pack
from unigrpo.layout import reasoner_prompt_ids, segments_to_ids
from unigrpo.models.bagel.checkpoint import Loaded, load_model, save_model
from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.generate import generate
from unigrpo.models.bagel.model import Bagel
from unigrpo.seeds import derive_seed
from unigrpo.types import Given

NUM_PROMPTS, GROUP_SIZE = 8, 8
SEQUENCES = NUM_PROMPTS * GROUP_SIZE
TOKENS = 32


def measure(config: TrainConfig) -> list[Figure]:
    """All figures; to be called in a process that was started with reasoner_environment."""
    assert config.model.path is not None
    torch.set_num_threads(1)
    model = load_model(config.model.path).model.requires_grad_(False)
    prompts = [prompt for prompt, _ in prompts_and_thoughts(NUM_PROMPTS)]
    seeds_PG = [[derive_seed(0, index, sibling) for sibling in range(GROUP_SIZE)] for index in range(NUM_PROMPTS)]
    reasoner = Reasoner(config)
    reasoner.load(0, pack(model.named_parameters(), version=0, bucket_bytes=config.learner.bucket_bytes))
    given_P = [[Given(token_ids=prompt)] for prompt in prompts]
    thoughts_PG = reasoner.think(given_P, seeds_PG, 1.0, 0)
    assert all(len(thought.token_ids) == TOKENS for thoughts in thoughts_PG for thought in thoughts)
    times = take_turns(
        {
            "reasoner": partial(reasoner.think, given_P, seeds_PG, 1.0, 0),
            "bare vLLM": partial(bare, reasoner, given_P, seeds_PG, is_seeded=True),
            "unseeded vLLM": partial(bare, reasoner, given_P, seeds_PG, is_seeded=False),
            "one by one": partial(one_by_one, model, prompts, seeds_PG),
            "batched loop": partial(batched, model, prompts, seeds_PG),
        }
    )
    rate = SEQUENCES * TOKENS / times.median("reasoner")
    return [
        Figure(name=f"thoughts, {SEQUENCES} sequences of {TOKENS} tokens", value=rate, unit="tokens/s"),
        Figure(
            name="over a KV-cached torch loop, one sequence at a time",
            value=times.ratio("one by one", "reasoner"),
            unit="x",
            at_least=5,
            note=times.note("one by one", "reasoner"),
        ),
        Figure(
            name="over a KV-cached torch loop, all sequences batched",
            value=times.ratio("batched loop", "reasoner"),
            unit="x",
            note=times.note("batched loop", "reasoner"),
        ),
        Figure(
            name="over the bare engine (LLM.generate, same sampling)",
            value=times.ratio("bare vLLM", "reasoner"),
            unit="x",
            note=times.note("bare vLLM", "reasoner"),
        ),
        Figure(
            name="over the bare engine without seeds and log-probabilities",
            value=times.ratio("unseeded vLLM", "reasoner"),
            unit="x",
            note=times.note("unseeded vLLM", "reasoner"),
        ),
    ]


def bare(reasoner: Reasoner, given_P: list[list[Given]], seeds_PG: list[list[int]], *, is_seeded: bool) -> None:
    """The engine of the reasoner, asked directly."""
    from vllm import SamplingParams

    def sampling(seed: int) -> SamplingParams:
        own = {"seed": seed, "logprobs": 0} if is_seeded else {}
        return SamplingParams(temperature=1.0, max_tokens=TOKENS, detokenize=False, **own)

    rows = [reasoner_prompt_ids(given, reasoner._model) for given in given_P]
    reasoner._engine.generate(
        [{"prompt_token_ids": row} for row in rows for _ in range(GROUP_SIZE)],
        [sampling(seed) for seeds in seeds_PG for seed in seeds],
        use_tqdm=False,
    )


@torch.no_grad()
def one_by_one(model: Bagel, prompts: list[tuple[int, ...]], seeds_PG: list[list[int]]) -> None:
    """Each sequence alone, its keys and values cached."""
    for prompt, seeds in zip(prompts, seeds_PG, strict=True):
        ids = torch.tensor([segments_to_ids([prompt], model.config)])
        for seed in seeds:
            _, context = model.prefill(ids, torch.tensor([ids.shape[1]]))
            _continue(model, context, [seed], siblings=1)


@torch.no_grad()
def batched(model: Bagel, prompts: list[tuple[int, ...]], seeds_PG: list[list[int]]) -> None:
    """Every prompt read once, its siblings and all other sequences continued together."""
    rows = [torch.tensor(segments_to_ids([prompt], model.config)) for prompt in prompts]
    length_P = torch.tensor([len(row) for row in rows])
    _, context = model.prefill(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), length_P)
    _continue(model, context, [seed for seeds in seeds_PG for seed in seeds], siblings=GROUP_SIZE)


def _continue(model: Bagel, context: Context, seeds_S: list[int], *, siblings: int) -> None:
    generate(
        model,
        context,
        start_id=model.config.bos_token_id,
        end_id=None,
        max_tokens=TOKENS,
        siblings=siblings,
        temperature=1.0,
        generators=[torch.Generator().manual_seed(seed) for seed in seeds_S],
    )


@torch.no_grad()
def endless(loaded: Loaded) -> dict[str, Tensor]:
    """The model's weights, changed so that it never ends a text: one number of the residual stream is held at 1 for every
    token, and the head of the end token reads that number alone, times -1000.
    """
    weights = loaded.model.state_dict()
    stack = "language_model.model."
    weights[stack + "embed_tokens.weight"][:, 0] = 1
    weights[stack + "norm.weight"][0] = 1
    for layer in range(loaded.config.num_layers):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            weights[f"{stack}layers.{layer}.{name}.weight"][0] = 0
    head = weights["language_model.lm_head.weight"][loaded.config.eos_token_id]
    head.zero_()
    head[0] = -1000
    return weights


def run() -> list[Figure]:
    """Start the process that measures."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        with checkpoint() as source:
            loaded = load_model(source)
            save_model(folder, endless(loaded), loaded.autoencoder, loaded.config, tokenizer_path=loaded.tokenizer_path)
        config = quickstart(folder, f"rollout.max_thought_tokens={TOKENS}", f"reasoner.max_num_seqs={SEQUENCES}")
        os.environ |= reasoner_environment(config)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            return process.submit(measure, config).result()


if __name__ == "__main__":
    report("thoughts", run())
