"""A Mask2Former and a CLIP of random weights, small enough to build in a test, saved as their real checkpoints are."""

import json
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Mask2FormerConfig,
    Mask2FormerImageProcessorPil,
    SwinConfig,
)

from reward_server.detectors.coco import CLASSES
from reward_server.detectors.segmenter import Segmenter

WORDS = ("a", "photo", "of", "object", "red", "green", "black", "white", "cat", "-", "colored")


def save_mask2former(path: Path, *, seed: int) -> None:
    """Swin and Mask2Former at their least size, of 5 queries and COCO's classes; pictures at most 64 pixels wide."""
    backbone = SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    small = {"encoder_feedforward_dim": 16, "dim_feedforward": 16, "encoder_layers": 1, "decoder_layers": 2}
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,  # the least that the pixel decoder's 32 groups allow
        mask_feature_size=32,
        hidden_dim=32,
        num_attention_heads=2,
        num_queries=5,
        id2label=dict(enumerate(CLASSES)),
        **small,
    )
    torch.manual_seed(seed)
    model = Segmenter(config)
    torch.nn.init.normal_(model.class_predictor.weight)  # so that some classes are likely
    model.save_pretrained(path)
    Mask2FormerImageProcessorPil(size={"height": 384, "width": 384}).save_pretrained(path)  # as the released folder has it


def save_clip(path: Path, *, seed: int) -> None:
    """A CLIP of two layers with a tokenizer of bytes and a few words."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *(word + "</w>" for word in WORDS)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": vocabulary["<|startoftext|>"], "eos_token_id": vocabulary["<|endoftext|>"]}
    config = CLIPConfig(
        text_config={**sizes, **ends, "pad_token_id": ends["eos_token_id"], "vocab_size": len(vocabulary)},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(path)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(path)
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\n")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}))
