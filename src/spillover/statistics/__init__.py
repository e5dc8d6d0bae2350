"""Rates, intervals, contrasts, claims, sequential tests and plans; the only room where a number becomes a claim."""
