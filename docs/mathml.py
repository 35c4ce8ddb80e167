"""MkDocs hook: formulas become MathML when the site is built, so that no script draws them."""

import html
import re

from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?:\(|\[)(?P<latex>.*?)\\(?:\)|\])</(?P=tag)>',
    re.DOTALL,
)


def on_page_content(page_html: str, **_: object) -> str:
    """Replace what the arithmatex extension marked as a formula."""
    return FORMULA.sub(to_mathml, page_html)


def to_mathml(formula: re.Match[str]) -> str:
    """One formula, in the line or in a block of its own."""
    display = "block" if formula["tag"] == "div" else "inline"
    return convert(html.unescape(formula["latex"]), display=display)
