"""The admin HTTP API, for a port of its own: every act, every table, and who is behind a subject.

Start from `admin_app`. It holds no rules: tokens are checked by `Store.operator_of`, rights by
`Store.perform`; paths, bodies and the OpenAPI document are made from the acts. Refused here: any
request without a token, bodies above 1 MiB, unknown fields, and the same idempotency key twice for
different requests.
"""

from stillhouse.accounts.admin.app import admin_app
from stillhouse.accounts.admin.openapi import document

__all__ = ["admin_app", "document"]
