"""State files: read, written, handed from one program to the next."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.backends import BACKENDS, aria2_control, aria2c, axel
from orchestrator.backends.base import Job, Want
from orchestrator.backends.shared import merge
from orchestrator.model import Range

MIB = 1 << 20
STATEFUL = (aria2c, axel)
APPENDING = tuple(backend for backend in BACKENDS if backend.SIDECAR is None)
SIZE = 8 * MIB

# Left by the real programs after SIGKILL, three connections, 8 MiB; every claim was compared with the bytes.
ARIA2 = bytes.fromhex(
    "00010000000000000000001000000000000000800000000000000000000000000001e0000000"
    "03000000030010000000000008ffff800000000000000000040010000000000008ffff000000"
    "000000000000050010000000000008ffff000000000000"
)
AXEL = bytes.fromhex(
    "030000804e000000000000001a0000000000aaaa2a0000000000aa2a4500000000005455550000"
    "00000054556f00000000000000800000000000"
)


def job(length: int | None, connections: int = 4, piece: int = MIB) -> Job:
    return Job((Want(("http://a.example/f",), "/p/body", length, 0),), "/p", connections, piece)


def covers(wide: tuple[Range, ...], narrow: tuple[Range, ...]) -> bool:
    return all(any(w.start <= n.start and n.end <= w.end for w in wide) for n in narrow)


def is_canonical(ranges: tuple[Range, ...], length: int) -> bool:
    ends = [edge for each in ranges for edge in each]
    return ends == sorted(set(ends)) and all(0 <= edge <= length for edge in ends)


@st.composite
def holes(draw: st.DrawFn) -> tuple[int, tuple[Range, ...]]:
    """A length and what is missing of it: any sorted disjoint ranges."""
    length = draw(st.one_of(st.integers(0, 9 * MIB), st.integers(0, 300), st.sampled_from([SIZE, 2 * SIZE])))
    edges = st.one_of(st.integers(0, length), st.integers(0, length // 16384).map(lambda n: n * 16384))
    cuts = sorted(draw(st.lists(edges, max_size=draw(st.sampled_from([2, 6, 150])))))
    return length, merge(Range(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False))


@pytest.mark.parametrize("backend", STATEFUL, ids=lambda backend: backend.NAME)
@settings(max_examples=120)
@given(case=holes(), connections=st.sampled_from([1, 4, 16, 100]), piece=st.sampled_from([1, MIB, 2 * MIB]))
def test_what_is_written_is_read_back(backend, case, connections, piece) -> None:
    length, wanted = case
    task = job(length, connections, piece)
    written = backend.sidecar(task, wanted)
    read = backend.missing(written, length, length)
    assert covers(read, wanted)
    assert is_canonical(read, length)
    assert backend.missing(backend.sidecar(task, read), length, length) == read


@pytest.mark.parametrize("backend", APPENDING, ids=lambda backend: backend.NAME)
@settings(max_examples=60)
@given(case=holes())
def test_a_file_cut_to_its_first_hole_lacks_all_of_them(backend, case) -> None:
    length, wanted = case
    assert backend.sidecar(job(length), wanted) is None
    first = wanted[0].start if wanted else length
    read = backend.missing(None, length, first)
    assert covers(read, wanted)
    assert is_canonical(read, length)


@settings(max_examples=120)
@given(case=holes())
def test_aria2c_is_told_only_of_beginnings(case) -> None:
    """A chunk that is there behind a hole of its piece makes it exit 0 over wrong bytes."""
    length, wanted = case
    for each in aria2c.missing(aria2c.sidecar(job(length), wanted), length, length):
        assert each.end % MIB == 0 or each.end == length
        assert each.start % 16384 == 0


@settings(max_examples=120)
@given(case=holes(), connections=st.sampled_from([1, 4, 16, 100]))
def test_axel_loses_nothing_up_to_64_holes(case, connections) -> None:
    length, wanted = case
    written = axel.sidecar(job(length, connections), wanted)
    count, done = struct.unpack_from("=Hq", written)
    assert 1 <= count <= 64
    assert count <= max(len(wanted), connections, 1)
    read = axel.missing(written, length, length)
    assert done == length - sum(each.end - each.start for each in read)
    if len(wanted) <= 64:
        assert read == wanted


@pytest.mark.parametrize("backend", STATEFUL, ids=lambda backend: backend.NAME)
@settings(max_examples=120)
@given(case=holes(), cut=st.integers(1, 40), junk=st.binary(min_size=1, max_size=40))
def test_a_torn_sidecar_claims_nothing(backend, case, cut, junk) -> None:
    length, wanted = case
    written = backend.sidecar(job(length), wanted)
    everything = (Range(0, length),) if length else ()
    assert backend.missing(written[:-cut], length, length) == everything
    assert backend.missing(written + junk, length, length) == everything
    assert backend.missing(written, length + 1, length + 1) == (Range(0, length + 1),)


@pytest.mark.parametrize("backend", STATEFUL, ids=lambda backend: backend.NAME)
@settings(max_examples=200)
@given(
    state=st.one_of(st.binary(max_size=200), st.binary(max_size=80).map(ARIA2.__add__)),
    length=st.integers(0, SIZE),
)
def test_garbage_never_crashes(backend, state, length) -> None:
    assert is_canonical(backend.missing(state, length, length), length)


@pytest.mark.parametrize("backend", STATEFUL, ids=lambda backend: backend.NAME)
@settings(max_examples=200)
@given(data=st.data())
def test_a_flipped_byte_never_crashes(backend, data) -> None:
    state = bytearray(ARIA2 if backend is aria2c else AXEL)
    state[data.draw(st.integers(0, len(state) - 1))] = data.draw(st.integers(0, 255))
    assert is_canonical(backend.missing(bytes(state), SIZE, SIZE), SIZE)


@pytest.mark.parametrize(
    ("backend", "state", "expected"),
    [
        (aria2c, ARIA2, ((3424256, 4194304), (4456448, 5242880), (5505024, SIZE))),
        (axel, AXEL, ((1703936, 2796202), (4532906, 5592404), (7296340, SIZE))),
    ],
    ids=["aria2c", "axel"],
)
def test_what_real_programs_left(backend, state, expected) -> None:
    assert backend.missing(state, SIZE, SIZE) == expected
    assert backend.sidecar(job(SIZE, connections=1), backend.missing(state, SIZE, SIZE)) == state


@pytest.mark.parametrize(("backend", "state"), [(aria2c, ARIA2), (axel, AXEL)], ids=["aria2c", "axel"])
def test_what_lies_behind_the_end_of_the_file_is_not_there(backend, state) -> None:
    read = backend.missing(state, SIZE, MIB)
    assert read == (Range(MIB, SIZE),)
    assert backend.missing(state, SIZE, 0) == (Range(0, SIZE),)


@pytest.mark.parametrize("backend", STATEFUL, ids=lambda backend: backend.NAME)
@pytest.mark.parametrize("state", [b"", b"\0", bytes(10), bytes(38), b"x" * 100])
def test_no_state_proves_nothing(backend, state) -> None:
    assert backend.missing(state, SIZE, SIZE) == (Range(0, SIZE),)
    assert backend.missing(state, SIZE, 100) == (Range(0, SIZE),)


@pytest.mark.parametrize("backend", STATEFUL, ids=lambda backend: backend.NAME)
def test_without_state_only_the_full_length_counts(backend) -> None:
    assert backend.missing(None, 100, 100) == ()
    assert backend.missing(None, 100, 99) == (Range(0, 100),)
    assert backend.missing(None, 100, 101) == (Range(0, 100),)
    assert backend.missing(None, 0, 0) == ()


@pytest.mark.parametrize("backend", APPENDING, ids=lambda backend: backend.NAME)
def test_what_was_appended_is_there(backend) -> None:
    assert backend.missing(None, 100, 40) == (Range(40, 100),)
    assert backend.missing(None, 100, 0) == (Range(0, 100),)
    assert backend.missing(None, 100, 100) == ()
    assert backend.missing(None, 100, 101) == ()
    assert backend.missing(None, 0, 0) == ()


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.NAME)
@pytest.mark.parametrize("length", [0, 1, SIZE])
def test_nothing_missing(backend, length) -> None:
    assert backend.missing(backend.sidecar(job(length), ()), length, length) == ()


def test_axel_opens_as_many_connections_as_it_may() -> None:
    def segments(missing: tuple[Range, ...], connections: int) -> int:
        return struct.unpack_from("=H", axel.sidecar(job(SIZE, connections), missing))[0]

    assert segments((Range(0, SIZE),), 8) == 8
    assert segments((Range(0, 150 << 10),), 8) == 1
    assert segments((Range(0, MIB), Range(2 * MIB, SIZE)), 8) == 8
    assert segments(tuple(Range(n * 100, n * 100 + 50) for n in range(40)), 8) == 40


def test_axel_with_too_many_holes_gives_up_the_last() -> None:
    many = tuple(Range(n * 100, n * 100 + 50) for n in range(70))
    read = axel.missing(axel.sidecar(job(SIZE), many), SIZE, SIZE)
    assert read == (*many[:63], Range(6300, 6950))


def test_an_axel_state_that_does_not_add_up_is_not_believed() -> None:
    good = struct.pack("=Hqqq", 1, 60, 60, 100)
    assert axel.missing(good, 100, 100) == (Range(60, 100),)
    assert axel.missing(struct.pack("=Hqqq", 1, 61, 60, 100), 100, 100) == (Range(0, 100),)
    assert axel.missing(struct.pack("=Hqqqqq", 2, 40, 60, 40, 20, 100), 100, 100) == (Range(0, 100),)
    assert axel.missing(struct.pack("=Hq", 0, 100), 100, 100) == (Range(0, 100),)


def test_an_aria2_state_with_an_impossible_piece_is_not_believed() -> None:
    good = aria2c.sidecar(job(SIZE), (Range(MIB + 16384, SIZE),))
    assert aria2c.missing(good, SIZE, SIZE) == (Range(MIB + 16384, SIZE),)
    at = good.index(struct.pack(">III", 1, MIB, 8))
    for head, bits in (
        ((8, MIB, 8), 8),  # behind the last piece
        ((1, MIB - 16384, 8), 8),  # shorter than its piece
        ((1, MIB, 7), 7),
        ((1, MIB, 9), 9),
    ):
        wrong = good[:at] + struct.pack(">III", *head) + bytes(bits)
        assert aria2c.missing(wrong, SIZE, SIZE) == (Range(0, SIZE),)


def test_of_a_torrents_control_file_only_whole_pieces_count() -> None:
    """As aria2c 1.36.0 writes it: an extension, and an info hash of 20 bytes."""
    plain = aria2_control.write(10 << 20, 1 << 20, [Range((3 << 20) + (1 << 19), 5 << 20)])
    assert aria2_control.read(plain, 10 << 20) != [Range(3 << 20, 4 << 20), Range(4 << 20, 5 << 20)]
    torrents = plain[:2] + bytes((0, 0, 0, 1, 0, 0, 0, 20)) + bytes(range(20)) + plain[10:]
    assert aria2_control.read(torrents, 10 << 20) == [Range(3 << 20, 4 << 20), Range(4 << 20, 5 << 20)]
    assert aria2_control.read(torrents[:-1], 10 << 20) is None
    assert aria2_control.length(torrents) is None  # somebody's own torrent is not ours to go on with
