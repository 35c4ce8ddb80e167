"""The chapters of the tour, in its order; one file each."""

from bayleaf.tour.chapters import (
    elliptical_slice,
    gibbs,
    hierarchical,
    hmc,
    metropolis,
    neural_network,
    nuts,
    sequential,
    slice,
)

CHAPTERS = (
    metropolis.CHAPTER,
    gibbs.CHAPTER,
    slice.CHAPTER,
    elliptical_slice.CHAPTER,
    hmc.CHAPTER,
    nuts.CHAPTER,
    neural_network.CHAPTER,
    sequential.CHAPTER,
    hierarchical.CHAPTER,
)
