"""Frames are cut out of whatever pieces arrive, and limits hold on the announced length alone."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.protocol.checksum import checksum
from shoal.protocol.frames import (
    HEADER_BYTES,
    BadFrame,
    BadLength,
    FrameDamaged,
    FrameReader,
    encode_frame,
    encode_frames,
    request_decoder,
)
from shoal.protocol.messages import Ping


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + checksum(body).to_bytes(4, "big") + body


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_any_cutting_of_the_stream_gives_the_same_frames(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(framed(body) for body in bodies)
    at = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader = FrameReader()
    found = [body for first, end in pairwise(at) for body in reader.feed(stream[first:end])]
    assert found == bodies


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    st.lists(st.integers(0, 400), max_size=12),
    st.integers(1, 2000),
)
def test_frames_that_are_taken_a_few_at_a_time_are_the_same(bodies: list[bytes], cuts: list[int], at_once: int) -> None:
    stream = b"".join(framed(body) for body in bodies)
    at = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader = FrameReader()
    found: list[bytes] = []
    for number, (first, end) in enumerate(pairwise(at)):
        found += reader.feed(stream[first:end], at_once)
        # More may come while some wait.
        while reader.more and number % 2:
            some = reader.feed(b"", at_once)
            assert len(some) <= 1 + at_once // 500
            found += some
    while reader.more:
        found += reader.feed(b"", at_once)
    assert found == bodies
    assert reader.held == 0


def test_a_frame_in_single_bytes_comes_out_with_its_last_byte() -> None:
    reader = FrameReader()
    stream = framed(b"abc") + framed(b"d")
    found = [reader.feed(stream[i : i + 1]) for i in range(len(stream))]
    assert [body for bodies in found for body in bodies] == [b"abc", b"d"]
    assert found[HEADER_BYTES + 2] == [b"abc"]


def test_the_pieces_of_a_long_frame_are_kept_as_they_came_until_it_is_complete() -> None:
    reader = FrameReader()
    body = bytes(range(256)) * 4096
    pieces = [body[i : i + 65536] for i in range(0, len(body), 65536)]
    assert reader.feed(framed(body)[:HEADER_BYTES] + pieces[0]) == []
    for piece in pieces[1:-1]:
        assert reader.feed(piece) == []
        assert reader._pieces[-1] is piece
    assert reader.feed(pieces[-1] + framed(b"next")) == [body, b"next"]


def test_a_length_over_the_limit_is_refused_before_anything_of_it_arrives() -> None:
    with pytest.raises(BadLength, match="11 bytes was announced; from 1 to 10"):
        FrameReader(10).feed(framed(b"x" * 11)[:HEADER_BYTES])
    assert FrameReader(10).feed(framed(b"x" * 10)) == [b"x" * 10]


def test_messages_are_spread_over_frames_that_fit() -> None:
    pings = [Ping(i) for i in range(100)]
    frames = encode_frames(list(pings), max_bytes=64)
    assert len(frames) > 1
    assert all(len(frame) - HEADER_BYTES <= 64 for frame in frames)
    found = [
        message for frame in frames for body in FrameReader().feed(frame) for message in request_decoder.decode(body)
    ]
    assert found == pings


def test_one_message_that_fits_no_frame_is_an_error() -> None:
    with pytest.raises(BadLength):
        encode_frames([b"x" * 100], max_bytes=64)
    assert encode_frames([b"x"], max_bytes=64) == [encode_frame([b"x"])]


def test_a_frame_with_any_bit_flipped_is_never_taken_for_another() -> None:
    """A flip in the length makes the reader wait, or says that it is too long; any other is a damaged frame."""
    frame = encode_frame([Ping(1), Ping(77)])
    for bit in range(8 * len(frame)):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        reader = FrameReader()
        try:
            assert reader.feed(bytes(flipped)) == []
        except BadFrame:
            continue
        assert bit < 32


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4), st.integers(0, 10_000), st.integers(0, 7))
def test_frames_before_a_damaged_one_come_out_and_none_of_what_follows(bodies: list[bytes], at: int, bit: int) -> None:
    stream = bytearray(b"".join(framed(body) for body in bodies))
    stream[at % len(stream)] ^= 1 << bit
    reader, found = FrameReader(), []
    try:
        for count in range(len(stream)):
            found += reader.feed(bytes(stream[count : count + 1]))
    except BadFrame:
        pass
    assert found == bodies[: len(found)]
    assert len(found) < len(bodies)


def test_a_damaged_frame_says_so() -> None:
    with pytest.raises(FrameDamaged, match="a frame of 3 bytes arrived damaged"):
        FrameReader().feed(framed(b"abc")[:-1] + b"d")


def test_a_frame_that_comes_in_single_bytes_costs_little_more_than_its_bytes() -> None:
    body = bytes(range(256)) * 400
    frame = struct.pack(">II", len(body), checksum(body)) + body
    reader = FrameReader()
    for at in range(len(frame) - 1):
        assert reader.feed(frame[at : at + 1]) == []
    assert len(reader._pieces) < len(frame) // 1024
    assert reader.feed(frame[-1:]) == [body]


def test_only_the_first_frame_has_to_be_short() -> None:
    def framed(size: int) -> bytes:
        return struct.pack(">II", size, checksum(bytes(size))) + bytes(size)

    reader = FrameReader(1000, first_max_bytes=10)
    assert reader.feed(framed(10) + framed(1000) + framed(999)[:20]) == [bytes(10), bytes(1000)]
    assert reader.feed(framed(999)[20:]) == [bytes(999)]
    with pytest.raises(BadLength, match="from 1 to 1000"):
        reader.feed(framed(1001))
    with pytest.raises(BadLength, match="from 1 to 10 "):
        FrameReader(1000, first_max_bytes=10).feed(framed(11))
