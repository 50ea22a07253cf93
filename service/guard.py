"""What is refused before a request reaches an endpoint: strangers, foreign hosts, and oversized bodies."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Callable

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.config import ServeConfig
from service.errors import error_response

_BEARER = HTTPBearer(auto_error=False, description="The key in the service's environment, if one is set.")


class ExposureError(ValueError):
    """Listening beyond this machine without a key."""


def read_api_key(config: ServeConfig) -> str | None:
    """The key clients must send, or None. Raises ExposureError if others could reach it without one."""
    key = os.environ.get(config.api_key_env) or None
    if key is None and not is_loopback(config.host):
        raise ExposureError(
            f"refusing to listen on {config.host!r} without a key: set the environment variable "
            f"{config.api_key_env}, or listen on 127.0.0.1"
        )
    return key


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_key(key: str | None) -> Callable[..., None]:
    """A dependency that lets through requests with `Authorization: Bearer KEY`; without a key, all."""

    def check(sent: HTTPAuthorizationCredentials | None = Depends(_BEARER)) -> None:  # noqa: B008
        if key is None:
            return
        if sent is None or not hmac.compare_digest(sent.credentials.encode(), key.encode()):
            raise HTTPException(
                401, "send the service's key as `Authorization: Bearer KEY`", {"WWW-Authenticate": "Bearer"}
            )

    return check


class Guard:
    """ASGI middleware: bounds the body, and without a key accepts only requests addressed to this machine.

    The second keeps web pages from reaching a local service through a host name of theirs (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, local_only: bool) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._local_only = local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._local_only and not is_loopback(_host_name(headers.get("host", ""))):
            refusal = error_response(403, "without a key the service answers only requests to localhost")
            await refusal(scope, receive, send)
            return
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            await error_response(413, self._too_large())(scope, receive, send)
            return
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        await self._app(scope, receive_bounded, send)

    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body_bytes} bytes (serve.max_body_bytes)"


def _host_name(header: str) -> str:
    """`[::1]:8080` -> `::1`, `localhost:8080` -> `localhost`."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()
