"""The probes know every field that the official clients' types document.

A new release of a client that documents more fails here, with the name of what has no probe yet.
"""

from __future__ import annotations

import typing
from typing import Any

import pytest
from anthropic.types import ContentBlock, Message, RawContentBlockDelta, TextBlock, Usage
from anthropic.types import message_create_params as message_params
from anthropic.types.beta import BetaContentBlock, BetaMessage, BetaRawContentBlockDelta, BetaUsage
from anthropic.types.beta import message_create_params as beta_params
from anthropic.types.raw_message_delta_event import Delta
from openai.types import (
    Completion,
    CompletionChoice,
    CompletionUsage,
    CreateEmbeddingResponse,
    Embedding,
)
from openai.types import completion_create_params as completion_params
from openai.types import embedding_create_params as embedding_params
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    chat_completion,
    chat_completion_chunk,
)
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import (
    Response,
    ResponseOutputItem,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseStreamEvent,
    ResponseUsage,
)
from openai.types.responses import response_create_params as response_params

from stillhouse.gateway.probes import REQUEST_PROBES, chat_fields, item_fields
from stillhouse.gateway.surfaces import chat, messages, responses, texts

# What is the answer itself, or a count of what it cost: served, and by other tests' account.
ANSWER = {
    "reply": {"choices", "usage", "output", "content", "type", "role", "data", "object"}
    | {"status", "error", "stop_reason", "stop_sequence"},
    "choice": {"index", "message", "delta", "text"},
    "said": {"content", "refusal"},
    "usage": {"prompt_tokens", "completion_tokens", "total_tokens", "input_tokens"}
    | {"output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"},
    "item": {"content", "type"},
    "part": {"text", "type"},
    "row": {"embedding", "index"},
}
# Names and places of items and blocks, which the client is told of in our own words.
PLACE = {"id", "type", "status", "call_id", "tool_use_id", "item_id", "output_index", "role"}
PLACE |= {"content_index", "sequence_number", "summary_index", "annotation_index", "created_by"}
PLACE |= {"command_index", "server_label", "container_id", "approval_request_id", "is_error"}
# Numbers and words out of a short list: they hold no secret of the model.
SHORT = {"max_output_length", "approve", "partial_image_index", "background", "output_format"}
SHORT |= {"quality", "size", "action", "obfuscation", "execution", "caller", "async"}


def names(model: Any) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def members(union: Any) -> list[Any]:
    if hasattr(union, "model_fields"):
        return [union]
    inner = typing.get_args(union)
    return members(inner[0]) if typing.get_origin(union) is typing.Annotated else [
        one for part in inner for one in members(part)
    ]  # fmt: skip


def kind(model: Any) -> str:
    return str(typing.get_args(model.model_fields["type"].annotation)[0])


@pytest.mark.parametrize(
    ("place", "models", "table"),
    [
        ("reply", [ChatCompletion, ChatCompletionChunk], chat_fields.CHAT["openai"]),
        ("choice", [chat_completion.Choice], chat_fields.CHAT["openai"]),
        ("choice", [chat_completion_chunk.Choice], chat_fields.CHAT["openai"]),
        ("said", [ChatCompletionMessage], chat_fields.CHAT["openai"]),
        ("said", [chat_completion_chunk.ChoiceDelta], chat_fields.CHAT["openai"]),
        ("usage", [CompletionUsage], chat_fields.CHAT["openai"]),
        ("reply", [Completion], chat_fields.COMPLETIONS["openai"]),
        ("choice", [CompletionChoice], chat_fields.COMPLETIONS["openai"]),
        ("reply", [CreateEmbeddingResponse], chat_fields.EMBEDDINGS),
        ("row", [Embedding], chat_fields.EMBEDDINGS),
        ("reply", [Response], item_fields.RESPONSES["openai"]),
        ("item", [ResponseOutputMessage], item_fields.RESPONSES["openai"]),
        ("part", [ResponseOutputText], item_fields.RESPONSES["openai"]),
        ("usage", [ResponseUsage], item_fields.RESPONSES["openai"]),
        ("reply", [Message, BetaMessage], item_fields.MESSAGES),
        ("usage", [Usage, BetaUsage], item_fields.MESSAGES),
        ("part", [TextBlock], item_fields.MESSAGES),
        ("end", [Delta], item_fields.MESSAGES),
    ],
)
def test_every_documented_field_of_a_reply_has_a_probe(
    place: str, models: list[Any], table: dict[str, Any]
) -> None:
    known = set(table[place]) | ANSWER.get(place, set())
    for model in models:
        assert names(model) - known == set(), model.__name__


@pytest.mark.parametrize(
    ("union", "table", "served"),
    [
        (ResponseOutputItem, item_fields.RESPONSE_ITEMS, {"message"}),
        (ContentBlock, item_fields.MESSAGE_BLOCKS, {"text"}),
        (BetaContentBlock, item_fields.MESSAGE_BLOCKS, {"text"}),
        (RawContentBlockDelta, item_fields.MESSAGE_DELTAS, {"text_delta", "input_json_delta"}),
        (BetaRawContentBlockDelta, item_fields.MESSAGE_DELTAS, {"text_delta", "input_json_delta"}),
    ],
)
def test_every_documented_item_block_and_delta_has_a_probe(
    union: Any, table: dict[str, Any], served: set[str]
) -> None:
    called = {"function_call": {"name", "arguments"}, "tool_use": {"name", "input"}}
    for model in members(union):
        if kind(model) in served:
            continue
        probed = set(table[kind(model)]) | called.get(kind(model), set())
        missing = names(model) - PLACE - SHORT - probed - {"name"}
        assert missing == set(), (kind(model), missing)


def test_every_documented_event_that_says_something_has_a_probe() -> None:
    served = {"response.output_text.delta", "response.output_text.done", "response.refusal.delta"}
    served |= {"response.refusal.done", "response.function_call_arguments.delta", "error"}
    served |= {"response.function_call_arguments.done"}
    # They hold a response, an item or a part, which have probes of their own.
    holders = {"response", "item", "part"}
    for model in members(ResponseStreamEvent):
        said = names(model) - PLACE - SHORT
        if kind(model) in served or not said or said <= holders:
            continue
        assert said <= set(item_fields.RESPONSE_EVENTS[kind(model)]), kind(model)


@pytest.mark.parametrize(
    ("surface", "params", "table"),
    [
        ("chat", chat_params.CompletionCreateParamsBase, chat.TABLE),
        ("completions", completion_params.CompletionCreateParamsBase, texts.COMPLETION_TABLE),
        ("embeddings", embedding_params.EmbeddingCreateParams, texts.EMBEDDING_TABLE),
        ("responses", response_params.ResponseCreateParamsBase, responses.TABLE),
        ("messages", message_params.MessageCreateParamsBase, messages.TABLE),
        ("messages", beta_params.MessageCreateParamsBase, messages.TABLE),
    ],
)
def test_every_documented_field_of_a_request_is_offered_or_probed(
    surface: str, params: Any, table: dict[str, Any]
) -> None:
    probed = {probe.name.split("/")[2] for probe in REQUEST_PROBES if probe.surface == surface}
    documented = set(typing.get_type_hints(params)) - {"betas"}  # a header of the client's
    assert documented - set(table) - probed == set()
