"""``bayleaf predict``: a table in, calibrated predictions and a page out."""
