"""Which files peers have, found out with few requests, against a real nginx."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from orchestrator.model import Artifact, Role, Source, Wanted
from orchestrator.sources import peers
from orchestrator.sources.by_digest import url_by_digest
from tests.orch import sha256
from tests.servers import nginx

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.context import Context


def artifact(content: bytes, model: str, *, size: int | None = None, known: bool = True) -> Artifact:
    digest = sha256(content) if known else ""
    origin = (Source("https://example.org/x", Role.ORIGIN),)
    wanted = Wanted("/team.yaml", model, "x", digest, size or len(content), origin, ())
    return Artifact(digest, size or len(content), origin, (wanted,))


def asked(artifacts: list[Artifact]) -> list[list[str]]:
    return [[source.url for source in each.sources if source.role is Role.PEER] for each in artifacts]


@pytest.mark.parametrize(
    "base", ["http://nas:8080", "http://nas:8080/", "http://nas:8080/sha256", "http://nas:8080/sha256/"]
)
def test_the_url_of_a_digest(base: str) -> None:
    assert url_by_digest(base, "ab" * 32) == f"http://nas:8080/sha256/{'ab' * 32}"


def test_a_model_of_many_small_files_costs_one_request_and_large_files_one_each(
    context: Context, tmp_path: Path
) -> None:
    (tmp_path / "sha256").mkdir()
    small = [b"%04d" % number for number in range(2000)]
    large = [b"one", b"two"]
    for content in (*small, large[0], b"longest of the small"):
        (tmp_path / "sha256" / sha256(content)).write_bytes(content)
    wanted = [
        *(artifact(content, "small") for content in small),
        artifact(b"longest of the small", "small"),
        *(artifact(content, "large", size=1 << 30) for content in large),
        artifact(b"nobody's", "none"),
        artifact(b"no sha256", "none", known=False),
    ]
    with nginx(tmp_path) as peer:
        bases = [peers.Peer(f"{peer.url}/"), peers.Peer("http://127.0.0.1:1/")]
        found = peers.with_peers(context, bases, {}, wanted)
        assert sum(peer.counts().values()) == 4
    assert [artifact.key for artifact in found] == [artifact.key for artifact in wanted]
    has = asked(found)
    assert has[:2001] == [[f"{peer.url}/sha256/{each.sha256}"] for each in wanted[:2001]]
    assert has[2001:] == [[f"{peer.url}/sha256/{sha256(b'one')}"], [], [], []]
    assert all(each.sources[-1].role is Role.ORIGIN for each in found)


def test_a_peer_that_has_nothing_of_ours_is_soon_let_be(context: Context, tmp_path: Path) -> None:
    with nginx(tmp_path) as peer:
        found = peers.with_peers(
            context, [peers.Peer(f"{peer.url}/")], {}, [artifact(b"%d" % n, f"m{n}") for n in range(500)]
        )
        assert sum(peer.counts().values()) == peers.MOST_MISSES
    assert not any(asked(found))


def test_each_host_has_an_order_of_its_own_and_a_file_few_peers(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sha256").mkdir()
    (tmp_path / "sha256" / sha256(b"x")).write_bytes(b"x")
    orders = set()
    with nginx(tmp_path) as peer:
        bases = [f"http://127.0.0.{n}:{peer.url.rpartition(':')[2]}/" for n in (1,)] + [
            f"{peer.url}/{n}/.." for n in range(7)
        ]
        for name in ("gpu01", "gpu02", "gpu03", "gpu04"):
            monkeypatch.setattr("os.uname", lambda name=name: type("Uname", (), {"nodename": name})())
            (urls,) = asked(peers.with_peers(replace(context), [*map(peers.Peer, bases)], {}, [artifact(b"x", "m")]))
            assert len(urls) == peers.MOST_PEERS
            orders.add(tuple(urls))
    assert len(orders) > 1


def test_a_peer_for_whose_host_a_token_is_named_is_not_asked(context: Context) -> None:
    from orchestrator.model import Host

    asked_, refused = peers.askable(
        [peers.Peer("http://gpu01:8080/"), peers.Peer("http://gpu02:8080/")],
        context,
        {"gpu02:8080": Host(token_env="T", plain=True)},
    )
    assert asked_ == [peers.Peer("http://gpu01:8080/")]
    assert refused == [
        "peer http://gpu02:8080 is not asked: `hosts` names a token for it, and no token is sent to peers"
    ]
