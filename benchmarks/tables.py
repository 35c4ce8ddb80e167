"""Write the README's benchmark tables from the files in ``benchmarks/results``.

A benchmark script leaves one JSON file; this script alone turns it into Markdown, so that no figure
of the README is typed by hand. ``results/NAME.json`` fills the place between the two markers

    <!-- benchmarks:NAME -->
    <!-- /benchmarks:NAME -->

and holds, beside whatever else its script wants to keep, what is to be shown:

    {"machine": "2 cores, ...", "versions": {"jax": "0.12", ...},
     "tables": [{"caption": "...", "columns": ["target", "ESS per gradient"],
                 "rows": [["eight schools", 0.0612], ...]}]}

Numbers are stored as measured and rounded here to three significant digits.

    python benchmarks/tables.py            # rewrite README.md
    python benchmarks/tables.py --check    # exit code 1 when README.md is out of date
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARKED = re.compile(
    r"(<!-- benchmarks:(?P<name>[\w-]+) -->\n).*?(<!-- /benchmarks:(?P=name) -->)", re.DOTALL
)


def cell(value: Any) -> str:
    """One cell: numbers to three significant digits, a missing value as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; columns of numbers are set to the right."""
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"row {row} has {len(row)} cells for the {len(columns)} of {columns}")
    numeric = [
        any(isinstance(row[i], int | float) and not isinstance(row[i], bool) for row in rows)
        for i in range(len(columns))
    ]
    rule = ["---:" if right else "---" for right in numeric]
    lines = [columns, rule, *([cell(value) for value in row] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def section(results: dict[str, Any]) -> str:
    """All tables of one results file, and where they were measured."""
    blocks = [
        f"\n**{t['caption']}**\n\n{table(t['columns'], t['rows'])}" for t in results["tables"]
    ]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return "".join(blocks) + f"\nMeasured on: {results['machine']}; {versions}.\n\n"


def fill(text: str, folder: Path) -> str:
    """``text`` with the place of every results file filled in.

    A marked place without a results file says so; a results file without a place is an error, since
    a measurement that nobody can read was made for nothing.
    """
    places = {match["name"] for match in MARKED.finditer(text)}
    homeless = sorted({path.stem for path in folder.glob("*.json")} - places)
    if homeless:
        raise ValueError(f"no markers <!-- benchmarks:NAME --> in the README for: {homeless}")

    def replace(match: re.Match[str]) -> str:
        path = folder / f"{match['name']}.json"
        if path.is_file():
            body = section(json.loads(path.read_text(encoding="utf-8")))
        else:
            body = f"\nNot measured yet: run `python benchmarks/{match['name']}.py`.\n\n"
        return match[1] + body + match[3]

    return MARKED.sub(replace, text)


def main(argv: list[str] | None = None) -> int:
    """Rewrite the README, or check that this would change nothing."""
    parser = argparse.ArgumentParser(description="Fill the README's benchmark tables.")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if out of date")
    options = parser.parse_args(argv)
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = fill(old, ROOT / "benchmarks" / "results")
    if options.check:
        if new != old:
            print("README.md is out of date: run python benchmarks/tables.py")
        return int(new != old)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
