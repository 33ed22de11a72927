"""Models of transformers from a folder, ready to judge with."""

from pathlib import Path
from typing import Any

import torch


def load_model(kind: Any, path: Path) -> Any:
    """A model of the transformers class `kind` from safetensors in a folder: float32, eval mode, on the GPU where there is one.

    Nothing is downloaded. Raises ValueError when there is no such folder, or when its files lack a weight of the model, which
    transformers would draw at random; OSError when there are no safetensors.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; give the folder of a checkpoint in transformers' format")
    model, report = kind.from_pretrained(
        path, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(set(report["missing_keys"]) & {name for name, _ in model.named_parameters()})
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} weights of {kind.__name__}, the first being {missing[0]}; give a folder that holds "
            "the whole model"
        )
    return model.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
