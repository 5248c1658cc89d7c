"""What machines lack, where a fault cannot be done."""

from __future__ import annotations


class NotPossibleHere(Exception):
    """This machine lacks what a fault needs; the message says what."""
