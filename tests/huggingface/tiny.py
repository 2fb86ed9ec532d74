"""Tiny models with random weights, made on the spot: nothing is downloaded."""

from __future__ import annotations

import json

import tokenizers
import torch
import transformers

# ChatML, with tools as Hermes and Qwen declare them.
TEMPLATE = """
{%- if tools %}<|im_start|>system
# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
# As Gemma's: no system prompt, no tools.
STRICT = """
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}<|im_start|>assistant
"""
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = [
    "Say the name of a river in JSON, then the weather in Oslo: sunny, rain, snow. 안녕하세요 🦊"
]


def tokenizer_of(template):
    bare = tokenizers.Tokenizer(tokenizers.models.BPE())
    bare.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator(TEXT, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def chat_model(folder, *, template=TEMPLATE, window=512):
    """Write a causal language model of a few thousand weights into a folder."""
    tokenizer = tokenizer_of(template)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=window,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(7)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def embedding_model(folder):
    """Write a model of sentence-transformers into a folder: vectors of 16 values."""
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - takes seconds
    from sentence_transformers.sentence_transformer.modules import (  # noqa: PLC0415
        Pooling,
        Transformer,
    )

    tokenizer = tokenizer_of(None)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    torch.manual_seed(7)
    inner = folder / "inner"
    transformers.BertModel(config).save_pretrained(inner)
    tokenizer.save_pretrained(inner)
    word = Transformer(str(inner), max_seq_length=64)
    pooling = Pooling(16)
    whole = SentenceTransformer(
        modules=[word, pooling], device="cpu", prompts={"query": "query: ", "document": ""}
    )
    whole.save(str(folder / "whole"))
    return str(folder / "whole")


def script(tokenizer, text):
    """Return what makes a model write a text and nothing else: its only choice at each step."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    begun = []

    def allowed(_, so_far):
        begun.append(len(so_far))
        step = len(so_far) - begun[0]
        return [ids[step]] if step < len(ids) else [tokenizer.eos_token_id]

    return {"prefix_allowed_tokens_fn": allowed}


def calls(*named):
    return "".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>\n"
        for name, arguments in named
    )
