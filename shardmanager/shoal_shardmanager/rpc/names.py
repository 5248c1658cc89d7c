"""What both sides of the control RPC call things, besides what proto/ says."""

MANAGERS_VARIABLE = "SHOAL_MANAGERS"
"""The environment variable that says where the managers are."""

LEADER_METADATA = "shoal-leader"
"""Trailing metadata of an UNAVAILABLE from a manager that stands by: where the one that runs the controller is."""
