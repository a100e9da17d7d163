"""Measured claims: one script each, its rows in results/NAME.csv, the goals in goals.csv."""
