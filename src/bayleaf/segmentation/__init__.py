"""Images divided into segments, with the uncertainty of the division."""

from bayleaf.segmentation.result import NumSegments, Segmentation
from bayleaf.segmentation.segmenting import segment

__all__ = ["NumSegments", "Segmentation", "segment"]
