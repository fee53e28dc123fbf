"""The nginx configuration of `orch serve`: files by sha256, from a store and optionally a slice cache.

One URL for both, `/sha256/<hex>`: a blob of the store is sent as it is; what the store lacks is fetched from its origin
a MiB at a time, by one request for all who wait for it, and kept. Source of the facts: the documentation of nginx's
modules `core`, `proxy` and `slice`, and measurements (docs/fleet.md).

* The map of what is offered has all that the manifests want, in the store or not: a blob that a sync commits appears
  at once, and nothing has to be reloaded.
* The key of a slice is the file's sha256, never a URL: what was fetched through a signed URL is found again.
* Redirects are followed behind the slices, by a server of their own. It must be so: where a later slice of an answer
  meets one, nginx's `error_page` forgets which slice that was, and sends the first one's bytes again (measured, 1.22).
  The first redirect of each file is kept for a minute, so that not every slice asks the hub.
* Of an unfinished file (`/relay/`) all that is there is sent to who asks: nginx cannot end it where it is proven. Who
  asks knows from `.json` how far that is, and judges the pieces.
* A redirect may lead to https, where a certificate is checked; from http also to a host that a manifest names; and to
  another path of its host.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

SLICE_BYTES = 1 << 20  # measured: 1.00 copies as with 4 and 16 MiB, and the shortest wall time
LOCK_S = 600  # with nginx's default of 5 s each who waits longer fetches the slice himself: 6.8 copies measured
KEPT_DAYS = 30
_SLICES_PER_MIB = 8000  # of a keys_zone, by the documentation of proxy_cache_path
_FOLLOWED = "301 302 303 307 308"
_REDIRECT_S = 60  # how long the first redirect of a file is taken for true; signed URLs hold longer
SLICES, REDIRECTS, FETCH, RESOLVE = "slices", "redirects", "fetch.sock", "resolve.sock"  # in a cache's folder


class Offer(msgspec.Struct, frozen=True, gc=False):
    """One file that is offered; `upstream` is where a cache may fetch it, "" where it may not."""

    sha256: str
    upstream: str = ""


class Cache(msgspec.Struct, frozen=True, gc=False):
    """A cache: its folder (absolute), and how many bytes it may hold."""

    folder: str
    size_bytes: int

    @classmethod
    def at(cls, cwd: str, folder: str | None, size_bytes: int) -> Cache | None:
        """The cache in a folder that an option names; None where it names none."""
        return cls(os.path.abspath(os.path.join(cwd, folder)), size_bytes) if folder else None


def whole_config(http: str, folder: str, user: tuple[str, str] | None) -> str:
    """Return a whole configuration, for an nginx in the foreground that writes nothing outside of `folder`.

    Args:
        http: of `http_config`.
        folder: absolute; the pid and the temporary files go there.
        user: the user and the group of the workers, where root starts it.
    """
    temporary = "".join(
        f"  {name}_temp_path {_quoted(f'{folder}/{name}')};\n" for name in ("client_body", "proxy", "fastcgi")
    )
    temporary += "".join(f"  {name}_temp_path {_quoted(f'{folder}/{name}')};\n" for name in ("uwsgi", "scgi"))
    return (
        (f"user {user[0]} {user[1]};\n" if user else "")
        + f"daemon off;\nworker_processes auto;\npid {_quoted(f'{folder}/pid')};\nerror_log stderr warn;\n"
        + "events { worker_connections 1024; }\n"
        + f"http {{\n  access_log off;\n{temporary}{_indented(http)}}}\n"
    )


def http_config(
    offered: Sequence[Offer], store: str, listen: str, cache: Cache | None, *, ca: str, resolvers: Sequence[str]
) -> str:
    """Return what stands in the `http` block: the map of what is offered, and a server.

    Args:
        offered: the files.
        store: the absolute path of the store.
        listen: address and port.
        cache: None for none: then only what the store has is sent.
        ca: path of the bundle of CAs that upstreams are checked by.
        resolvers: addresses of name servers, which nginx needs for the cache.
    """
    cached = [offer for offer in offered if offer.upstream] if cache else []
    lines = [
        "# Written by orch: files of a store by their sha256, of those that manifests want; none that may have",
        "# needed a token. To change it write it anew.",
        "map_hash_bucket_size 1024;",
        f"map_hash_max_size {max(2048, 2 * len(offered))};",
        "map $uri $orch_blob {",
        "  default $uri;",
        '  "~^/relay/(?<orch_hex>[0-9a-f]{64})" "/sha256/$orch_hex";',
        "}",
        "map $orch_blob $orch_offered {",
        "  default 0;",
        *(f'  "/sha256/{offer.sha256}" 1;' for offer in offered),
        "}",
    ]
    if cache is not None:
        lines += _cache_maps(cached, cache)
    lines += [
        "server {",
        f"  listen {listen};",
        "  server_tokens off;",
        "  default_type application/octet-stream;",
        "  types { }",
        "  sendfile on;",
        "  tcp_nopush on;",
        "  keepalive_requests 100000;",
        "  client_max_body_size 1;",
        "  add_header X-Content-Type-Options nosniff;",
        "  location / { return 404; }",
        '  location ~ "^/sha256/[0-9a-f]{64}$" {',
        '    if ($request_method !~ "^(GET|HEAD)$") { return 405; }',
        "    if ($orch_offered = 0) { return 404; }",
        f"    root {_quoted(f'{store}/blobs')};",
        "    disable_symlinks on from=$document_root;",
        f"    try_files $uri {'@orch_cache' if cache else '=404'};",
        "  }",
    ]
    lines += [
        "  # What is proven of files that are being downloaded: written by `orch sync`, if the folder is there.",
        '  location ~ "^/relay/[0-9a-f]{64}(\\.json)?$" {',
        '    if ($request_method !~ "^(GET|HEAD)$") { return 405; }',
        "    if ($orch_offered = 0) { return 404; }",
        f"    root {_quoted(store)};",
        "    disable_symlinks on from=$document_root;",
        "    try_files $uri =404;",
        "  }",
    ]
    if cache is not None:
        lines += _cache_locations(cache)
    lines.append("}")
    if cache is not None:
        lines += _upstream_servers(cache, ca, resolvers)
    return "\n".join((*lines, ""))


def _cache_maps(cached: Sequence[Offer], cache: Cache) -> list[str]:
    hosts = sorted({offer.upstream.split("/")[2] for offer in cached if offer.upstream.startswith("http://")})
    plain = "|".join(re.escape(host).replace(r"\-", "-") for host in hosts)
    size_mib = max(1, cache.size_bytes >> 20)
    zone_mib = max(10, -(-size_mib * 5 // (_SLICES_PER_MIB * 4)))
    zone, kept = f"orch_slices:{zone_mib}m", f"max_size={size_mib}m inactive={KEPT_DAYS}d use_temp_path=off"
    lines = [
        f"proxy_cache_path {_quoted(f'{cache.folder}/{SLICES}')} levels=1:2 keys_zone={zone} {kept};",
        f"proxy_cache_path {_quoted(f'{cache.folder}/{REDIRECTS}')} keys_zone=orch_redirects:1m max_size=64m "
        "inactive=10m use_temp_path=off;",
        "map $uri $orch_upstream {",
        '  default "";',
        *(f'  "/sha256/{offer.sha256}" "{offer.upstream}";' for offer in cached),
        "}",
        "# Where a redirect leads. The host that redirects has no `>`, its Location may have any.",
        "map $orch_at $orch_base {",
        "  volatile;",
        '  default "";',
        '  "~^(?<orch_found>https?://[^/]+)" $orch_found;',
        "}",
        'map "$orch_base>$upstream_http_location" $orch_next {',
        "  volatile;",
        '  default "";',
        '  "~^[^>]*>/[^/]" $orch_base$upstream_http_location;',
        r'  "~^[^>]*>https://[^/@\[]*[A-Za-z][^/@\[]*/" $upstream_http_location;',
    ]
    if plain:
        lines.append(f'  "~^http:[^>]*>http://({plain})/" $upstream_http_location;')
    return [*lines, "}"]


_NOTHING_OF_CLIENTS = [
    "  # Nothing of a client goes upstream: no Authorization, no cookie, no body.",
    "  proxy_pass_request_headers off;",
    "  proxy_pass_request_body off;",
    "  proxy_method GET;",
    '  proxy_set_header Connection "";',
    "  proxy_set_header User-Agent orch;",
    "  proxy_http_version 1.1;",
    "  proxy_max_temp_file_size 0;",
    "  proxy_ignore_headers Cache-Control Expires Set-Cookie Vary X-Accel-Expires X-Accel-Redirect;",
    "  proxy_hide_header Set-Cookie;",
]


def _cache_locations(cache: Cache) -> list[str]:
    return [
        "  location @orch_cache {",
        '    if ($orch_upstream = "") { return 404; }',
        "    # Whoever only asks is told that it can be had (204), and nothing is fetched.",
        "    if ($request_method = HEAD) { return 204; }",
        f"    slice {SLICE_BYTES};",
        f"    proxy_pass http://unix:{cache.folder}/{FETCH}:;",
        "    proxy_set_header Range $slice_range;",
        "    proxy_cache orch_slices;",
        "    proxy_cache_key $uri$slice_range;",
        f"    proxy_cache_valid 200 206 {KEPT_DAYS}d;",
        "    proxy_cache_lock on;",
        f"    proxy_cache_lock_timeout {LOCK_S}s;",
        f"    proxy_cache_lock_age {LOCK_S}s;",
        *(f"  {line}" for line in _NOTHING_OF_CLIENTS),
        "  }",
    ]


def _upstream_servers(cache: Cache, ca: str, resolvers: Sequence[str]) -> list[str]:
    """The two servers behind the cache, on sockets: one that follows redirects, one that keeps the first of them."""
    tls = [
        *_NOTHING_OF_CLIENTS,
        "  proxy_set_header Range $http_range;",
        "  proxy_ssl_server_name on;",
        "  proxy_ssl_verify on;",
        "  proxy_ssl_verify_depth 5;",
        f"  proxy_ssl_trusted_certificate {_quoted(ca)};",
    ]
    if resolvers:
        tls.append(f"  resolver {' '.join(resolvers)} valid=300s;")
    return [
        "server {",
        f"  listen {_quoted(f'unix:{cache.folder}/{FETCH}')};",
        *tls,
        "  proxy_intercept_errors on;",
        "  recursive_error_pages on;",
        f"  error_page {_FOLLOWED} = @orch_follow;",
        "  location / {",
        "    set $orch_at $orch_upstream;",
        f"    proxy_pass http://unix:{cache.folder}/{RESOLVE}:;",
        "  }",
        "  location @orch_follow {",
        "    set $orch_at $orch_next;",
        '    if ($orch_at = "") { return 502; }',
        "    proxy_pass $orch_at;",
        "  }",
        "}",
        "server {",
        f"  listen {_quoted(f'unix:{cache.folder}/{RESOLVE}')};",
        *tls,
        "  location / {",
        '    if ($orch_upstream = "") { return 404; }',
        "    proxy_pass $orch_upstream;",
        "    proxy_cache orch_redirects;",
        "    proxy_cache_key $uri;",
        f"    proxy_cache_valid {_FOLLOWED} {_REDIRECT_S}s;",
        "  }",
        "}",
    ]


def _quoted(path: str) -> str:
    """A path as a word of a configuration; one with a `$` has no such form (`serve.config` refuses it)."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
