"""Placement, against a simulator that carries plans out and checks every step."""
