"""The admin HTTP API as a Starlette application."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast, get_args

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from stillhouse.accounts.acts import ACTS
from stillhouse.accounts.admin.openapi import document
from stillhouse.accounts.desk import MissingError, explained
from stillhouse.accounts.measures import Scope
from stillhouse.accounts.networks import Address, parse_address
from stillhouse.accounts.roles import ForbiddenError, Operator, Right, demand
from stillhouse.accounts.store import ConflictError
from stillhouse.accounts.throttle import FailureThrottle
from stillhouse.accounts.views import COLLECTIONS, LARGEST_PAGE, page, preview
from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from stillhouse.accounts.store import Store

_BODY_BYTES = 1 << 20
_UNKNOWN_ADDRESS = Address(4, 0)
_REQUEST_KEY = re.compile(r"[!-~]{1,128}")
_PARAMETER = re.compile(r"[ -~]{1,100}")
_HEADERS = {"cache-control": "no-store"}


def admin_app(store: Store, *, throttle: FailureThrottle | None = None) -> Starlette:
    """Return the application; serve it on a port that only operators reach, behind TLS.

    Every request but `/healthz` needs `Authorization: Bearer TOKEN`. `Idempotency-Key` makes a POST
    safe to repeat: the first answer is given again, without its secret.
    """
    api = _Api(store, FailureThrottle() if throttle is None else throttle)
    routes = [
        Route("/healthz", _health),
        Route("/openapi.json", api.guarded(api.openapi)),
        Route("/v1/behind", api.guarded(api.behind)),
        Route("/v1/acts/{name}", api.guarded(api.act), methods=["POST"]),
        Route("/v1/{name}", api.guarded(api.collection)),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error})


class _Api:
    """The handlers; each gets the operator whose token came with the request."""

    def __init__(self, store: Store, throttle: FailureThrottle) -> None:
        self._store = store
        self._throttle = throttle
        self._document = orjson.dumps(document())

    def guarded(
        self, handler: Callable[[Request, Operator], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: token first, then its errors as answers."""

        async def endpoint(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            scheme, _, token = given.partition(" ")
            operator = None
            if scheme.lower() == "bearer":
                operator = await run_in_threadpool(self._store.operator_of, token.strip())
            if operator is None:
                return self._unauthorised(request)
            try:
                return await handler(request, operator)
            except ForbiddenError as error:
                return _error(403, "forbidden", error)
            except ConflictError as error:
                return _error(409, "conflict", error)
            except MissingError as error:
                return _error(404, "missing", error)
            except InputError as error:
                return _error(422, "invalid", error)

        return endpoint

    def _unauthorised(self, request: Request) -> Response:
        try:
            address = parse_address(request.client.host if request.client else "")
        except InputError:
            address = _UNKNOWN_ADDRESS
        now_us = self._store.clock()
        wait_us = self._throttle.fail(address, now_us)
        if wait_us > 0:
            answer = _error(429, "throttled", InputError("too many requests without a valid token"))
            answer.headers["retry-after"] = str(-(-wait_us // 1_000_000))
            return answer
        answer = _error(401, "unauthorised", InputError("a valid admin token is needed"))
        answer.headers["www-authenticate"] = "Bearer"
        return answer

    async def openapi(self, _request: Request, operator: Operator) -> Response:
        """Return the OpenAPI document."""
        demand(operator, Right.READ)
        return Response(self._document, media_type="application/json", headers=_HEADERS)

    async def act(self, request: Request, operator: Operator) -> Response:
        """Carry out an act: 200 when done, 202 when a second person must approve."""
        kind = ACTS.get(request.path_params["name"])
        if kind is None:
            raise HTTPException(404)
        request_key = request.headers.get("idempotency-key")
        if request_key is not None and _REQUEST_KEY.fullmatch(request_key) is None:
            raise InputError("an idempotency key has 1 to 128 visible ASCII characters")
        body = await _body(request)
        try:
            act = kind.model_validate_json(body, strict=True)
        except ValidationError as error:
            raise explained(error) from None
        done = await run_in_threadpool(
            self._store.perform, operator.id, act, request_key=request_key
        )
        return _json(200 if done.proposal is None else 202, done.as_json())

    async def collection(self, request: Request, operator: Operator) -> Response:
        """Return a page of a table."""
        demand(operator, Right.READ)
        name = request.path_params["name"]
        if name not in COLLECTIONS:
            raise HTTPException(404)
        given = _parameters(request)
        after, limit = given.pop("after", None), given.pop("limit", "100")
        if re.fullmatch(r"[0-9]{1,3}", limit, re.ASCII) is None or not (
            1 <= int(limit) <= LARGEST_PAGE
        ):
            raise InputError(f"a page has 1 to {LARGEST_PAGE} rows", place="limit")
        rows, following = await run_in_threadpool(
            page, self._store, name, filters=given, after=after, limit=int(limit)
        )
        return _json(200, {"items": rows, "next": following})

    async def behind(self, request: Request, operator: Operator) -> Response:
        """Return who is behind a subject."""
        demand(operator, Right.READ)
        given = _parameters(request)
        if set(given) != {"scope", "subject"} or given["scope"] not in get_args(Scope):
            raise InputError(
                "scope and subject are needed, and nothing else",
                repair=f"scope is one of: {', '.join(get_args(Scope))}",
            )
        scope = cast("Scope", given["scope"])
        who = await run_in_threadpool(preview, self._store, scope, given["subject"])
        return _json(
            200,
            {
                "affected": who.affected,
                "accounts": who.accounts,
                "neighbours": who.neighbours,
                "organisations": who.organisations,
            },
        )


async def _health(_request: Request) -> Response:
    return Response(b"ok\n", media_type="text/plain")


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_BYTES:
            raise HTTPException(413)
    return bytes(body)


def _parameters(request: Request) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    if len({name for name, _ in pairs}) != len(pairs):
        raise InputError("a parameter is given twice")
    for name, value in pairs:
        if _PARAMETER.fullmatch(value) is None:
            raise InputError("this parameter is empty, too long or not plain ASCII", place=name)
    return dict(pairs)


def _json(status: int, value: Any) -> Response:
    return Response(
        orjson.dumps(value), status, media_type="application/json", headers=dict(_HEADERS)
    )


def _error(status: int, code: str, error: InputError) -> Response:
    shown = {"code": code, "message": error.message, "place": error.place, "repair": error.repair}
    return _json(status, {"error": shown})


_STATUS_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "not_json"}


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = _STATUS_CODES.get(status, "error")
    answer = _error(status, code, InputError(code.replace("_", " ")))
    if isinstance(error, HTTPException) and error.headers:
        answer.headers.update(error.headers)
    return answer
