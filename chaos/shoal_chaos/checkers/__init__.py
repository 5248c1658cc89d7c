"""Checkers of histories. They share no code with what they check."""
