"""Every field of Responses and of Anthropic's messages beyond the answer itself.

Read from: the types of OpenAI's Python client 3.54.0 and of Anthropic's 2.12.0, its beta ones too,
which a test compares with those installed; vLLM at commit 010a69ce (openai/responses/protocol.py).
See `chat_fields` for what a row means.
"""

from __future__ import annotations

from stillhouse.gateway.probes.shapes import (
    Fields,
    count,
    mapping,
    mappings,
    prompt_logprobs,
    summary,
    text,
    texts,
    thoughts,
    tokens,
)

# Fields of a response object; `part` is an output_text part, `item` a message item.
RESPONSES: dict[str, dict[str, Fields]] = {
    "openai": {
        "reply": {
            "id": text,
            "model": text,
            "object": text,
            "access_programs": mapping,
            "background": mapping,
            "completed_at": count,
            "conversation": mapping,
            "created_at": count,
            "image": mapping,
            "incomplete_details": mapping,
            "input_transformations": mappings,
            "instructions": text,
            "max_output_tokens": count,
            "max_tool_calls": count,
            "metadata": mapping,
            "moderation": mapping,
            "parallel_tool_calls": mapping,
            "previous_response_id": text,
            "prompt": mapping,
            "prompt_cache_diagnostics": mapping,
            "prompt_cache_key": text,
            "prompt_cache_options": mapping,
            "prompt_cache_retention": text,
            "reasoning": mapping,
            "safety_identifier": text,
            "service_tier": text,
            "temperature": count,
            "text": mapping,
            "tool_choice": mapping,
            "tool_usage": mapping,
            "tools": mappings,
            "top_logprobs": count,
            "top_p": count,
            "truncation": text,
            "user": text,
            "output_text": text,
            "a_field_of_tomorrow": mapping,
        },
        "item": {"id": text, "phase": text, "status": text, "role": text},
        "part": {"annotations": mappings, "logprobs": tokens, "a_field_of_tomorrow": text},
        "usage": {"input_tokens_details": mapping, "output_tokens_details": mapping, "cost": text},
    },
    "vllm": {
        "reply": {
            "kv_transfer_params": mapping,
            "input_messages": mappings,
            "output_messages": mappings,
            "prompt_logprobs": prompt_logprobs,
        },
        "part": {"logprobs": tokens},
        "usage": {"input_tokens_details": mapping, "output_tokens_details": mapping},
    },
}

# Items of a response's output that are not its answer; of a call of the client's own function,
# what it holds besides name and arguments.
RESPONSE_ITEMS: dict[str, Fields] = {
    "reasoning": {"summary": summary, "content": thoughts, "encrypted_content": text},
    "function_call": {"id": text, "async": text, "caller": mapping, "namespace": text},
    "function_call_output": {
        "output": text,
        "caller": mapping,
        "created_by": text,
        "name": text,
        "namespace": text,
    },
    "web_search_call": {"action": mapping},
    "file_search_call": {"results": mappings, "queries": texts},
    "code_interpreter_call": {"code": text, "outputs": mappings, "container_id": text},
    "computer_call": {"action": mapping, "actions": mappings, "pending_safety_checks": mappings},
    "computer_call_output": {"output": mapping, "acknowledged_safety_checks": mappings},
    "image_generation_call": {
        "result": text,
        "revised_prompt": text,
        "error": mapping,
        "svg_usage": mapping,
    },
    "program": {"code": text, "fingerprint": text},
    "program_output": {"result": text},
    "tool_search_call": {"arguments": text, "execution": text},
    "tool_search_output": {"tools": mappings, "execution": text},
    "additional_tools": {"tools": mappings},
    "local_shell_call": {"action": mapping},
    "local_shell_call_output": {"output": text},
    "shell_call": {"action": mapping, "environment": mapping},
    "shell_call_output": {"output": mappings},
    "apply_patch_call": {"operation": mapping},
    "apply_patch_call_output": {"output": text},
    "mcp_list_tools": {"tools": mappings, "server_label": text, "error": text},
    "mcp_call": {"output": text, "arguments": text, "name": text, "error": text},
    "mcp_approval_request": {"arguments": text, "name": text},
    "mcp_approval_response": {"reason": text},
    "custom_tool_call": {"input": text, "name": text, "namespace": text},
    "custom_tool_call_output": {"output": text},
    "compaction": {"encrypted_content": text, "created_by": text},
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
    "response.mcp_call_arguments.done": {"arguments": text},
    "response.image_generation_call.partial_image": {"partial_image_b64": text},
    "response.custom_tool_call_input.delta": {"delta": text},
    "response.custom_tool_call_input.done": {"input": text},
    "response.shell_call_command.added": {"command": text},
    "response.shell_call_command.delta": {"delta": text},
    "response.shell_call_command.done": {"command": text},
    "response.shell_call_output_content.delta": {"delta": mapping},
    "response.shell_call_output_content.done": {"output": mappings},
    "response.audio.delta": {"delta": text},
    "response.audio.transcript.delta": {"delta": text},
    "response.file_search_call.completed": {"results": mappings},
    "response.an_event_of_tomorrow": {"text": text},
}

# `end`: what the last event of a stream says of the whole message.
MESSAGES: dict[str, Fields] = {
    "reply": {
        "id": text,
        "model": text,
        "container": mapping,
        "diagnostics": mapping,
        "stop_details": mapping,
        "context_management": mapping,
        "input_transformations": mappings,
        "a_field_of_tomorrow": text,
    },
    "usage": {
        "cache_creation": mapping,
        "fallback_credit": mapping,
        "inference_geo": text,
        "iterations": mappings,
        "output_tokens_details": mapping,
        "server_tool_use": mapping,
        "service_tier": text,
        "speed": text,
    },
    "part": {"citations": mappings, "a_field_of_tomorrow": text},
    "end": {
        "stop_sequence": text,
        "stop_reason": text,
        "container": mapping,
        "stop_details": mapping,
    },
}

# Blocks of a message that are not its answer; of a call of the client's own tool, what it holds
# besides name and input.
MESSAGE_BLOCKS: dict[str, Fields] = {
    "thinking": {"thinking": text, "signature": text},
    "redacted_thinking": {"data": text},
    "tool_use": {"caller": mapping, "toolset_name": text},
    "server_tool_use": {"input": mapping, "caller": mapping},
    "web_search_tool_result": {"content": mappings, "caller": mapping},
    "web_fetch_tool_result": {"content": mapping, "caller": mapping},
    "advisor_tool_result": {"content": mapping},
    "code_execution_tool_result": {"content": mapping},
    "bash_code_execution_tool_result": {"content": mapping},
    "text_editor_code_execution_tool_result": {"content": mapping},
    "tool_search_tool_result": {"content": mapping},
    "mcp_tool_use": {"input": mapping, "server_name": text},
    "mcp_tool_result": {"content": mappings},
    "mcp_tool_listing": {"tools": mappings, "mcp_server_name": text},
    "container_upload": {"file_id": text},
    "compaction": {
        "content": text,
        "encrypted_content": text,
        "signature": text,
        "tool_changes": mappings,
    },
    "fallback": {"text": text, "from": mapping, "to": mapping, "trigger": mapping},
    "a_block_of_tomorrow": {"text": text},
}

MESSAGE_DELTAS: dict[str, Fields] = {
    "thinking_delta": {"thinking": text, "estimated_tokens": count},
    "signature_delta": {"signature": text},
    "citations_delta": {"citation": mapping},
    "compaction_delta": {"content": text, "encrypted_content": text},
    "a_delta_of_tomorrow": {"text": text},
}
