"""Limits: exact reserve-and-settle limits over many scopes at once."""
