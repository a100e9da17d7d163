"""What the operator decides: one YAML file, read strictly, closed where it does not say otherwise.

`read_config` is the one way in. Credentials never stand in the file: it names an environment
variable or a 0600 file, and `Upstream.credential` reads it.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

import pydantic
import yaml

from stillhouse.exchanges import InputError
from stillhouse.gateway.addresses import TrustedHops

if TYPE_CHECKING:
    from collections.abc import Mapping

SURFACES = ("chat", "completions", "responses", "embeddings", "messages")
Surface = Literal["chat", "completions", "responses", "embeddings", "messages"]
Dialect = Literal["openai", "vllm", "sglang", "llamacpp", "transformers", "anthropic"]
Measure = Literal[
    "requests", "input_tokens", "output_tokens", "money_nano", "distinct_prompts",
    "distinct_networks", "concurrency",
]  # fmt: skip
Positive = pydantic.PositiveInt
NotNegative = pydantic.NonNegativeInt
_PATH = re.compile(r"/[!-~]{0,200}")
_HOST = re.compile(r"[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){1,10}")
_STRICT = pydantic.ConfigDict(extra="forbid", strict=True)


def setting(text: str, default: Any = ..., *, opens: bool = False) -> Any:
    """A setting with the sentence that the docs show for it; `opens` marks a door."""
    told = {"help": text, "opens": opens}
    if default is ...:
        return field(metadata=told)
    if isinstance(default, type):
        return field(default_factory=default, metadata=told)
    return field(default=default, metadata=told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One server that answers for a model."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = _STRICT
    url: str = setting("base URL up to and including /v1, such as http://127.0.0.1:8000/v1")
    key_env: str | None = setting("environment variable with the key of this server", None)
    key_file: Path | None = setting("file of mode 0600 with the key of this server", None)
    most_in_flight: Positive = setting("requests at once; more wait for another server", 1024)
    health_path: str | None = setting(
        "path that answers a GET with 200 while the server is well, such as /health", None
    )
    health_every_s: float = setting("between two such questions", 5.0)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"{self.url!r} is no http or https base URL")
        if parts.username or parts.password:
            raise ValueError("a URL must not hold credentials: use key_env or key_file")
        if self.health_path is not None and not _PATH.fullmatch(self.health_path):
            raise ValueError(f"{self.health_path!r} is no path of a server, such as /health")
        if self.health_every_s <= 0:
            raise ValueError("health_every_s must be above 0")
        if self.key_env and self.key_file:
            raise ValueError("give key_env or key_file, not both")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """How the upstream marks hidden reasoning inside its text. Never guessed."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = _STRICT
    opening: str = setting("what opens it, such as <think>")
    closing: str = setting("what closes it, such as </think>")
    implicit_opening: bool = setting("the chat template itself opens it, unseen in replies", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model as clients see it."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = _STRICT
    name: str = setting("the one spelling that is accepted")
    upstreams: tuple[Upstream, ...] = setting("servers that answer for it")
    upstream_name: str | None = setting("how its servers call it; as clients do when absent", None)
    surfaces: tuple[Surface, ...] = setting("endpoints it is offered on", ("chat", "messages"))
    dialect: Dialect = setting("what its servers speak", "openai")
    max_output_tokens: Positive = setting("longest reply; always sent upstream", 4096)
    default_output_tokens: Positive = setting("where the client names no length", 1024)
    context_tokens: Positive = setting("longest prompt, by the token bound", 131_072)
    tokenizer: Path | None = setting(
        "tokenizer.json of the model; bytes bound tokens without", None
    )
    template_tokens: NotNegative = setting("tokens that the chat template adds to a request", 64)
    template_tokens_per_message: NotNegative = setting("tokens that it adds to each message", 16)
    tokens_per_image: Positive = setting("declared bound for an image", 4096)
    tokens_per_image_detail: dict[Literal["low", "high", "auto"], Positive] | None = setting(
        "bounds by the detail that is asked for (low, high, auto), where they differ", None
    )
    price_in_nano: NotNegative = setting("nano-dollars for an input token", 0)
    price_out_nano: NotNegative = setting("nano-dollars for an output token", 0)
    reasoning: Reasoning | None = setting("delimiters of hidden reasoning, where it has any", None)
    images: bool = setting("images are accepted, as data: URLs", False, opens=True)

    def __post_init__(self) -> None:
        if not self.upstreams:
            raise ValueError(f"model {self.name!r} has no upstreams")
        if self.dialect == "anthropic" and set(self.surfaces) != {"messages"}:
            raise ValueError(f"model {self.name!r}: an anthropic server offers messages alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hops:
    """Proxies in front."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = _STRICT
    count: int = setting("proxies that append to X-Forwarded-For; 0 never reads it", 0, opens=True)
    networks: tuple[str, ...] = setting("where these proxies connect from", ())
    country_header: str | None = setting(
        "header in which they name the client's country", None, opens=True
    )
    asn_header: str | None = setting(
        "header in which they name the client's network (ASN)", None, opens=True
    )
    fingerprint_header: str | None = setting(
        "header in which they name the client's TLS fingerprint, such as JA4", None, opens=True
    )
    trace_context: bool = setting(
        "their W3C trace context (traceparent) is gone on with", False, opens=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds for each stage; a stage that takes longer ends the request."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = _STRICT
    body_s: float = setting("the client's request body, all of it", 30.0)
    connect_s: float = setting("a connection to the upstream", 5.0)
    first_byte_s: float = setting("the upstream's first byte", 300.0)
    between_s: float = setting("two chunks of an upstream's reply", 120.0)
    total_s: float = setting("a whole request", 3600.0)
    slow_client_s: float = setting("a client that reads nothing of its reply", 30.0)
    drain_s: float = setting("open requests when the gateway is stopped", 30.0)
    abandoned_s: float = setting("the rest of a reply whose client has gone", 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much of anything is taken."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = _STRICT
    body_bytes: Positive = setting("largest request body", 4 * 2**20)
    depth: Positive = setting("deepest nesting of a request body", 64)
    header_bytes: Positive = setting("all request headers together", 16 * 2**10)
    reply_bytes: Positive = setting("largest whole reply from an upstream", 16 * 2**20)
    buffer_bytes: Positive = setting("what is held of a stream before reading stops", 2**18)
    in_flight: Positive = setting("requests at once; more are refused as overloaded", 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSetting:
    """One limit beside those of the accounts' tiers."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = _STRICT
    scope: Literal[
        "address", "key", "account", "organisation", "campaign", "end_user", "model", "global"
    ] = setting("what it counts together; address: the /32 and /24, or the /64, /56 and /48")
    measure: Measure = setting("what it counts")
    amount: Positive = setting("how much")
    window_s: float = setting("in any interval of this length; for concurrency nothing", 60.0)
    burst: Positive | None = setting("largest single reservation; half of amount if absent", None)
    per: Literal["window", "month", "balance"] = setting(
        "calendar month and balance: money", "window"
    )
    models: tuple[str, ...] = setting("only requests for these models; empty: for all", ())
    shadow: bool = setting("count and log, refuse nothing", False, opens=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What replies may hold beyond text and tool calls. Log-probabilities: by the tier."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = _STRICT
    reasoning: bool = setting("reasoning that the upstream marks is served", False, opens=True)
    reasoning_blobs: bool = setting("sealed reasoning that clients send back", False, opens=True)
    prefill: bool = setting("the client writes the start of the reply", False, opens=True)
    logit_bias: bool = setting("clients bias single tokens", False, opens=True)
    image_hosts: tuple[str, ...] = setting("https hosts that image URLs may name", (), opens=True)
    choices: Positive = setting("choices a request may ask for", 1, opens=True)

    def __post_init__(self) -> None:
        for host in self.image_hosts:
            # An address could be one of the model server's own network, in any of its forms.
            if not _HOST.fullmatch(host) or host.rpartition(".")[2].isdigit():
                raise ValueError(f"image_hosts: {host!r} is not a name such as images.example.org")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A second port."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = _STRICT
    listen: str = setting("host:port", "127.0.0.1:0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """Where traces of requests go."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = _STRICT
    url: str = setting("collector, by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces")
    share: float = setting("of the requests that come without a trace, those that get one", 1.0)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"{self.url!r} is no http or https URL")
        if parts.username or parts.password:
            raise ValueError("a URL must not hold credentials: use OTEL_EXPORTER_OTLP_HEADERS")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}, it lies between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything about one gateway."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = _STRICT
    models: tuple[Model, ...] = setting("what is served")
    listen: str = setting("host:port for clients", "127.0.0.1:8080", opens=True)
    state: Path = setting("folder of the journals; relative to this file", Path("state"))
    secrets: Path = setting("folder (0700) of the deployment's secrets", Path("secrets"))
    accounts: str = setting("SQLite file, or postgresql URL", "accounts.sqlite")
    accounts_env: str | None = setting("environment variable with that URL instead", None)
    limits: str = setting("memory, or redis://host:port/0", "memory")
    limits_env: str | None = setting("environment variable with that URL instead", None)
    more_limits: tuple[LimitSetting, ...] = setting("limits beside those of the tiers", ())
    offer: Offer = setting("what replies may hold", Offer)
    admin: Listener | None = setting("the admin API; absent: none", None, opens=True)
    metrics: Listener | None = setting(
        "Prometheus metrics on a port of their own", None, opens=True
    )
    tracing: Tracing | None = setting("OpenTelemetry traces; absent: none", None, opens=True)
    trusted_hops: Hops = setting("proxies in front", Hops)
    origins: Path | None = setting("CSV of network, country, asn", None)
    timeouts: Timeouts = setting("time for each stage", Timeouts)
    bounds: Bounds = setting("sizes and counts", Bounds)

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        twice = {name for name in names if names.count(name) > 1}
        if twice or not names:
            raise ValueError(f"models: {sorted(twice)} named twice" if twice else "no models")
        if "@" in self.accounts or "@" in self.limits:
            raise ValueError("a URL with a password belongs into accounts_env or limits_env")
        counted = set()
        for limit in self.more_limits:
            strange = sorted(set(limit.models) - set(names))
            if strange:
                raise ValueError(f"more_limits: there is no model {strange[0]!r}")
            one = (limit.scope, limit.measure, limit.per, limit.window_s, limit.models)
            if one in counted:
                raise ValueError(f"more_limits: two limits on {limit.measure} count the same")
            counted.add(one)
        self.hops()
        for listener in (self.listen, *(x.listen for x in (self.admin, self.metrics) if x)):
            host_and_port(listener)

    def hops(self) -> TrustedHops:
        """Return the trusted hops, parsed."""
        told = self.trusted_hops
        return TrustedHops.of(
            told.count,
            told.networks,
            country=told.country_header,
            asn=told.asn_header,
            fingerprint=told.fingerprint_header,
            trace=told.trace_context,
        )


# Changing these takes a new process: they name what is open already.
_FIXED = ("listen", "state", "secrets", "accounts", "accounts_env", "limits", "limits_env")
FIXED = (*_FIXED, "admin", "metrics", "tracing", "origins")


def read_config(path: Path, over: Mapping[str, Any] | None = None) -> Config:
    """Read and validate a configuration; relative paths are taken from its folder.

    `over` replaces top-level settings: where one file serves several processes, what each has of
    its own. Raises `InputError` naming the file, the key and the nearest known one.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (safe)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", place=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"not YAML: {error}", place=str(path)) from error
    if over and isinstance(value, dict):
        value |= over
    return build_config(value, place=str(path), folder=path.parent)


def build_config(value: Any, *, place: str = "the configuration", folder: Path = Path()) -> Config:
    """Make a `Config` of plain values, as `read_config` does."""
    try:
        text = json.dumps(value, allow_nan=False)
        config = pydantic.TypeAdapter(Config).validate_json(text)
    except pydantic.ValidationError as error:
        raise _explained(error, place) from None
    except (TypeError, ValueError) as error:
        raise InputError(f"not a configuration: {error}", place=place) from error
    for model in config.models:
        _settle_paths(model, folder, ("tokenizer",))
        for upstream in model.upstreams:
            _settle_paths(upstream, folder, ("key_file",))
    _settle_paths(config, folder, ("state", "secrets", "origins"))
    if "://" not in config.accounts:
        object.__setattr__(config, "accounts", str(folder / config.accounts))
    return config


def changed_fixed(before: Config, after: Config) -> list[str]:
    """Name the settings that differ and cannot change while the gateway runs."""
    return [name for name in FIXED if getattr(before, name) != getattr(after, name)]


def open_doors(config: Config) -> list[tuple[str, str]]:
    """List every setting that opens something beyond the defaults: (setting, what is open)."""
    found: list[tuple[str, str]] = []
    host, _ = host_and_port(config.listen)
    if host not in ("127.0.0.1", "::1", "localhost"):
        found.append(("listen", f"clients reach {host} without TLS unless a proxy is in front"))
    for name in ("admin", "metrics"):
        listener = getattr(config, name)
        if listener:
            found.append((name, f"a port at {listener.listen}"))
    if config.tracing:
        found.append(("tracing", f"times, models and codes of requests go to {config.tracing.url}"))
    if config.trusted_hops.trace_context:
        told = "traceparent is believed: the proxy must replace what clients send in it"
        found.append(("trusted_hops.trace_context", told))
    if config.trusted_hops.count:
        found.append(
            ("trusted_hops", f"addresses are believed from {config.trusted_hops.networks}")
        )
    for name in ("country_header", "asn_header", "fingerprint_header"):
        header = getattr(config.trusted_hops, name)
        if header:
            told = f"{header} is believed: the proxy must replace what clients send in it"
            found.append((f"trusted_hops.{name}", told))
    for name in ("reasoning", "reasoning_blobs", "prefill", "logit_bias", "image_hosts"):
        if getattr(config.offer, name):
            found.append((f"offer.{name}", "offered to every account"))
    if config.offer.choices > 1:
        found.append(("offer.choices", f"{config.offer.choices} replies to one request"))
    found += [
        (f"more_limits.{limit.scope}.{limit.measure}", "shadow: refuses nothing")
        for limit in config.more_limits
        if limit.shadow
    ]
    for model in config.models:
        if model.images:
            found.append((f"models.{model.name}.images", "images are accepted"))
        if model.tokenizer is None:
            found.append((f"models.{model.name}.tokenizer", "none: bytes bound the tokens"))
        found += [
            (f"models.{model.name}.upstreams", f"{u.url} is reached without TLS")
            for u in model.upstreams
            if u.url.startswith("http:")
            and urlsplit(u.url).hostname not in ("127.0.0.1", "::1", "localhost")
        ]
    return found


def host_and_port(text: str) -> tuple[str, int]:
    """Parse `host:port`, with brackets around IPv6. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not host:port")
    return host.strip("[]"), int(port)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_SECTIONS: tuple[type[Any], ...] = (
    Config, Model, Upstream, Reasoning, Hops, Timeouts, Bounds, LimitSetting, Offer, Listener,
    Tracing,
)  # fmt: skip
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
KNOWN = sorted({field.name for section in _SECTIONS for field in fields(section)})


def _explained(error: pydantic.ValidationError, place: str) -> InputError:
    found = error.errors(include_url=False, include_input=False)
    # A misspelt key also counts as a missing one: the spelling is the better news.
    first = next((e for e in found if e["type"] in _UNKNOWN), found[0])
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] in _UNKNOWN:
        near = difflib.get_close_matches(str(first["loc"][-1]), KNOWN, n=1)
        repair = f"did you mean {near[0]!r}?" if near else "docs/gateway.md lists every key"
        return InputError(f"unknown key {name!r}", place=place, repair=repair)
    message = first["msg"].removeprefix("Value error, ")
    return InputError(
        f"{name}: {message}" if name else message,
        place=place,
        repair="docs/gateway.md lists every key",
    )


def _settle_paths(section: Any, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None:
            object.__setattr__(section, name, folder / value)
