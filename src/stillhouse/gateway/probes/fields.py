"""Every field of a reply that the upstreams document beyond the answer itself, by upstream.

Kept by hand: OpenAI's and Anthropic's from their Python clients of 2026, those of vLLM, SGLang and
llama.cpp from what their documentation was remembered to say, so a field may be missing. A table
row is a probe: the field is sent with a secret in it, and a gateway must not hand the secret on.
What upstreams will invent tomorrow is there too, as a field with a name that nobody uses.
"""

# ruff: noqa: ARG001, ARG005  (every shape takes a word and a number)
from __future__ import annotations

from collections.abc import Callable
from typing import Any

Shape = Callable[[str, int], Any]


def text(secret: str, number: int) -> Any:
    """Return a field of text."""
    return secret


def texts(secret: str, number: int) -> Any:
    """Return a list of texts."""
    return [secret]


def count(secret: str, number: int) -> Any:
    """Return a number."""
    return number


def counts(secret: str, number: int) -> Any:
    """Return a list of numbers, such as token ids."""
    return [1, number]


def reals(secret: str, number: int) -> Any:
    """Return rows of reals, such as hidden states."""
    return [[0.5, number + 0.5]]


def mapping(secret: str, number: int) -> Any:
    """Return an object."""
    return {"value": secret, "count": number}


def mappings(secret: str, number: int) -> Any:
    """Return a list of objects."""
    return [{"type": "text", "text": secret, "id": number}]


def token(secret: str, number: int) -> dict[str, Any]:
    """Return the log-probabilities of one token that is not in the answer."""
    top = [{"token": secret, "logprob": -0.25, "bytes": list(secret.encode())}]
    return {"token": secret, "logprob": -0.5, "bytes": [1, 2], "top_logprobs": top}


def logprobs(secret: str, number: int) -> Any:
    """Return chat's log-probabilities."""
    return {"content": [token(secret, number)], "refusal": [token(secret, number)]}


def tokens(secret: str, number: int) -> Any:
    """Return a list of tokens with their log-probabilities."""
    return [token(secret, number)]


def old_logprobs(secret: str, number: int) -> Any:
    """Return the log-probabilities of text completions."""
    return {
        "tokens": [secret],
        "token_logprobs": [-0.5],
        "top_logprobs": [{secret: -0.5}],
        "text_offset": [0],
    }


def prompt_logprobs(secret: str, number: int) -> Any:
    """Return vLLM's log-probabilities of the prompt."""
    return [None, {str(number): {"logprob": -0.5, "rank": 1, "decoded_token": secret}}]


Fields = dict[str, Shape]

# Where a field sits: the reply, its choice, what the choice said (message or delta), its usage.
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
            "routed_experts": counts,
            "prompt_token_ids": counts,
        },
        "said": {
            "reasoning": text,
            "reasoning_content": text,
            "function_call": mapping,
            "audio": mapping,
            "annotations": mappings,
        },
        "usage": {"prompt_tokens_details": mapping, "completion_tokens_details": mapping},
    },
    "sglang": {
        "reply": {
            "id": text,
            "model": text,
            "metadata": mapping,
            "sglext": mapping,
            "meta_info": mapping,
        },
        "choice": {
            "logprobs": logprobs,
            "matched_stop": text,
            "hidden_states": reals,
            "meta_info": mapping,
            "output_ids": counts,
        },
        "said": {"reasoning_content": text, "hidden_states": reals},
        "usage": {"reasoning": text},
    },
    "llamacpp": {
        "reply": {
            "id": text,
            "model": text,
            "system_fingerprint": text,
            "timings": mapping,
            "__verbose": mapping,
            "completion_probabilities": tokens,
            "generation_settings": mapping,
            "prompt": text,
            "prompt_progress": mapping,
            "tokens": counts,
            "tokens_evaluated": count,
            "id_slot": count,
            "stopping_word": text,
            "content": text,
        },
        "choice": {"logprobs": logprobs, "tokens": counts},
        "said": {"reasoning_content": text, "thinking": text},
    },
    "openai": {
        "reply": {
            "id": text,
            "model": text,
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
            "reasoning_details": mappings,
            "provider_specific_fields": mapping,
            "a_field_of_tomorrow": text,
            "role": text,
        },
        "usage": {"cost": text, "a_field_of_tomorrow": mapping},
    },
    "transformers": {
        "reply": {"id": text, "model": text, "system_fingerprint": text},
        "said": {"reasoning_content": text},
    },
}

COMPLETIONS: dict[str, dict[str, Fields]] = {
    "vllm": {
        "reply": {
            "id": text,
            "model": text,
            "kv_transfer_params": mapping,
            "system_fingerprint": text,
        },
        "choice": {
            "logprobs": old_logprobs,
            "prompt_logprobs": prompt_logprobs,
            "token_ids": counts,
            "prompt_token_ids": counts,
            "stop_reason": text,
            "reasoning": text,
        },
    },
    "sglang": {
        "reply": {"metadata": mapping, "sglext": mapping},
        "choice": {"hidden_states": reals, "matched_stop": text, "logprobs": old_logprobs},
    },
    "llamacpp": {
        "reply": {
            "completion_probabilities": tokens,
            "generation_settings": mapping,
            "content": text,
            "prompt": text,
            "tokens": counts,
            "timings": mapping,
            "__verbose": mapping,
        },
        "choice": {"logprobs": old_logprobs},
    },
    "openai": {"choice": {"logprobs": old_logprobs, "echo": text}, "reply": {"id": text}},
}

