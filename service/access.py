"""One structured line and one count for every request: who, which endpoint, status, time; no text, no keys."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics

log = logging.getLogger("openbook.access")

_SOUND_ID = re.compile(r"[\w.-]{1,64}")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class AccessLog:
    """ASGI middleware; it goes round everything else, so that refusals are logged too."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under an id (the client's `X-Request-ID` if it is a sound one)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        sent_id = Headers(scope=scope).get("x-request-id", "")
        request_id = sent_id if _SOUND_ID.fullmatch(sent_id) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            # The template, not the path: that holds names of documents, and anything a client makes up.
            endpoint = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(method, endpoint, str(status)).inc()
            log.info(
                json.dumps(
                    {
                        "request_id": request_id,
                        "method": method,
                        "endpoint": endpoint,
                        "status": status,
                        "ms": round((time.monotonic() - started) * 1000, 1),
                        "key": state.get("key_name"),
                    }
                )
            )
