"""The exported text expert in vLLM: what it serves is the policy."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from cluster.export import run_export
from rollout_workers.reasoner import reasoner_environment
from tests.cluster.served_folder import sampled
from tests.rollout_workers.fakes import MODEL, train_config
from tests.unigrpo.released_tokenizer import save_released_tokenizer, with_its_tokens
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import load_model, save_model
from unigrpo.models.bagel.model import Bagel
from unigrpo.tokenizer import load_tokenizer

pytestmark = pytest.mark.slow

TEXTS = [f"<|im_start|>{text}<|im_end|><|im_start|>" for text in ("the red", "drawing the ring there", "in")]


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A folder in the released layout, random in every parameter."""
    save_released_tokenizer(tmp_path)
    config = with_its_tokens(MODEL)
    torch.manual_seed(0)
    weights = {
        name: value + 0.2 * torch.randn(value.shape) if "pos_embed" not in name else value
        for name, value in Bagel(config).state_dict().items()
    }
    folder = tmp_path / "released"
    save_model(folder, weights, AutoEncoder(config.vae), config, tokenizer_path=tmp_path / "tokenizer.json")
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.5, "top_k": 3}))
    return folder


def test_vllm_serves_the_policys_log_probabilities(released: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    run_export(released, served, dtype=torch.float32, text_expert=True)
    answers = sampled(served, TEXTS, 24, reasoner_environment(train_config(released)))
    model, tokenizer = load_model(released).model.requires_grad_(False), load_tokenizer(released)
    for text, (prompt, ids, logps) in zip(TEXTS, answers, strict=True):
        assert tuple(prompt) == tokenizer.encode(text)
        fed = torch.tensor([[*prompt, *ids[:-1]]])
        hidden, _ = model.prefill(fed, torch.tensor([fed.shape[1]]))
        logp_TV = model.logits(hidden[0, len(prompt) - 1 :]).log_softmax(-1)
        expected = logp_TV[torch.arange(len(ids)), torch.tensor(ids)]
        assert len(set(ids)) > 1
        assert_close(torch.tensor(logps), expected, rtol=0, atol=1e-4)
