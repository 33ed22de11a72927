"""A tiny Idefics3 with random weights, written as a checkpoint folder that vLLM serves and transformers loads.

Idefics3 because vLLM 0.32 serves it with Pillow's image processor: SmolVLM's processor needs num2words and a video processor,
Qwen-VL and InternVL need torchvision. Every embedding carries a constant in one channel that no layer writes to, and the head
reads it as a bias: "yes" and "no" lead, spaces come last, so that it does not write them for ever between the tokens of a JSON
object. Which of the two words leads is left to chance and the picture.
"""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

SIDE = 32
"""Pixels of the square that every picture is scaled to: 4 x 4 patches, 4 tokens."""
_PATCH = 8
_CONTEXT = 4096
_SPECIAL = ("<pad>", "<bos>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>")
_CONSTANT, _LEAD = 4.0, 8.0
_CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def write_tiny_idefics3(folder: Path, *, seed: int = 0) -> None:
    """Config, tokenizer, processor and float32 weights of about 100,000 parameters."""
    tokenizer = _byte_tokenizer()
    tokenizer.chat_template = _CHAT_TEMPLATE
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    tokens = (SIDE // _PATCH) ** 2 // 2**2
    processor = Idefics3Processor(pictures, tokenizer, image_seq_len=tokens, chat_template=_CHAT_TEMPLATE)
    processor.save_pretrained(folder)
    model = _model(processor.tokenizer, seed)
    model.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that knows three merges: "yes" and "no" are one token each, everything else is spelt."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("y", "e"), ("ye", "s"), ("n", "o")]
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<end_of_utterance>",
        model_max_length=_CONTEXT,
    )


def _model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Idefics3ForConditionalGeneration:
    special = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<{name}>") for name in ("pad", "bos", "image")}
    end = tokenizer.eos_token_id
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Idefics3Config(
        **special,
        eos_token_id=end,
        scale_factor=2,
        tie_word_embeddings=False,
        vision_config={**sizes, "image_size": SIDE, "patch_size": _PATCH, "initializer_range": 0.2},
        text_config={
            **sizes,
            "model_type": "llama",
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": _CONTEXT,
            "pad_token_id": special["pad_token_id"],
            "bos_token_id": special["bos_token_id"],
            "eos_token_id": end,
            "tie_word_embeddings": False,
            "initializer_range": 0.2,
        },
    )
    torch.manual_seed(seed)
    model = Idefics3ForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        text = model.model.text_model
        text.embed_tokens.weight[:, 0] = _CONSTANT
        for layer in text.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[tokenizer.convert_tokens_to_ids(["yes", "no"]), 0] = _LEAD
        model.lm_head.weight[tokenizer.convert_tokens_to_ids(list("ĠĉĊč")), 0] = -_LEAD
    return model
