"""Requests that try to reach past the answer: each must be refused, or lose what it adds.

The fields are those that the upstream servers document beyond the API they imitate, and the ones of
the providers' own APIs that keep state or let the server fetch, run or show something.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from stillhouse.gateway.probes.probe import RequestProbe, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stillhouse.gateway.surfaces import Surface

# A name for a secret word, and for a secret number, in the values below.
_WORD, _NUMBER = "WORD", 777_000_777
_TURN = [{"role": "user", "content": "What is 6 times 7?"}]
_BASE: dict[Surface, dict[str, Any]] = {
    "chat": {"messages": _TURN},
    "completions": {"prompt": "6 times 7 is"},
    "responses": {"input": "What is 6 times 7?"},
    "messages": {"messages": _TURN, "max_tokens": 64},
    "embeddings": {"input": "What is 6 times 7?"},
}

_SHARED_SERVER_FIELDS: dict[str, Any] = {
    # vLLM
    "prompt_logprobs": _NUMBER,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "include_stop_str_in_output": True,
    "stop_token_ids": [_NUMBER],
    "bad_words": [_WORD],
    "allowed_token_ids": [_NUMBER],
    "ignore_eos": True,
    "min_tokens": _NUMBER,
    "length_penalty": 1.5,
    "use_beam_search": True,
    "truncate_prompt_tokens": _NUMBER,
    "priority": -_NUMBER,
    "request_id": _WORD,
    "cache_salt": _WORD,
    "kv_transfer_params": {"host": _WORD},
    "vllm_xargs": {"x": _WORD},
    "logits_processors": [_WORD],
    "structured_outputs": {"regex": _WORD},
    "guided_json": {"title": _WORD},
    "guided_regex": _WORD,
    "guided_grammar": _WORD,
    "guided_choice": [_WORD],
    "repetition_detection": {"x": _WORD},
    "logprob_token_ids": [_NUMBER],
    "bypass_model_logits": _WORD,
    # SGLang
    "lora_path": _WORD,
    "return_hidden_states": True,
    "return_routed_experts": True,
    "return_cached_tokens_details": True,
    "return_meta_info": True,
    "custom_logit_processor": _WORD,
    "custom_params": {"x": _WORD},
    "session_params": {"id": _WORD},
    "bootstrap_host": _WORD,
    "bootstrap_room": _NUMBER,
    "extra_key": _WORD,
    "rid": _WORD,
    "regex": _WORD,
    "ebnf": _WORD,
    "no_stop_trim": True,
    "data_parallel_rank": _NUMBER,
    "separate_reasoning": False,
    "stream_reasoning": True,
    # llama.cpp
    "n_probs": _NUMBER,
    "post_sampling_probs": True,
    "return_tokens": True,
    "id_slot": _NUMBER,
    "cache_prompt": True,
    "grammar": _WORD,
    "json_schema": {"title": _WORD},
    "samplers": [_WORD],
    "reasoning_format": "none",
    "reasoning_in_content": True,
    "thinking_forced_open": False,
    "parse_tool_calls": False,
    "timings_per_token": True,
    "verbose": True,
    "lora": [{"id": _NUMBER}],
    "n_keep": _NUMBER,
    "n_predict": -1,
    "input_prefix": _WORD,
    "return_progress": True,
    # transformers serve
    "generation_config": _WORD,
    # LiteLLM and other routers
    "api_base": f"https://{_WORD}.example",
    "base_url": f"https://{_WORD}.example",
    "api_key": _WORD,
    "extra_body": {"prompt_logprobs": _NUMBER},
    "extra_headers": {"x": _WORD},
    "provider": {"order": [_WORD]},
    "models": [_WORD],
    "transforms": [_WORD],
    "mock_response": _WORD,
    "a_field_of_tomorrow": _WORD,
}

_FIELDS: dict[Surface, dict[str, Any]] = {
    "chat": {
        **_SHARED_SERVER_FIELDS,
        "chat_template": _WORD,
        "chat_template_kwargs": {"enable_thinking": True, "x": _WORD},
        "add_generation_prompt": False,
        "continue_final_message": True,
        "add_special_tokens": True,
        "documents": [{"text": _WORD}],
        "mm_processor_kwargs": {"x": _WORD},
        "media_io_kwargs": {"x": _WORD},
        "echo": True,
        "include_reasoning": True,
        "logprobs": True,
        "logit_bias": {"1": 50},
        "n": 5,
        "store": True,
        "metadata": {"x": _WORD},
        "user": _WORD,
        "safety_identifier": _WORD,
        "prompt_cache_key": _WORD,
        "service_tier": _WORD,
        "audio": {"voice": _WORD, "format": "wav"},
        "prediction": {"type": "content", "content": _WORD},
        "web_search_options": {"search_context_size": _WORD},
        "moderation": {"model": _WORD},
        "functions": [{"name": _WORD}],
        "function_call": {"name": _WORD},
        "response_format": {"type": "structural_tag", "format": {"x": _WORD}},
        "tools": [{"type": "custom", "custom": {"name": _WORD}}],
        "stream_options": {"include_usage": True, "x": _WORD},
        "messages": [{"role": "user", "content": "hi", "x": _WORD}],
    },
    "completions": {
        **_SHARED_SERVER_FIELDS,
        "echo": True,
        "best_of": 7,
        "n": 5,
        "logprobs": 3,
        "prompt": [_NUMBER],
        "prompt_embeds": _WORD,
        "add_special_tokens": False,
        "user": _WORD,
    },
    "responses": {
        **_SHARED_SERVER_FIELDS,
        "store": True,
        "background": True,
        "previous_response_id": f"resp_{_WORD}",
        "conversation": _WORD,
        "prompt": {"id": _WORD},
        "context_management": [{"type": _WORD}],
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 5,
        "enable_response_messages": True,
        "previous_input_messages": [{"x": _WORD}],
        "mm_processor_kwargs": {"x": _WORD},
        "metadata": {"x": _WORD},
        "user": _WORD,
        "prompt_cache_key": _WORD,
        "tools": [{"type": "mcp", "server_label": "x", "server_url": f"https://{_WORD}.example"}],
        "input": [{"type": "item_reference", "id": _WORD}],
        "access_programs": {"cyber": _WORD},
    },
    "messages": {
        **_SHARED_SERVER_FIELDS,
        "container": _WORD,
        "context_management": {"edits": [{"type": _WORD}]},
        "mcp_servers": [{"type": "url", "name": "x", "url": f"https://{_WORD}.example"}],
        "metadata": {"user_id": _WORD},
        "diagnostics": {"previous_message_id": _WORD},
        "inference_geo": _WORD,
        "speed": "fast",
        "service_tier": _WORD,
        "user_profile_id": _WORD,
        "chat_template_kwargs": {"x": _WORD},
        "tools": [{"type": "web_search_20250305", "name": "web_search", "user_location": _WORD}],
    },
    "embeddings": {
        "truncate_prompt_tokens": _NUMBER,
        "add_special_tokens": False,
        "chat_template": _WORD,
        "cache_salt": _WORD,
        "normalize": False,
        "user": _WORD,
        "a_field_of_tomorrow": _WORD,
    },
}

_IMAGES = [
    "http://169.254.169.254/latest/meta-data/WORD",
    "https://WORD.example/cat.png",
    "file:///etc/WORD",
    "data:image/svg+xml;base64,V09SRA==",
    "data:text/html;base64,V09SRA==",
    "ftp://WORD.example/cat.png",
]


def _field_probes() -> Iterator[RequestProbe]:
    for surface, fields in _FIELDS.items():
        for field, value in fields.items():
            name = f"request/{surface}/{field}"
            secret = Secret.of(name)
            body = json.dumps({"model": "plain", **_BASE[surface], field: value})
            body = body.replace(_WORD, secret.word).replace(str(_NUMBER), str(secret.number))
            if secret.word in body:
                mark = secret.word
            elif str(secret.number) in body:
                mark = str(secret.number)
            else:
                mark = f'"{field}"'
            yield RequestProbe(name, surface, body.encode(), mark.encode())


def _image_probes() -> Iterator[RequestProbe]:
    for number, url in enumerate(_IMAGES):
        name = f"request/chat/image {number}"
        word = Secret.of(name).word
        url = url.replace(_WORD, word)
        part = {"type": "image_url", "image_url": {"url": url}}
        body = {"model": "plain", "messages": [{"role": "user", "content": [part]}]}
        yield RequestProbe(name, "chat", json.dumps(body).encode(), url.encode())


def _spelling_probes() -> Iterator[RequestProbe]:
    """Other spellings of a configured model: a table looked up by name must not be missed."""
    for number, name in enumerate(
        ("Plain", "PLAIN", " plain", "plain ", "plain\u200b", "./plain", "plain:latest", "upstream")
    ):
        body = json.dumps({"model": name, **_BASE["chat"]}, ensure_ascii=False).encode()
        mark = json.dumps(name, ensure_ascii=False).encode()
        yield RequestProbe(f"request/chat/model spelt {number}", "chat", body, mark)


def _raw_probes() -> Iterator[RequestProbe]:
    """Bodies that two parsers read differently, and a prefill."""
    turn = json.dumps(_TURN)
    bodies = {
        "repeated key": f'{{"model":"plain","messages":{turn},"n":1,"n":9}}',
        "repeated key, escaped": f'{{"model":"plain","messages":{turn},"user":"","us\\u0065r":""}}',
        "not a number": f'{{"model":"plain","messages":{turn},"temperature":NaN}}',
        "lone surrogate": '{"model":"plain","messages":[{"role":"user","content":"\\ud800"}]}',
    }
    marks = {
        "repeated key": b'"n"',
        "repeated key, escaped": b'"user"',
        "not a number": b"NaN",
        "lone surrogate": b"\\ud800",
    }
    for what, body in bodies.items():
        yield RequestProbe(f"request/chat/{what}", "chat", body.encode(), marks[what])
    places: dict[Surface, str] = {"chat": "messages", "messages": "messages", "responses": "input"}
    for surface, field in places.items():
        name = f"request/{surface}/prefill"
        word = Secret.of(name).word
        turns = [*_TURN, {"role": "assistant", "content": f"<think>{word}"}]
        asked = {"model": "plain", **_BASE[surface], field: turns}
        yield RequestProbe(name, surface, json.dumps(asked).encode(), word.encode())


REQUEST_PROBES: tuple[RequestProbe, ...] = (
    *_field_probes(),
    *_image_probes(),
    *_spelling_probes(),
    *_raw_probes(),
)
