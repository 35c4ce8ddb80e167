"""The tour as a whole: what it writes, what it returns, and that a wrong answer shows."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

import bayleaf as bl
from bayleaf.cli import main
from bayleaf.errors import BayleafError

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("sklearn")

from bayleaf.tour import guide, run_tour, table
from bayleaf.tour.chapters import CHAPTERS, gibbs
from bayleaf.tour.checks import Comparison
from bayleaf.tour.entry import Chapter, Entry, Result

KEYS = ["id", "system", "data", "checked", "value", "reference", "ok", "seconds"]


@pytest.fixture(scope="module")
def toured(tmp_path_factory):
    out = tmp_path_factory.mktemp("tour")
    return run_tour(only=["slice", "gibbs"], out=out, quick=True), out


def test_results_have_one_complete_entry_for_each_system(toured):
    code, out = toured
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert code == 0
    assert [entry["id"] for entry in results] == ["gibbs", "slice"]  # the order of the tour
    for entry in results:
        assert list(entry) == KEYS
        assert entry["ok"] is True
        assert entry["seconds"] > 0
        assert entry["value"] != entry["reference"]
        assert abs(entry["value"] - entry["reference"]) < 0.1
        assert "1e-06" in entry["checked"]  # the false-alarm rate is stated


class Page(HTMLParser):
    """Tags of a page, and every address that it names."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.images = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.addresses += [attributes[k] for k in ("src", "href", "srcset") if k in attributes]
        if tag == "img":
            self.images.append(attributes)


def test_the_page_needs_nothing_from_elsewhere(toured):
    text = (toured[1] / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not {"script", "iframe", "object"} & set(page.tags)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_every_figure_is_there_and_said_in_words(toured):
    text = (toured[1] / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.images) == page.tags.count("figcaption") == 4
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in page.images)
    assert all(len(image["alt"]) > 30 for image in page.images)
    assert "def draw_change(key, p):" in text  # the program of the chapter


def test_a_wrong_sampler_is_not_ok(tmp_path, monkeypatch):
    def draw_late(key, p):  # forgets the prior's share in the shape of the Gamma distribution
        mine = gibbs.years >= p["change"]
        return jax.random.gamma(key, jnp.sum(gibbs.counts * mine) - 1.0) / (1.0 + jnp.sum(mine))

    wrong = {**dict(zip(gibbs.kernel.names, gibbs.kernel.kernels, strict=True))}
    wrong["late"] = bl.mcmc.Conditional(draw_late)
    monkeypatch.setattr(gibbs, "kernel", bl.mcmc.Gibbs(wrong))
    assert run_tour(only=["gibbs"], out=tmp_path, quick=True) == 1
    (entry,) = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert entry["ok"] is False
    assert "not ok" in (tmp_path / "index.html").read_text(encoding="utf-8")


def chapter(run) -> Chapter:
    return Chapter("one", "A system", "A question?", "some data", run)


def test_a_chapter_that_breaks_is_not_ok_and_does_not_stop_the_rest(tmp_path, monkeypatch):
    def breaks(quick):
        raise RuntimeError("no such luck")

    def works(quick):
        return Result("fine", [Comparison("x", 1.0, 1.0)], [])

    chapters = (chapter(breaks), chapter(works)._replace(id="two"))
    monkeypatch.setattr(guide, "CHAPTERS", chapters)
    assert run_tour(out=tmp_path) == 1
    broken, fine = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert (broken["ok"], broken["value"], fine["ok"]) == (False, None, True)
    assert "no such luck" in broken["checked"]


def test_nothing_compared_is_not_ok_and_nan_is_null():
    nothing = Entry(chapter(len), "nothing")
    assert not nothing.ok
    unknown = Entry(chapter(len), "unknown", [Comparison("x", float("nan"), 1.0)])
    assert unknown.to_json()["value"] is None
    assert not unknown.ok


def test_the_headline_is_what_failed():
    entry = Entry(chapter(len), "both", [Comparison("good", 1.0, 1.0), Comparison("bad", 2.0, 1.0)])
    assert entry.to_json()["value"] == 2.0


def test_an_unknown_id_is_refused_with_the_known_ones(tmp_path, capsys):
    with pytest.raises(BayleafError, match="hmc, nuts") as caught:
        run_tour(only=["gibbs", "gibs"], out=tmp_path)
    assert "gibs" in str(caught.value)
    assert main(["tour", "--only", "gibs", "--out", str(tmp_path)]) == 1
    assert "--only: got gibs" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BayleafError, match="--out"):
        run_tour(out=tmp_path / "file")


def test_ids_are_unique_and_every_chapter_is_described():
    assert len({c.id for c in CHAPTERS}) == len(CHAPTERS) == 27
    assert all(c.system and c.question.endswith("?") and c.data for c in CHAPTERS)


def test_the_live_table_shows_what_waits_runs_and_is_done():
    screen = Console(file=io.StringIO(), force_terminal=True, width=140)
    first, second, third = (chapter(len)._replace(id=name) for name in ("one", "two", "three"))
    with table.LiveTable(screen, [first, second, third]) as display:
        display.begin(first)
        display.end(Entry(first, "", [Comparison("a mean", 1.25, 1.0, 0.5)]))
        display.begin(second)
        text = "\n".join(
            segment.text for segment in screen.render(display.grid()) if segment.text.strip()
        )
    assert "1 ± 0.5" in text
    assert "running" in text
    assert "three" in text


def test_lines_are_plain_and_name_what_failed(capsys):
    console = Console(file=io.StringIO(), width=40)
    lines = table.Lines(console, [chapter(len)])
    entry = Entry(chapter(len), "everything [really]", [Comparison("a mean", 2.0, 1.0, 0.5)])
    lines.end(entry)
    lines.close([entry], guide.Path("index.html"))
    text = console.file.getvalue()
    assert text.startswith("NO  one")
    assert "a mean: 2, reference 1 ± 0.5" in text
    assert "0 of 1 ok" in text
    assert "everything [really]" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", [c.id for c in CHAPTERS if c.id not in ("gibbs", "slice")])
def test_each_chapter_is_ok(name, tmp_path):
    assert run_tour(only=[name], out=tmp_path, quick=True) == 0
