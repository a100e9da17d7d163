import pytest
from aiohttp import web

from stillhouse.exchanges import read_journal
from stillhouse.teachers.budget import Budget, Caps
from stillhouse.teachers.chat import ChatRequest, Message, Reply, Sampling
from stillhouse.teachers.endpoint import EndpointSettings, EndpointTeacher
from stillhouse.teachers.identity import CANARY_QUESTIONS, IdentityPolicy, Reference
from stillhouse.teachers.labelling import label, open_journal
from stillhouse.teachers.pacing import Backoff
from stillhouse.teachers.scheduler import LabelSettings

QUICK = LabelSettings(backoff=Backoff(base_us=1_000, highest_us=5_000))
CANARIES = set(CANARY_QUESTIONS)


def reply(text, model="teacher-1", fingerprint=None):
    return Reply(text=text, finish_reason="stop", model=model, system_fingerprint=fingerprint)


def rounds(*texts):
    return [{i: reply(text) for i, text in enumerate(row)} for row in texts]


def run(endpoint, folder, n, *, policy=None, caps=None):
    requests = {
        f"item-{i}": ChatRequest(
            messages=(Message("user", f"prompt {i}"),), sampling=Sampling(max_tokens=16)
        )
        for i in range(n)
    }
    teacher = EndpointTeacher(EndpointSettings(url=endpoint.url, model="teacher-1"))
    with open_journal(folder / "labels.journal", teacher) as journal:
        return label(
            requests,
            teacher,
            journal,
            Budget(caps or Caps(), None),
            settings=QUICK,
            identity=policy or IdentityPolicy(),
        )


def test_there_are_twenty_different_canaries():
    assert len(CANARIES) == len(CANARY_QUESTIONS) == 20


def test_the_same_answers_are_no_change():
    first, second, now = rounds("abcd", "abcd", "abcd")
    assert Reference(first, second).compare(now, {}) is None


def test_one_new_constant_answer_of_a_stable_teacher_is_a_change():
    first, second, now = rounds("abcd", "abcd", "abcX")
    reference = Reference(first, second)
    assert reference.suspicious(now) == (3,)
    change = reference.compare(now, {3: [reply("X"), reply("X")]})
    assert change is not None
    assert "1 of 4 canaries" in str(change)


def test_a_passing_difference_is_no_change():
    first, second, now = rounds("abcd", "abcd", "abcX")
    again = {3: [reply("X"), reply("d")]}
    assert Reference(first, second).compare(now, again) is None


def test_a_canary_that_was_unstable_at_the_start_cannot_testify_and_sets_the_tolerance():
    first, second, now = rounds("abcd", "Zbcd", "QbXd")
    reference = Reference(first, second)
    assert reference.unstable == 1
    assert reference.suspicious(now) == (2,)
    assert reference.compare(now, {2: [reply("X"), reply("X")]}) is None
    both = rounds("QYXd")[0]
    again = {i: [both[i], both[i]] for i in (1, 2)}
    assert "2 of 4" in str(reference.compare(both, again))


def test_new_names_are_a_change_and_are_named():
    first, second = rounds("ab", "ab")
    now = {0: reply("a", "teacher-2"), 1: reply("b", fingerprint="fp_9")}
    change = Reference(first, second).compare(now, {})
    assert "'teacher-2'" in str(change)
    assert "'fp_9'" in str(change)


def test_canaries_are_asked_twice_at_the_start_and_once_at_the_end(endpoint, tmp_path):
    result = run(endpoint, tmp_path, 10)
    assert result.stopped is None
    assert len(result.answers) == 10
    asked = [prompt for prompt in endpoint.prompts if prompt in CANARIES]
    assert len(asked) == 60
    assert set(endpoint.prompts[:40]) == CANARIES
    assert all(one.body["temperature"] == 0 for one in endpoint.asked if one.prompt in CANARIES)


def test_canaries_are_paid_from_the_same_budget(endpoint, tmp_path):
    result = run(endpoint, tmp_path, 10, caps=Caps(requests=45))
    assert result.stopped.code == "budget_exhausted"
    assert len(result.answers) == 5
    assert result.spent.requests == 45


def test_another_teacher_on_resume_stops_the_run_before_anything_is_labelled(endpoint, tmp_path):
    run(endpoint, tmp_path, 5)
    endpoint.handler = lambda asked: asked.reply("I am another model")
    before = len(endpoint.asked)
    result = run(endpoint, tmp_path, 50)
    assert result.stopped.code == "teacher_changed"
    assert "canaries have a new constant answer" in result.stopped.message
    assert len(result.answers) == 0
    assert set(endpoint.prompts[before:]) <= CANARIES


