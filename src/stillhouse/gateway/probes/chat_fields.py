"""Every field of chat completions, text completions and embeddings beyond the answer itself.

Read from: vLLM at commits 002032ee (chat and text completions), 022e555d (what both share) and
010a69ce; SGLang at 004c82e0 (entrypoints/openai/protocol.py); llama.cpp at 00efb3e1
(tools/server/server-task.cpp); the types of OpenAI's Python client 3.54.0, which a test compares
with the one installed; `transformers serve` 5.23. Fields of earlier versions stay. A row is a
probe: the field is sent with a secret in it, and a gateway must not hand the secret on. What
upstreams will invent tomorrow is there too, under names that nobody uses.
"""

from __future__ import annotations

from stillhouse.gateway.probes.shapes import (
    Fields,
    both_logprobs,
    count,
    counts,
    custom_call,
    logprobs,
    mapping,
    mappings,
    old_logprobs,
    probabilities,
    prompt_logprobs,
    reals,
    text,
    tokens,
)

# Where a field sits: the reply, its choice, what the choice said (message or delta), a call of a
# tool in it, its usage.
CHAT: dict[str, dict[str, Fields]] = {
    "vllm": {
        "reply": {
            "id": text,
            "model": text,
            "created": count,
            "system_fingerprint": text,
            "service_tier": text,
            "prompt_logprobs": prompt_logprobs,
            "prompt_token_ids": counts,
            "prompt_text": text,
            "kv_transfer_params": mapping,
            "ec_transfer_params": mapping,
            "metrics": mapping,
        },
        "choice": {
            "logprobs": logprobs,
            "token_ids": counts,
            "stop_reason": text,
            "routed_experts": text,
            "prompt_token_ids": counts,
        },
        "said": {
            "reasoning": text,
            "reasoning_content": text,
            "function_call": mapping,
            "audio": mapping,
            "annotations": mappings,
            "citations": mappings,
        },
        "usage": {"prompt_tokens_details": mapping, "completion_tokens_details": mapping},
    },
    "sglang": {
        "reply": {
            "id": text,
            "model": text,
            "created": count,
            "metadata": mapping,
            "sglext": mapping,
            "meta_info": mapping,
        },
        "choice": {
            "logprobs": both_logprobs,
            "matched_stop": text,
            "hidden_states": reals,
            "meta_info": mapping,
            "output_ids": counts,
            "token_ids": counts,
            "prompt_token_ids": counts,
            "routed_experts": text,
            "cached_tokens_details": mapping,
        },
        "said": {"reasoning_content": text, "hidden_states": reals},
        "usage": {"reasoning": text, "prompt_tokens_details": mapping},
    },
    "llamacpp": {
        "reply": {
            "id": text,
            "model": text,
            "created": count,
            "system_fingerprint": text,
            "timings": mapping,
            "__verbose": mapping,
            "completion_probabilities": tokens,
            "generation_settings": mapping,
            "prompt": text,
            "prompt_progress": mapping,
            "tokens": counts,
            "tokens_predicted": count,
            "tokens_evaluated": count,
            "tokens_cached": count,
            "id_slot": count,
            "stop_type": text,
            "stopping_word": text,
            "content": text,
        },
        "choice": {"logprobs": probabilities, "tokens": counts},
        "said": {"reasoning_content": text, "thinking": text},
    },
    "openai": {
        "reply": {
            "id": text,
            "model": text,
            "object": text,
            "created": count,
            "system_fingerprint": text,
            "service_tier": text,
            "obfuscation": text,
            "moderation": mapping,
            "metadata": mapping,
            "input_user": text,
            "request_id": text,
            "tool_choice": mapping,
            "response_format": mapping,
        },
        "choice": {"logprobs": logprobs, "finish_reason": text, "content_filter_results": mapping},
        "said": {
            "audio": mapping,
            "annotations": mappings,
            "function_call": mapping,
            "tool_calls": custom_call,
            "reasoning_details": mappings,
            "provider_specific_fields": mapping,
            "a_field_of_tomorrow": text,
            "role": text,
        },
        "call": {
            "custom": mapping,
            "extra_content": mapping,
            "thought_signature": text,
            "a_field_of_tomorrow": text,
        },
        "usage": {
            "prompt_tokens_details": mapping,
            "completion_tokens_details": mapping,
            "cost": text,
            "a_field_of_tomorrow": mapping,
        },
    },
    "transformers": {
        "reply": {"id": text, "model": text, "created": count, "system_fingerprint": text},
        "said": {"reasoning_content": text},
    },
}

COMPLETIONS: dict[str, dict[str, Fields]] = {
    "vllm": {
        "reply": {
            "id": text,
            "model": text,
            "created": count,
            "kv_transfer_params": mapping,
            "ec_transfer_params": mapping,
            "system_fingerprint": text,
            "service_tier": text,
            "metrics": mapping,
        },
        "choice": {
            "logprobs": old_logprobs,
            "prompt_logprobs": prompt_logprobs,
            "token_ids": counts,
            "prompt_token_ids": counts,
            "stop_reason": text,
            "routed_experts": text,
            "reasoning": text,
        },
    },
    "sglang": {
        "reply": {"id": text, "model": text, "metadata": mapping, "sglext": mapping},
        "choice": {
            "hidden_states": reals,
            "matched_stop": text,
            "logprobs": both_logprobs,
            "token_ids": counts,
            "prompt_token_ids": counts,
        },
    },
    "llamacpp": {
        "reply": {
            "id": text,
            "model": text,
            "system_fingerprint": text,
            "completion_probabilities": tokens,
            "generation_settings": mapping,
            "content": text,
            "prompt": text,
            "prompt_progress": mapping,
            "tokens": counts,
            "stopping_word": text,
            "timings": mapping,
            "__verbose": mapping,
        },
        "choice": {"logprobs": probabilities},
    },
    "openai": {
        "reply": {
            "id": text,
            "model": text,
            "object": text,
            "created": count,
            "system_fingerprint": text,
        },
        "choice": {"logprobs": old_logprobs, "echo": text, "finish_reason": text},
    },
}

EMBEDDINGS: dict[str, Fields] = {
    "reply": {"id": text, "model": text, "object": text, "created": count, "metadata": mapping},
    "row": {"object": text, "tokens": counts, "prompt": text, "hidden_states": reals},
}
