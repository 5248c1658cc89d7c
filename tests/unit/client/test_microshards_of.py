"""The microshards of many keys at once are those of each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from shoal.keys import microshard_of, microshards_of


@given(
    st.lists(st.binary(max_size=12) | st.lists(st.sampled_from([b"a", b"/", b"::"]), max_size=6).map(b"".join)),
    st.sampled_from([b"", b"/", b"::"]),
    st.integers(1, 4096),
)
def test_many_keys_have_the_microshards_that_each_has(keys: list[bytes], delimiter: bytes, microshards: int) -> None:
    assert microshards_of(keys, delimiter, microshards) == [microshard_of(key, delimiter, microshards) for key in keys]
