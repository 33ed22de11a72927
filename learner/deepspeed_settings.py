"""What the engine tells DeepSpeed."""

from typing import Any

SUB_GROUP_SIZE = 1 << 25
"""Elements of a rank's partitions that ZeRO-3 casts and steps at once: its passing copies are of this size."""


def deepspeed_settings(stage: int, max_grad_norm: float, num_elements: int, *, low_precision: bool) -> dict[str, Any]:
    """DeepSpeed's own configuration. Accumulation is marked by hand, so one accumulation step is what it is told."""
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "contiguous_gradients": stage >= 2,
            "reduce_bucket_size": min(500_000_000, num_elements),
            "stage3_param_persistence_threshold": 0,
            "sub_group_size": SUB_GROUP_SIZE,
        },
    }
    if low_precision:
        settings |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return settings