def test_a_changed_fingerprint_stops_the_run(endpoint, tmp_path):
    endpoint.handler = lambda asked: asked.reply(system_fingerprint="fp_1")
    run(endpoint, tmp_path, 5)
    endpoint.handler = lambda asked: asked.reply(system_fingerprint="fp_2")
    result = run(endpoint, tmp_path, 6)
    assert result.stopped.code == "teacher_changed"
    assert "'fp_1'" in result.stopped.message
    assert "'fp_2'" in result.stopped.message


def test_a_teacher_that_changes_while_it_labels_is_noticed_at_the_end(endpoint, tmp_path):
    endpoint.handler = lambda asked: (
        asked.reply() if asked.number <= 45 else asked.reply("I am another model")
    )
    result = run(endpoint, tmp_path, 10)
    assert result.stopped.code == "teacher_changed"


def test_splitting_keeps_the_replies_of_both_teachers_apart(endpoint, tmp_path):
    policy = IdentityPolicy(on_change="split")
    run(endpoint, tmp_path, 5, policy=policy)
    endpoint.handler = lambda asked: asked.reply("I am another model")
    run(endpoint, tmp_path, 8, policy=policy)
    result = run(endpoint, tmp_path, 8, policy=policy)
    assert result.stopped is None
    groups = [result.groups[f"item-{i}"] for i in range(8)]
    assert len(set(groups[:5])) == len(set(groups[5:])) == 1
    assert groups[0] != groups[7]


def test_splitting_by_the_model_that_answered_works_within_one_run(endpoint, tmp_path):
    endpoint.handler = lambda asked: asked.reply(
        model="teacher-2" if asked.prompt in ("prompt 3", "prompt 4") else "teacher-1"
    )
    result = run(endpoint, tmp_path, 6, policy=IdentityPolicy("split", canaries=False))
    assert result.stopped is None
    assert len(result.answers) == 6
    assert {i for i, g in result.groups.items() if "teacher-2" in g} == {"item-3", "item-4"}
    assert any("teacher-2" in note for note in result.notes)


@pytest.mark.parametrize("asked_before", [0, 7, 25])
def test_a_reference_that_was_interrupted_is_completed_not_repeated(
    endpoint, tmp_path, asked_before
):
    run(endpoint, tmp_path, 1, caps=Caps(requests=asked_before))
    result = run(endpoint, tmp_path, 3)
    assert result.stopped is None
    asked = [prompt for prompt in endpoint.prompts if prompt in CANARIES]
    assert len(asked) == 60
    keys = [r["key"] for r in read_journal(tmp_path / "labels.journal").records if "reply" in r]
    assert len(keys) == len(set(keys)) == 63


def refusing(questions, text):
    """A teacher that says `text`, and refuses some questions for good."""
    refusal = {"error": {"message": "only temperature 1 is supported"}}
    return lambda asked: (
        web.json_response(refusal, status=400) if asked.prompt in questions else asked.reply(text)
    )


def test_a_canary_that_is_always_refused_does_not_hide_another_teacher(endpoint, tmp_path):
    policy = IdentityPolicy(on_change="split")
    endpoint.handler = refusing(CANARY_QUESTIONS[13:14], "old")
    assert run(endpoint, tmp_path, 5, policy=policy).notes == ()
    endpoint.handler = refusing(CANARY_QUESTIONS[13:14], "new")
    result = run(endpoint, tmp_path, 10, policy=policy)
    assert result.groups["item-0"] != result.groups["item-9"]
    assert "19 of 19 canaries have a new constant answer" in result.notes[0]


@pytest.mark.parametrize("text", [None, ""])
def test_canaries_that_say_nothing_are_told(endpoint, tmp_path, text):
    endpoint.handler = refusing(CANARIES if text is None else (), text)
    for _ in range(2):
        result = run(endpoint, tmp_path, 3)
        assert result.stopped is None
        (note,) = result.notes
        assert "only 0 of 20 canaries brought an answer" in note
        assert ("temperature 1 is supported" if text is None else "were empty") in note
    endpoint.handler = lambda asked: asked.reply(model="teacher-1")
    assert run(endpoint, tmp_path, 3).stopped is None, "nothing to compare with is no change"
