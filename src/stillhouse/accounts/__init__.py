"""Accounts: organisations, accounts, keys, terms, tiers, bans, address blocks."""
