"""The worker that thinks: vLLM in this process, serving the text expert as Qwen2 with qk-norm.

The engine starts with no weights and serves nothing until `load` has filled it; a restarted worker is a fresh one. Sampling and
loading alternate in one thread, so no thought mixes two versions. One engine is one device: tensor parallelism is left out.

Shapes: P prompts, G siblings of a prompt.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from configs.load import model_folder
from configs.schema import TrainConfig
from rollout_workers.cache import BLOCK_SIZE, require_cache
from rollout_workers.weights import collect, parameter_shapes, require
from unigrpo.buckets import Bucket
from unigrpo.layout import reasoner_prompt_ids
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.model import text_expert_name
from unigrpo.types import Given, Thought

PREFILL_TOKENS = 4096
"""Prompt tokens prefilled in one step of the engine."""


def reasoner_environment(config: TrainConfig) -> dict[str, str]:
    """What must be set before a reasoner's process imports torch or vllm."""
    return {
        "OMP_NUM_THREADS": str(config.reasoner.placement.num_threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # workers share cores; pinning would put all on the same one
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in this process
        "TORCHDYNAMO_DISABLE": "1",  # or the first log-probabilities wait seconds for a compiler
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


class Reasoner:
    """Samples thoughts in groups: token ids, their log-probabilities, one seed a sample."""

    def __init__(self, config: TrainConfig) -> None:
        """Start an engine for the model of `model.path`; only its sizes are read.

        Raises ImportError when vLLM is not installed, and ValueError when the key-value cache is too small.
        """
        assert config.model.path is not None, "checked before anything starts"
        self._model = BagelConfig.from_folder(model_folder(config.model.path))
        self._max_model_len = config.reasoner.max_model_len
        self._max_thought_tokens = config.rollout.max_thought_tokens
        self._expected = parameter_shapes(self._model)
        self._version: int | None = None
        require_cache(config, self._model)
        self._engine = _start_engine(config, self._model)

    def version(self) -> int | None:
        """The version served; None for a fresh worker and after a load that failed."""
        return self._version

    def load(self, version: int, buckets: Iterable[Bucket]) -> None:
        """Serve another version: of the whole model's buckets, the text expert goes into the engine.

        Raises ValueError when they are not exactly this model's tensors; nothing is served then.
        """
        self._version = None
        tensors = collect(version, buckets, self._expected)
        text = [(name, tensor) for key, tensor in tensors.items() if (name := text_expert_name(key)) is not None]
        self._engine.start_weight_update()
        self._engine.update_weights({"update_info": {"tensors": text}})
        self._engine.finish_weight_update(weight_version=str(version))
        if not self._engine.reset_prefix_cache():
            raise RuntimeError(f"version {version} is not served: the prefix cache of the one before could not be dropped")
        self._version = version

    def think(
        self,
        given_P: Sequence[Sequence[Given]],
        seeds_PG: Sequence[Sequence[int]],
        temperature: float,
        version: int,
    ) -> list[list[Thought]]:
        """Sample a thought for every seed of every prompt; the same seed gives the same thought in any batch.

        Args:
            given_P: what comes before the thoughts of each prompt: the system prompt, if any, and its text.
            seeds_PG: one seed a sample; its thoughts come back in this order.
            temperature: 1 in training, 0 is greedy; top-p and top-k are off. Log-probabilities are those of the distribution
                sampled from, the plain one when greedy.
            version: of the weights that must sample.

        Raises:
            NotServing: another version is served, or none.
            ValueError: a prompt leaves no room for the longest thought.
        """
        require(version, self._version)
        prompts_P = [reasoner_prompt_ids(given, self._model) for given in given_P]
        for prompt in prompts_P:
            self._require_room(prompt)
        samples = [(prompt, seed) for prompt, seeds in zip(prompts_P, seeds_PG, strict=True) for seed in seeds]
        outputs = self._engine.generate(
            [{"prompt_token_ids": prompt} for prompt, _ in samples],
            [self._sampling(seed, temperature) for _, seed in samples],
            use_tqdm=False,
        )
        thoughts = iter([self._thought(output.outputs[0], version) for output in outputs])
        return [[next(thoughts) for _ in seeds] for seeds in seeds_PG]

    def _require_room(self, prompt: Sequence[int]) -> None:
        room = self._max_model_len - self._max_thought_tokens
        if len(prompt) > room:
            raise ValueError(
                f"a prompt has {len(prompt)} tokens with its system prompt, but reasoner.max_model_len={self._max_model_len} "
                f"leaves {room} beside rollout.max_thought_tokens={self._max_thought_tokens}; shorten it or change either"
            )

    def _sampling(self, seed: int, temperature: float) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=temperature,
            seed=seed,
            max_tokens=self._max_thought_tokens,
            stop_token_ids=[self._model.eos_token_id],
            logprobs=0,  # of the sampled token only
            detokenize=False,
        )

    def _thought(self, completion: Any, version: int) -> Thought:
        token_ids = tuple(completion.token_ids)
        return Thought(
            token_ids=token_ids,
            behavior_logp=tuple(step[token].logprob for step, token in zip(completion.logprobs, token_ids, strict=True)),
            truncated=token_ids[-1] != self._model.eos_token_id,
            policy_version=version,
        )


def _start_engine(config: TrainConfig, model: BagelConfig) -> Any:
    try:
        from vllm import LLM
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise ImportError(
            "a reasoner needs vLLM, which is not installed; run `make setup` on a CPU machine, or "
            "`pip install -e .[gpu]` on one with GPUs"
        ) from error
    from vllm.config import WeightTransferConfig

    from rollout_workers import vllm_weights

    vllm_weights.register()
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(model.llm_dict()), encoding="utf-8")
        engine = LLM(
            folder,
            dtype=config.reasoner.dtype,
            load_format="dummy",
            skip_tokenizer_init=True,
            generation_config="vllm",
            enforce_eager=True,
            enable_prefix_caching=True,
            enable_chunked_prefill=False,  # with it, vLLM's CPU engine dies on seeded requests
            block_size=BLOCK_SIZE,
            kv_cache_memory_bytes=config.reasoner.kv_cache_bytes,
            max_model_len=config.reasoner.max_model_len,
            max_num_seqs=config.reasoner.max_num_seqs,
            max_num_batched_tokens=max(config.reasoner.max_model_len, PREFILL_TOKENS),
            logprobs_mode="processed_logprobs",
            weight_transfer_config=WeightTransferConfig(backend=vllm_weights.BACKEND),
        )
    engine.init_weight_transfer_engine({"init_info": {}})
    return engine
