import asyncio
import gzip
import logging
import socket
import threading

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.exchanges import InputError
from stillhouse.teachers.chat import ChatRequest, Failure, Message, Reply, Sampling
from stillhouse.teachers.endpoint import EndpointSettings, EndpointTeacher, Timeouts
from stillhouse.teachers.pacing import Backoff
from stillhouse.teachers.records import reply_record
from stillhouse.teachers.secret import Secret
from stillhouse.teachers.wire import Attempt, read_answer, request_body

KEY = "sk-very-secret-0123456789"
ASK = ChatRequest(messages=(Message("user", "hello"),), sampling=Sampling(max_tokens=8))


def attempt(endpoint, *, request=ASK, key=None, method="attempt", **changes):
    changes = {"backoff": Backoff(base_us=10, highest_us=10)} | changes
    settings = EndpointSettings(
        **({"url": endpoint if isinstance(endpoint, str) else endpoint.url, "model": "m"} | changes)
    )

    async def run():
        async with EndpointTeacher(settings, key) as teacher:
            return await getattr(teacher, method)(request)

    return asyncio.run(run())


def failure_of(got: Attempt) -> Failure:
    assert isinstance(got.outcome, Failure), got
    return got.outcome


def test_a_reply_keeps_text_usage_fingerprint_reasoning_and_log_probabilities(endpoint):
    choice = {
        "message": {"role": "assistant", "content": "hi", "reasoning_content": "they greet"},
        "finish_reason": "stop",
        "logprobs": {
            "content": [
                {
                    "token": "hi",
                    "logprob": -0.25,
                    "top_logprobs": [
                        {"token": "hi", "logprob": -0.25},
                        {"token": "ho", "logprob": -1.75},
                    ],
                }
            ]
        },
    }
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    endpoint.handler = lambda asked: asked.reply(
        choices=[choice], usage=usage, system_fingerprint="fp_1"
    )
    got = attempt(endpoint)
    reply = got.outcome
    assert isinstance(reply, Reply)
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("hi", "they greet", "stop")
    assert (reply.tokens_in, reply.tokens_out, reply.tokens_reasoning) == (11, 7, 5)
    assert (reply.model, reply.system_fingerprint) == ("teacher-1", "fp_1")
    assert reply.logprobs is not None
    assert reply.logprobs[0].top == (("hi", -0.25), ("ho", -1.75))
    assert (got.charge, got.usage, got.next) == ("usage", (11, 7), "done")


def test_the_request_always_caps_its_output_and_carries_what_was_asked(endpoint):
    request = ChatRequest(
        messages=(Message("system", "s"), Message("user", "ü")),
        sampling=Sampling(
            max_tokens=5,
            temperature=0.7,
            top_p=0.9,
            seed=3,
            stop=("\n",),
            response_schema='{"type":"object"}',
            top_logprobs=4,
        ),
    )
    attempt(endpoint, request=request, extra={"reasoning": {"enabled": False}})
    body = endpoint.asked[0].body
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "ü"}],
        "max_tokens": 5,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["\n"],
        "logprobs": True,
        "top_logprobs": 4,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": {"type": "object"}, "strict": True},
        },
        "reasoning": {"enabled": False},
    }
    assert endpoint.asked[0].request.path == "/v1/chat/completions"
    attempt(endpoint, max_tokens_name="max_completion_tokens")
    assert endpoint.asked[1].body["max_completion_tokens"] == 8
    assert "max_tokens" not in endpoint.asked[1].body


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"),
        ("something_new", "unknown"),
        (None, "unknown"),
    ],
)
def test_finish_reasons_are_mapped_and_new_ones_are_unknown(theirs, ours):
    body = {
        "model": "m",
        "choices": [{"message": {"content": "x"}, "finish_reason": theirs}],
    }
    got = read_answer(200, orjson.dumps(body), "application/json", None)
    assert isinstance(got.outcome, Reply)
    assert got.outcome.finish_reason == ours
    assert got.charge == "bound"


def test_content_in_parts_is_text_and_reasoning(endpoint):
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "they greet"}]}
    parts = [thinking, {"type": "text", "text": "hi "}, {"type": "text", "text": "there"}, 7]
    message = {"message": {"content": parts}, "finish_reason": "stop"}
    endpoint.handler = lambda asked: asked.reply(choices=[message])
    reply = attempt(endpoint).outcome
    assert isinstance(reply, Reply)
    assert (reply.text, reply.reasoning) == ("hi there", "they greet")


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ((20, 5, 25), (20, 5)),
        ((32, 9, 135), (32, 103)),  # reasoning outside of completion_tokens
        ((20, 5, 20), (20, 5)),
        ((0, 0, 0), None),  # what some servers send that do not count
    ],
)
def test_usage_is_what_was_worked_or_unknown(endpoint, usage, counted):
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    endpoint.handler = lambda asked: asked.reply(usage=dict(zip(names, usage, strict=True)))
    got = attempt(endpoint)
    assert got.usage == counted
    assert got.charge == ("usage" if counted else "bound")


