"""CLIP scores of a tiny random model against transformers' own logits and the formulas by hand."""

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, SiglipConfig, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from configs.verifiers import PreferenceReward
from reward_server.verifiers.preference import PreferenceVerifier
from unigrpo.types import Prompt, Score, ScoreFailure

WINDOW = 12
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SCALE = 20.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model of random weights that reads single characters, in safetensors, with its tokenizer and processor."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz<|>"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[])
    tokenizer.save_pretrained(folder)
    end = vocabulary["<|endoftext|>"]
    ids = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    text = {**TINY, **ids, "vocab_size": len(pieces), "max_position_embeddings": WINDOW}
    config = CLIPConfig(text_config=text, vision_config={**TINY, "image_size": 32, "patch_size": 8}, projection_dim=8)
    torch.manual_seed(0)
    model = CLIPModel(config)
    model.logit_scale.data.fill_(math.log(SCALE))
    model.save_pretrained(folder)
    size = {"shortest_edge": 32}
    CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def prompt(text: str) -> Prompt:
    return Prompt(index=0, text=text, metadata={})


def pictures(*sizes: tuple[int, int]) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randint(0, 256, (*size, 3), dtype=torch.uint8) for size in sizes]


def scores(verifier: PreferenceVerifier, texts: list[str], images: list[Tensor]) -> list[Score]:
    verdicts = verifier.score([prompt(text) for text in texts], images)
    assert all(isinstance(verdict, Score) for verdict in verdicts)
    return [verdict for verdict in verdicts if isinstance(verdict, Score)]


def expected_logits(folder: Path, texts: list[str], images: list[Tensor]) -> list[float]:
    """exp(logit_scale) * cosine by transformers itself, one pair at a time."""
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    logits = []
    for text, image in zip(texts, images, strict=True):
        tokens = tokenizer([text], truncation=True, max_length=WINDOW, return_tensors="pt")
        pixels = processor(images=[Image.fromarray(image.numpy())], return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**tokens, **pixels).logits_per_image.item())
    return logits


TEXTS = ["a cat", "dog", "a cat", "owl x"]
IMAGES = pictures((32, 32), (40, 64), (100, 33), (16, 16))


def test_pick_score_is_the_models_logit_over_100(checkpoint: Path) -> None:
    verifier = PreferenceVerifier(PreferenceReward(path=checkpoint))
    found = scores(verifier, TEXTS, IMAGES)
    logits = expected_logits(checkpoint, TEXTS, IMAGES)
    assert [score.value for score in found] == pytest.approx([logit / 100 for logit in logits], abs=1e-6)
    assert len({round(logit, 4) for logit in logits}) == 4
    assert all(score.breakdown["unread_tokens"] == 0.0 for score in found)
    assert verifier.bounds == pytest.approx((-SCALE / 100, SCALE / 100))


@pytest.mark.parametrize("sign", [-1, 1])
def test_clip_score_is_the_cosine_above_zero_times_two_and_a_half(checkpoint: Path, tmp_path: Path, sign: int) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["text_projection.weight"] *= -sign
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    verifier = PreferenceVerifier(PreferenceReward(path=folder, formula="clip_score"))
    cosines = [logit / SCALE for logit in expected_logits(folder, TEXTS, IMAGES)]
    assert all(sign * cosine > 0 for cosine in cosines)
    found = scores(verifier, TEXTS, IMAGES)
    assert [score.value for score in found] == pytest.approx([max(2.5 * cosine, 0.0) for cosine in cosines], abs=1e-6)
    assert [score.breakdown["cosine"] for score in found] == pytest.approx(cosines, abs=1e-6)
    assert verifier.bounds == (0.0, 2.5)


def test_a_prompt_beyond_the_window_is_judged_by_its_beginning_and_says_so(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    verifier = PreferenceVerifier(PreferenceReward(path=checkpoint))
    fits = "a b c d e f g h i j"  # ten tokens between start and end
    with caplog.at_level(logging.WARNING):
        short, long, longer = scores(verifier, [fits, fits + " k", fits + " k l m"], [IMAGES[0]] * 3)
    assert short.value == pytest.approx(long.value) == pytest.approx(longer.value)
    assert [score.breakdown["unread_tokens"] for score in (short, long, longer)] == [0.0, 1.0, 3.0]
    assert [record.message for record in caplog.records if "i j k l m" in record.message]


def test_a_prompt_cannot_end_itself(checkpoint: Path) -> None:
    verifier = PreferenceVerifier(PreferenceReward(path=checkpoint))
    plain, spelt = scores(verifier, ["a", "a <|endoftext|>"], [IMAGES[0]] * 2)
    assert plain.value != pytest.approx(spelt.value, abs=1e-4)
    assert spelt.breakdown["unread_tokens"] == 4.0  # start, a, 13 characters and end are 16


def test_what_cannot_be_judged_fails_alone(checkpoint: Path) -> None:
    verifier = PreferenceVerifier(PreferenceReward(path=checkpoint))
    images = [IMAGES[0], torch.zeros(9, 1, 3, dtype=torch.uint8), torch.zeros(0, 4, 3, dtype=torch.uint8), IMAGES[1]]
    verdicts = verifier.score([prompt(text) for text in ("a cat", "a cat", "a cat", "a cat", "a \ud800")], [*images, IMAGES[0]])
    assert [type(verdict) for verdict in verdicts] == [Score, ScoreFailure, ScoreFailure, Score, ScoreFailure]
    assert "1 x 9 pixels" in verdicts[1].reason  # type: ignore[union-attr]
    assert verifier.score([], []) == []


def test_the_version_names_weights_and_formula(checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    versions = [PreferenceVerifier(PreferenceReward(path=path)).version for path in (checkpoint, copy)]
    assert versions[0] == versions[1]
    assert PreferenceVerifier(PreferenceReward(path=copy, formula="clip_score")).version != versions[0]


def lacks_scale(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["logit_scale"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def is_siglip(folder: Path) -> None:
    vision: dict[str, Any] = {**TINY, "image_size": 32, "patch_size": 8}
    SiglipModel(SiglipConfig(text_config={**TINY, "vocab_size": 64}, vision_config=vision)).save_pretrained(folder)


def has_pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def has_no_processor(folder: Path) -> None:
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lacks_scale, "lacks 1 weights .*logit_scale"),
        (is_siglip, "model_type is 'siglip'"),
        (has_pickled_weights, "safetensors"),
        (has_no_processor, "preprocessor_config.json"),
        (lambda folder: (folder / "config.json").unlink(), "config.json|model type|model_type"),
    ],
)
def test_what_is_no_clip_checkpoint_is_refused(checkpoint: Path, tmp_path: Path, spoil: Any, message: str) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    spoil(folder)
    with pytest.raises(ValueError, match=f"(?s)is no CLIP checkpoint.*({message})"):
        PreferenceVerifier(PreferenceReward(path=folder))


def test_a_path_still_to_be_given_is_named() -> None:
    with pytest.raises(ValueError, match=r"reward\.path is null"):
        PreferenceVerifier(PreferenceReward())
