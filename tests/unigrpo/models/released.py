"""The released model's files and sizes as they are, and a small model that has all of its parts."""

from dataclasses import replace

from tests.unigrpo.models.fakes import CONFIG
from unigrpo.models.bagel.config import BagelConfig, VisionConfig

QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "qk_norm": True,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
VIT = {
    "hidden_size": 1152,
    "image_size": 980,
    "intermediate_size": 4304,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
ROOT = {
    "model_type": "bagel",
    "visual_gen": True,
    "visual_und": True,
    "connector_act": "gelu_pytorch_tanh",
    "interpolate_pos": False,
    "latent_patch_size": 2,
    "max_latent_size": 32,
    "timestep_shift": 1.0,
    "vae_config": {"downsample": 8, "z_channels": 16},
    "vit_max_num_patch_per_side": 70,
}
FILES = {"llm_config.json": QWEN, "vit_config.json": VIT, "config.json": ROOT}
"""With Hugging Face's own keys, and a latent table's size that is not the weights'."""
RELEASED = BagelConfig(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    max_position_embeddings=32768,
    max_latent_size=64,
    vision=VisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_layers=26,
        num_heads=16,
        patch_size=14,
        image_size=980,
        num_channels=3,
        layer_norm_eps=1e-6,
        max_patches_per_side=70,
    ),
)
"""BAGEL-7B-MoT, by its released config files."""
SEEING = replace(
    CONFIG,
    vision=VisionConfig(
        hidden_size=16,
        intermediate_size=20,
        num_layers=1,
        num_heads=2,
        patch_size=14,
        image_size=42,
        num_channels=3,
        layer_norm_eps=1e-6,
        max_patches_per_side=3,
    ),
)
