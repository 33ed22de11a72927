"""A tiny random InternVL in a folder of its own, and derivatives by finite differences."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
PREPROCESSOR = {"image_mean": [0.48, 0.45, 0.40], "image_std": [0.22, 0.23, 0.24]}
_MERGES = [("y", "e"), ("ye", "s"), ("Y", "e"), ("Ye", "s"), ("Ġ", "yes"), ("Ġ", "Yes")]
"""Of the six spellings of yes, four are one token; YES and the same after a space are not."""


def save_tiny_internvl(folder: Path) -> None:
    """16 x 16 pixels in patches of 4, four image tokens, two layers of width 16; bytes and _MERGES as vocabulary."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    layers = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *alphabet, *map("".join, _MERGES)))}
    config = InternVLConfig(
        vision_config={**layers, "image_size": [16, 16], "patch_size": [4, 4], "initializer_range": 0.5},
        text_config={
            **layers,
            "model_type": "qwen2",
            "num_key_value_heads": 1,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 1024,
            "initializer_range": 0.5,
        },
        image_token_id=vocabulary["<IMG_CONTEXT>"],
        image_seq_length=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = InternVLForConditionalGeneration(config)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=_MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))


def widen_norms(module: nn.Module) -> None:
    """Put torch's own RMSNorm, same weights, for transformers', which rounds to float32: too coarse for finite differences."""
    name: str
    child: Any
    for name, child in list(module.named_children()):
        if type(child).__name__ == "Qwen2RMSNorm":
            exact = nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon, dtype=torch.float64)
            exact.weight = child.weight
            setattr(module, name, exact)
        else:
            widen_norms(child)


def slopes(value: Callable[[Tensor], Tensor], at: Tensor, *, count: int, step: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The derivative of a float64 function in random directions: by its own gradient, and by central differences."""
    at = at.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(value(at), at)
    generator = torch.Generator().manual_seed(1)
    own, measured = [], []
    for _ in range(count):
        direction = torch.randn(at.shape, generator=generator, dtype=at.dtype)
        direction /= direction.norm()
        own.append((gradient * direction).sum())
        with torch.no_grad():
            measured.append((value(at + step * direction) - value(at - step * direction)) / (2 * step))
    return torch.stack(own), torch.stack(measured)
