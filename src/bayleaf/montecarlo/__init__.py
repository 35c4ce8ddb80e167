"""Draws without chains: rejection, adaptive rejection, importance, sequential Monte Carlo."""

from bayleaf.montecarlo.weighted import WeightedDraws

__all__ = [
    "WeightedDraws",
]
