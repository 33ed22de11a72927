"""The records that travel between roles, frozen and documented field by field.

Shapes, here and everywhere: P prompts of a step, G siblings of a prompt, S samples (P*G flattened), T tokens, N grid points,
W window steps, L latent tokens of a picture, C channels of a latent token, HW3 a picture. What crosses a process boundary is
tensors and plain values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One line of a prompt file. Example: Prompt(index=7, text="three red circles", metadata={"tag": "counting", ...})."""

    index: int
    """Position in the prompt set: with (seed, step) it seeds everything sampled for this prompt."""
    text: str
    """What the user asks for."""
    picture: Path | None = None
    """A picture to edit, read before the text; None paints from nothing."""
    metadata: Mapping[str, Any]
    """GenEval's format: tag, include, optional exclude, prompt. Verifiers read it, the policy never does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """A text segment the policy conditions on but did not write: the system prompt or the user's prompt."""

    token_ids: tuple[int, ...]
    """[T] without the bos and eos that wrap every segment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenPicture:
    """A picture the policy conditions on but did not paint. Example: 1024 x 768 px -> latent_LC [3072, 64], seen [728, 980, 3].

    The policy sees it twice, as latents and as patches, each a block of its own. None is a block that condition dropout left
    out of fine-tuning: its position stays taken.
    """

    latent_LC: Tensor | None
    """[L, C] float32: clean latent tokens as they were drawn from the posterior, the same for all that read this picture."""
    grid_hw: tuple[int, int]
    """Rows and columns of latent tokens, L = rows * columns."""
    seen_HW3: Tensor | None
    """[H, W, 3] uint8: the picture at the size its patches are cut from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thought:
    """One sampled text segment. Example: 12 tokens and eos -> token_ids [13], behavior_logp [13], truncated False."""

    token_ids: tuple[int, ...]
    """[T] exactly as sampled, never decoded and tokenised again; eos is included when it was sampled."""
    behavior_logp: tuple[float, ...]
    """[T] log-probability of each token under the sampling policy."""
    truncated: bool
    """True when the token limit ended it: it is closed with an eos that carries no loss."""
    policy_version: int
    """The step whose weights sampled it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """What one denoising run leaves for the learner. Example: W=3 of N=25 points, 64x64 tokens -> x_WLC [3, 4096, 64].

    W is 0 where the objective asks for no step: the finished latent is enough for it.
    """

    x_WLC: Tensor
    """[W, L, C] float32: the latent each window step started from."""
    x_next_WLC: Tensor
    """[W, L, C] float32: the latent each window step drew, exactly as it was fed on."""
    mean_WLC: Tensor
    """[W, L, C] float32: the mean of each transition under the sampling policy."""
    start: int
    """Index k of the window's first step; the window is steps start .. start + W - 1."""
    grid_N: Tensor
    """[N] float64: the time grid, 1 first and 0 last. The learner refuses a grid that is not its own."""
    sigma_W: Tensor
    """[W] float64: the noise level of each window step (before the square root of its length); 0 where it is deterministic."""
    latent_LC: Tensor
    """[L, C] float32: the finished latent, before decoding."""
    grid_hw: tuple[int, int]
    """Rows and columns of latent tokens, L = rows * columns."""
    cfg_scale: float
    """Classifier-free guidance scale that painted it; 1 is none. The learner refuses a scale that is not its own."""
    policy_version: int
    """The step whose weights painted it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Painting:
    """The visible end of one denoising run: what judges and galleries see."""

    image_HW3: Tensor
    """[H, W, 3] uint8."""
    latent_LC: Tensor
    """[L, C] float32: the final latent tokens, before decoding."""
    velocity_rms: float
    """Root mean square of the velocity over all denoising steps and elements: its growth against the start is drift."""
    policy_version: int
    """The step whose weights painted it."""


Span = Given | GivenPicture | Thought | Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One chain as the learner trains on it: spans in the order the policy saw or made them, an advantage for each it made."""

    prompt: str
    """What the user asked for, as a differentiable reward reads it; the policy reads spans."""
    spans: tuple[Span, ...]
    """Such as (Given system prompt, Given prompt, Thought, Trajectory); an edit has a GivenPicture before its prompt, a chain
    without thinking no Thought, and one with K paintings of its thought K Trajectories."""
    advantages: tuple[float, ...]
    """Group-relative, one for each Thought and Trajectory, in their order; all the same where a thought is painted once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One verdict. Example: Score(value=0.75, breakdown={"strict": 0.0, "graded": 0.75, "geneval": 1.0, "reason": "..."})."""

    value: float
    """Finite; what training maximises."""
    breakdown: Mapping[str, float | str]
    """Every partial score and reason, for logs and the gallery."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreFailure:
    """A verdict that could not be reached. It is never a number: the group is dropped and counted."""

    reason: str
    """What went wrong, quoting the offending answer."""
    outage: bool = False
    """True when no answer could be had (no judge there, time ran out), False when one came and was wrong."""