# Fields of a response object; `part` is an output_text part, `item` a message item.
RESPONSES: dict[str, dict[str, Fields]] = {
    "openai": {
        "reply": {
            "id": text,
            "model": text,
            "access_programs": mapping,
            "conversation": mapping,
            "input_transformations": mappings,
            "instructions": text,
            "metadata": mapping,
            "moderation": mapping,
            "previous_response_id": text,
            "prompt": mapping,
            "prompt_cache_key": text,
            "prompt_cache_diagnostics": mapping,
            "reasoning": mapping,
            "safety_identifier": text,
            "service_tier": text,
            "text": mapping,
            "tool_usage": mapping,
            "tools": mappings,
            "user": text,
            "output_text": text,
        },
        "item": {"id": text, "phase": text, "status": text},
        "part": {"annotations": mappings, "logprobs": tokens},
        "usage": {"input_tokens_details": mapping, "cost": text},
    },
    "vllm": {
        "reply": {
            "kv_transfer_params": mapping,
            "input_messages": mappings,
            "output_messages": mappings,
            "prompt_logprobs": prompt_logprobs,
        },
        "part": {"logprobs": tokens},
    },
}

# Items of a response's output that are not its answer.
RESPONSE_ITEMS: dict[str, Fields] = {
    "reasoning": {
        "summary": lambda secret, number: [{"type": "summary_text", "text": secret}],
        "content": lambda secret, number: [{"type": "reasoning_text", "text": secret}],
        "encrypted_content": text,
    },
    "web_search_call": {"action": mapping},
    "file_search_call": {"results": mappings, "queries": texts},
    "code_interpreter_call": {"code": text, "outputs": mappings},
    "computer_call": {"action": mapping},
    "image_generation_call": {"result": text},
    "local_shell_call": {"action": mapping},
    "shell_call": {"action": mapping},
    "shell_call_output": {"output": mappings},
    "apply_patch_call": {"operation": mapping},
    "mcp_list_tools": {"tools": mappings},
    "mcp_call": {"output": text, "arguments": text},
    "mcp_approval_request": {"arguments": text},
    "custom_tool_call": {"input": text},
    "compaction": {"encrypted_content": text},
    "an_item_of_tomorrow": {"text": text},
}

# Events of a Responses stream that say something besides the answer.
RESPONSE_EVENTS: dict[str, Fields] = {
    "response.reasoning_text.delta": {"delta": text},
    "response.reasoning_text.done": {"text": text},
    "response.reasoning_summary_text.delta": {"delta": text},
    "response.reasoning_summary_text.done": {"text": text},
    "response.reasoning_summary_part.added": {"part": mapping},
    "response.reasoning_summary_part.done": {"part": mapping},
    "response.reasoning_part.added": {"part": mapping},
    "response.reasoning_part.done": {"part": mapping},
    "response.output_text.annotation.added": {"annotation": mapping},
    "response.code_interpreter_call_code.delta": {"delta": text},
    "response.code_interpreter_call_code.done": {"code": text},
    "response.mcp_call_arguments.delta": {"delta": text},
    "response.image_generation_call.partial_image": {"partial_image_b64": text},
    "response.custom_tool_call_input.delta": {"delta": text},
    "response.audio.transcript.delta": {"delta": text},
    "response.file_search_call.completed": {"results": mappings},
    "response.an_event_of_tomorrow": {"text": text},
}

MESSAGES: dict[str, Fields] = {
    "reply": {
        "id": text,
        "model": text,
        "container": mapping,
        "diagnostics": mapping,
        "stop_details": mapping,
        "context_management": mapping,
        "a_field_of_tomorrow": text,
    },
    "usage": {
        "cache_creation": mapping,
        "inference_geo": text,
        "server_tool_use": mapping,
        "service_tier": text,
        "speed": text,
    },
    "part": {"citations": mappings},
    "end": {"stop_sequence": text, "stop_reason": text},
}

# Blocks of a message that are not its answer.
MESSAGE_BLOCKS: dict[str, Fields] = {
    "thinking": {"thinking": text, "signature": text},
    "redacted_thinking": {"data": text},
    "server_tool_use": {"input": mapping},
    "web_search_tool_result": {"content": mappings},
    "web_fetch_tool_result": {"content": mapping},
    "code_execution_tool_result": {"content": mapping},
    "bash_code_execution_tool_result": {"content": mapping},
    "text_editor_code_execution_tool_result": {"content": mapping},
    "tool_search_tool_result": {"content": mapping},
    "mcp_tool_use": {"input": mapping},
    "mcp_tool_result": {"content": mappings},
    "container_upload": {"file_id": text},
    "compaction": {"content": text},
    "fallback": {"text": text},
    "a_block_of_tomorrow": {"text": text},
}

MESSAGE_DELTAS: dict[str, Fields] = {
    "thinking_delta": {"thinking": text},
    "signature_delta": {"signature": text},
    "citations_delta": {"citation": mapping},
    "compaction_delta": {"content": text},
    "a_delta_of_tomorrow": {"text": text},
}

EMBEDDINGS: dict[str, Fields] = {
    "reply": {"id": text, "model": text, "created": count, "metadata": mapping},
    "row": {"tokens": counts, "prompt": text, "hidden_states": reals},
}
