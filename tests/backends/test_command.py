"""What each backend makes of a job, word by word."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from orchestrator.backends import BACKENDS, aria2c, axel, by_name, curl, rsync, wget
from orchestrator.backends.base import Backend, Job, Trait, Want

FOLDER = "/store/partial/abc"
PATH = f"{FOLDER}/body"
ONE = "https://a.example/w.bin?x=1&y=2"
TWO = "https://b.example/w.bin"
LOGIN = "http://us%40er:p%3Aw@proxy.example:3128"

FRESH = Job((Want((ONE, TWO), PATH, 1000, 0),), FOLDER, connections=4)
RESUME = replace(FRESH, wants=(Want((ONE, TWO), PATH, 1000, 400),))
UNKNOWN = replace(FRESH, wants=(Want((ONE, TWO), PATH, None, 0),))
PLAIN_PROXY = replace(FRESH, proxy="http://proxy.example:3128")
LOGIN_PROXY = replace(FRESH, proxy=LOGIN)
TRUSTED = replace(FRESH, ca="/etc/ca.pem", user_agent="orch/1 (x; y)")
WIDE = replace(FRESH, connections=32, piece_bytes=1 << 24, timeout_s=7)

METALINK = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b'<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="body"><size>1000</size>'
    b'<url priority="1">https://a.example/w.bin?x=1&amp;y=2</url>'
    b'<url priority="2">https://b.example/w.bin</url></file></metalink>\n'
)


CONF = ("--conf-path=/store/partial/abc/aria2.conf",)
# aria2c follows redirects: all hosts but its sources' are behind a proxy that does not exist.
HOSTS = (("aria2.conf", b"all-proxy=http://127.0.0.1:1\nno-proxy=a.example,b.example\n"),)


def aria2c_argv(
    conf: tuple[str, ...] = CONF,
    level: str = "notice",
    feed: str = "--metalink-file=-",
    piece: int = 1048576,
    split: int = 4,
    per_server: int = 4,
    timeout: int = 30,
    more: tuple[str, ...] = (),
    exact: bool = True,
) -> tuple[str, ...]:
    return (
        "aria2c",
        *conf,
        "--no-netrc=true",
        feed,
        "--dir=/store/partial/abc",
        "--stderr=true",
        f"--console-log-level={level}",
        "--enable-color=false",
        "--show-console-readout=false",
        "--summary-interval=0",
        "--download-result=hide",
        "--continue=true",
        "--allow-overwrite=false",
        "--auto-file-renaming=false",
        "--allow-piece-length-change=true",
        f"--piece-length={piece}",
        "--stream-piece-selector=inorder",
        f"--split={split}",
        f"--max-connection-per-server={per_server}",
        "--min-split-size=1M",
        *(("--enable-http-pipelining=true",) if exact else ()),
        "--file-allocation=none",
        "--disk-cache=0",
        "--auto-save-interval=1",
        "--max-tries=1",
        "--retry-wait=0",
        "--connect-timeout=10",
        f"--timeout={timeout}",
        "--follow-torrent=false",
        "--follow-metalink=false",
        "--check-certificate=true",
        *more,
    )


@pytest.mark.parametrize(
    ("job", "argv", "stdin", "files", "env"),
    [
        pytest.param(FRESH, aria2c_argv(), METALINK, HOSTS, {}, id="fresh"),
        pytest.param(RESUME, aria2c_argv(), METALINK, HOSTS, {}, id="resume"),
        pytest.param(
            replace(FRESH, connections=1),
            aria2c_argv(split=1, per_server=1, exact=False),
            METALINK,
            HOSTS,
            {},
            id="one",
        ),
        pytest.param(
            UNKNOWN,
            aria2c_argv(feed="--input-file=-", exact=False),
            f"{ONE}\t{TWO}\n out=body\n".encode(),
            HOSTS,
            {},
            id="length",
        ),
        pytest.param(
            PLAIN_PROXY,
            aria2c_argv(conf=("--no-conf=true", "--all-proxy=http://proxy.example:3128")),
            METALINK,
            (),
            {},
            id="proxy",
        ),
        pytest.param(
            LOGIN_PROXY,
            aria2c_argv(),
            METALINK,
            (("aria2.conf", f"all-proxy={LOGIN}\n".encode()),),
            {},
            id="proxy with a login",
        ),
        pytest.param(
            TRUSTED,
            aria2c_argv(more=("--ca-certificate=/etc/ca.pem", "--user-agent=orch/1 (x; y)")),
            METALINK,
            HOSTS,
            {"SSL_CERT_FILE": "/etc/ca.pem"},
            id="ca and user agent",
        ),
        pytest.param(
            WIDE, aria2c_argv(piece=1 << 24, split=32, per_server=16, timeout=7), METALINK, HOSTS, {}, id="wide"
        ),
        pytest.param(
            replace(FRESH, wants=(replace(FRESH.wants[0], sources=("ftp://a.example/w.bin", TWO)),)),
            aria2c_argv(conf=("--no-conf=true",)),
            METALINK.replace(b"https://a.example/w.bin?x=1&amp;y=2", b"ftp://a.example/w.bin"),
            (),
            {},
            id="ftp",
        ),
    ],
)
def test_aria2c(job: Job, argv: tuple[str, ...], stdin: bytes, files: object, env: object) -> None:
    made = aria2c.command(job)
    assert (made.argv, made.stdin, made.files, made.env) == (argv, stdin, files, env)


def curl_config(
    output: str = PATH,
    range_line: str = 'range = "0-"',
    timeout: int = 30,
    proxy: str = 'noproxy = "*"',
    more: tuple[str, ...] = (),
) -> bytes:
    lines = (
        'url = "https://a.example/w.bin?x=1&y=2"',
        f'output = "{output}"',
        range_line,
        "silent",
        "show-error",
        "fail",
        "location",
        "max-redirs = 0",
        'proto = "=http,https,ftp"',
        "globoff",
        "connect-timeout = 10",
        "speed-limit = 1",
        f"speed-time = {timeout}",
        proxy,
        *more,
        r'write-out = "%{exitcode}\t%{http_code}\t%header{retry-after}\t%{errormsg}\t%{urlnum}\t%{redirect_url}\n"',
    )
    return "".join(f"{line}\n" for line in lines).encode()


ODD = replace(FRESH, wants=(Want((ONE,), '/st\\o"r\ne/ü/body', None, 0),))


@pytest.mark.parametrize(
    ("job", "stdin"),
    [
        pytest.param(FRESH, curl_config(), id="fresh"),
        pytest.param(UNKNOWN, curl_config(), id="length"),
        pytest.param(RESUME, curl_config(range_line='continue-at = "-"'), id="resume"),
        pytest.param(LOGIN_PROXY, curl_config(proxy=f'proxy = "{LOGIN}"'), id="proxy with a login"),
        pytest.param(
            TRUSTED,
            curl_config(more=('cacert = "/etc/ca.pem"', 'user-agent = "orch/1 (x; y)"')),
            id="ca and user agent",
        ),
        pytest.param(WIDE, curl_config(timeout=7), id="timeout"),
        pytest.param(ODD, curl_config(output=r"/st\\o\"r\ne/ü/body"), id="odd names"),
    ],
)
def test_curl(job: Job, stdin: bytes) -> None:
    made = curl.command(job)
    assert (made.argv, made.stdin, made.files, made.env) == (
        ("curl", "--disable", "--config", "-"),
        stdin,
        (),
        {},
    )


def wget_argv(
    range_flag: str = "--header=Range: bytes=0-", timeout: int = 30, more: tuple[str, ...] = ()
) -> tuple[str, ...]:
    return (
        "wget",
        "--config=/store/partial/abc/wgetrc",
        "--no-netrc",
        "--no-hsts",
        "--no-cookies",
        "--no-verbose",
        "--server-response",
        "--tries=1",
        range_flag,
        "--output-document=/store/partial/abc/body",
        "--connect-timeout=10",
        "--dns-timeout=10",
        f"--read-timeout={timeout}",
        "--max-redirect=0",
        "--check-certificate",
        *more,
        "--input-file=-",
    )


@pytest.mark.parametrize(
    ("job", "argv", "rc"),
    [
        pytest.param(FRESH, wget_argv(), "use_proxy = off\n", id="fresh"),
        pytest.param(UNKNOWN, wget_argv(), "use_proxy = off\n", id="length"),
        pytest.param(RESUME, wget_argv("--continue"), "use_proxy = off\n", id="resume"),
        pytest.param(
            LOGIN_PROXY,
            wget_argv(),
            f"use_proxy = on\nhttp_proxy = {LOGIN}\nhttps_proxy = {LOGIN}\nftp_proxy = {LOGIN}\n",
            id="proxy with a login",
        ),
        pytest.param(
            TRUSTED,
            wget_argv(more=("--ca-certificate=/etc/ca.pem", "--user-agent=orch/1 (x; y)")),
            "use_proxy = off\n",
            id="ca and user agent",
        ),
        pytest.param(WIDE, wget_argv(timeout=7), "use_proxy = off\n", id="timeout"),
    ],
)
def test_wget(job: Job, argv: tuple[str, ...], rc: str) -> None:
    made = wget.command(job)
    assert (made.argv, made.stdin, made.files, made.env) == (
        argv,
        f"{ONE}\n".encode(),
        (("wgetrc", rc.encode()),),
        {},
    )


def axel_argv(connections: int = 4, timeout: int = 30, more: tuple[str, ...] = ("--no-proxy",)) -> tuple[str, ...]:
    return (
        "axel",
        "--quiet",
        f"--num-connections={connections}",
        f"--timeout={timeout}",
        "--max-redirect=0",
        *more,
        "--output=/store/partial/abc/body",
        ONE,
        TWO,
    )


def axel_rc(proxy_line: str = "http_proxy = \n", timeout: int = 30) -> bytes:
    return (
        f"{proxy_line}"
        "no_proxy =\n"
        "save_state_interval = 1\n"
        "reconnect_delay = 2\n"
        "buffer_size = 65536\n"
        f"connection_timeout = {timeout}\n"
        "max_speed = 0\n"
        "insecure = 0\n"
        "no_clobber = 0\n"
        "alternate_output = 0\n"
    ).encode()


LONG = f"http://user:{'p' * 80}@proxy.example:3128"


@pytest.mark.parametrize(
    ("job", "argv", "rc", "env"),
    [
        pytest.param(FRESH, axel_argv(), axel_rc(), {}, id="fresh"),
        pytest.param(RESUME, axel_argv(), axel_rc(), {}, id="resume"),
        pytest.param(UNKNOWN, axel_argv(), axel_rc(), {}, id="length"),
        pytest.param(
            LOGIN_PROXY,
            axel_argv(more=()),
            axel_rc("http_proxy = http://us@er:p:w@proxy.example:3128\n"),  # it decodes nothing itself
            {},
            id="proxy with a login",
        ),
        pytest.param(
            replace(FRESH, proxy="http://us:a%2Fb@p.example:1"),
            axel_argv(more=()),
            axel_rc("http_proxy = http://us:a%2Fb@p.example:1\n"),
            {},
            id="proxy with a slash in its login",
        ),
        pytest.param(
            replace(FRESH, proxy=LONG), axel_argv(more=()), axel_rc(""), {"http_proxy": LONG}, id="long proxy"
        ),
        pytest.param(
            replace(FRESH, proxy="http://us:a%23%0Ab@p.example:1"),
            axel_argv(more=()),
            axel_rc(""),
            {"http_proxy": "http://us:a#\nb@p.example:1"},
            id="proxy that no line can hold",
        ),
        pytest.param(
            TRUSTED,
            axel_argv(more=("--no-proxy", "--user-agent=orch/1 (x; y)")),
            axel_rc(),
            {"SSL_CERT_FILE": "/etc/ca.pem"},
            id="ca and user agent",
        ),
        pytest.param(WIDE, axel_argv(connections=32, timeout=7), axel_rc(timeout=7), {}, id="wide"),
    ],
)
def test_axel(job: Job, argv: tuple[str, ...], rc: bytes, env: object) -> None:
    made = axel.command(job)
    assert (made.argv, made.stdin, made.files, made.env) == (argv, b"", ((".axelrc", rc),), env)
    assert all(len(line) <= 100 for line in rc.splitlines())


def rsync_argv(
    source: str,
    just: tuple[str, ...] = ("--min-size=1000", "--max-size=1000"),
    timeout: int = 30,
    daemon: tuple[str, ...] = ("--contimeout=10",),
) -> tuple[str, ...]:
    return (
        "rsync",
        "--no-motd",
        "--8-bit-output",
        "--out-format=%l",
        "--inplace",
        "--append-verify",
        "--copy-links",
        "--chmod=F600",
        *just,
        f"--timeout={timeout}",
        *daemon,
        source,
        PATH,
    )


def of(job: Job, url: str) -> Job:
    return replace(job, wants=(replace(job.wants[0], sources=(url,)),))


R = "rsync://nas.example:8730/weights"
F = "file:///mnt/weights"


@pytest.mark.parametrize(
    ("job", "argv"),
    [
        pytest.param(of(FRESH, f"{R}/w.bin"), rsync_argv(f"{R}/w.bin"), id="fresh"),
        pytest.param(of(RESUME, f"{R}/w.bin"), rsync_argv(f"{R}/w.bin"), id="resume"),
        pytest.param(of(UNKNOWN, f"{R}/w.bin"), rsync_argv(f"{R}/w.bin", just=()), id="length"),
        pytest.param(of(WIDE, f"{R}/w.bin"), rsync_argv(f"{R}/w.bin", timeout=7), id="wide"),
        pytest.param(of(TRUSTED, f"{R}/w.bin"), rsync_argv(f"{R}/w.bin"), id="nothing to trust"),
        pytest.param(of(FRESH, f"{R}/a%20b/gr%C3%B6%C3%9Fe"), rsync_argv(f"{R}/a b/größe"), id="decoded"),
        pytest.param(
            of(FRESH, f"{R}/%5Bx%5D/a*b%3F?c"), rsync_argv(rf"{R}/\[x\]/a\*b\?\?c"), id="wildcards of a daemon"
        ),
        pytest.param(of(FRESH, f"{R}/a%00b%FF"), rsync_argv(f"{R}/a\ufffdb\ufffd"), id="no name of a file"),
        pytest.param(of(FRESH, "rsync://[::1]:873/m/f"), rsync_argv("rsync://[::1]:873/m/f"), id="address"),
        pytest.param(of(FRESH, "rsync://nas.example/"), rsync_argv("rsync://nas.example/"), id="no path"),
        pytest.param(of(FRESH, f"{F}/w.bin"), rsync_argv("/mnt/weights/w.bin", daemon=()), id="file"),
        pytest.param(of(UNKNOWN, f"{F}/-a%20*[b]:c"), rsync_argv("/mnt/weights/-a *[b]:c", (), daemon=()), id="odd"),
    ],
)
def test_rsync(job: Job, argv: tuple[str, ...]) -> None:
    made = rsync.command(job)
    assert (made.argv, made.stdin, made.files, made.env) == (argv, b"", (), {})


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.NAME)
@pytest.mark.parametrize("job", [FRESH, RESUME, UNKNOWN, LOGIN_PROXY, replace(FRESH, proxy=LONG)])
def test_no_login_stands_in_argv(backend, job) -> None:
    argv = backend.command(job).argv
    assert argv[0] == backend.NAME
    assert not any("us%40er" in word or "us@er" in word or "pppp" in word for word in argv)


@pytest.mark.parametrize("backend", [aria2c, curl, wget], ids=lambda backend: backend.NAME)
def test_no_url_stands_in_argv(backend) -> None:
    assert not any("a.example" in word for word in backend.command(FRESH).argv)
    if Trait.BUNDLE in backend.TRAITS:
        bundle = replace(BUNDLE, proxy=LOGIN)
        assert not any(word in " ".join(backend.command(bundle).argv) for word in ("a.example", "us%40er"))


def test_a_file_at_the_root_has_a_folder() -> None:
    job = replace(FRESH, wants=(Want((ONE,), "/body", None, 0),))
    assert "--dir=/" in aria2c.command(job).argv


BUNDLE = replace(FRESH, wants=(Want((ONE,), f"{FOLDER}/aa", 1000, 0), Want((TWO,), f"{FOLDER}/bb", 0, 0)))


def test_curl_shows_a_token_that_nobody_sees() -> None:
    wants = tuple(Want((f"https://e.org/{n}",), f"/p/{n}", 5, 0) for n in range(2))
    made = curl.command(replace(FRESH, wants=wants, bearer='t"s'))
    assert 't"s' not in " ".join(made.argv)
    assert made.stdin.count(b'oauth2-bearer = "t\\"s"\n') == 2  # `next` forgets
    assert made.stdin.count(b"max-redirs = 0\n") == 2
    assert 't"s' not in repr(replace(FRESH, bearer='t"s'))


def test_curl_bundle() -> None:
    made = curl.command(replace(BUNDLE, ca="/etc/ca.pem", user_agent="orch/1 (x; y)", proxy=LOGIN, timeout_s=7))
    assert made.argv == (
        "curl",
        "--disable",
        "--parallel",
        "--parallel-immediate",
        "--no-progress-meter",
        "--parallel-max",
        "4",
        "--config",
        "-",
    )
    more = ('cacert = "/etc/ca.pem"', 'user-agent = "orch/1 (x; y)"')
    said = {"timeout": 7, "proxy": f'proxy = "{LOGIN}"', "more": more}
    first = curl_config(output=f"{FOLDER}/aa", **said)
    second = curl_config(output=f"{FOLDER}/bb", **said).replace(ONE.encode(), TWO.encode())
    # Every flag in every block, for `next` forgets them: a 404's page would be kept as the file.
    assert made.stdin == first + b"next\n" + second.replace(b'range = "0-"\n', b"")
    assert (made.files, made.env) == ((), {})


def test_aria2c_bundle() -> None:
    made = aria2c.command(BUNDLE)
    argv = aria2c_argv(level="error", feed="--input-file=-", split=1, per_server=1, exact=False)
    at = argv.index("--split=1")
    assert made.argv == (*argv[:at], "--max-concurrent-downloads=4", *argv[at:])
    assert made.stdin == f"{ONE}\n out=aa\n{TWO}\n out=bb\n".encode()
    assert (made.files, made.env) == (HOSTS, {})


@pytest.mark.parametrize("backend", [axel, wget], ids=lambda backend: backend.NAME)
def test_a_bundle_is_refused(backend) -> None:
    with pytest.raises(AssertionError, match="bundle"):
        backend.command(replace(FRESH, wants=FRESH.wants * 2))


def test_the_list() -> None:
    assert [backend.NAME for backend in BACKENDS] == ["aria2c", "axel", "curl", "wget", "rsync"]
    assert [backend.SIDECAR for backend in BACKENDS] == [".aria2", ".st", None, None, None]
    assert by_name("curl") is curl
    assert by_name("nget") is None


@pytest.mark.parametrize(
    ("trait", "names"),
    [
        (Trait.HTTP, "aria2c axel curl wget"),
        (Trait.FTP, "aria2c axel curl wget"),
        (Trait.RSYNC, "rsync"),
        (Trait.FILE, "rsync"),
        (Trait.RESUME, "aria2c axel curl wget rsync"),
        (Trait.SEGMENTS, "aria2c axel"),
        (Trait.MIRRORS, "aria2c axel"),
        (Trait.BUNDLE, "aria2c curl"),
        (Trait.HIDDEN_HEADERS, "aria2c curl wget"),
        (Trait.BEARER, "curl"),
        (Trait.PROXY, "aria2c curl wget"),
        (Trait.SOCKS, "curl"),
        (Trait.CA, "aria2c curl wget"),
    ],
)
def test_traits(trait: Trait, names: str) -> None:
    assert " ".join(backend.NAME for backend in BACKENDS if trait in backend.TRAITS) == names


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.NAME)
def test_seven_public_names(backend) -> None:
    imported = {"annotations", "aria2_control", "escape", "re", "shared", "struct", "unquote", "from_status"}
    imported |= {"TYPE_CHECKING", "Command", "Fault", "Kind", "Range", "Trait"}
    public = {name for name in vars(backend) if not name.startswith("_")} - imported
    assert public == {"NAME", "TRAITS", "SIDECAR", "command", "diagnose", "missing", "sidecar"}


@pytest.mark.parametrize(
    ("backend", "flag"), [(aria2c, "--disable-ipv6=true"), (axel, "--ipv4"), (curl, "ipv4"), (wget, "--inet4-only")]
)
def test_an_ipv6_address_that_does_not_answer_is_not_waited_for(backend: Backend, flag: str) -> None:
    for job, wanted in ((FRESH, False), (replace(FRESH, ipv4_only=True), True)):
        command = backend.command(job)
        assert (flag in (*command.argv, *command.stdin.decode().splitlines())) is wanted


@pytest.mark.parametrize("backend", [aria2c, curl, wget], ids=lambda backend: backend.NAME)
def test_a_bare_request_has_no_range_and_is_one(backend: Backend) -> None:
    command = backend.command(replace(FRESH, bare=True))
    said = "\n".join((*command.argv, command.stdin.decode()))
    assert not re.search("range|continue-at|metalink-file|pipelining", said, re.IGNORECASE)
    if backend is aria2c:
        assert {"--split=1", "--max-connection-per-server=1", "--input-file=-"} <= set(command.argv)
