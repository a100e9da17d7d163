"""Requests that try to reach past the answer: each must be refused, or lose what it adds.

The fields are those that the upstream servers document beyond the API they imitate, and the ones of
the providers' own APIs that keep state or let the server fetch, run or show something. Read from
the sources that `chat_fields` and `item_fields` name; llama.cpp's from tools/server/
server-schema.cpp at commit 0177c342.
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


def _part(kind: str, value: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": kind, kind: value}]}


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
    "session_id": _WORD,
    "truncation_side": _WORD,
    "watermarking": False,
    "thinking_token_budget": _NUMBER,
    "return_prompt_text": True,
    "return_token_offsets": True,
    "return_mm_kwargs": True,
    "routed_experts_prompt_start": _NUMBER,
    "stream_interval": _NUMBER,
    "ec_transfer_params": {"host": _WORD},
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
    "stop_regex": _WORD,
    "images_config": {"x": _WORD},
    "ngram_corpus_id": _WORD,
    "custom_labels": {"x": _WORD},
    "routed_dp_rank": _NUMBER,
    "disagg_prefill_dp_rank": _NUMBER,
    "bootstrap_port": _NUMBER,
    "return_prompt_token_ids": True,
    "routed_experts_start_len": _NUMBER,
    "task": _WORD,
    "input_ids": [_NUMBER],
    "max_dynamic_patch": _NUMBER,
    "min_dynamic_patch": _NUMBER,
    "use_audio_in_video": True,
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
    "response_fields": [_WORD],
    "n_indent": _NUMBER,
    "n_discard": _NUMBER,
    "n_cmpl": _NUMBER,
    "n_cache_reuse": _NUMBER,
    "t_max_predict_ms": _NUMBER,
    "sse_ping_interval": _NUMBER,
    "top_n_sigma": _NUMBER,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.5,
    "typical_p": 0.5,
    "dynatemp_range": 0.5,
    "dynatemp_exponent": 0.5,
    "repeat_last_n": _NUMBER,
    "repeat_penalty": 0.5,
    "dry_multiplier": 0.5,
    "dry_base": 1.5,
    "dry_allowed_length": _NUMBER,
    "dry_penalty_last_n": _NUMBER,
    "dry_sequence_breakers": [_WORD],
    "mirostat": 2,
    "mirostat_tau": 0.5,
    "mirostat_eta": 0.5,
    "adaptive_target": 0.5,
    "adaptive_decay": 0.5,
    "min_keep": _NUMBER,
    "backend_sampling": True,
    "grammar_lazy": True,
    "grammar_triggers": [_WORD],
    "preserved_tokens": [_WORD],
    "chat_format": _NUMBER,
    "chat_parser": _WORD,
    "generation_prompt": _WORD,
    "reasoning_control": True,
    "reasoning_budget_tokens": _NUMBER,
    "reasoning_budget_start_tag": _WORD,
    "reasoning_budget_end_tag": _WORD,
    "reasoning_budget_end_tags": [_WORD],
    "reasoning_budget_message": _WORD,
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
        "prompt_cache_options": {"x": _WORD},
        "service_tier": _WORD,
        "reasoning": {"effort": _WORD, "enabled": True},
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
        "messages, tools in one": [{"role": "system", "content": "hi", "tools": [{"x": _WORD}]}],
        "messages, video": [_part("video_url", {"url": f"https://{_WORD}.example"})],
        "messages, audio": [_part("audio_url", {"url": f"https://{_WORD}.example"})],
        "messages, file": [_part("file", {"file_id": _WORD})],
        "messages, tool by reference": [_part("tool_reference", _WORD)],
        "messages, image by hash": [_part("image_url", {"url": "", "content_hash": _WORD})],
        "messages, image uuid": [{**_part("image_url", {"url": ""}), "uuid": _WORD}],
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
        "background_options": {"x": _WORD},
        "image": {"x": _WORD},
        "moderation": {"model": _WORD},
        "prompt_cache_options": {"x": _WORD},
        "previous_response": {"id": _WORD},
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
        "workspace_id": _WORD,
        "billing_policy": {"x": _WORD},
        "compaction": {"x": _WORD},
        "fallback_credit_token": _WORD,
        "fallbacks": [{"model": _WORD}],
        "thread": {"id": _WORD},
        "chat_template_kwargs": {"x": _WORD},
        "tools": [{"type": "web_search_20250305", "name": "web_search", "user_location": _WORD}],
    },
    "embeddings": {
        "truncate_prompt_tokens": _NUMBER,
        "add_special_tokens": False,
        "chat_template": _WORD,
        "cache_salt": _WORD,
        "normalize": False,
        "rid": _WORD,
        "priority": _NUMBER,
        "lora_path": _WORD,
        "embed_override_token_id": _NUMBER,
        "embed_overrides": [[[0.5]]],
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
            body = json.dumps({"model": "plain", **_BASE[surface], field.split(",")[0]: value})
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
