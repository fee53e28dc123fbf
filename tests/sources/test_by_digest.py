"""Mirrors by digest: the URL of a file, and their place among its sources."""

from __future__ import annotations

import pytest

from orchestrator.model import Role, Source, Wanted
from orchestrator.sources.by_digest import url_by_digest, with_mirrors

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://nas", f"http://nas/sha256/{HEX}"),
        ("http://nas/", f"http://nas/sha256/{HEX}"),
        ("http://nas/sha256/", f"http://nas/sha256/{HEX}"),
        ("http://nas/blobs/sha256/", f"http://nas/blobs/sha256/{HEX}"),
        ("http://nas/notsha256/", f"http://nas/notsha256/sha256/{HEX}"),
    ],
)
def test_the_url_of_a_file(base: str, url: str) -> None:
    assert url_by_digest(base, HEX) == url


def test_mirrors_come_first_where_the_digest_is_known() -> None:
    origin = Source("https://example.org/w", Role.ORIGIN)
    known = Wanted("/m.yaml", "m", "", HEX, None, (origin,), ())
    unknown = Wanted("/m.yaml", "n", "", "", None, (origin,), ())
    first, second = with_mirrors((known, unknown), ["http://a/", "http://b/sha256/"])
    assert [s.url for s in first.sources] == [f"http://a/sha256/{HEX}", f"http://b/sha256/{HEX}", origin.url]
    assert second is unknown
