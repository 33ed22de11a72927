"""`unigrpo export`: a policy taken out of a run, in the released layout or as the text expert alone, which vLLM serves."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from cluster.evaluation_subject import checkpoint_of, own_config, released_layout
from cluster.preflight import read_model
from configs.load import ConfigError, model_folder
from learner.checkpoint import MANIFEST, POLICY, verify
from unigrpo.models.bagel.checkpoint import AUTOENCODER_FILE, TRAVELLING_FILES, copy_files, filling, write_policy
from unigrpo.models.bagel.config import WEIGHTS_FILE, BagelConfig
from unigrpo.models.bagel.config_files import ROOT_FILE
from unigrpo.models.bagel.model import text_expert_name
from unigrpo.models.bagel.weights_file import WeightsFile, write_weights
from unigrpo.tokenizer import TOKENIZER_FILES, Tokenizer

TEXT_WEIGHTS = "model.safetensors"
SILENT_SECONDS = 5.0
"""Between two lines on how far an export is."""


def run_export(subject: Path, to: Path, *, dtype: torch.dtype, text_expert: bool) -> None:
    """Write the policy of `subject` (a run's newest checkpoint, a checkpoint, a folder in the released layout) into `to`.

    Raises ConfigError, and leaves nothing behind, for what is no policy, is not what its checkpoint's manifest says or holds
    numbers that are not finite, and for a folder that holds something or cannot be written.
    """
    if not os.path.exists(model_folder(subject)):  # Path.exists raises for a name that nothing can have
        raise ConfigError(f"{subject} does not exist; give a run folder or a checkpoint")
    source, to = released_layout(checkpoint_of(subject)), _free(to)
    config, tokenizer = read_model(source, "export")
    try:
        _verify(source.resolve())
        if text_expert:
            export_text_expert(source, to, config, tokenizer, dtype)
        else:
            export_policy(source, to, config, dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from None
    size = sum(path.stat().st_size for path in to.iterdir())
    print(f"wrote the {'text expert' if text_expert else 'policy'} of {source} into {to}: {_name(dtype)}, {_gigabytes(size)}")
    print(f"next: {_serving(to, tokenizer, dtype) if text_expert else _evaluation(subject, to)}")


def export_policy(source: Path, to: Path, config: BagelConfig, dtype: torch.dtype) -> None:
    """Copy a folder in the released layout, the model's weights cast to `dtype`, one tensor in memory at a time.

    Raises ValueError for a file that is not the config's or holds a number that is not finite, OSError naming `to` when that
    cannot be written or somebody else fills it meanwhile.
    """
    with filling(to) as beside, WeightsFile(source / WEIGHTS_FILE) as weights:
        write_policy(beside / WEIGHTS_FILE, config, weights.shapes, _told(weights.tensor, weights.shapes), dtype)
        copy_files(source, beside, (AUTOENCODER_FILE, *TRAVELLING_FILES))
        config.save(beside)


def export_text_expert(source: Path, to: Path, config: BagelConfig, tokenizer: Tokenizer, dtype: torch.dtype) -> None:
    """Write what thinks in text as a Qwen2 folder: its parameters under Qwen2's names, its config, the tokenizer.

    generation_config.json stays behind: the penalties in it would change what the policy was trained to say. So does a
    tokenizer that is no byte-pair encoding, such as the shapes world's: transformers and vLLM would take it for Qwen2's and
    cut words in another way, without a word of warning. Raises as export_policy.
    """
    with filling(to) as beside, WeightsFile(source / WEIGHTS_FILE) as weights:
        names = {served: name for name in weights.shapes if (served := text_expert_name(name)) is not None}
        shapes = {served: weights.shapes[name] for served, name in names.items()}
        write_weights(
            beside / TEXT_WEIGHTS,
            [(served, shape, dtype) for served, shape in shapes.items()],
            _told(lambda served: weights.tensor(names[served]), shapes),
        )
        content = config.llm_dict() | {"torch_dtype": _name(dtype)}
        (beside / ROOT_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if tokenizer.is_bpe:
            copy_files(source, beside, TOKENIZER_FILES)


def _verify(source: Path) -> None:
    """Raises ValueError unless a policy is what the manifest of its checkpoint says, if it has one."""
    if source.name == POLICY and (source.parent / MANIFEST).is_file():
        print(f"checking {source} against {source.parent / MANIFEST}", flush=True)
        verify(source.parent, POLICY)


def _free(to: Path) -> Path:
    """Where `to` leads, links followed: absent, or an empty folder. Raises ConfigError."""
    try:
        target = to.resolve()
        taken = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a circle of links, a NUL in it
        raise ConfigError(f"--to {str(to)!r} cannot be a folder ({error}); give another path") from None
    if taken:
        raise ConfigError(f"--to {to} exists and is not an empty folder; give another, what is there is not overwritten")
    if to.is_symlink() and not target.exists():
        raise ConfigError(f"--to {to} is a link to {target}, where nothing is; make that folder, or give another path")
    return target


def _told(tensor: Callable[[str], Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Callable[[str], Tensor]:
    """The same, saying every few seconds how much of all has been asked for."""
    total, done, last = sum(map(math.prod, shapes.values())), 0, time.monotonic()

    def told(name: str) -> Tensor:
        nonlocal done, last
        if time.monotonic() - last > SILENT_SECONDS:
            last = time.monotonic()
            print(f"{100 * done // total} % of {total / 1e9:.2f} billion numbers written", flush=True)
        done += math.prod(shapes[name])
        return tensor(name)

    return told


def _evaluation(subject: Path, to: Path) -> str:
    """The command that scores what was exported, by the config of the run it came from if that is a training run."""
    own = own_config(subject)
    return f"unigrpo evaluate {to}" + ("" if own is None else f" --config {own}")


def _serving(to: Path, tokenizer: Tokenizer, dtype: torch.dtype) -> str:
    """The command that serves a text expert: by token ids alone where its tokenizer stayed behind."""
    return f"vllm serve {to} --dtype {_name(dtype)}" + ("" if tokenizer.is_bpe else " --skip-tokenizer-init")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
