"""Requests as an attacker writes them, by hand, to a whole gateway: none gets further than its key.

What framing can hide is in `test_http`, what JSON can hide in `test_surfaces_json`.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from tests.gateway.running import Running, running
from tests.gateway.scripted import Script, completion

if TYPE_CHECKING:
    from pathlib import Path

MARK = "zqxinjectedzqx"
# All headers that a reply may have, whatever was sent.
KNOWN = {
    *("content-type", "content-length", "connection", "x-request-id", "request-id"),
    *("x-should-retry", "retry-after"),
}
CHAT = b"/v1/chat/completions"
BODY = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'
ESCAPED = b"%0d%0aset-cookie:%20" + MARK.encode() + b"%0d%0a%0d%0a"


def post(gateway: Running, target: bytes = CHAT, body: bytes = BODY, more: bytes = b"") -> bytes:
    """Return a request with the right key, closed afterwards."""
    return (
        b"POST %b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n%b"
        b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
        % (target, gateway.key.encode(), more, len(body), body)
    )


async def send(gateway: Running, request: bytes) -> tuple[int | None, set[str], bytes]:
    """Return (status or None where nothing came, names of headers, body) of one raw exchange."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    try:
        writer.write(request)
        got = await asyncio.wait_for(reader.read(), 10)
    except TimeoutError:
        pytest.fail(f"kept open: {request[:100]!r}")
    except ConnectionError:
        return None, set(), b""
    finally:
        writer.close()
    if not got:
        return None, set(), b""
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    names = {line.partition(b":")[0].decode() for line in lines}
    return int(first.split()[1]), names, body


async def refuse_all(gateway: Running, requests: list[bytes]) -> None:
    """Every request is refused, reaches no upstream, and leaves no trace but one line of JSON."""
    for request in requests:
        status, names, body = await send(gateway, request)
        assert status is None or 400 <= status < 500, request
        assert names <= KNOWN, request
        assert MARK.encode() not in body, request
        assert not gateway.upstream.asked, request
    for line in gateway.log.getvalue().splitlines():
        assert isinstance(json.loads(line), dict)
    assert MARK not in gateway.log.getvalue()
    assert (await send(gateway, post(gateway)))[0] == 200


def test_what_is_no_plain_request_of_a_known_path_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            targets = [
                b"/v1/chat/completions/",
                b"/v1//chat/completions",
                b"//v1/chat/completions",
                b"/v1/chat/../chat/completions",
                b"/v1/chat/%2e%2e/chat/completions",
                b"/V1/Chat/Completions",
                b"/v1/chat/completions%00",
                b"/v1/chat/completions%20",
                b"/v1/chat/completions;x=1",
                b"/v1/chat/completions%3fx",
                b"/v1/chat/completions\xff",
                b"/v1/%u0063hat/completions",
                b"/v1" + ESCAPED,
                b"/metrics",
                b"/admin/accounts",
                b"/v1/" + b"a" * 20_000,
            ]
            methods = [b"GET", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"QUERY", b"post"]
            strange = [post(gateway).replace(b"POST", method, 1) for method in methods]
            strange += [
                b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nConnection: close\r\n\r\n",
                b"OPTIONS * HTTP/1.1\r\nConnection: close\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET /v1/models\r\n\r\n",
                b"POST http:// HTTP/1.1\r\nConnection: close\r\n\r\n",
                b"POST http://[::1 HTTP/1.1\r\nConnection: close\r\n\r\n",
                b"GET /v1/models HTTP/9.9\r\nConnection: close\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300,
                b"GET /v1/models/" + ESCAPED + b" HTTP/1.1\r\nConnection: close\r\n\r\n",
            ]
            await refuse_all(gateway, [*(post(gateway, target) for target in targets), *strange])

    asyncio.run(scenario())


