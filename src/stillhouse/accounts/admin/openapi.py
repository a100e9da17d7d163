"""The OpenAPI document of the admin API, made from the acts and the collections."""

from __future__ import annotations

from typing import Any, get_args

import stillhouse
from stillhouse.accounts.acts import ACTS
from stillhouse.accounts.measures import Scope
from stillhouse.accounts.views import COLLECTIONS, LARGEST_PAGE

_REFERENCE = "#/components/schemas/"
_ERRORS = {
    "401": "No valid token.",
    "403": "A rule of the roles stands against it.",
    "404": "No such path, or no such row.",
    "422": "The request cannot be carried out; `repair` says what to change.",
    "429": "Too many requests without a valid token.",
}
_ACT_ERRORS = {
    "409": "The idempotency key was used for another request.",
    "413": "The body is larger than 1 MiB.",
    "415": "The body is not application/json.",
}


def document() -> dict[str, Any]:
    """Return the document (OpenAPI 3.1)."""
    schemas: dict[str, Any] = {"Done": _DONE, "Error": _ERROR, "Behind": _BEHIND, "Page": _PAGE}
    paths: dict[str, Any] = {}
    for name, act in ACTS.items():
        schema = act.model_json_schema(ref_template=_REFERENCE + "{model}")
        schemas |= schema.pop("$defs", {})
        schemas[act.__name__] = schema
        paths[f"/v1/acts/{name}"] = {"post": _act_operation(name, act.__name__, act.__doc__ or "")}
    for name, collection in COLLECTIONS.items():
        parameters = [
            _query("limit", {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE}),
            _query("after", _PLAIN),
            *(_query(column, _PLAIN) for column in collection.filters),
        ]
        paths[f"/v1/{name}"] = {
            "get": _reading(f"list-{name}", collection.summary, "Page", parameters)
        }
    parameters = [
        _query("scope", {"enum": list(get_args(Scope))}, required=True),
        _query("subject", _PLAIN, required=True),
    ]
    summary = "Who is behind a subject, as ban and block want it acknowledged."
    paths["/v1/behind"] = {"get": _reading("behind", summary, "Behind", parameters)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Stillhouse accounts", "version": stillhouse.__version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


_PLAIN = {"type": "string", "minLength": 1, "maxLength": 100, "pattern": "^[ -~]+$"}
_ANY_TEXT = {"type": ["string", "null"]}
_COUNT = {"type": ["integer", "null"]}
_IDS = {"type": "array", "items": {"type": "string"}}
_DONE = {
    "type": "object",
    "required": ["act", "subject", "result", "proposal", "secret"],
    "properties": {
        "act": {"type": "string"},
        "subject": {"type": "string"},
        "result": {"type": "object"},
        "proposal": _ANY_TEXT,
        "secret": {
            **_ANY_TEXT,
            "description": "The text of a new key: shown here and never again.",
        },
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "place": _ANY_TEXT,
                "repair": _ANY_TEXT,
            },
        }
    },
}
_BEHIND = {
    "type": "object",
    "required": ["affected", "accounts", "neighbours", "organisations"],
    "properties": {
        "affected": _COUNT,
        "accounts": _IDS,
        "neighbours": _IDS,
        "organisations": {"type": "integer"},
    },
}
_PAGE = {
    "type": "object",
    "required": ["items", "next"],
    "properties": {"items": {"type": "array", "items": {"type": "object"}}, "next": _ANY_TEXT},
}


def _act_operation(name: str, schema: str, text: str) -> dict[str, Any]:
    key = {"type": "string", "pattern": "^[!-~]{1,128}$"}
    answers = {
        "200": _answer("Done.", "Done"),
        "202": _answer("A second person must approve it; nothing else has happened.", "Done"),
    }
    return {
        "operationId": name,
        "summary": text.split("\n")[0],
        "parameters": [{"name": "Idempotency-Key", "in": "header", "schema": key}],
        "requestBody": {"required": True, "content": _json_of(schema)},
        "responses": answers | _errors(_ERRORS | _ACT_ERRORS),
    }


def _reading(name: str, text: str, schema: str, parameters: list[Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": text,
        "parameters": parameters,
        "responses": {"200": _answer("Found.", schema)} | _errors(_ERRORS),
    }


def _query(name: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": schema}


def _errors(errors: dict[str, str]) -> dict[str, Any]:
    return {status: _answer(text, "Error") for status, text in errors.items()}


def _answer(text: str, schema: str) -> dict[str, Any]:
    return {"description": text, "content": _json_of(schema)}


def _json_of(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE + schema}}}
