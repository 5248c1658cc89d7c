"""Attackers: clients, hostile or careless, that ask a cluster for more than is their due, in processes of their own."""
