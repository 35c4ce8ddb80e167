"""The tour: every system of the library on real data, each checked against a known answer.

`run_tour` runs the chapters, fills a table as they end, and writes a page (``index.html``, one
self-contained file) and ``results.json``. A chapter is a file of `bayleaf.tour.chapters`: it
samples, compares with an exact answer or with published reference draws, and draws pictures. They
are written to be copied from.

Needs the extra ``tour``: Matplotlib, Jinja2 and scikit-learn, whose data sets come with it.
"""

from bayleaf.tour.guide import run_tour

__all__ = ["run_tour"]
