"""A photograph divided into segments, and how sure their borders are.

It has many segmentations of much the same probability, so chains may disagree, which
`segments.findings` tells.
"""

import warnings

import jax
from skimage import data

import bayleaf as bl

if __name__ == "__main__":
    warnings.simplefilter("ignore", bl.errors.SamplingWarning)
    segments = bl.segment(data.chelsea(), key=jax.random.key(0))
    print(segments, *segments.findings, sep="\n")
    for number, probability in segments.num_segments.probabilities.items():
        print(f"{number} segments: {probability:.1%}")

    nose, fur = (160, 205), (120, 320)
    print(f"nose and fur together: {segments.coclustering(nose, fur):.1%}")
    border = segments.boundary_probability
    print(f"pixels at a border that is in doubt: {((border > 0.1) & (border < 0.9)).mean():.1%}")
    segments.plot().savefig("segments.png", dpi=150)
