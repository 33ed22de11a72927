"""Sizes of BAGEL's two neighbours of the language model, and its special tokens."""

from dataclasses import dataclass

SPECIAL_TOKENS = {
    "bos_token_id": ("<|im_start|>", 151644),
    "eos_token_id": ("<|im_end|>", 151645),
    "start_of_image": ("<|vision_start|>", 151652),
    "end_of_image": ("<|vision_end|>", 151653),
}
"""Key of a config -> the token's text, and its id in Qwen2.5's tokenizer."""
NORM_GROUPS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoEncoderConfig:
    """Sizes of the autoencoder; the defaults are FLUX's, which BAGEL took over."""

    resolution: int = 256
    """Pixels a side it was trained at; nothing is computed from it."""
    in_channels: int = 3
    """Channels of a picture."""
    ch: int = 128
    """Channels of the finest level."""
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each level as multiples of ch; every level but the last halves the picture."""
    num_res_blocks: int = 2
    """Residual blocks a level in the encoder; the decoder has one more."""
    z_channels: int = 16
    """Channels of a latent."""
    scale_factor: float = 0.3611
    """latent = scale_factor * (z - shift_factor)."""
    shift_factor: float = 0.1159
    """See scale_factor."""

    def __post_init__(self) -> None:
        for level, multiple in enumerate(self.ch_mult):
            if (self.ch * multiple) % NORM_GROUPS:
                raise ValueError(
                    f"vae_config: ch {self.ch} times ch_mult[{level}] {multiple} is {self.ch * multiple} channels, which "
                    f"{NORM_GROUPS} normalisation groups cannot share; make it a multiple of {NORM_GROUPS}"
                )

    @property
    def downsample(self) -> int:
        """Pixels of a picture's side to one of its latent."""
        return int(2 ** (len(self.ch_mult) - 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """Sizes of the tower that reads pictures; the released one is SigLIP so400m at 980 px."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    """Layers that exist: one less than vit_config.json says."""
    num_heads: int
    patch_size: int
    """Pixels a side of one patch."""
    image_size: int
    """Pixels a side of the largest picture; its patches are the rows of the tower's own position table."""
    num_channels: int
    """Of a picture."""
    layer_norm_eps: float
    max_patches_per_side: int
    """Side of both position tables in patches: the row stride of position ids, whatever the picture's width."""

    @property
    def patch_channels(self) -> int:
        """Numbers of one patch."""
        return self.num_channels * self.patch_size**2
