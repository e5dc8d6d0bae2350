"""Rates, intervals and contrasts; the only room where numbers get an interval."""
