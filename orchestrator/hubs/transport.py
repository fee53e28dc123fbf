"""How all hub clients reach their hub: limits of the answers, and which host is sent the token."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Stopped, TransferError
from orchestrator.formats.bounded import MOST_VALUES, has_too_many_values
from orchestrator.sources.client import TimeLimit
from orchestrator.sources.redirects import ForbiddenError, check_program_url
from orchestrator.text import shown

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

BODY_BYTES = 64 << 20
TOTAL_BYTES = 256 << 20  # of all answers about one repository
REQUESTS = 1_000  # the Hugging Face hub lists a thousand files a page
ANSWER_S = 180.0  # for one answer, from the request to its last byte
_PORTS = {"http": 80, "https": 443}


class AnswerError(TransferError):
    """A hub's API answered something that no hub answers, or leads to where its token must not go."""

    usual_fault = "refused"


class HubTransport:
    """A transport for `httpx.Client` or `httpx2.Client`, which duck-type it; the clients differ by hub and release.

    Every answer is asked for unpacked, read at once and bounded in bytes and time. A token only goes to the endpoint's
    own origin, or to that by https; the next page of a listing is only asked for there. Redirects lead elsewhere
    without the token, not from https to http, and to no metadata service.
    """

    def __init__(self, http: Any, options: dict[str, Any], endpoint: str, name: str, stop: threading.Event) -> None:
        self._inner = http.HTTPTransport(trust_env=False, **options)
        self._http, self._endpoint, self._name, self._stop = http, endpoint, name, stop
        self._proxied = options.get("proxy") is not None
        home = _origin(http.URL(endpoint))
        self._home = {home, ("https", home[1], 443)} if home[::2] == ("http", 80) else {home}
        self._requests = self._bytes = 0
        self._stream: Any = None  # of the last answer: its connection may be used again

    def __enter__(self) -> HubTransport:
        self._inner.__enter__()
        return self

    def __exit__(self, *about: object) -> None:
        self._inner.__exit__(*about)

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()

    def handle_request(self, request: Any) -> Any:
        """Send a request and read its answer whole.

        Raises:
            AnswerError: the answer is beyond the bounds, or the request leads where it must not.
            Stopped: a stop was asked for.
            HTTPError: of the client's own library.
        """
        self._requests += 1
        if self._requests > REQUESTS:
            raise self._error(f"lists more than {REQUESTS} pages")
        if self._stop.is_set():
            raise Stopped("stopped while a hub was asked")
        self._judge(request)
        request.headers["Accept-Encoding"] = "identity"
        try:
            with TimeLimit(ANSWER_S, self._stop) as limit:

                def trace(name: str, about: Mapping[str, Any]) -> None:
                    if name.endswith(("connect_tcp.complete", "start_tls.complete")):
                        limit.watch(about["return_value"].get_extra_info("socket"))

                if self._stream is not None:
                    limit.watch(self._stream.get_extra_info("socket"))
                request.extensions = {**request.extensions, "trace": trace}
                answer = self._inner.handle_request(request)
                self._stream = answer.extensions.get("network_stream")
                return self._whole(request, answer)
        except TimeoutError as error:  # the limit's: the client's own timeouts are of its library
            raise self._error(f"took more than {ANSWER_S:.0f} s for one answer") from error

    def _judge(self, request: Any) -> None:
        """Refuse a request that leads away with the token, to plain http, or to a metadata service."""
        origin = _origin(request.url)
        if origin in self._home:
            return
        where = shown(f"{origin[0]}://{origin[1]}:{origin[2]}")
        if "authorization" in request.headers:
            raise self._error(f"leads to another host ({where}), which must not see the token")
        if origin[0] != "https" and all(scheme == "https" for scheme, _, _ in self._home):
            raise self._error(f"leads from https to {where}")
        try:
            check_program_url(str(request.url), self._endpoint, proxied=self._proxied, stop=self._stop)
        except ForbiddenError as error:
            raise self._error(f"is {error}") from None

    def _whole(self, request: Any, answer: Any) -> Any:
        """The same answer with its body in memory."""
        try:
            packed = answer.headers.get("content-encoding", "identity").lower()
            if packed not in ("", "identity"):
                raise self._error(f"compresses its answer ({shown(packed[:40])}) although it was asked not to")
            chunks, size = [], 0
            for chunk in answer.stream:
                size += len(chunk)
                self._bytes += len(chunk)
                if size > BODY_BYTES or self._bytes > TOTAL_BYTES:
                    raise self._error(f"answers more than {min(size, self._bytes) >> 20} MiB")
                chunks.append(chunk)
        finally:
            answer.close()
        body = b"".join(chunks)
        if has_too_many_values(body):
            raise self._error(f"answers more than {MOST_VALUES} values at once")
        whole = self._http.Response(
            answer.status_code, headers=answer.headers, content=body, extensions=answer.extensions
        )
        self._judge_next(request, whole)
        return whole

    def _judge_next(self, request: Any, answer: Any) -> None:
        """Refuse a listing whose next page is on another host, or is behind an empty one: that would have no end."""
        following = None
        with suppress(ValueError, AttributeError):
            following = answer.links.get("next", {}).get("url")
        if following is None:
            return
        try:
            origin = _origin(request.url.join(following))
        except (self._http.InvalidURL, ValueError) as error:
            raise self._error("has a next page whose address is no URL") from error
        if origin not in self._home:
            raise self._error(f"has its next page on another host ({shown(origin[1])})")
        if answer.content.strip() in (b"", b"[]"):
            raise self._error("has an empty page, and another one behind it")

    def _error(self, what: str) -> AnswerError:
        return AnswerError(
            f"{self._name}: the hub's API {what}", "check HF_ENDPOINT or MODELSCOPE_ENDPOINT: is it the URL of a hub?"
        )


def _origin(url: Any) -> tuple[str, str, int]:
    return url.scheme, url.host.lower(), url.port or _PORTS.get(url.scheme, 0)
