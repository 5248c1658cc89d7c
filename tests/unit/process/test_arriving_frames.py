"""Frames that take their time to arrive: the client hears that they are arriving, and no more than now and then."""

from __future__ import annotations

import asyncio
from typing import Any

from shoal.protocol.frames import answer_decoder, encode_frame
from shoal.protocol.messages import Done, Ping, Working
from shoal_server.process import connections

from .server import Client, serving


async def every_answer(client: Client, count: int) -> list[Any]:
    answers: list[Any] = []
    while len(answers) < count:
        answers += answer_decoder.decode(await client.body())
    return answers


async def trickle(client: Client, data: bytes, pieces: int) -> None:
    step = -(-len(data) // pieces)
    for at in range(0, len(data), step):
        client.writer.write(data[at : at + step])
        await client.writer.drain()
        await asyncio.sleep(0.01)


async def test_a_client_hears_that_its_frame_is_arriving() -> None:
    async with serving() as server:
        client = await server.client()
        frame = encode_frame([Ping(number) for number in range(1, 1001)])
        await trickle(client, frame, 5)
        answers = await every_answer(client, 1001)
        assert answers[0] == Working()
        assert [type(answer) for answer in answers[1:]] == [Done] * 1000, "as often as pieces come would be too often"


async def test_it_hears_that_again_and_again_while_that_lasts() -> None:
    async with serving() as server:
        client = await server.client()
        frame = encode_frame([Ping(1)] * 100)
        sent = asyncio.ensure_future(trickle(client, frame, 80))
        answers = await every_answer(client, 103)
        await sent
        assert answers[:3] == [Working()] * 3
        assert connections.WORKING_SECONDS * 3 < 0.8


async def test_a_frame_that_comes_at_once_is_answered_and_nothing_else() -> None:
    async with serving() as server:
        client = await server.client()
        client.ask(Ping(1))
        assert await every_answer(client, 1) == [Done(1)]
