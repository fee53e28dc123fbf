"""What each program said when it failed, and the fault that it means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.backends import BACKENDS, aria2c, axel, curl, rsync, shared, wget
from orchestrator.backends.base import Exit, Job, Want
from orchestrator.faults import Fault, Kind, from_status

FRESH = Job((Want(("http://127.0.0.1:8931/f",), "/p/body", 8388608, 0),), "/p")
RESUME = replace(FRESH, wants=(Want(("http://127.0.0.1:8931/f",), "/p/body", 8388608, 4194304),))

NETWORK, STALLED, BUSY, MISSING = Kind.NETWORK, Kind.STALLED, Kind.BUSY, Kind.MISSING
REFUSED, CORRUPT, TLS, UNRESUMABLE = Kind.REFUSED, Kind.CORRUPT, Kind.TLS, Kind.UNRESUMABLE
BROKEN, DISK = Kind.BROKEN, Kind.DISK

# How aria2c 1.36.0 frames an error, and how it always ends.
FRAME = (
    "\n11/24 12:52:29 [ERROR] CUID#9 - Download aborted. URI=http://127.0.0.1:8931/f\n"
    "Exception: [AbstractCommand.cc:351] errorCode={code} URI=http://127.0.0.1:8931/f\n"
    "  -> [HttpSkipResponseCommand.cc:239] errorCode={code} {said}\n"
)
BARE_FRAME = (
    "\n11/24 12:53:40 [ERROR] CUID#7 - Download aborted. URI=http://127.0.0.1:8931/f\n"
    "Exception: [AbstractCommand.cc:856] errorCode={code} {said}\n"
)
TAIL = (
    "\naria2 will resume download if the transfer is restarted.\n"
    "If there are any errors, then see the log file. See '-l' option in help/man page for details.\n"
)
UNSUCCESSFUL = "The response status is not successful. status="


def aria2(code: int, said: str) -> str:
    return FRAME.format(code=code, said=said) + TAIL


def aria2_bare(code: int, said: str) -> str:
    return BARE_FRAME.format(code=code, said=said) + TAIL


def ranges(asked: str, got: str) -> str:
    return aria2(8, f"Invalid range header. Request: {asked}, Response: {got}")


FULL_DISK = (
    "\n11/24 12:54:11 [ERROR] CUID#9 - Download aborted. URI=http://127.0.0.1:8931/ok/f\n"
    "Exception: [AbstractCommand.cc:403] errorCode=9 URI=http://127.0.0.1:8931/ok/f\n"
    "  -> [AbstractDiskWriter.cc:453] errNum=28 errorCode=9 Failed to write into the file /p/body, cause: "
    "No space left on device\n" + TAIL
)
NO_FOLDER = (
    "\n11/24 12:54:11 [ERROR] Exception caught\n"
    "Exception: [RequestGroup.cc:761] errorCode=16 Download aborted.\n"
    "  -> [AbstractDiskWriter.cc:221] errNum=2 errorCode=16 Failed to open the file /proc/partial, cause: "
    "No such file or directory\n" + TAIL
)
NO_LENGTH = (
    "File /p/body exists, but a control file(*.aria2) does not exist. Download was canceled in order to prevent "
    "your file from being truncated to 0. If you are sure to download the file all over again, then delete it "
    "or add --allow-overwrite=true option and restart aria2."
)
EMPTY_STATE = (
    "\n11/24 12:54:11 [ERROR] Exception caught\n"
    "Exception: [RequestGroup.cc:761] errorCode=1 Download aborted.\n"
    "  -> [DefaultBtProgressInfoFile.cc:240] errorCode=1 Failed to read from the segment file /p/body.aria2\n" + TAIL
)
BAD_OPTION = (
    "Exception: [AbstractOptionHandler.cc:69] errorCode=28 We encountered a problem while processing the option "
    "'--quiet'.\n  -> [OptionHandlerImpl.cc:95] errorCode=1 quiet must be either 'true' or 'false'.\n"
)
MIXED = (  # two sources, the first without ranges: the exit code is that of the last error
    FRAME.format(code=29, said=f"{UNSUCCESSFUL}503")
    + FRAME.format(code=8, said="Invalid range header. Request: 0-1048575/8388608, Response: 0-8388607/8388608")
    + FRAME.format(code=29, said=f"{UNSUCCESSFUL}503")
    + TAIL
)
HANDSHAKE = "SSL/TLS handshake failure: "


@pytest.mark.parametrize(
    ("job", "code", "stderr", "kind", "status", "message"),
    [
        (FRESH, 3, aria2(3, "Resource not found"), MISSING, 404, "server answered 404"),
        (RESUME, 3, aria2(3, "Resource not found"), MISSING, 404, "server answered 404"),
        (FRESH, 24, aria2(24, "Authorization failed."), REFUSED, 401, "server answered 401"),
        (FRESH, 22, aria2(22, f"{UNSUCCESSFUL}400"), REFUSED, 400, "server answered 400"),
        (FRESH, 22, aria2(22, f"{UNSUCCESSFUL}403"), REFUSED, 403, "server answered 403"),
        (FRESH, 22, aria2(22, f"{UNSUCCESSFUL}410"), MISSING, 410, "server answered 410"),
        (RESUME, 22, aria2(22, f"{UNSUCCESSFUL}416"), UNRESUMABLE, 416, "server answered 416"),
        (FRESH, 22, aria2(22, f"{UNSUCCESSFUL}429"), BUSY, 429, "server answered 429"),
        (FRESH, 22, aria2(22, f"{UNSUCCESSFUL}500"), NETWORK, 500, "server answered 500"),
        (FRESH, 22, "", NETWORK, None, "bad HTTP answer"),
        (FRESH, 29, aria2(29, f"{UNSUCCESSFUL}503"), BUSY, 503, "server answered 503"),
        (FRESH, 29, "", BUSY, None, "server overloaded"),
        (FRESH, 8, MIXED, REFUSED, None, "server does not serve ranges"),
        (FRESH, 29, MIXED, BUSY, 503, "server answered 503"),
        (
            FRESH,
            8,
            ranges("7340032-8388607/8388608", "0-8388607/8388608"),
            REFUSED,
            None,
            "server does not serve ranges",
        ),
        (
            RESUME,
            8,
            ranges("7340032-8388607/8388608", "0-8388607/8388608"),
            UNRESUMABLE,
            None,
            "server does not serve the range asked for",
        ),
        (
            RESUME,
            8,
            ranges("4194304-5242879/8388608", "4194311-5242879/8388608"),
            UNRESUMABLE,
            None,
            "server does not serve the range asked for",
        ),
        (
            RESUME,
            8,
            ranges("4194304-5242879/8388608", "4194304-5242879/7388608"),
            CORRUPT,
            None,
            "server has a file of another length",
        ),
        (
            FRESH,
            8,
            ranges("0-8388607/8388608", "0-805/806"),
            CORRUPT,
            None,
            "server has a file of another length",
        ),
        (
            RESUME,
            1,
            aria2(1, "total length mismatch. expected: 7388608, actual: 8388608"),
            CORRUPT,
            None,
            "server has a file of another length",
        ),
        (RESUME, 1, EMPTY_STATE, UNRESUMABLE, None, "control file does not parse"),
        (
            RESUME,
            1,
            aria2(1, "Unsupported ctrl file version: 7878"),
            UNRESUMABLE,
            None,
            "control file does not parse",
        ),
        (FRESH, 1, aria2(1, "Invalid checksum index=10"), CORRUPT, None, "piece has a wrong checksum"),
        (
            FRESH,
            1,
            aria2_bare(1, "Failed to establish connection, cause: Connection refused"),
            NETWORK,
            None,
            "connection refused",
        ),
        (
            FRESH,
            1,
            aria2_bare(1, "Failed to receive data, cause: Connection reset by peer"),
            NETWORK,
            None,
            "failed to receive data, cause: Connection reset by peer",
        ),
        (FRESH, 1, aria2_bare(1, "Got EOF from the server."), NETWORK, None, "got EOF from the server"),
        (FRESH, 1, aria2_bare(1, "Proxy connection failed."), NETWORK, None, "proxy connection failed"),
        (FRESH, 1, "", NETWORK, None, "network problem"),
        (
            FRESH,
            1,
            aria2(1, f"{HANDSHAKE} `not signed by known authorities or invalid' `issuer is not known'"),
            TLS,
            None,
            "`not signed by known authorities or invalid' `issuer is not known'",
        ),
        (  # 1.37.0 with OpenSSL
            FRESH,
            1,
            aria2(1, f"{HANDSHAKE}self-signed certificate"),
            TLS,
            None,
            "self-signed certificate",
        ),
        (
            FRESH,
            1,
            aria2(1, f"{HANDSHAKE}Error in the pull function."),
            NETWORK,
            None,
            "connection lost in the TLS handshake",
        ),
        (  # 1.37.0 with OpenSSL
            FRESH,
            1,
            aria2(1, f"{HANDSHAKE}SSL I/O error"),
            NETWORK,
            None,
            "connection lost in the TLS handshake",
        ),
        (FRESH, 2, aria2_bare(2, "Timeout."), STALLED, None, "connection timed out"),
        (FRESH, 5, "", STALLED, None, "too slow"),
        (FRESH, 9, FULL_DISK, DISK, None, "no space left on device"),
        (
            RESUME,
            13,
            aria2(13, NO_LENGTH),
            UNRESUMABLE,
            None,
            "server gives no length to resume by, or a shorter one",
        ),
        (FRESH, 16, NO_FOLDER, DISK, None, "cannot create the file"),
        (
            FRESH,
            19,
            aria2(19, "CUID#7 - Name resolution for no.such.host.invalid failed:Domain name not found"),
            NETWORK,
            None,
            "name resolution failed",
        ),
        (
            FRESH,
            28,
            BAD_OPTION,
            BROKEN,
            None,
            "exit 28: we encountered a problem while processing the option '--quiet'",
        ),
        (FRESH, 7, "", NETWORK, None, "interrupted from outside"),
        (FRESH, -11, "", BROKEN, None, "killed by signal 11"),
        (FRESH, 32, aria2(32, "Checksum error detected. file=/p/body"), CORRUPT, None, "checksum error"),
    ],
)
def test_aria2c(job, code, stderr, kind, status, message) -> None:
    fault = aria2c.diagnose(job, Exit(code, "", stderr))
    refused, unresolved = message == "connection refused", code == 19
    assert fault == Fault(kind, message, status, None, refused, unresolved=unresolved)


def report(code: int, status: str, said: str, wait: str = "") -> str:
    return f"{code}\t{status}\t{wait}\t{said}\n"


def answered(status: int) -> str:
    return f"The requested URL returned error: {status}"


REFUSED_CURL = "Failed to connect to 127.0.0.1 port 9 after 0 ms: Couldn't connect to server"
NO_RANGES = "HTTP server doesn't seem to support byte ranges. Cannot resume."


@pytest.mark.parametrize(
    ("code", "stdout", "kind", "status", "wait_s", "message"),
    [
        (22, report(22, "404", answered(404)), MISSING, 404, None, "server answered 404"),
        (22, report(22, "401", answered(401)), REFUSED, 401, None, "server answered 401"),
        (22, report(22, "403", answered(403)), REFUSED, 403, None, "server answered 403"),
        (22, report(22, "503", answered(503), "7"), BUSY, 503, 7.0, "server answered 503"),
        (22, report(22, "429", answered(429), "3"), BUSY, 429, 3.0, "server answered 429"),
        (
            22,
            report(22, "503", answered(503), "Fri, 31 Dec 1999 23:59:59 GMT"),
            BUSY,
            503,
            None,
            "server answered 503",
        ),
        (56, report(56, "404", answered(404)), MISSING, 404, None, "server answered 404"),  # HTTP/2, 8.7
        (0, report(0, "416", ""), UNRESUMABLE, 416, None, "server answered 416"),
        (22, report(22, "000", answered(407)), REFUSED, 407, None, "server answered 407"),  # of a proxy
        (
            18,
            report(18, "206", "transfer closed with 8288608 bytes remaining to read"),
            NETWORK,
            None,
            None,
            "transfer closed with 8288608 bytes remaining to read",
        ),
        (
            28,
            report(28, "206", "Operation too slow. Less than 1 bytes/sec transferred the last 4 seconds"),
            STALLED,
            None,
            None,
            "operation too slow. Less than 1 bytes/sec transferred the last 4 seconds",
        ),
        (
            56,
            report(56, "000", "Recv failure: Connection reset by peer"),
            NETWORK,
            None,
            None,
            "recv failure: Connection reset by peer",
        ),
        (7, report(7, "000", REFUSED_CURL), NETWORK, None, None, f"f{REFUSED_CURL[1:]}"),
        (
            6,
            report(6, "000", "Could not resolve host: no.such.host.invalid"),
            NETWORK,
            None,
            None,
            "could not resolve host: no.such.host.invalid",
        ),
        (
            60,
            report(60, "000", "SSL certificate problem: self-signed certificate"),
            TLS,
            None,
            None,
            "SSL certificate problem: self-signed certificate",
        ),
        (
            35,
            report(35, "000", "Recv failure: Connection reset by peer"),
            NETWORK,
            None,
            None,
            "connection lost in the TLS handshake",
        ),
        (
            35,
            report(35, "000", "OpenSSL/3.0.19: error:0A00010B:SSL routines::wrong version number"),
            TLS,
            None,
            None,
            "openSSL/3.0.19: error:0A00010B:SSL routines::wrong version number",
        ),
        (
            77,
            report(77, "000", "error setting certificate file: /nothere.pem"),
            TLS,
            None,
            None,
            "error setting certificate file: /nothere.pem",
        ),
        (33, report(33, "200", NO_RANGES), UNRESUMABLE, None, None, NO_RANGES[:-1]),
        (
            23,
            report(23, "206", "Failure writing output to destination"),
            DISK,
            None,
            None,
            "failure writing output to destination",
        ),
        (
            47,
            report(47, "302", "Maximum (10) redirects followed"),
            REFUSED,
            None,
            None,
            "maximum (10) redirects followed",
        ),
        (
            1,
            report(1, "000", 'Protocol "gopher" not supported or disabled in libcurl'),
            REFUSED,
            None,
            None,
            'protocol "gopher" not supported or disabled in libcurl',
        ),
        (3, report(3, "000", "URL malformed"), BROKEN, None, None, "exit 3: URL malformed"),
        (-9, "", NETWORK, None, None, "killed from outside (signal 9)"),
    ],
)
def test_curl(code, stdout, kind, status, wait_s, message) -> None:
    fault = curl.diagnose(RESUME, Exit(code, stdout, ""))
    expected = Fault(kind, message, status, wait_s, code == 7, unresolved=code in (5, 6))
    assert replace(fault, retry_at_s=None) == expected


@pytest.mark.parametrize(
    ("code", "stderr", "expected"),
    [
        (22, f"curl: (22) {answered(404)}\n", Fault(MISSING, "server answered 404", 404)),
        (
            7,
            f"curl: (7) {REFUSED_CURL}\n",
            Fault(NETWORK, f"f{REFUSED_CURL[1:]}", refused_connection=True),
        ),
        (
            2,
            "curl: option --bogus: is unknown\ncurl: try 'curl --help' or 'curl --manual' for more information\n",
            Fault(BROKEN, "exit 2: curl: try 'curl --help' or 'curl --manual' for more information"),
        ),
        (55, "", Fault(NETWORK, "exit 55")),
    ],
)
def test_curl_without_its_report(code, stderr, expected) -> None:
    assert curl.diagnose(FRESH, Exit(code, "", stderr)) == expected


def test_the_status_of_an_ftp_server_is_not_one_of_http() -> None:
    job = replace(FRESH, wants=(Want(("ftp://127.0.0.1/f",), "/p/body", None, 0),))
    assert curl.diagnose(job, Exit(0, report(0, "226", ""))) is None
    assert curl.diagnose(job, Exit(56, report(56, "550", "gone"))) == Fault(NETWORK, "gone")
    assert curl.diagnose(job, Exit(78, report(78, "550", ""))) == Fault(MISSING, "exit 78")


BUNDLE = replace(FRESH, wants=FRESH.wants * 3)
LOST = report(22, "404", answered(404))
NOBODY = report(7, "000", REFUSED_CURL)


@pytest.mark.parametrize(
    ("code", "stdout", "expected"),
    [
        (0, report(0, "206", "") * 3, None),
        (22, report(0, "206", "") * 2 + LOST, None),  # one file's matter, which its verification tells
        (22, LOST * 3, None),
        (7, report(0, "206", "") + NOBODY * 2, None),
        (7, NOBODY * 3, Fault(NETWORK, f"f{REFUSED_CURL[1:]}", refused_connection=True)),
        (28, report(28, "000", "Connection timed out") * 3, Fault(STALLED, "connection timed out")),
        (22, report(23, "206", "Failure writing output") + LOST, Fault(DISK, "cannot write the output")),
        (2, "", Fault(BROKEN, "exit 2")),
        (-11, "", Fault(BROKEN, "killed by signal 11")),
        (-9, "", Fault(NETWORK, "killed from outside (signal 9)")),
    ],
)
def test_curl_of_a_bundle(code: int, stdout: str, expected: Fault | None) -> None:
    assert curl.diagnose(BUNDLE, Exit(code, stdout, "")) == expected


@pytest.mark.parametrize(
    ("code", "stderr", "expected"),
    [
        (0, "", None),
        (3, aria2(3, "Resource not found"), None),
        (1, aria2(1, "Failed to establish connection, cause: Connection refused"), None),
        (3, FULL_DISK + aria2(3, "Resource not found"), Fault(DISK, "no space left on device")),
        (16, NO_FOLDER, Fault(DISK, "cannot create the file")),
        (28, BAD_OPTION, Fault(BROKEN, "exit 28: quiet must be either 'true' or 'false'")),
        (-11, "", Fault(BROKEN, "killed by signal 11")),
    ],
)
def test_aria2c_of_a_bundle(code: int, stderr: str, expected: Fault | None) -> None:
    found = aria2c.diagnose(BUNDLE, Exit(code, "", stderr))
    assert (found and found.kind) == (expected and expected.kind)


def headers(status: str, more: str = "") -> str:
    return (
        f"  HTTP/1.1 {status}\n  Server: BaseHTTP/0.6 Python/3.11.7\n  Date: Tue, 24 Nov 2026 12:56:42 GMT\n"
        f"{more}  Content-Length: 5\n"
    )


def wget_error(status: str, more: str = "") -> str:
    return (
        f"{headers(status, more)}http://127.0.0.1:8931/f:\n2026-11-24 12:56:42 ERROR {status.replace(' ', ': ', 1)}.\n"
    )


PARTIAL = headers("206 Partial Content", "  Content-Range: bytes 0-8388607/8388608\n")
BUSY_TEXT = "503 Service Unavailable"


@pytest.mark.parametrize(
    ("code", "stderr", "kind", "status", "wait_s", "message"),
    [
        (8, wget_error("404 Not Found"), MISSING, 404, None, "server answered 404"),
        (8, wget_error("403 Forbidden"), REFUSED, 403, None, "server answered 403"),
        (8, wget_error(BUSY_TEXT, "  Retry-After: 7\n"), BUSY, 503, 7.0, "server answered 503"),
        (8, wget_error(BUSY_TEXT, "  retry-after: 7\n"), BUSY, 503, 7.0, "server answered 503"),
        (
            8,
            wget_error(BUSY_TEXT, "  Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\n"),
            BUSY,
            503,
            None,
            "server answered 503",
        ),
        (
            8,
            headers("302 Found", "  Location: /x\n") + wget_error("404 Not Found"),
            MISSING,
            404,
            None,
            "server answered 404",
        ),
        (8, "2026-11-24 12:56:42 ERROR 410: Gone.\n", MISSING, 410, None, "server answered 410"),
        (0, headers("416 Requested Range Not Satisfiable"), UNRESUMABLE, 416, None, "server answered 416"),
        (
            6,
            headers("401 Unauthorized") + "Username/Password Authentication Failed.\n",
            REFUSED,
            401,
            None,
            "server answered 401",
        ),
        (6, "Login incorrect.\n", REFUSED, None, None, "login refused"),
        (4, headers("504 Gateway Timeout"), BUSY, 504, None, "server answered 504"),
        (4, PARTIAL, NETWORK, None, None, "connection lost"),
        (
            4,
            "Read error (Connection reset by peer) in headers.\n",
            NETWORK,
            None,
            None,
            "connection lost",
        ),
        (4, "failed: Connection refused.\n", NETWORK, None, None, "connection refused"),
        (4, "failed: Connection timed out.\n", STALLED, None, None, "connection timed out"),
        (
            4,
            "wget: unable to resolve host address 'no.such.host.invalid'\n",
            NETWORK,
            None,
            None,
            "name resolution failed",
        ),
        (
            4,
            "GnuTLS: Error in the pull function.\nUnable to establish SSL connection.\n",
            NETWORK,
            None,
            None,
            "connection lost in the TLS handshake",
        ),
        (
            4,
            "GnuTLS: An unexpected TLS packet was received.\nUnable to establish SSL connection.\n",
            TLS,
            None,
            None,
            "TLS handshake failed",
        ),
        (
            4,
            "Proxy tunneling failed: Unsupported method ('CONNECT')Unable to establish SSL connection.\n",
            NETWORK,
            None,
            None,
            "proxy gave no tunnel",
        ),
        (
            5,
            "ERROR: The certificate of '127.0.0.1' is not trusted.\n"
            "ERROR: The certificate of '127.0.0.1' doesn't have a known issuer.\n",
            TLS,
            None,
            None,
            "certificate is not trusted",
        ),
        (
            3,
            f"{PARTIAL}Cannot write to '/p/body' (No space left on device).\n",
            DISK,
            None,
            None,
            "no space left on device",
        ),
        (3, "Cannot write to '/p/body' (Input/output error).\n", DISK, None, None, "cannot write the file"),
        (1, "/p/body: No such file or directory\n", DISK, None, None, "cannot create the file"),
        (1, "/p/body: Read-only file system\n", DISK, None, None, "file system is read-only"),
        (
            1,
            "-: Invalid URL gopher://127.0.0.1/x: Unsupported scheme 'gopher'\nNo URLs found in -.\n",
            REFUSED,
            None,
            None,
            "unsupported scheme",
        ),
        (8, "No such file 'f'.\n\n", MISSING, None, None, "server has no such file"),
        (
            8,
            "Error parsing proxy URL socks5://127.0.0.1:9: Unsupported scheme 'socks5'.\n",
            BROKEN,
            None,
            None,
            "exit 8: error parsing proxy URL socks5://127.0.0.1:9: Unsupported scheme 'socks5'",
        ),
        (2, "wget: unrecognized option '--bogus'\n", BROKEN, None, None, None),
        (-15, "", NETWORK, None, None, "killed from outside (signal 15)"),
    ],
)
def test_wget(code, stderr, kind, status, wait_s, message) -> None:
    message = "exit 2: wget: unrecognized option '--bogus'" if message is None else message
    fault = wget.diagnose(RESUME, Exit(code, "", stderr))
    assert fault.unresolved == ("unable to resolve" in stderr)
    fault = replace(fault, retry_at_s=None, unresolved=False)
    assert fault == Fault(kind, message, status, wait_s, message == "connection refused")


@pytest.mark.parametrize(
    ("job", "code", "stderr", "kind", "status", "message"),
    [
        (FRESH, 1, "ERROR 404: Not Found.\n", MISSING, 404, "server answered 404"),
        (FRESH, 1, "ERROR 401: Unauthorized.\n", REFUSED, 401, "server answered 401"),
        (FRESH, 1, "ERROR 403: Forbidden.\n", REFUSED, 403, "server answered 403"),
        (FRESH, 1, "ERROR 503: Service Unavailable.\n", BUSY, 503, "server answered 503"),
        (FRESH, 1, "ERROR 500: Internal Server Error.\n", NETWORK, 500, "server answered 500"),
        (
            FRESH,
            1,
            "Unable to connect to server no.such.host.invalid:80: Name or service not known\n",
            NETWORK,
            None,
            "unable to connect",
        ),
        (FRESH, 1, "Connection gone.\n", NETWORK, None, "connection lost"),
        (FRESH, -11, "Connection gone.\n", NETWORK, None, "connection lost"),
        (FRESH, -13, "", NETWORK, None, "connection refused"),
        (FRESH, 1, "SSL error: certificate verify failed\n", TLS, None, "certificate verify failed"),
        (FRESH, 1, "SSL error: wrong version number\n", TLS, None, "wrong version number"),
        (FRESH, 1, "SSL error: (null)\n", NETWORK, None, "connection lost in the TLS handshake"),
        (FRESH, 1, "Unsupported protocol\n", REFUSED, None, "unsupported scheme"),
        (FRESH, 1, "No state file, cannot resume!\n", UNRESUMABLE, None, "no state file beside the partial"),
        (RESUME, 1, "", UNRESUMABLE, None, "state file does not parse"),
        (FRESH, 1, "", DISK, None, "cannot create the file"),
        (FRESH, 1, "Segment fault of a kind.\n", BROKEN, None, "exit 1: segment fault of a kind"),
        (FRESH, 2, "", NETWORK, None, "interrupted from outside"),
        (FRESH, -6, "axel: assertion failed\n", BROKEN, None, "killed by signal 6: axel: assertion failed"),
    ],
)
def test_axel(job, code, stderr, kind, status, message) -> None:
    fault = axel.diagnose(job, Exit(code, "", stderr))
    assert fault == Fault(kind, message, status, None, message == "connection refused")


def rsync_end(code: int, said: str, what: str = "some files/attrs were not transferred (see previous errors)") -> str:
    """How rsync 3.5.0 ends: what went wrong, then its exit code in words."""
    return f"{said}\nrsync error: {what} (code {code}) at main.c(1956) [Receiver=3.5.0]\n"


HELLO = "error starting client-server protocol"
UNREAD = "rsync: [Receiver] read error: Connection reset by peer (104)\n"
IN_FULL = 'rsync: [receiver] write failed on "/p/body": No space left on device (28)'
CUT = (
    "rsync: connection unexpectedly closed (3178868 bytes received so far) [receiver]\n"
    "rsync error: error in rsync protocol data stream (code 12) at io.c(285) [receiver=3.5.0]\n"
    "rsync: connection unexpectedly closed (37 bytes received so far) [generator]\n"
    "rsync error: error in rsync protocol data stream (code 12) at io.c(285) [generator=3.5.0]\n"
)


@pytest.mark.parametrize(
    ("code", "stderr", "kind", "message"),
    [
        (5, rsync_end(5, "@ERROR: Unknown module 'nomod'", HELLO), MISSING, "server has no such module"),
        (5, rsync_end(5, "Password: @ERROR: auth failed on module auth", HELLO), REFUSED, "auth failed on module auth"),
        (
            5,
            rsync_end(5, "@ERROR: access denied to deny from localhost (127.0.0.1)", HELLO),
            REFUSED,
            "access denied to deny from localhost (127.0.0.1)",
        ),
        (5, rsync_end(5, "@ERROR: chdir failed", HELLO), REFUSED, "chdir failed"),
        (
            5,
            rsync_end(5, "@ERROR: max connections (4) reached -- try again later", HELLO),
            BUSY,
            "server has too many connections",
        ),
        (
            5,
            rsync_end(5, 'rsync: server sent "<!DOCTYPE HTML>" rather than greeting', HELLO),
            REFUSED,
            "not an rsync server",
        ),
        (
            10,
            rsync_end(10, "rsync: [Receiver] failed to connect to 127.0.0.1 (127.0.0.1): Connection refused (111)"),
            NETWORK,
            "connection refused",
        ),
        (
            10,
            rsync_end(10, "rsync: getaddrinfo: no.such.host.invalid 873: Name or service not known"),
            NETWORK,
            "name resolution failed",
        ),
        (
            10,
            rsync_end(10, "rsync: [Receiver] failed to connect to h (10.0.0.1): Connection timed out (110)"),
            STALLED,
            "connection timed out",
        ),
        (10, rsync_end(10, "rsync: [receiver] write error: Broken pipe (32)"), NETWORK, "connection lost"),
        (12, CUT, NETWORK, "connection lost"),
        (
            23,
            rsync_end(23, 'rsync: [sender] link_stat "nope" (in m) failed: No such file or directory (2)') + UNREAD,
            MISSING,
            "source has no such file",
        ),
        (
            23,
            rsync_end(23, 'rsync: [sender] change_dir "/mnt/no" failed: No such file or directory (2)'),
            MISSING,
            "source has no such file",
        ),
        (
            23,
            rsync_end(23, 'rsync: [sender] send_files failed to open "f" (in m): Permission denied (13)'),
            REFUSED,
            "source may not be read",
        ),
        (
            23,
            rsync_end(23, 'rsync: [sender] read errors mapping "/mnt/f": Input/output error (5)'),
            NETWORK,
            "source cannot be read",
        ),
        (
            23,
            rsync_end(23, "ERROR: f failed verification -- update retained."),
            NETWORK,
            "the file changed at the source on its way",
        ),
        (23, rsync_end(23, "rsync: something new"), REFUSED, "not transferred"),
        (24, rsync_end(24, 'file has vanished: "f" (in m)'), MISSING, "the file vanished at the source"),
        (
            30,
            "[Receiver] io timeout after 4 seconds -- exiting\n" + rsync_end(30, "", "timeout in data send/receive"),
            STALLED,
            "connection timed out",
        ),
        (35, rsync_end(35, "", "timeout waiting for daemon connection"), STALLED, "connection timed out"),
        (11, rsync_end(11, IN_FULL, "error in file IO"), DISK, "no space left on device"),
        (12, rsync_end(12, IN_FULL, "error in rsync protocol data stream"), DISK, "no space left on device"),
        (
            23,
            rsync_end(23, 'rsync: [receiver] open "/p/body" failed: Read-only file system (30)'),
            DISK,
            "read-only file system",
        ),
        (
            3,
            rsync_end(3, 'rsync: [Receiver] change_dir#3 "/p" failed: No such file or directory (2)'),
            DISK,
            "no such file or directory",
        ),
        # A daemon that talks of its own disk stops nothing here.
        (
            11,
            rsync_end(
                11, 'rsync: [sender] write failed on "/q/body": No space left on device (28)', "error in file IO"
            ),
            NETWORK,
            "source cannot be read",
        ),
        (
            4,
            rsync_end(4, "ERROR: rejecting unrequested file-list name: x", "requested action not supported"),
            REFUSED,
            "server does not do what was asked",
        ),
        (20, rsync_end(20, "", "received SIGINT, SIGTERM, or SIGHUP"), NETWORK, "interrupted from outside"),
        (-9, "", NETWORK, "killed from outside (signal 9)"),
        (
            1,
            rsync_end(1, "rsync: --bogus: unknown option", "syntax or usage error"),
            BROKEN,
            "exit 1: --bogus: unknown option",
        ),
        (14, "", BROKEN, "exit 14"),
    ],
)
def test_rsync(code, stderr, kind, message) -> None:
    fault = rsync.diagnose(RESUME, Exit(code, "8388608\n" if code in (11, 12) else "", stderr))
    assert fault == Fault(kind, message, None, None, message == "connection refused")


@pytest.mark.parametrize(
    ("length", "stdout", "fault"),
    [
        (8388608, "8388608\n", None),
        (8388608, "8388608\n8388608\n", None),  # mended: it went over the file twice
        (8388608, "", Fault(CORRUPT, "source has a file of another length")),
        (8388608, "skipping directory .\n", Fault(MISSING, "source is not a file")),
        (8388608, 'skipping non-regular file "fifo"\n', Fault(MISSING, "source is not a file")),
        (None, "skipping directory dir\n", Fault(MISSING, "source is not a file")),
        (None, "", None),  # nothing to add to what is there
    ],
)
def test_rsync_succeeds_over_nothing(length, stdout, fault) -> None:
    job = replace(RESUME, wants=(replace(RESUME.wants[0], length=length),))
    assert rsync.diagnose(job, Exit(0, stdout, "")) == fault


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.NAME)
@pytest.mark.parametrize("code", [0, 1, 22, -2, -15])
@pytest.mark.parametrize(
    ("ended", "kind"),
    [
        ("stalled", STALLED),
        ("timeout", STALLED),
        ("overrun", CORRUPT),
        ("slow", STALLED),
        ("expiring", Kind.EXPIRED),
        ("hammering", Kind.REFUSED),
    ],
)
def test_whoever_ended_it_is_believed_before_the_code(backend, code, ended, kind) -> None:
    fault = backend.diagnose(FRESH, Exit(code, report(22, "404", ""), wget_error("404 Not Found"), ended))
    assert fault.kind is kind
    assert fault.status is None
    assert fault.slow is (ended == "slow")


@pytest.mark.parametrize(
    ("backend", "stdout", "stderr"),
    [
        (aria2c, "", FRAME.format(code=3, said="Resource not found")),  # of another source
        (axel, "", ""),
        (curl, report(0, "206", ""), ""),
        (curl, "", ""),
        (rsync, "8388608\n", ""),
        (wget, "", PARTIAL),
        (wget, "", headers("302 Found") + PARTIAL),
        (wget, "", ""),
    ],
)
def test_a_claim_of_success_is_no_fault(backend, stdout, stderr) -> None:
    assert backend.diagnose(FRESH, Exit(0, stdout, stderr)) is None


@pytest.mark.parametrize(
    ("text", "after_s", "at_s"),
    [
        ("120", 120.0, None),
        ("0", 0.0, None),
        *((text, None, None) for text in ("", "-1", "1.5", "²", "soon", "Fri, 31 Dec 99999")),
        ("Fri, 31 Dec 1999 23:59:59 GMT", None, 946684799.0),
    ],
)
def test_until_when_a_server_is_busy(text: str, after_s: float | None, at_s: float | None) -> None:
    found = shared.busy_until(from_status(503), text)
    assert (found.retry_after_s, found.retry_at_s) == (after_s, at_s)
    assert shared.busy_until(from_status(404), text) == from_status(404)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.NAME)
@pytest.mark.parametrize(
    ("exit_", "hint"),
    [
        (Exit(-25), "ulimit -f"),  # SIGXFSZ
        (Exit(3, stderr="Cannot write to 'f' (File too large).\n"), "ulimit -f"),  # EFBIG: a FAT32 disk
        (Exit(-2, ended="full"), ""),
    ],
)
def test_what_the_disk_does_not_take_is_the_disks_matter(backend, exit_: Exit, hint: str) -> None:
    fault = backend.diagnose(FRESH, exit_)
    assert fault.kind is DISK
    assert hint in fault.hint


NOTICE = "\n11/24 12:53:40 [NOTICE] CUID#7 - Redirecting to http://cdn.example/f?sig=1\n"
REFUSED_THERE = aria2_bare(1, "Failed to establish connection, cause: Connection refused")


@pytest.mark.parametrize(
    ("backend", "code", "out", "err", "target"),
    [
        (curl, 47, "47\t302\t\tMaximum (0) redirects followed\t0\thttp://cdn.example/f?sig=1\n", "", True),
        (
            wget,
            8,
            "",
            headers("302 Found", "  Location: http://cdn.example/f?sig=1\n") + "0 redirections exceeded.\n",
            True,
        ),
        (axel, 1, "", "Too many redirects.\nERROR 302: Tue, 24 Nov 2026 12:57:53 GMT.\n", False),
        (aria2c, 1, "", NOTICE + REFUSED_THERE, True),
        (aria2c, 3, "", NOTICE + aria2(3, "Resource not found"), True),
        (aria2c, 1, "", aria2_bare(1, "Redirect to file:///etc/passwd failed."), False),
        (aria2c, 23, "", aria2(23, "Too many redirects: count=20"), False),
    ],
)
def test_a_redirect_is_told_and_not_followed(backend, code: int, out: str, err: str, target: bool) -> None:
    fault = backend.diagnose(FRESH, Exit(code, out, err))
    assert (fault.kind, fault.message) == (Kind.EXPIRED, "redirects anew")
    assert fault.redirects == ((0, "http://cdn.example/f?sig=1" if target else ""),)
    assert "cdn.example" not in repr(fault)  # its signature is a secret


def test_the_redirects_of_a_bundle() -> None:
    lines = (
        "0\t200\t\t\t0\t",
        "47\t302\t\tMaximum (0) redirects followed\t2\thttp://cdn.example/2",
        "7\t000\t\tFailed to connect\t1\t",
        "47\t307\t\tMaximum (0) redirects followed\t3\thttp://cdn.example/3",
    )
    job = replace(FRESH, wants=FRESH.wants * 4)
    fault = curl.diagnose(job, Exit(47, "".join(f"{line}\n" for line in lines), ""))
    assert fault is not None
    assert fault.redirects == ((2, "http://cdn.example/2"), (3, "http://cdn.example/3"))


def test_a_redirect_to_nowhere_is_no_file() -> None:
    assert curl.diagnose(FRESH, Exit(0, "0\t304\t\t\t0\t\n", "")) == Fault(REFUSED, "server answered 304", 304)
