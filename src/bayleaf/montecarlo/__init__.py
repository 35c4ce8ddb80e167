"""Draws without chains: rejection, adaptive rejection, importance, sequential Monte Carlo."""
