"""A session's token: what it has seen, as a string that says which cluster and keyspace it is about."""

from __future__ import annotations

from shoal import tokens
from shoal.errors import InvalidArgument
from shoal.session_vector import SessionVector
from shoal.tokens import SessionToken


def to_token(session_vector: SessionVector | None, cluster: str, keyspace: str) -> str:
    """Return the token of a session.

    Raises:
        InvalidArgument: there is no session vector: it is no session.
    """
    if session_vector is None:
        raise InvalidArgument("this client is no session and has no token; call session() for one that has")
    spans, missing = session_vector.bounded()
    return tokens.encode(SessionToken(cluster, keyspace, missing, tuple(spans)))


def merge_token(session_vector: SessionVector | None, token: str, cluster: str, keyspace: str) -> str:
    """Take what a token says into a session vector; return the cluster that it is of, "" where it does not say.

    Args:
        cluster: the session's, "" where it is not known yet.

    Raises:
        InvalidArgument: the token is none, or of another cluster or keyspace, or there is no session.
    """
    if session_vector is None:
        raise InvalidArgument("this client is no session and takes no token; call session(token)")
    found = tokens.decode("session token", token, SessionToken)
    if found.keyspace != keyspace:
        raise InvalidArgument(f"the session token is of keyspace {found.keyspace!r}; this client is on {keyspace!r}")
    check_cluster(found.cluster, cluster)
    session_vector.merge(found.spans, found.missing)
    return found.cluster


def check_cluster(claimed: str, cluster: str) -> None:
    """
    Args:
        claimed: the cluster that tokens are of, by its name and its id, "" where there were none.
        cluster: the one the client is connected to, as well, "" where it is not known yet.

    Raises:
        InvalidArgument: they differ.
    """
    if claimed and cluster and claimed != cluster:
        raise InvalidArgument(
            f"the session token is of the cluster {claimed}; this client is connected to {cluster}: begin a new session"
        )
