"""A small BAGEL whose head dim is not hidden / heads, whose heads are grouped, whose pictures are 4 times their latents."""

from itertools import pairwise

import torch
from torch import Tensor

from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import weights_hash
from unigrpo.models.bagel.config import AutoEncoderConfig, BagelConfig
from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.model import Bagel

CONFIG = BagelConfig(
    vocab_size=60,
    hidden_size=24,
    intermediate_size=40,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    rope_theta=1e4,
    rms_norm_eps=1e-5,
    max_position_embeddings=256,
    max_latent_size=5,
    bos_token_id=56,
    eos_token_id=57,
    start_of_image=58,
    end_of_image=59,
    vae=AutoEncoderConfig(ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, z_channels=4, scale_factor=0.7, shift_factor=0.1),
)


def random_model(dtype: torch.dtype, config: BagelConfig = CONFIG) -> Bagel:
    """Random norms and biases too, so that no routing mistake can hide."""
    generator = torch.Generator().manual_seed(0)
    model = Bagel(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            drawn = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.3 * drawn if "norm" in name else 0.3 * drawn)
    return model.to(dtype)


def random_autoencoder() -> AutoEncoder:
    torch.manual_seed(0)
    return AutoEncoder(CONFIG.vae)


def segments(*lengths: int, seed: int = 0) -> list[Tensor]:
    """Random id lists of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, CONFIG.vocab_size, (length,), generator=generator) for length in lengths]


def hash_of(model: Bagel) -> str:
    """Of all weights of a model in memory."""
    weights = model.state_dict()
    return weights_hash(weights, weights.__getitem__)


def padded(segments_S: list[Tensor], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Right-padded ids [S, T] and lengths [S]."""
    ids_ST = torch.nn.utils.rnn.pad_sequence(segments_S, batch_first=True, padding_value=pad)
    return ids_ST, torch.tensor([len(each) for each in segments_S])


def said(model: Bagel, *texts: Tensor) -> Context:
    """The context of one sample that said these segments, prefilled one after another."""
    context = model.empty_context(1)
    for text in texts:
        _, context = model.prefill(text[None], torch.tensor([len(text)]), context)
    return context


def flash_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """What FlashAttention says of itself: sequences lie end to end; a causal mask is aligned to the bottom right corner."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa == (query.shape[1] != key.shape[1])
    bounds = list(zip(pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True))
    assert max_q == max(stop - start for (start, stop), _ in bounds)
    assert max_k == max(stop - start for _, (start, stop) in bounds)
    assert cu_seq_q[-1] == len(query)
    assert cu_seq_k[-1] == len(key) == len(value)
    times = query.shape[1] // key.shape[1]
    mixed = []
    for (q_start, q_stop), (k_start, k_stop) in bounds:
        k, v = (each[k_start:k_stop].repeat_interleave(times, 1) for each in (key, value))
        scores = torch.einsum("qnd,mnd->nqm", query[q_start:q_stop], k) / query.shape[2] ** 0.5
        if window_size == (-1, 0):
            ahead = (k_stop - k_start) - (q_stop - q_start)
            scores = scores + torch.full_like(scores[0], -torch.inf).triu(ahead + 1)
        else:
            assert window_size == (-1, -1)
        mixed.append(torch.einsum("nqm,mnd->qnd", scores.softmax(-1), v))
    return torch.cat(mixed)
