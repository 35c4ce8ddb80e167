"""The no-U-turn sampler as recursion: Hoffman & Gelman (2014), algorithm 3, multinomial weights.

Directions are given. Instead of one draw it returns the law of the draw: the probability of every
point of the trajectory, from Betancourt (2017), appendix A.3.1.
"""

from typing import NamedTuple

import numpy as np


class Point(NamedTuple):
    x: np.ndarray
    p: np.ndarray
    energy: float


class Trajectory(NamedTuple):
    points: list  # [Point]
    law: np.ndarray  # probability of each
    num_leapfrog: int
    depth: int


def build_tree(leap, is_turn, point, sign, depth, limit):
    """Leaves in the order of creation, and whether the tree may be used."""
    if depth == 0:
        leaf = leap(point, sign)
        return [leaf], leaf.energy <= limit
    first, is_valid = build_tree(leap, is_turn, point, sign, depth - 1, limit)
    if not is_valid:
        return first, False
    second, is_valid = build_tree(leap, is_turn, first[-1], sign, depth - 1, limit)
    leaves = first + second
    return leaves, is_valid and not is_turn(*(leaves[0], leaves[-1])[::sign])


def no_u_turn(potential, gradient, x, p, step_size, directions):
    """One trajectory with unit masses; ``directions`` are +1 or -1, one a doubling."""

    def at(x, p):
        return Point(x, p, potential(x) + 0.5 * p @ p)

    def leap(point, sign):
        half = point.p - 0.5 * sign * step_size * gradient(point.x)
        x = point.x + sign * step_size * half
        return at(x, half - 0.5 * sign * step_size * gradient(x))

    def is_turn(left, right):
        span = right.x - left.x
        return span @ left.p <= 0 or span @ right.p <= 0

    start = at(x, p)
    ends, points, law, total = {-1: start, 1: start}, [start], np.ones(1), 1.0
    num_leapfrog = depth = 0
    for sign in directions:
        leaves, is_valid = build_tree(leap, is_turn, ends[sign], sign, depth, start.energy + 1000)
        num_leapfrog += len(leaves)
        if not is_valid:
            break
        weights = np.exp([start.energy - leaf.energy for leaf in leaves])
        accept = min(1.0, weights.sum() / total)
        law = np.append((1 - accept) * law, accept * weights / weights.sum())
        points, total, depth = points + leaves, total + weights.sum(), depth + 1
        ends[sign] = leaves[-1]
        if is_turn(ends[-1], ends[1]):
            break
    return Trajectory(points, law, num_leapfrog, depth)
