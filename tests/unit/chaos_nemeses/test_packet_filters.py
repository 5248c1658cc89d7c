"""The programs for the kernel's packet filter, run here by an interpreter of their few instructions."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

import pytest
from shoal_chaos.clusters.links import CLEAR, HELD, LinkRule, NoSuchRule
from shoal_chaos.clusters.packet_filters import Instruction, bytecode, checked, filter_program, lateness

ONE, OTHER, THIRD = (IPv4Address(f"10.77.0.{number}") for number in (1, 2, 3))
IPV4, ARP = 0x0800, 0x0806
PASSED, DROPPED = 0, 2
RANDOM_OFFSET = 0xFFFFF038
RANDOM_MAX = 2**32 - 1


def packet(source: IPv4Address, ethertype: int = IPV4) -> bytes:
    return bytes(12) + ethertype.to_bytes(2, "big") + bytes(12) + source.packed + THIRD.packed + bytes(40)


def verdict(program: list[Instruction], data: bytes, random: int = 0) -> int:
    """Run a program; every instruction is run once at most, since jumps only lead on."""
    accumulator, place = 0, 0
    while True:
        code, if_true, if_false, operand = program[place]
        place += 1
        match code:
            case 0x06:
                return operand
            case 0x28:
                accumulator = int.from_bytes(data[operand : operand + 2], "big")
            case 0x20 if operand == RANDOM_OFFSET:
                accumulator = random
            case 0x20:
                accumulator = int.from_bytes(data[operand : operand + 4], "big")
            case 0x15:
                place += if_true if accumulator == operand else if_false
            case 0x35:
                place += if_true if accumulator >= operand else if_false
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


def verdicts(rules: Mapping[IPv4Address, LinkRule], random: int = 0) -> list[int]:
    program = filter_program(rules)
    return [verdict(program, packet(source), random) for source in (ONE, OTHER, THIRD)]


def test_without_rules_all_packets_pass() -> None:
    assert verdicts({}) == verdicts({ONE: CLEAR, OTHER: CLEAR}) == [PASSED] * 3


def test_packets_of_those_that_are_cut_off_are_dropped_and_no_others() -> None:
    assert verdicts({OTHER: HELD}) == [PASSED, DROPPED, PASSED]
    assert verdicts({ONE: HELD, OTHER: CLEAR, THIRD: HELD}) == [DROPPED, PASSED, DROPPED]


def test_what_is_no_ipv4_passes() -> None:
    assert verdict(filter_program({ONE: HELD}), packet(ONE, ARP)) == PASSED


def test_a_share_of_packets_is_lost_by_the_draw() -> None:
    rules = {ONE: LinkRule(loss=0.25), OTHER: HELD}
    assert verdicts(rules, RANDOM_MAX // 4) == [DROPPED, DROPPED, PASSED]
    assert verdicts(rules, RANDOM_MAX // 4 + 1) == [PASSED, DROPPED, PASSED]
    assert verdicts({ONE: LinkRule(loss=1.0)}, RANDOM_MAX) == [DROPPED, PASSED, PASSED]


def test_as_many_ends_as_fit_are_told_apart_and_no_more() -> None:
    sources = [ONE + number for number in range(100)]
    program = filter_program(dict.fromkeys(sources, HELD))
    assert verdict(program, packet(sources[-1])) == DROPPED
    assert verdict(program, packet(sources[-1] + 1)) == PASSED
    assert verdict(program, packet(sources[-1], ARP)) == PASSED
    with pytest.raises(NoSuchRule, match="too many ends"):
        filter_program({source: LinkRule(loss=0.5) for source in sources})


def test_tc_gets_the_number_of_instructions_and_then_each() -> None:
    assert bytecode([(0x28, 0, 0, 12), (0x06, 0, 0, 2)]) == "2,40 0 0 12,6 0 0 2"


@pytest.mark.parametrize("rule", [LinkRule(reset=True), LinkRule(bytes_per_second=1000.0)])
def test_what_only_a_proxy_can_do_is_refused(rule: LinkRule) -> None:
    with pytest.raises(NoSuchRule, match="proxies only"):
        checked(rule)


def test_late_packets_are_asked_of_netem_by_the_middle_of_the_range() -> None:
    rule = LinkRule(delay_seconds=0.01, jitter_seconds=0.02, duplicates=0.05)
    assert lateness({ONE: rule, OTHER: rule}) == "delay 20000us 10000us duplicate 5.0000%"
    assert lateness({ONE: CLEAR, OTHER: HELD}) == ""
    with pytest.raises(NoSuchRule, match="alike"):
        lateness({ONE: rule, OTHER: CLEAR})