def json_error(status, **error):
    return lambda asked: web.json_response({"error": error}, status=status)


def text(body, content_type="application/json", status=200):
    return lambda asked: web.Response(text=body, content_type=content_type, status=status)


BAD_ANSWERS = [
    (json_error(429, message="slow down"), "rate_limited", "nothing", "retry"),
    (json_error(503, message="busy"), "overloaded", "nothing", "retry"),
    (json_error(429, message="pay", code="insufficient_quota"), "no_credit", "nothing", "stop"),
    (json_error(402, message="pay"), "no_credit", "nothing", "stop"),
    (json_error(401, message="who?"), "not_authorised", "nothing", "stop"),
    (json_error(404, message="no model"), "not_found", "nothing", "stop"),
    (json_error(400, message="odd"), "bad_request", "nothing", "give_up"),
    (json_error(400, message="bad", code="content_filter"), "content_filter", "nothing", "give_up"),
    (
        json_error(400, message="long", code="context_length_exceeded"),
        "prompt_too_long",
        "nothing",
        "give_up",
    ),
    (json_error(409, message="again"), "try_again", "nothing", "retry"),
    (json_error(500, message="oops"), "server_error", "bound", "retry"),
    (text("<html><h1>502</h1></html>", "text/html", 502), "server_error", "bound", "retry"),
    (text("<html>log in</html>", "text/html"), "html", "bound", "retry"),
    (text("  <!doctype html><p>hi"), "html", "bound", "retry"),
    (text('{"choices": [{"mess'), "truncated_json", "bound", "retry"),
    (text("all good"), "not_json", "bound", "retry"),
    (text(""), "not_json", "bound", "retry"),
    (text("[]"), "not_json", "bound", "retry"),
    (text('{"error": {"message": "upstream", "code": 429}}'), "rate_limited", "nothing", "retry"),
    (text('{"error": "boom"}'), "server_error", "bound", "retry"),
    (lambda asked: asked.reply(choices=[]), "no_choices", "usage", "retry"),
    (lambda asked: asked.reply(choices=None, usage=None), "no_choices", "bound", "retry"),
    (lambda asked: asked.reply(choices=[{"message": None}]), "no_choices", "usage", "retry"),
    (
        lambda asked: asked.reply(
            choices=[{"message": {"content": ""}, "finish_reason": "content_filter"}]
        ),
        "content_filter",
        "usage",
        "give_up",
    ),
    (
        lambda asked: asked.reply(
            choices=[{"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"}]
        ),
        "refused_by_model",
        "usage",
        "give_up",
    ),
    (
        lambda asked: web.Response(status=307, headers={"Location": "https://elsewhere.example"}),
        "redirected",
        "nothing",
        "stop",
    ),
]


@pytest.mark.parametrize(
    ("handler", "code", "charge", "then"),
    BAD_ANSWERS,
    ids=[f"{i}-{b[1]}" for i, b in enumerate(BAD_ANSWERS)],
)
def test_each_bad_answer_has_its_code_its_charge_and_what_to_do(
    endpoint, handler, code, charge, then
):
    endpoint.handler = handler
    got = attempt(endpoint)
    assert (failure_of(got).code, got.charge, got.next) == (code, charge, then)
    assert got.refused == (code in ("rate_limited", "overloaded"))
    assert len(failure_of(got).message) > 10


def test_a_server_that_is_down_is_unreachable_and_free():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        got = attempt(f"http://127.0.0.1:{held.getsockname()[1]}/v1")
    assert (failure_of(got).code, got.charge, got.next) == ("unreachable", "nothing", "retry")
    assert "127.0.0.1" in failure_of(got).message


def test_a_name_that_does_not_resolve_is_unreachable():
    got = attempt("http://no-such-host.invalid/v1")
    assert failure_of(got).code == "unreachable"


@pytest.mark.parametrize("limits", [{"read_s": 0.05}, {"total_s": 0.05}])
def test_a_slow_answer_times_out_and_is_charged_in_full(endpoint, limits):
    async def slow(asked):
        await asyncio.sleep(5)
        return asked.reply()

    endpoint.handler = slow
    got = attempt(endpoint, timeouts=Timeouts(**limits))
    assert (failure_of(got).code, got.charge, got.next) == ("timeout", "bound", "retry")
    assert "0.05 s" in failure_of(got).message


def test_an_answer_whose_connection_breaks_is_charged_in_full():
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = server.accept()
        connection.recv(65536)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"choices"')
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    got = attempt(f"http://127.0.0.1:{server.getsockname()[1]}/v1")
    thread.join()
    server.close()
    assert (failure_of(got).code, got.charge, got.next) == ("connection_lost", "bound", "retry")


def test_compressed_answers_are_read(endpoint):
    def zipped(asked):
        data = gzip.compress(asked.reply("compressed").body)
        return web.Response(
            body=data, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"}
        )

    endpoint.handler = zipped
    got = attempt(endpoint)
    assert isinstance(got.outcome, Reply)
    assert got.outcome.text == "compressed"


