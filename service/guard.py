"""What is refused before a request reaches an endpoint: strangers, foreign hosts, floods, and bodies out of bounds."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.config import ServeConfig
from service.errors import error_response
from service.keys import Key, find_key, read_keys
from service.keys import Scope as KeyScope
from service.rate_limit import RateLimit

BODY_SECONDS = 30.0
MAX_JSON_DEPTH = 32
OPEN_PATHS = ("/healthz", "/")
OPEN_PREFIX = "/static/"
"""The page and its script say nothing about the documents: the key is asked for in it."""
ASK_PATHS = frozenset(
    (
        "/v1/answer",
        "/v1/compare",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/feedback",
        "/v1/index/search",
    )
)
"""What a reader may POST to; all else that changes something takes an admin."""
PRIVATE_PATHS = re.compile(r"/v1/feedback/export|/v1/experiments/[^/]+/failures")
"""What others asked is not for every reader."""
DOCUMENTS_PREFIX = "/v1/documents/"
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


class ExposureError(ValueError):
    """Listening beyond this machine without a key."""


def require_keys(config: ServeConfig) -> list[Key]:
    """The keys that clients may send. Raises ExposureError if others could reach the service without any."""
    keys = read_keys(config)
    if not keys and not is_loopback(config.host):
        raise ExposureError(
            f"refusing to listen on {config.host!r} without a key: set the environment variable "
            f"{config.api_key_env} or serve.keys_file, or listen on 127.0.0.1"
        )
    return keys


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware. Without keys it accepts only requests addressed to this machine, and no changes by other pages.

    That keeps web pages from reaching a local service through a host name of theirs (DNS rebinding), and from posting
    to it blindly: a browser lets them, as long as there is no key in the request, and says where it comes from.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig, keys: Sequence[Key]) -> None:
        self._app = app
        self._config = config
        self._keys = keys
        self._limit = RateLimit(config.requests_per_minute) if config.requests_per_minute else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on, with its body read and checked."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._stranger(scope)
        if refusal is None:
            refusal, receive = await self._bounded(scope, receive)
        await (refusal or self._app)(scope, receive, send_secured)

    def _stranger(self, scope: Scope) -> Response | None:
        """The refusal of whoever may not do this, if so."""
        headers, path = Headers(scope=scope), scope["path"]
        if not self._keys and not is_loopback(_host_name(headers.get("host", ""))):
            return error_response(403, "without a key the service answers only requests to localhost")
        if not self._keys and scope["method"] not in _SAFE_METHODS and self._is_of_another_page(headers):
            return error_response(
                403,
                "without a key the service takes nothing from other web pages but those in serve.cors_origins",
            )
        if scope["method"] in ("GET", "HEAD") and (path in OPEN_PATHS or path.startswith(OPEN_PREFIX)):
            return None
        name = "everybody"
        if self._keys:
            key = find_key(self._keys, _bearer(headers.get("authorization", "")))
            if key is None:
                return error_response(
                    401,
                    "send a key of this service as `Authorization: Bearer KEY`",
                    "invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            if key.scope is not KeyScope.ADMIN and not _only_reads(scope["method"], path):
                return error_response(403, f"this takes a key with scope admin; {key.name!r} is a reader's")
            name = scope.setdefault("state", {})["key_name"] = key.name
        if self._limit and (seconds := self._limit.seconds_to_wait(name)):
            return error_response(
                429,
                "more requests than serve.requests_per_minute allows",
                "rate_limit_exceeded",
                headers={"Retry-After": str(math.ceil(seconds))},
            )
        return None

    def _is_of_another_page(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or origin in self._config.cors_origins or "*" in self._config.cors_origins:
            return False
        return origin.partition("://")[2] != headers.get("host")

    async def _bounded(self, scope: Scope, receive: Receive) -> tuple[Response | None, Receive]:
        """The refusal of a body out of bounds, if so; and a `receive` that gives the whole body at once."""
        # Whoever still sends is hung up on, or the server would read on only to throw it away.
        hang_up = {"Connection": "close"}
        is_upload = scope["method"] == "PUT" and scope["path"].startswith(DOCUMENTS_PREFIX)
        setting = "max_upload_bytes" if is_upload else "max_body_bytes"
        most = self._config.max_upload_bytes if is_upload else self._config.max_body_bytes
        too_large = error_response(
            413, f"the body is larger than {most} bytes (serve.{setting})", headers=hang_up
        )
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdigit() and int(declared) > most:
            return too_large, receive
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None, _repeating(message)
                    body += message.get("body", b"")
                    if len(body) > most:
                        return too_large, receive
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            late = f"the body did not arrive within {BODY_SECONDS:g} s"
            return error_response(408, late, headers=hang_up), receive
        is_file = is_upload and "json" not in Headers(scope=scope).get("content-type", "").lower()
        if not is_file and _deeper_than(body, MAX_JSON_DEPTH):
            return error_response(
                400, f"the JSON is nested deeper than {MAX_JSON_DEPTH} levels", "invalid_value"
            ), receive
        return None, _body_first(bytes(body), receive)


def _only_reads(method: str, path: str) -> bool:
    return (method in ("GET", "HEAD") and not PRIVATE_PATHS.fullmatch(path)) or (
        method == "POST" and path in ASK_PATHS
    )


def _bearer(header: str) -> str:
    scheme, _, secret = header.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def _body_first(body: bytes, receive: Receive) -> Receive:
    pending = [body]

    async def receive_again() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return receive_again


def _repeating(message: Message) -> Receive:
    async def receive() -> Message:
        return message

    return receive


def _deeper_than(body: bytes | bytearray, most: int) -> bool:
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", body)):
        depth += 1 if bracket.group() in b"[{" else -1
        if depth > most:
            return True
    return False


def _host_name(header: str) -> str:
    """`[::1]:8080` -> `::1`, `localhost:8080` -> `localhost`."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()
