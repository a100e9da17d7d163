"""What the prompts of all surfaces are made of: texts, images, tools, schemas."""

from __future__ import annotations

import binascii
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.surfaces.fields import keep_only, wrong
from stillhouse.gateway.surfaces.policy import Image

if TYPE_CHECKING:
    from stillhouse.gateway.surfaces.policy import RequestPolicy, ServedModel

_DATA_URL = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,")
# The host ends at the first slash: no user, no port, nothing that two parsers read differently.
_HTTPS_URL = re.compile(r"https://([a-z0-9.-]{1,253})/[!-\[\]-~]{0,2000}")
_SIGNATURES = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_CALL_ID = re.compile(r"[!-~]{1,256}")
_SCHEMA_FIELDS = frozenset({"name", "description", "schema", "strict", "type"})
_FUNCTION_FIELDS = frozenset({"name", "description", "parameters", "strict"})


class Prompt:
    """Collects what a request's prompt is made of while it is read."""

    __slots__ = (
        "by_bytes",
        "image_chars",
        "images",
        "now_us",
        "others",
        "policy",
        "refs",
        "roles",
        "served",
        "session",
        "texts",
        "token_ids",
    )

    def __init__(self, policy: RequestPolicy, served: ServedModel, now_us: int, *, refs: bool):
        self.policy = policy
        self.served = served
        self.now_us = now_us
        self.refs = refs  # the body holds "$ref" somewhere, so schemas must be searched for it
        self.texts: list[str] = []
        self.roles: list[str] = []
        self.others: list[bytes] = []
        self.by_bytes = False
        self.token_ids = 0
        self.images: list[Image] = []
        self.image_chars = 0
        self.session = b""

    def text(self, role: str, value: Any, where: str) -> str:
        """Take one text."""
        if type(value) is not str:
            raise RefusedError("bad_request", f"{where} is not text")
        self.texts.append(value)
        self.roles.append(role)
        return value

    def part(self, value: Any) -> None:
        """Take what is said beside texts; a text in it is taken by `text` too."""
        self.others.append(orjson.dumps(value))
        self.by_bytes = True

    def tokens(self, ids: list[int]) -> None:
        """Take one text that came as token ids."""
        self.others.append(orjson.dumps(ids))
        self.token_ids += len(ids)

    def thought(self, text: str, *, sent: bool) -> None:
        """Take reasoning that the client carried along; `sent`: the upstream is given it."""
        self.part(text)
        if sent:
            self.texts.append(text)
            self.roles.append("assistant")

    def image_url(self, url: Any, detail: str) -> str:
        """Take an image by URL: `data:`, or https from a host that the tier may name."""
        if type(url) is not str:
            raise RefusedError("image_refused")
        head = _DATA_URL.match(url)
        if head is not None:
            self._add(head[1], url[head.end() :], detail)
            return url
        found = _HTTPS_URL.fullmatch(url)
        if found is None or found[1] not in self.policy.tier.image_hosts:
            raise RefusedError("image_refused")
        self._count()
        self.others.append(url.encode())
        self.images.append(Image("url", 0, detail))
        return url

    def image_data(self, media_type: Any, data: Any) -> str:
        """Take an image as base64; return it as a data: URL."""
        if type(data) is not str or media_type not in _SIGNATURES:
            raise RefusedError("image_refused")
        self._add(media_type, data, "auto")
        return f"data:{media_type};base64,{data}"

    @property
    def seals(self) -> bool:
        """Return whether reasoning may be carried by the client, sealed."""
        return self.policy.seal is not None and self.policy.tier.reasoning_blobs

    def bind(self, first: Any) -> None:
        """Bind reasoning blobs to the client's session, else to how the conversation began."""
        policy = self.policy
        if policy.seal is None:
            return
        if policy.session is not None:
            self.session = policy.seal.session(b"named\0" + policy.session.encode())
        else:
            self.session = policy.seal.session(b"first\0" + orjson.dumps(first))

    def open_blob(self, text: Any) -> dict[str, Any]:
        """Return a reasoning blob that this account, session and model was given."""
        policy = self.policy
        if policy.seal is None or type(text) is not str:
            raise RefusedError("foreign_reasoning")
        return policy.seal.open(
            text,
            account=policy.account,
            session=self.session,
            model=self.served.name,
            now_us=self.now_us,
        )

    def schema(self, value: Any, where: str) -> dict[str, Any]:
        """Take a JSON schema. A reference out of it would have the upstream fetch what it names."""
        if type(value) is not dict:
            raise wrong(where, "a JSON schema")
        if self.refs:
            _refuse_foreign_references(value, where)
        return value

    def _add(self, media_type: str, data: str, detail: str) -> None:
        self._count()
        try:
            raw = binascii.a2b_base64(data, strict_mode=True)
        except ValueError:
            raise RefusedError("image_refused", "invalid base64") from None
        if not raw.startswith(_SIGNATURES[media_type]):
            raise RefusedError("image_refused", f"not {media_type}")
        self.others.append(sha256(raw).digest())
        self.image_chars += len(data)
        self.images.append(Image(media_type, len(raw), detail))

    def _count(self) -> None:
        if not self.served.images:
            raise RefusedError("image_refused", "this model takes no images")
        if len(self.images) >= self.policy.tier.max_images:
            raise RefusedError("image_refused", f"at most {self.policy.tier.max_images} images")


