"""The chapters of the tour, in its order; one file each."""

from bayleaf.tour.chapters import (
    adaptive_rejection,
    elliptical_slice,
    gaussian_process,
    gibbs,
    hierarchical,
    hmc,
    importance,
    infinite_width,
    ising,
    laplace,
    metropolis,
    mnist,
    neural_network,
    ntk,
    nuts,
    orthogonal,
    particle_filter,
    phase_diagram,
    potts,
    rejection,
    segmentation,
    sequential,
    slice,
    tempered,
    vae,
    variational,
)

CHAPTERS = (
    # Draws without chains.
    rejection.CHAPTER,
    adaptive_rejection.CHAPTER,
    importance.CHAPTER,
    tempered.CHAPTER,
    particle_filter.CHAPTER,
    # Markov chains.
    metropolis.CHAPTER,
    gibbs.CHAPTER,
    slice.CHAPTER,
    elliptical_slice.CHAPTER,
    hmc.CHAPTER,
    nuts.CHAPTER,
    ising.CHAPTER,
    potts.CHAPTER,
    segmentation.CHAPTER,
    # Approximations of a simple form.
    laplace.CHAPTER,
    variational.CHAPTER,
    vae.CHAPTER,
    # What is built from them.
    neural_network.CHAPTER,
    sequential.CHAPTER,
    hierarchical.CHAPTER,
    # Gaussian processes and infinitely wide networks.
    gaussian_process.CHAPTER,
    infinite_width.CHAPTER,
    ntk.CHAPTER,
    orthogonal.CHAPTER,
    phase_diagram.CHAPTER,
    mnist.CHAPTER,
)
