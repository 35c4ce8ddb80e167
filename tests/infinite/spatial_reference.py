"""Kernels of small convolutional networks by brute force: all positions, dense matrices, NumPy."""

from __future__ import annotations

import itertools

import numpy as np


def first(x):
    """K and Theta ``[n, position, n, position]`` of inputs ``[n, *space, channel]``."""
    rows = x.reshape(x.shape[0], -1, x.shape[-1])
    nngp = np.einsum("apc,bqc->apbq", rows, rows) / x.shape[-1]
    return nngp, np.zeros_like(nngp)


def selections(space, window, strides, padding):
    """For each place in a window the matrix ``[windows, positions]`` that picks what is there."""
    axes = []
    for length, size, stride in zip(space, window, strides, strict=True):
        if padding == "VALID":
            number, before = (length - size) // stride + 1, 0
        else:
            number = -(-length // stride)
            before = max((number - 1) * stride + size - length, 0) // 2
        axes.append([[w * stride + d - before for w in range(number)] for d in range(size)])
    matrices = []
    for rows in itertools.product(*axes):
        out = np.zeros((*(len(r) for r in rows), *space))
        for at in itertools.product(*(range(len(r)) for r in rows)):
            source = [r[i] for r, i in zip(rows, at, strict=True)]
            if padding == "CIRCULAR":
                source = [s % length for s, length in zip(source, space, strict=True)]
            if all(0 <= s < length for s, length in zip(source, space, strict=True)):
                out[(*at, *source)] = 1
        size = int(np.prod([len(r) for r in rows]))
        matrices.append(out.reshape(size, -1))
    return matrices


def moved(pairs, left, right):
    return np.einsum("pr,arbs,qs->apbq", left, pairs, right)


def conv(kernels, picks, sw, sb, standard_channels=None, middle=False):
    nngp, ntk = kernels
    mean = sum(moved(nngp, s, s) for s in picks) / len(picks)
    through = sum(moved(ntk, s, s) for s in picks) / len(picks)
    new = mean
    if middle:
        centre = picks[len(picks) // 2]
        new, through = moved(nngp, centre, centre), moved(ntk, centre, centre)
    gradient = sw**2 * mean + sb**2
    if standard_channels is not None:
        gradient = len(picks) * standard_channels * mean + 1
    return sw**2 * new + sb**2, sw**2 * through + gradient


def dense(kernels, sw, sb):
    new = sw**2 * kernels[0] + sb**2
    return new, sw**2 * kernels[1] + new


def relu(kernels):
    nngp, ntk = kernels
    n, positions = nngp.shape[:2]
    square = nngp.reshape(n * positions, -1)
    size = np.sqrt(np.outer(np.diag(square), np.diag(square)))
    rho = np.clip(square / size, -1, 1)
    np.fill_diagonal(rho, 1)
    theta = np.arccos(rho)
    value = size * (np.sin(theta) + (np.pi - theta) * rho) / (2 * np.pi)
    slope = (np.pi - theta) / (2 * np.pi)
    return value.reshape(nngp.shape), slope.reshape(nngp.shape) * ntk


def pool(kernels, picks, divisor):
    matrix = sum(picks) / divisor
    return tuple(moved(pairs, matrix, matrix) for pairs in kernels)


def flatten(kernels):
    return tuple(
        np.einsum("apbp->ab", pairs)[:, None, :, None] / pairs.shape[1] for pairs in kernels
    )


def attention(kernels, zeta, gain, scale, sb):
    nngp, ntk = kernels
    weights = np.stack([zeta(gain * nngp[i, :, i]) for i in range(nngp.shape[0])])

    def weigh(pairs):
        return scale**2 * np.einsum("apr,arbs,bqs->apbq", weights, pairs, weights)

    return weigh(nngp) + sb**2, weigh(ntk) + 2 * weigh(nngp) + sb**2


def random_scores(kernels, scale, sb):
    nngp, ntk = kernels
    square = np.einsum("arbs,arbs->ab", nngp, nngp)[:, None, :, None]
    product = np.einsum("arbs,arbs->ab", nngp, ntk)[:, None, :, None]
    new_ntk = square * ntk + 2 * product * nngp + 4 * square * nngp
    return scale**2 * square * nngp + sb**2, scale**2 * new_ntk + sb**2