def tool_list(value: Any) -> list[Any]:
    """Accept a list of tools, not yet read."""
    if type(value) is list and len(value) <= 1024:
        return value
    raise wrong("tools", "a list of at most 1024 tools")


def tool_name(value: Any, where: str) -> str:
    """Accept the name of a tool."""
    if type(value) is str and _TOOL_NAME.fullmatch(value):
        return value
    raise wrong(where, "1 to 128 letters, digits and _ . : -")


def call_id(value: Any, where: str) -> str:
    """Accept the id of a tool call."""
    if type(value) is str and _CALL_ID.fullmatch(value):
        return value
    raise wrong(where, "1 to 256 printable ASCII characters")


def function(value: Any, prompt: Prompt, where: str) -> dict[str, Any]:
    """Accept a function that the model may call, as OpenAI's surfaces describe one."""
    value = keep_only(value, _FUNCTION_FIELDS, where)
    kept: dict[str, Any] = {"name": tool_name(value.get("name"), f"{where}.name")}
    description = value.get("description")
    if description is not None:
        if type(description) is not str:
            raise wrong(f"{where}.description", "text")
        kept["description"] = prompt.text("tool", description, "a description")
    if value.get("parameters") is not None:
        kept["parameters"] = prompt.schema(value["parameters"], f"{where}.parameters")
    strict = value.get("strict")
    if strict is not None:
        if type(strict) is not bool:
            raise wrong(f"{where}.strict", "true or false")
        kept["strict"] = strict
    prompt.part(kept)
    return kept


def reply_schema(value: Any, prompt: Prompt, where: str) -> dict[str, Any]:
    """Accept a named schema that the reply must follow."""
    value = keep_only(value, _SCHEMA_FIELDS, where)
    kept: dict[str, Any] = {
        "name": tool_name(value.get("name"), f"{where}.name"),
        "schema": prompt.schema(value.get("schema"), f"{where}.schema"),
    }
    if type(value.get("description")) is str:
        kept["description"] = prompt.text("tool", value["description"], "a description")
    if type(value.get("strict")) is bool:
        kept["strict"] = value["strict"]
    prompt.part(kept)
    return kept


def canonical(schema: Any) -> bytes:
    """Return one form for all spellings of a schema."""
    return orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)


def _refuse_foreign_references(schema: Any, where: str) -> None:
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            for name in ("$ref", "$dynamicRef"):
                target = value.get(name)
                if type(target) is str and not target.startswith("#"):
                    raise wrong(where, "free of references to other documents")
            waiting += value.values()
        elif type(value) is list:
            waiting += value
