"""Write a tiny Qwen2-VL with random weights, a tokenizer and a processor; nothing is downloaded.

``python -m tests.servers.tiny_qwen2_vl FOLDER [--max-pixels N]``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CORPUS = (
    "system user assistant You are a helpful assistant. Describe the picture in one sentence. "
    "What is in these images? Compare them. image video photo of a cat, a rocket, a cup of coffee"
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(folder: Path, *, max_pixels: int = 448 * 448) -> None:
    """Write the model, 1.3 MB, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, vocabulary = _write_tokenizer(folder)
    _write_processor(folder, max_pixels=max_pixels)
    _write_model(folder, ids, vocabulary)


def _write_tokenizer(folder: Path) -> tuple[dict[str, int], int]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS] * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        model_max_length=8192,
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    # transformers would choose Qwen2Tokenizer by the model's type.
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=1))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return {name: tokenizer.token_to_id(name) for name in SPECIAL}, tokenizer.get_vocab_size()


def _write_processor(folder: Path, *, max_pixels: int) -> None:
    from transformers import Qwen2VLImageProcessor

    Qwen2VLImageProcessor(
        min_pixels=56 * 56,
        max_pixels=max_pixels,
        patch_size=14,
        merge_size=2,
        temporal_patch_size=2,
    ).save_pretrained(folder)


def _write_model(folder: Path, ids: dict[str, int], vocabulary: int) -> None:
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tokens = {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    config = Qwen2VLConfig(
        text_config=dict(
            vocab_size=(vocabulary + 63) // 64 * 64,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
            rope_parameters={
                "rope_type": "default",
                "type": "default",
                "mrope_section": [4, 6, 6],
                "rope_theta": 1e6,
            },
            **tokens,
        ),
        vision_config={
            "depth": 2,
            "embed_dim": 64,
            "hidden_size": 128,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "in_channels": 3,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    model = Qwen2VLForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:  # large weights, so that the tokens depend on the picture
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * (1.6 / parameter[0].numel() ** 0.5))
        model.get_output_embeddings().weight.mul_(3)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({**tokens, "do_sample": False}))
    path = folder / "config.json"
    written = json.loads(path.read_text())
    written["vision_config"]["in_chans"] = 3  # SGLang's name of in_channels
    path.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--max-pixels", type=int, default=448 * 448)
    arguments = parser.parse_args()
    write(arguments.folder, max_pixels=arguments.max_pixels)
