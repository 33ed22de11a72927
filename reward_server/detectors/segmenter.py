"""Mask2Former as transformers has it, without the loss, which nobody needs here and which asks for scipy.

Imported where a detector is built: this module loads transformers' models.
"""

from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerModel, Mask2FormerPreTrainedModel


class Segmenter(Mask2FormerPreTrainedModel):
    """Reads the weights of Mask2FormerForUniversalSegmentation, and answers as it does."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__(config)
        self.model = Mask2FormerModel(config)
        self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Of pictures [B, 3, H, W]: class logits [B, Q, C + 1], "no object" the last, and mask logits [B, Q, H/4, W/4]."""
        answer = self.model(pixel_values=pixel_values, output_hidden_states=True)
        query_QBD = answer.transformer_decoder_intermediate_states[-1]
        return self.class_predictor(query_QBD).transpose(0, 1), answer.masks_queries_logits[-1]
