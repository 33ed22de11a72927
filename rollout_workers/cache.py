"""How large vLLM's key-value cache must be; needs no vLLM, so that it is known before any worker starts."""

from configs.schema import TrainConfig
from unigrpo.models.bagel.config import BagelConfig

BLOCK_SIZE = 32
"""Tokens of one block of the key-value cache: the smallest that vLLM takes on CPUs, as prompts here are short."""
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}


def require_cache(config: TrainConfig, model: BagelConfig) -> None:
    """Raise ValueError when the cache could not hold every thought that a reasoner samples at once."""
    reasoner = config.reasoner
    blocks = reasoner.max_num_seqs * -(-reasoner.max_model_len // BLOCK_SIZE) + 1  # vLLM keeps one for itself
    numbers = 2 * model.num_layers * model.num_kv_heads * model.head_dim
    need = blocks * BLOCK_SIZE * numbers * ELEMENT_BYTES[reasoner.dtype]
    if need > reasoner.kv_cache_bytes:
        raise ValueError(
            f"reasoner.kv_cache_bytes is {reasoner.kv_cache_bytes}, but max_num_seqs={reasoner.max_num_seqs} thoughts of "
            f"max_model_len={reasoner.max_model_len} tokens may need {need}, and preempted thoughts are sampled twice; "
            "raise it, or lower either"
        )
