"""The checker of keys that expire, on looks at either side of the time that they had to live."""

from __future__ import annotations

import pytest
from shoal_chaos.checkers.expirations import Lifetime, Look, find_violations

LIFE = Lifetime(100, 120)
ALLOWANCE = 5


@pytest.mark.parametrize(
    ("there", "weak", "during", "said"),
    [
        (True, False, (90, 95), None),
        (True, False, (121, 130), None),
        (True, False, (125, 130), None),
        (True, False, (126, 130), "after it had expired"),
        (True, True, (126, 130), "after it had expired"),
        (False, False, (80, 94), "before it expires"),
        (False, True, (80, 94), None),
        (False, False, (80, 95), None),
        (False, False, (80, 130), None),
        (False, False, (126, 130), None),
    ],
)
def test_a_key_is_there_until_its_time_and_no_longer(
    there: bool, weak: bool, during: tuple[int, int], said: str | None
) -> None:
    found = find_violations([Look("k", "get", there, weak, LIFE, *during)], ALLOWANCE)
    assert [violation.sentence.split(" ms ")[1] for violation in found] == ([] if said is None else [f"{said}."])
