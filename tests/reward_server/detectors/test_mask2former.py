"""The whole detector on random weights: from the folders of a config to verdicts, each step against transformers' own."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, Mask2FormerForUniversalSegmentation
from transformers.models.mask2former import modeling_mask2former

from configs.verifiers import GenevalReward
from reward_server.detectors import mask2former
from reward_server.detectors.coco import CLASSES
from reward_server.detectors.colors import COLORS, ClipEmbedder
from reward_server.detectors.mask2former import PhotoDetector, photo_detector
from reward_server.detectors.pretrained import load_model
from reward_server.detectors.segmenter import Segmenter
from reward_server.server import RewardServer
from reward_server.verifiers.geneval import GenevalVerifier
from tests.reward_server.detectors.tiny_models import save_clip, save_mask2former
from tests.reward_server.fakes import prompt
from unigrpo.types import Score, ScoreFailure


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    detector, clip = (tmp_path_factory.mktemp(name) for name in ("mask2former", "clip"))
    save_mask2former(detector, seed=1)
    save_clip(clip, seed=2)
    return detector, clip


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask2former, "SIZE", {"shortest_edge": 48, "longest_edge": 64})


def test_a_photograph_keeps_its_shape_at_the_published_size(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    detector = photo_detector(*folders, floor=0.3)
    sizes = {(480, 640): (800, 1066), (1024, 1024): (800, 800), (400, 2000): (267, 1333)}
    for given, expected in sizes.items():
        content_1CHW = detector._content(torch.full((*given, 3), 255, dtype=torch.uint8))
        assert content_1CHW.shape == (1, 3, *expected)
    white_C = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(content_1CHW[0, :, 0, 0], white_C)


def picture(height: int = 50, width: int = 90) -> Tensor:
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


class FakeLoss(torch.nn.Module):
    """Stands where transformers' loss asks for scipy; has the buffer that real checkpoints carry."""

    num_labels, eos_coef = 80, 0.1

    def __init__(self, config: object, weight_dict: object) -> None:
        super().__init__()
        self.register_buffer("empty_weight", torch.ones(81))


def test_the_segmenter_answers_as_transformers_own_class(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_mask2former, "Mask2FormerLoss", FakeLoss)
    theirs = Mask2FormerForUniversalSegmentation.from_pretrained(folders[0], local_files_only=True).eval()
    theirs.save_pretrained(tmp_path)
    assert "criterion.empty_weight" in load_file(tmp_path / "model.safetensors")
    ours = load_model(Segmenter, tmp_path)
    assert not ours.training
    assert ours.dtype == torch.float32
    pixels_BCHW = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        expected = theirs(pixel_values=pixels_BCHW)
        class_logits_BQC, mask_logits_BQhw = ours(pixels_BCHW)
    torch.testing.assert_close(class_logits_BQC, expected.class_queries_logits)
    torch.testing.assert_close(mask_logits_BQhw, expected.masks_queries_logits)
    assert class_logits_BQC.shape == (2, 5, 81)


def test_the_detector_resizes_pads_and_answers_every_candidate(folders: tuple[Path, Path]) -> None:
    detector = photo_detector(*folders, floor=0.3)
    image_HW3 = picture()
    seen = detector(image_HW3)
    # 50 x 90 has its longer side at 64, the shorter at 36 (35.6), and is padded to 64 x 64.
    resized_1CHW = detector._processor(
        images=image_HW3.numpy(), size_divisor=0, input_data_format="channels_last", return_tensors="pt"
    )["pixel_values"]
    assert resized_1CHW.shape == (1, 3, 36, 64)
    padded_1CHW = torch.zeros(1, 3, 64, 64)
    padded_1CHW[:, :, :36] = resized_1CHW
    with torch.inference_mode():
        class_logits_1QC, mask_logits_1Qhw = load_model(Segmenter, folders[0])(padded_1CHW)
    masks_1QHW = interpolate(mask_logits_1Qhw, size=(64, 64), mode="bilinear")[:, :, :36]
    masks_QHW = interpolate(masks_1QHW, size=(50, 90), mode="bilinear")[0]
    expected = []
    for query, probability_C in enumerate(class_logits_1QC[0].softmax(-1)):
        inside_N = masks_QHW[query][masks_QHW[query] > 0].sigmoid()
        for label in range(80):
            if probability_C[label] > 0.3:
                expected.append((CLASSES[label], float(probability_C[label] * inside_N.sum() / (len(inside_N) + 1e-6))))
    assert expected
    assert seen.unrecognised == 0
    assert sorted(one.label for one in seen.objects) == sorted(label for label, _ in expected)
    assert sorted(one.score for one in seen.objects) == pytest.approx(sorted(score for _, score in expected), rel=1e-4)


