"""What is to happen to the packets on their way to one end, as a program for the kernel's packet filter. Pure.

The programs are classic BPF in the text form that `tc` takes, for a `bpf` filter whose verdict is final ("direct action"):
they need nothing but iproute2, and are exchanged whole, so that all rules of an end change at one instant. Only IPv4 is
looked at: packets of ARP pass, so that an end that is cut off stays silent and does not become unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

from shoal_chaos.clusters.links import LinkRule, NoSuchRule

LOAD_HALF, LOAD_WORD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x28, 0x20, 0x15, 0x35, 0x06
ETHERTYPE_OFFSET, SOURCE_OFFSET = 12, 26
ETHERTYPE_IPV4 = 0x0800
RANDOM_NUMBER = 0xFFFFF000 + 56
"""Where a load finds not the packet but a random number of 32 bits (SKF_AD_OFF + SKF_AD_RANDOM)."""

PASS, DROP = 0, 2
"""The kernel's TC_ACT_OK and TC_ACT_SHOT."""

JUMP_MAX = 255

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand; jumps count the instructions that are passed over."""


def checked(rule: LinkRule) -> LinkRule:
    """Return a rule that packets can follow.

    Raises:
        NoSuchRule: it says what only a proxy can do.
    """
    if rule.reset or rule.flips or rule.bytes_per_second is not None:
        raise NoSuchRule(f"connections break, and links become narrow, in proxies only: {rule}")
    return rule


def filter_program(rules: Mapping[IPv4Address, LinkRule]) -> list[Instruction]:
    """Return the program for the packets to one end: which are dropped, by who sends them."""
    blocks: list[Instruction] = []
    for source, rule in rules.items():
        verdict = _verdict(rule)
        if verdict:
            blocks += [(JUMP_EQUAL, 0, len(verdict), int(source)), *verdict]
    if not blocks:
        return [(RETURN, 0, 0, PASS)]
    if len(blocks) + 1 > JUMP_MAX:
        raise NoSuchRule(f"a jump passes over {JUMP_MAX} instructions at most, so there are too many ends")
    return [
        (LOAD_HALF, 0, 0, ETHERTYPE_OFFSET),
        (JUMP_EQUAL, 0, len(blocks) + 1, ETHERTYPE_IPV4),
        (LOAD_WORD, 0, 0, SOURCE_OFFSET),
        *blocks,
        (RETURN, 0, 0, PASS),
    ]


def _verdict(rule: LinkRule) -> list[Instruction]:
    if rule.held or rule.loss >= 1.0:
        return [(RETURN, 0, 0, DROP)]
    if not rule.loss:
        return []
    spared_from = round(rule.loss * 2**32)
    return [
        (LOAD_WORD, 0, 0, RANDOM_NUMBER),
        (JUMP_AT_LEAST, 0, 1, spared_from),
        (RETURN, 0, 0, PASS),
        (RETURN, 0, 0, DROP),
    ]


def bytecode(program: Sequence[Instruction]) -> str:
    """Return a program as `tc` takes it."""
    return ",".join([str(len(program)), *(" ".join(map(str, instruction)) for instruction in program)])


def lateness(rules: Mapping[IPv4Address, LinkRule]) -> str:
    """Return what `netem` is to do to all packets to one end, as its arguments; "": nothing.

    Raises:
        NoSuchRule: not all who send have the same delay, jitter and duplicates.
    """
    wanted = {(rule.delay_seconds, rule.jitter_seconds, rule.duplicates) for rule in rules.values()}
    if len(wanted) > 1:
        raise NoSuchRule("packets to one end are late, and come twice, alike from whoever sends them")
    ((delay, jitter, duplicates),) = wanted or {(0.0, 0.0, 0.0)}
    words: list[str] = []
    if delay or jitter:
        # `netem` takes the middle and how far from it to both sides.
        words += ["delay", _microseconds(delay + jitter / 2), _microseconds(jitter / 2)]
    if duplicates:
        words += ["duplicate", f"{duplicates:.4%}"]
    return " ".join(words)


def _microseconds(seconds: float) -> str:
    return f"{round(seconds * 1e6)}us"
