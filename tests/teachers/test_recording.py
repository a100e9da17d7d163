import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.exchanges import InputError
from stillhouse.teachers.budget import Budget, Caps
from stillhouse.teachers.chat import ChatRequest, Failure, Message, Reply, Sampling, TokenLogprob
from stillhouse.teachers.endpoint import EndpointSettings, EndpointTeacher
from stillhouse.teachers.identity import IdentityPolicy
from stillhouse.teachers.labelling import label, open_journal
from stillhouse.teachers.recording import RecordedTeacher, record_journal, write_recording
from stillhouse.teachers.records import read_reply, reply_record, request_key


def ask(prompt, **sampling):
    return ChatRequest(
        messages=(Message("user", prompt),), sampling=Sampling(**({"max_tokens": 16} | sampling))
    )


def write_lines(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


FULL = Reply(
    text="yes ü",
    finish_reason="stop",
    model="m",
    tokens_in=3,
    tokens_out=2,
    tokens_reasoning=0,
    reasoning="hm",
    system_fingerprint="fp",
    logprobs=(TokenLogprob(token="yes", logprob=-0.5, top=(("yes", -0.5), ("no", -1.0))),),
    label_scores=(-0.25, -1.5),
    price_nano=12,
    latency_us=34,
    extra={"tool_calls": [{"id": "1"}]},
)


def test_a_reply_comes_back_from_its_record_unchanged():
    assert read_reply(json.loads(json.dumps(reply_record(FULL)))) == FULL
    bare = Reply(text="", finish_reason="unknown", model="")
    assert read_reply(json.loads(json.dumps(reply_record(bare)))) == bare


def test_a_recording_replays_by_exact_request_and_a_miss_is_a_failure(tmp_path):
    path = tmp_path / "recording.jsonl"
    write_recording(path, {request_key(ask("a")): FULL}, {"model": "m"})
    teacher = RecordedTeacher.open(path)
    assert teacher.find(ask("a")) == FULL
    for other in (ask("b"), ask("a", max_tokens=17), ask("a", temperature=0.1), ask("a ")):
        miss = teacher.find(other)
        assert isinstance(miss, Failure)
        assert miss.code == "not_recorded"


def test_a_recording_does_not_depend_on_the_order_of_its_replies(tmp_path):
    replies = {request_key(ask(str(i))): FULL for i in range(20)}
    write_recording(tmp_path / "a", replies, {"model": "m"})
    write_recording(tmp_path / "b", dict(reversed(replies.items())), {"model": "m"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_recording_with_a_changed_byte_is_refused(tmp_path_factory, position, flip):
    path = tmp_path_factory.getbasetemp() / "flipped.jsonl"
    write_recording(path, {request_key(ask("a")): FULL}, {"model": "m"})
    data = bytearray(path.read_bytes())
    body = data.index(b"\n") + 1
    place = body + position % (len(data) - body)
    data[place] ^= flip
    path.write_bytes(data)
    with pytest.raises(InputError, match="SHA-256"):
        RecordedTeacher.open(path)


def test_a_labelling_journal_becomes_a_recording_without_its_canaries(endpoint, tmp_path):
    requests = {str(i): ask(f"prompt {i}") for i in range(10)}
    teacher = EndpointTeacher(EndpointSettings(url=endpoint.url, model="teacher-1"))
    journal_path = tmp_path / "labels.journal"
    with open_journal(journal_path, teacher) as journal:
        live = label(requests, teacher, journal, Budget(Caps(), None), identity=IdentityPolicy())
    record_journal(journal_path, tmp_path / "recording.jsonl")
    recorded = RecordedTeacher.open(tmp_path / "recording.jsonl")
    assert len(recorded.replies) == 10
    assert recorded.teacher == teacher.describe()
    asked = len(endpoint.asked)
    with open_journal(tmp_path / "again.journal", recorded) as journal:
        replayed = label(requests, recorded, journal, Budget(Caps(requests=0), None))
    assert replayed.stopped is not None
    with open_journal(tmp_path / "third.journal", recorded) as journal:
        replayed = label(requests, recorded, journal, Budget(Caps(), None))
    assert replayed.stopped is None
    assert {i: a.text for i, a in replayed.answers.items()} == {
        i: a.text for i, a in live.answers.items()
    }
    assert len(endpoint.asked) == asked


def test_a_users_own_file_is_matched_by_its_messages(tmp_path):
    path = write_lines(
        tmp_path / "mine.jsonl",
        {"prompt": "2 + 2?", "reply": "4"},
        {
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
            "reply": "r",
            "finish_reason": "stop",
            "model": "big-1",
            "tokens_in": 4,
            "tokens_out": 1,
            "id": "x",
        },
    )
    teacher = RecordedTeacher.open(path)
    first = teacher.find(ask("2 + 2?", max_tokens=999, temperature=1.0))
    assert first == Reply(text="4", finish_reason="unknown", model="mine")
    messages = (Message("system", "s"), Message("user", "u"))
    second = teacher.find(ChatRequest(messages=messages, sampling=Sampling(max_tokens=1)))
    assert isinstance(second, Reply)
    assert (second.model, second.finish_reason, second.tokens_in) == ("big-1", "stop", 4)
    assert isinstance(teacher.find(ask("3 + 3?")), Failure)


def test_a_gzipped_file_reads_the_same(tmp_path):
    plain = write_lines(tmp_path / "mine.jsonl", {"prompt": "p", "reply": "r"})
    zipped = tmp_path / "mine.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert RecordedTeacher.open(zipped).replies.keys() == RecordedTeacher.open(plain).replies.keys()


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    marked = tmp_path / "mine.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "p", "reply": "r"}\r\n')
    (reply,) = RecordedTeacher.open(marked).replies.values()
    assert reply.text == "r"


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"prompt": "p"}', r"mine.jsonl:2: a line needs `reply`"),
        ('{"prompt": "p", "messages": [], "reply": "r"}', "either `prompt` or `messages`"),
        ('{"prompt": "p", "reply": "r", "tokens": 3}', "unknown key 'tokens'"),
        ('{"prompt": "p", "reply": "r", "finish_reason": "done"}', "finish_reason is 'done'"),
        ('{"prompt": "p", "reply": 3}', "a line needs `reply`"),
        ('{"prompt": 3, "reply": "r"}', "turn cannot be read"),
        ('{"messages": [], "reply": "r"}', "not a list of turns"),
        ('{"messages": [{"role": "robot", "content": "x"}], "reply": "r"}', "cannot be read"),
        ('{"prompt": "p", "reply": "r", "tokens_in": -1}', "tokens_in"),
        ('{"prompt": "first", "reply": "another"}', "another reply in line 1"),
        ('{"prompt": "p"', "not a JSON line"),
        ("[]", "not a JSON object"),
    ],
)
def test_a_bad_line_of_a_users_file_is_named(tmp_path, line, match):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "first", "reply": "1"}\n' + line + "\n")
    with pytest.raises(InputError, match=match):
        RecordedTeacher.open(path)


def test_an_empty_missing_or_cut_file_is_an_error(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(InputError, match="no reply in this file"):
        RecordedTeacher.open(empty)
    with pytest.raises(InputError, match="cannot be read"):
        RecordedTeacher.open(tmp_path / "none.jsonl")
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"prompt": "p", "reply": "r"}')[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        RecordedTeacher.open(cut)


def test_a_key_does_not_depend_on_how_a_number_is_written():
    assert request_key(ask("a", temperature=0)) == request_key(ask("a", temperature=0.0))
    assert request_key(ask("a", temperature=0.5)) != request_key(ask("a", temperature=0.25))
    assert request_key(ask("a", top_logprobs=1)) != request_key(ask("a"))
    assert request_key(ask("a", stop=("x",))) != request_key(ask("a"))
    assert request_key(ask("a", seed=1)) != request_key(ask("a"))
    assert request_key(ask("a", response_schema="{}")) != request_key(ask("a"))