def test_a_colour_is_what_clip_itself_finds_nearest(folders: tuple[Path, Path]) -> None:
    _, path = folders
    embedder = ClipEmbedder(path)
    model, tokenizer = CLIPModel.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    texts = [f"a photo of a {color} cat" for color in COLORS]
    pixels = CLIPImageProcessorPil.from_pretrained(path)(images=picture(16, 16).numpy(), return_tensors="pt")
    with torch.inference_mode():
        theirs = model(**tokenizer(texts, padding=True, return_tensors="pt"), **pixels)
    torch.testing.assert_close(embedder.texts(texts), theirs.text_embeds)
    torch.testing.assert_close(embedder.picture(picture(16, 16)), theirs.image_embeds[0], atol=1e-5, rtol=1e-4)


def test_from_a_config_to_verdicts(folders: tuple[Path, Path]) -> None:
    detector_path, clip_path = folders
    config = GenevalReward(detector="mask2former", detector_path=detector_path, clip_path=clip_path)
    image_HW3 = picture()
    seen = max(photo_detector(*folders, floor=0.3)(image_HW3).objects, key=lambda one: one.score)
    assert seen.color in COLORS
    other = next(color for color in COLORS if color != seen.color)
    prompts = [
        prompt({"tag": "colors", "include": [{"class": seen.label, "count": 1, "color": color}]})
        for color in (seen.color, other)
    ]
    right, wrong = RewardServer(config).score(prompts, [image_HW3] * 2)
    assert isinstance(right, Score)
    assert isinstance(wrong, Score)
    assert (right.breakdown["geneval"], wrong.breakdown["geneval"]) == (1.0, 0.0)
    assert wrong.breakdown["reason"] == f"expected {other} {seen.label}>=1, found 0 {other}; and 1 {seen.color}"


def test_the_version_follows_the_weights_and_not_the_place(folders: tuple[Path, Path], tmp_path: Path) -> None:
    def version(detector_path: Path, clip_path: Path) -> str:
        return GenevalVerifier(GenevalReward(detector="mask2former", detector_path=detector_path, clip_path=clip_path)).version

    detector_path, clip_path = folders
    moved = shutil.copytree(detector_path, tmp_path / "moved")
    before = version(detector_path, clip_path)
    assert version(moved, clip_path) == before
    save_clip(tmp_path / "other", seed=3)
    save_mask2former(moved, seed=3)
    assert len({before, version(moved, clip_path), version(detector_path, tmp_path / "other")}) == 3


def test_a_checkpoint_that_lacks_weights_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    broken = shutil.copytree(folders[0], tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["class_predictor.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of Segmenter, the first being class_predictor.weight"):
        load_model(Segmenter, broken)


def test_a_checkpoint_of_other_classes_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = shutil.copytree(folders[0], tmp_path / "other")
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"0": "person"', '"0": "wall"'))
    with pytest.raises(ValueError, match="the detector's class 0 is 'wall', but COCO's is 'person'"):
        photo_detector(other, folders[1], floor=0.3)


def test_a_folder_that_is_not_there_is_no_name_to_download(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        load_model(Segmenter, tmp_path / "missing")


def test_a_picture_too_narrow_to_resize_fails_alone(folders: tuple[Path, Path]) -> None:
    detector_path, clip_path = folders
    config = GenevalReward(detector="mask2former", detector_path=detector_path, clip_path=clip_path)
    kite = prompt({"tag": "single_object", "include": [{"class": "kite", "count": 1}]})
    good, narrow = RewardServer(config).score([kite] * 2, [picture(), picture(1, 500)])
    assert isinstance(good, Score)
    assert isinstance(narrow, ScoreFailure)


def test_only_safetensors_are_read(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pickled = shutil.copytree(folders[0], tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_model(Segmenter, pickled)


def test_weights_that_are_broken_fail_the_item(folders: tuple[Path, Path]) -> None:
    detector = photo_detector(*folders, floor=0.3)
    assert isinstance(detector, PhotoDetector)
    detector._model.class_predictor.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        detector(picture())
