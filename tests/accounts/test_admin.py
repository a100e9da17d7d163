"""The admin API: tokens, roles, idempotency, and answers that keep to the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from starlette.testclient import TestClient
from tests.accounts.conftest import Office, office_of

from stillhouse.accounts import ACTS, FailureThrottle, Store, mint
from stillhouse.accounts.admin import admin_app, document


@pytest.fixture
def client(office: Office) -> Iterator[TestClient]:
    with TestClient(admin_app(office.store, throttle=FailureThrottle(failures=5))) as client:
        yield client


def bearer(office: Office, who: str, **headers: str) -> dict[str, str]:
    return {"authorization": f"Bearer {office.tokens[who]}", **headers}


def test_nothing_is_answered_without_a_token(client: TestClient, office: Office) -> None:
    assert client.get("/healthz").text == "ok\n"
    for token in ("", office.made.keys[0], mint("stilladmin").text, office.tokens["ada"][:-1]):
        answer = client.get("/openapi.json", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "unauthorised"
    answers = [client.get("/v1/accounts") for _ in range(3)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    right = client.get("/v1/accounts", headers=bearer(office, "vic"))
    assert right.status_code == 200, "a right token is not thrown out with the wrong ones"


def test_a_key_is_issued_shown_once_and_works(client: TestClient, office: Office) -> None:
    headers = bearer(office, "sue", **{"idempotency-key": "k1"})
    body = {"account": office.made.accounts[0], "label": "backend"}
    first = client.post("/v1/acts/issue-key", json=body, headers=headers)
    again = client.post("/v1/acts/issue-key", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.headers["cache-control"] == "no-store"
    assert again.json() == first.json() | {"secret": None}
    key = first.json()["secret"]
    snapshot = office.store.load_snapshot()
    assert snapshot.authenticate(key, office.store.clock()) is not None
    other = client.post("/v1/acts/issue-key", json=body | {"label": "x"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    listed = client.get(
        "/v1/keys", params={"account": body["account"]}, headers=bearer(office, "vic")
    )
    assert len(listed.json()["items"]) == 2
    assert "digest" not in listed.text
    assert key.split("_")[2] not in listed.text


def test_a_ban_takes_two_people_and_an_acknowledged_preview(
    client: TestClient, office: Office
) -> None:
    ann, ben = bearer(office, "ann"), bearer(office, "ben")
    subject = {"scope": "account", "subject": office.made.accounts[0]}
    shown = client.get("/v1/behind", params=subject, headers=ann).json()
    assert shown["affected"] == 1
    body = subject | {"reason": "case 12", "acknowledged": shown["affected"]}
    proposed = client.post("/v1/acts/ban", json=body, headers=ann)
    assert proposed.status_code == 202
    approval = {"proposal": proposed.json()["proposal"], "reason": "checked"}
    own = client.post("/v1/acts/approve", json=approval, headers=ann)
    assert (own.status_code, own.json()["error"]["code"]) == (403, "forbidden")
    assert client.post("/v1/acts/approve", json=approval, headers=ben).status_code == 200
    listed = client.get("/v1/measures", params={"kind": "ban"}, headers=ann).json()["items"]
    assert [row["subject"] for row in listed] == [office.made.accounts[0]]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/acts/nothing", b"{}", 404),
        ("/v1/acts/suspend", b"{", 422),
        ("/v1/acts/suspend", b'{"scope": "account", "surprise": 1}', 422),
        ("/v1/acts/issue-key", b'{"account": "acct_000000000000", "days": "5"}', 422),
        ("/v1/acts/publish-terms", b'{"text": "' + b"x" * (1 << 20) + b'"}', 413),
    ],
)
def test_what_cannot_be_carried_out_is_explained(
    client: TestClient, office: Office, path: str, body: bytes, status: int
) -> None:
    headers = bearer(office, "ada", **{"content-type": "application/json"})
    answer = client.post(path, content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_errors_do_not_repeat_what_was_sent(client: TestClient, office: Office) -> None:
    body = {"account": "x", "kind": "device", "value": "serial-4711-private"}
    answer = client.post("/v1/acts/record-facts", json=body, headers=bearer(office, "sue"))
    assert answer.status_code == 422
    assert "4711" not in answer.text


def test_pages_lead_to_the_end(client: TestClient, office: Office) -> None:
    for name in ("accounts", "audit", "lists", "acceptances"):
        found: list[Any] = []
        after: dict[str, str] = {}
        while True:
            answer = client.get(
                f"/v1/{name}", params={"limit": "2", **after}, headers=bearer(office, "vic")
            ).json()
            found += answer["items"]
            if answer["next"] is None:
                break
            after = {"after": answer["next"]}
        whole = client.get(f"/v1/{name}", headers=bearer(office, "vic")).json()["items"]
        assert found == whole


def test_every_operation_wants_a_token(office: Office) -> None:
    client = TestClient(admin_app(office.store, throttle=FailureThrottle(failures=1000)))
    for path, operations in document()["paths"].items():
        for method in operations:
            assert client.request(method, path).status_code == 401, path


def test_the_document_names_every_act() -> None:
    paths = document()["paths"]
    assert {path.split("/")[-1] for path in paths if "/acts/" in path} == set(ACTS)


def test_the_api_keeps_to_its_document(templates: Any, opened: Any) -> None:
    """Schemathesis, a few dozen requests for each operation in all."""
    store: Store = opened(templates("sqlite", ""))
    office = office_of(store)
    app = admin_app(store)
    headers = {"authorization": f"Bearer {office.tokens['ada']}"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    config = settings(
        max_examples=6,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == len(document()["paths"])
    checked = 0
    for operation in operations:

        @config
        @given(case=operation.as_strategy())
        def requests(case: Any) -> None:
            nonlocal checked
            checked += 1
            # Rules beyond the document (rows that must exist, roles) may refuse what fits it;
            # that every operation wants a token has a test of its own above.
            case.call_and_validate(
                headers=headers, excluded_checks=[positive_data_acceptance, ignored_auth]
            )

        requests()
    assert checked >= 5 * len(operations)