def test_an_absolute_target_chooses_no_server(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            target = b"http://169.254.169.254:81/v1/chat/completions?upstream=http://evil/"
            status, names, _ = await send(gateway, post(gateway, target))
            assert status == 200
            (asked,) = gateway.upstream.asked
            assert asked.path == CHAT.decode()
            assert "169.254.169.254" not in str(asked.headers)
            assert "set-cookie" not in names

    asyncio.run(scenario())


def test_headers_of_a_client_reach_neither_the_upstream_nor_the_reply(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            mark = MARK.encode()
            more = b"".join(
                b"%b: %b\r\n" % (name, mark)
                for name in (
                    *(b"X-Request-Id", b"Request-Id", b"Traceparent", b"Cookie", b"Origin"),
                    *(b"X-Forwarded-Host", b"Forwarded", b"X-Original-Url", b"X-Rewrite-Url"),
                    *(b"OpenAI-Organization", b"Anthropic-Beta", b"User-Agent", b"Via", b"Te"),
                    *(b"X-Api-Key-Extra", b"X-Http-Method-Override", b"X-Forwarded-For"),
                )
            )
            status, names, body = await send(gateway, post(gateway, more=more))
            assert status == 200
            (asked,) = gateway.upstream.asked
            assert MARK not in str(asked.headers)
            assert MARK not in str(asked.body)
            assert mark not in body
            assert MARK not in str(names)
            assert MARK not in gateway.log.getvalue()

    asyncio.run(scenario())


def test_only_the_exact_spelling_of_a_model_is_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            names = [
                *("Small", "small ", " small", "small\0", "small\n", "small\u200b", "\ufeffsmall"),
                *("\uff53mall", "sma\u0142l", "sm\u0430ll", "small/../small", "upstream-model"),
                *("", "*", "small,small", "%73mall", f"small\r\n{MARK}"),
            ]
            bodies: list[dict[str, object]] = [{"model": name, "messages": []} for name in names]
            bodies += [{"model": value} for value in (None, 1, ["small"], {"a": 1}, True)]
            requests = [post(gateway, body=json.dumps(body).encode()) for body in bodies]
            await refuse_all(gateway, requests)

    asyncio.run(scenario())


def test_values_that_two_parsers_read_differently_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            fields = [
                b'"model":"small"',
                b'"mod\\u0065l":"small"',
                b'"seed":1e400',
                b'"seed":-NaN',
                b'"seed":NaN',
                b'"seed":' + b"9" * 5_000,
                b'"seed":18446744073709551616',
                b'"seed":01',
                b'"seed":0x10',
                b'"temperature":Infinity',
                b'"temperature":1e-400000000000000000000e1',
                b'"max_tokens":4294967296.0',
                b'"max_tokens":-1',
                b'"max_tokens":"5"',
                b'"n":true',
                b'"user":"\\ud800"',
                b'"user":"\xed\xa0\x80"',
                b'"user":"\xc0\xae"',
                b'"user":"a\nb"',
                b'"stop":"\\u0000"' + b',"stop":"x"',
            ]
            bodies = [BODY[:-1] + b"," + field + b"}" for field in fields]
            bodies += [
                b"\xef\xbb\xbf" + BODY,
                BODY.decode().encode("utf-16"),
                BODY + b"\0",
                BODY + BODY,
                b"/**/" + BODY,
                BODY.replace(b'"', b"'"),
            ]
            await refuse_all(gateway, [post(gateway, body=body) for body in bodies])

    asyncio.run(scenario())


@pytest.mark.parametrize("name", [b"Authorization: Bearer ", b"X-Api-Key: "])
def test_of_two_keys_none_counts(tmp_path: Path, name: bytes) -> None:
    async def scenario() -> None:
        async with running(tmp_path, accounts=2) as gateway:
            other = gateway.furnished.keys[1].encode()
            request = post(gateway).replace(b"Authorization: Bearer ", name)
            await refuse_all(gateway, [request.replace(b"Host: x", b"%b%b" % (name, other), 1)])

    asyncio.run(scenario())


def test_headers_of_an_upstream_never_reach_a_client(tmp_path: Path) -> None:
    told: tuple[str, ...] = (
        *("Set-Cookie: a=1", f"X-Upstream: {MARK}", "X-Request-Id: theirs", "Server: vllm"),
        *("Location: http://169.254.169.254/", "X-Ratelimit-Remaining-Tokens: 7"),
    )

    async def scenario() -> None:
        script = Script(body=completion(), headers=told)
        async with running(tmp_path, lambda _: script) as gateway:
            status, names, body = await send(gateway, post(gateway))
            assert status == 200
            limits = {name for name in names if name.startswith("x-ratelimit-")}
            assert names - limits <= KNOWN
            assert MARK.encode() not in body
            assert b"upstream-model" not in body
            assert b"up-1" not in body  # nor its ids

    asyncio.run(scenario())


def test_a_burst_of_pipelined_requests_is_answered_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            port = int(gateway.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            one = b"GET /healthz HTTP/1.1\r\n\r\n"
            writer.write(one * 3_000 + b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n")
            got = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            assert got.count(b"HTTP/1.1 200 OK") == 3_000
            assert got.count(b"HTTP/1.1 401") == 1
            assert got.rindex(b"HTTP/1.1 401") > got.rindex(b"HTTP/1.1 200")

    asyncio.run(scenario())
