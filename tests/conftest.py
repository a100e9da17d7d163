"""A tokenizer and models small enough to build in a test; nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run; `pytest --hypothesis-profile=default` draws others each time.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = ["positive", "negative", "yes", "no", "good", "bad", "film", "the", "was", "very"]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Callable[..., Any]:
    """Return a builder of a byte-level tokenizer with a few whole words and a chat template."""

    def build(template: str | None = CHATML) -> Any:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        core.train_from_iterator([f"{word} {word}\n{word}" for word in WORDS] * 3, trainer)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
        )
        tokenizer.chat_template = template
        return tokenizer

    return build


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """Return a builder of a random Llama of a few thousand parameters."""

    def build(*, seed: int = 0, layers: int = 2, window: int = 512, **options: Any) -> Any:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.set_num_threads(1)
        config = LlamaConfig(
            vocab_size=330,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=window,
            initializer_range=0.25,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            **options,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).eval()

    return build
