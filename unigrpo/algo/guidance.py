"""Classifier-free guidance as BAGEL does it: away from the velocity without the prompt, then from the one without pictures.

The norms of the renormalisation are each picture's own. The reference takes its `global` norm over all pictures that it packs
together, so that a picture changes with its neighbours there; for one picture the two agree.

Shapes: S samples, L latent tokens of a picture, C channels of a latent token.
"""

from typing import Literal

from torch import Tensor
from torch.linalg import vector_norm

Renorm = Literal["global", "channel", "text_channel"]
PICTURE, TOKEN = (-2, -1), (-1,)
"""Dimensions that a norm is taken over."""
EPS = 1e-8
"""Keeps the renormalisation finite where the guided velocity vanishes."""


def is_guided(t: float, interval: tuple[float, float]) -> bool:
    """Whether guidance is on at flow time t: lo < t <= hi."""
    lo, hi = interval
    return lo < t <= hi


def guided_velocity(
    v_cond_SLC: Tensor,
    v_text_SLC: Tensor,
    v_img_SLC: Tensor | None,
    *,
    text_scale: float,
    image_scale: float,
    renorm: Renorm,
    renorm_min: float,
) -> Tensor:
    """u = v_text + a (v_cond - v_text), then v_img + b (u - v_img) where b > 1, shrunk to the norm of v_cond.

    Args:
        v_cond_SLC: with the whole context.
        v_text_SLC: with the context before the last given text.
        v_img_SLC: with all texts but no pictures and no thought; None where image_scale is 1, which has no use for it.
        text_scale: a; at 1 or less there is no guidance, whatever image_scale says.
        image_scale: b.
        renorm: what is shrunk, see `shrunk`; `text_channel` shrinks each token's u before the image step, and not after it.
        renorm_min: the least factor of the shrinking; 1 switches it off.
    """
    if text_scale <= 1:
        return v_cond_SLC
    guided_SLC = v_text_SLC + text_scale * (v_cond_SLC - v_text_SLC)
    if renorm == "text_channel":
        guided_SLC = shrunk(guided_SLC, v_cond_SLC, TOKEN, renorm_min)
    if image_scale > 1:
        assert v_img_SLC is not None, "image guidance needs the velocity without pictures"
        guided_SLC = v_img_SLC + image_scale * (guided_SLC - v_img_SLC)
    if renorm == "text_channel":
        return guided_SLC
    return shrunk(guided_SLC, v_cond_SLC, PICTURE if renorm == "global" else TOKEN, renorm_min)


def shrunk(guided_SLC: Tensor, v_cond_SLC: Tensor, over: tuple[int, ...], least: float) -> Tensor:
    """guided * clamp(|v_cond| / |guided|, least, 1), the norms over these dimensions: nothing is made longer."""
    ratio = vector_norm(v_cond_SLC, dim=over, keepdim=True) / (vector_norm(guided_SLC, dim=over, keepdim=True) + EPS)
    shrunk_SLC: Tensor = guided_SLC * ratio.clamp(least, 1)
    return shrunk_SLC
