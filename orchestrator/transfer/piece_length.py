"""PURE: how long the pieces of a file are, so that the line stays full and the file grows in order."""

from __future__ import annotations

MIB = 1 << 20
USUAL_RATE = 16 * MIB  # bytes per second and connection, where nothing was measured
MOST_RATE = 64 * MIB  # faster, and the round trip of a busy machine is noise that would make pieces of it


def piece_bytes(size: int | None, connections: int, round_trip_s: float, rate: float = USUAL_RATE) -> tuple[int, bool]:
    """Choose the piece length for one file, and whether pieces can go in order (only then a hash can follow).

    A piece costs a request: efficiency = 1 / (1 + rate x round trip / piece), measured within 20 %. So a piece is
    rate x round trip x 8, rounded up to a power of two, at least 1 MiB; and at most the largest power of two that is
    <= size / (4 x connections), since a piece caps a connection and all last ones end together. Where that cap is
    below 1 MiB, pieces of 1 MiB go in any order.
    """
    wanted = max(MIB, 1 << max(0, int(min(rate, MOST_RATE) * round_trip_s * 8) - 1).bit_length())
    if size is None:
        return wanted, True
    share = size // (4 * max(1, connections))
    cap = 1 << (share.bit_length() - 1) if share else 0
    if cap < MIB:
        return MIB, False
    return min(wanted, cap), True


def mending_bytes(missing: int, connections: int, length: int) -> int:
    """Choose the piece length for the bad pieces of `length` bytes each, `missing` bytes in all, of a file.

    It divides theirs where both are powers of two, so that no good byte is asked for. Pieces are 2 MiB at least: from
    there on aria2c asks for exact ranges (`--enable-http-pipelining`); else it asks for all that follows and hangs up.
    """
    share = max(1, missing // max(1, connections))
    return min(length, max(2 * MIB, 1 << (share.bit_length() - 1)))
