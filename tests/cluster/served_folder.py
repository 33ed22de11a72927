"""A Qwen2 folder served by plain vLLM in a process of its own, its environment set before vLLM is imported."""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

Answer = tuple[list[int], list[int], list[float]]
"""Ids of a prompt, ids sampled after it, the log-probability of each."""


def sampled(folder: Path, texts: Sequence[str], num_tokens: int, environment: Mapping[str, str]) -> list[Answer]:
    """What vLLM samples at temperature 1 after each text, tokenised by the folder's own tokenizer."""
    before = dict(os.environ)
    os.environ.update(environment)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        answers = pool.submit(_sampled, folder, texts, num_tokens)
        os.environ.clear()
        os.environ.update(before)
        return answers.result()


def _sampled(folder: Path, texts: Sequence[str], num_tokens: int) -> list[Answer]:
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(folder), dtype="float32", enforce_eager=True, max_model_len=96, max_num_seqs=8, kv_cache_memory_bytes=16 << 20
    )
    outputs = engine.generate(list(texts), SamplingParams(max_tokens=num_tokens, seed=1, logprobs=0), use_tqdm=False)
    answers = []
    for output in outputs:
        ids = list(output.outputs[0].token_ids)
        logps = [step[token].logprob for step, token in zip(output.outputs[0].logprobs, ids, strict=True)]
        answers.append((list(output.prompt_token_ids), ids, logps))
    return answers
