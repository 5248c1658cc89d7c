"""Which kinds of rows the meta family has, and what is done where one of a kind is damaged. Pure.

The first byte of a key says the kind; behind it comes what the row is of. What cannot be read must not be taken for what is
not there: a vote would be given twice, a log be believed that was lost. So each kind has a rule, by which a node opens with
the row (see damaged_meta.py), or does not.
"""

from __future__ import annotations

from enum import Enum


class DamageRule(Enum):
    """What damage in a row of a kind comes to, when the node opens."""

    NODE_REFUSES = "the node does not open: no replica of it could be relied on"
    REPLICA_FAILS = "its replica fails and is rebuilt; in the row's place the worst is stored that it may have said"
    SET_RIGHT = "it only said what is left to remove: that is looked for, as rows of nobody"


class MetaKind(Enum):
    """A kind of row: the first byte of its keys, the rule for damage, what it says, in words, and whether it is there twice.

    The rule is for where no copy can be read: see twice.py.
    """

    SHARD_MAP = (b"m", DamageRule.NODE_REFUSES, "the shard map, with the cluster's id")
    DERIVED_MAP = (b"d", DamageRule.NODE_REFUSES, "which version of the shard map was derived here")
    EPOCH = (b"e", DamageRule.NODE_REFUSES, "the number of the last life of the process")
    PROMISED = (b"t", DamageRule.NODE_REFUSES, "how long support was promised for")
    GENERATION = (b"n", DamageRule.NODE_REFUSES, "the last generation that was given to rows")
    PEER = (b"p", DamageRule.NODE_REFUSES, "the incarnation that a peer was first met with")
    HARD_STATE = (b"h", DamageRule.REPLICA_FAILS, "the replica's term and vote", True)
    LOG_START = (b"l", DamageRule.REPLICA_FAILS, "where the replica's log begins")
    ORIGIN = (b"o", DamageRule.REPLICA_FAILS, "how the replica came to this node")
    FAILURE = (b"f", DamageRule.REPLICA_FAILS, "how the replica has failed")
    LOST = (b"a", DamageRule.REPLICA_FAILS, "up to where the replica may have lost what it acknowledged", True)
    DROPPED = (b"x", DamageRule.REPLICA_FAILS, "what a replica that was dropped here had promised", True)
    FORGOTTEN = (b"b", DamageRule.REPLICA_FAILS, "that nobody knows what replicas of a shard had promised", True)
    SKIPPED = (b"k", DamageRule.REPLICA_FAILS, "which entries of the log are not to be applied")
    STAGING = (b"g", DamageRule.SET_RIGHT, "what of a snapshot is being staged")
    STRAYS = (b"u", DamageRule.SET_RIGHT, "that a replica has left rows behind")

    def __init__(self, letter: bytes, rule: DamageRule, what: str, stored_twice: bool = False) -> None:
        self.letter = letter
        self.rule = rule
        self.what = what
        self.stored_twice = stored_twice


KIND_OF = {kind.letter: kind for kind in MetaKind}
"""By the first byte of a key."""
