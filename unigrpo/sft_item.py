"""One example to imitate before it becomes tokens and latents, wherever it comes from."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class SftItem:
    """One (prompt, thought, picture). Example: SftItem(prompt="a circle", image_HW3=...) is painted without thinking."""

    system: str = ""
    """Text segment before the prompt; empty for none."""
    source_HW3: Tensor | None = None
    """[H, W, 3] uint8: the picture that the prompt asks to edit; None paints from nothing."""
    prompt: str
    """What is asked for."""
    thought: str | None = None
    """What is thought before painting, exactly as given; None paints straight from the prompt."""
    image_HW3: Tensor
    """[H, W, 3] uint8: what is painted."""
