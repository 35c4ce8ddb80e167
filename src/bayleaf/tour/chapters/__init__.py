"""The chapters of the tour, in its order; one file each."""

from bayleaf.tour.chapters import gibbs, hierarchical, nuts, slice

CHAPTERS = (
    gibbs.CHAPTER,
    slice.CHAPTER,
    nuts.CHAPTER,
    hierarchical.CHAPTER,
)