def test_an_endless_answer_is_cut_off(endpoint, monkeypatch):
    monkeypatch.setattr("stillhouse.teachers.endpoint.MAX_ANSWER_BYTES", 1_000)
    endpoint.handler = lambda asked: asked.reply("x" * 2_000)
    got = attempt(endpoint)
    assert (failure_of(got).code, got.next) == ("answer_too_long", "give_up")


def test_reply_tries_again_and_counts_its_tries(endpoint):
    endpoint.handler = lambda asked: (
        asked.reply() if asked.number == 3 else web.json_response({}, status=503)
    )
    got = attempt(endpoint, method="reply")
    assert isinstance(got, Reply)
    assert got.latency_us is not None
    endpoint.handler = lambda asked: web.json_response({}, status=503)
    got = attempt(endpoint, method="reply", max_attempts=4)
    assert isinstance(got, Failure)
    assert (got.code, got.attempts) == ("overloaded", 4)


def test_retry_after_reaches_the_caller(endpoint):
    endpoint.handler = lambda asked: web.json_response({}, status=429, headers={"Retry-After": "2"})
    assert attempt(endpoint).retry_after_us == 2_000_000


def test_the_key_goes_into_one_header_and_nowhere_else(endpoint, caplog):
    caplog.set_level(logging.DEBUG)
    echo = {"message": f"the key {KEY} is wrong"}
    endpoint.handler = lambda asked: web.json_response({"error": echo}, status=401)
    key = Secret(KEY)
    got = attempt(endpoint, key=key)
    assert endpoint.asked[0].request.headers["Authorization"] == f"Bearer {KEY}"
    settings = EndpointSettings(url=endpoint.url, model="m")
    teacher = EndpointTeacher(settings, key)
    shown = [repr(got), repr(key), str(key), repr(teacher), caplog.text, str(teacher.describe())]
    assert all(KEY not in one for one in shown)
    assert "the key *** is wrong" in failure_of(got).message


def test_a_redirect_never_carries_the_key_away(endpoint):
    other = type(endpoint)()
    other.start()
    endpoint.handler = lambda asked: web.Response(
        status=308, headers={"Location": other.url + "/chat/completions"}
    )
    got = attempt(endpoint, key=Secret(KEY))
    other.stop()
    assert failure_of(got).code == "redirected"
    assert other.url in failure_of(got).message
    assert other.asked == []


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("ftp://host/v1", "not a web address"),
        ("host/v1", "not a web address"),
        ("https://user:secret@host/v1", "holds a user, a password"),
        ("https://host/v1?key=abc", "a query"),
        ("http://[::1", "not a URL"),
        ("https://host:99999/v1", "not a URL"),
        ("http://example.com/v1", "unencrypted"),
    ],
)
def test_a_bad_address_is_refused_before_anything_is_sent(url, match):
    with pytest.raises(InputError, match=match) as error:
        EndpointTeacher(EndpointSettings(url=url, model="m"), Secret(KEY))
    assert "secret" not in str(error.value)


def test_extra_fields_cannot_lift_the_output_cap():
    settings = EndpointSettings(url="https://host/v1", model="m", extra={"max_tokens": 9})
    with pytest.raises(InputError, match="max_tokens"):
        EndpointTeacher(settings)


@given(st.integers(200, 599), st.binary(max_size=300), st.sampled_from(["text/html", "a/json"]))
def test_any_answer_is_read_without_an_exception(status, data, content_type):
    got = read_answer(status, data, content_type, None)
    assert isinstance(got.outcome, Failure)
    assert got.outcome.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2**40) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
COMPLETION = {
    "model": "m",
    "system_fingerprint": "f",
    "choices": [
        {
            "message": {
                "role": "assistant",
                "content": "x",
                "reasoning": "y",
                "refusal": None,
                "tool_calls": [],
            },
            "finish_reason": "stop",
            "logprobs": {"content": [{"token": "x", "logprob": -1.0, "top_logprobs": []}]},
        }
    ],
    "usage": {
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "completion_tokens_details": {"reasoning_tokens": 0},
    },
}


def paths(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[key], (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@given(st.sampled_from(list(paths(COMPLETION))), json_values, st.sampled_from([200, 400, 429, 500]))
def test_a_completion_with_anything_anywhere_is_read_without_an_exception(path, new, status):
    data = orjson.dumps(replaced(COMPLETION, path, new))
    got = read_answer(status, data, "application/json", None)
    if isinstance(got.outcome, Reply):
        assert isinstance(got.outcome.text, str)
        assert isinstance(got.outcome.model, str)
        orjson.dumps(reply_record(got.outcome))
    else:
        assert got.outcome.message


@given(st.text(max_size=60))
def test_any_prompt_survives_the_way_into_the_body(prompt):
    request = ChatRequest(messages=(Message("user", prompt),), sampling=Sampling(max_tokens=1))
    body = orjson.loads(request_body(request, "m"))
    assert body["messages"][0]["content"] == prompt
