"""Simulated clients that speak the protocol by themselves, and what they did and saw."""
