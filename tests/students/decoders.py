"""Random decoders of every architecture whose width can be cut, small enough to run in a test."""

from __future__ import annotations

from typing import Any

import torch
import transformers

SIZES = {
    "vocab_size": 96,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# Gemma 3 slides over windows of 4 in every other layer.
GEMMA3 = {
    "head_dim": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 4,
}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 6}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "gemma": ("Gemma", {"head_dim": 8, "tie_word_embeddings": True}),
    "gemma untied": ("Gemma", {"head_dim": 8, "tie_word_embeddings": False}),
    "gemma2": ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3", {**GEMMA3, "tie_word_embeddings": True}),
}


def decoder(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """A model of `DECODERS` with random weights; every norm, bias and matrix is drawn."""
    torch.set_num_threads(1)
    family, options = DECODERS[name]
    config_name = f"{family}TextConfig" if family == "Gemma3" else f"{family}Config"
    config = getattr(transformers, config_name)(**{**SIZES, **options, **changes})
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()
