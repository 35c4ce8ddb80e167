from __future__ import annotations

import io
import re
import sys
import time

import pytest
from rich.console import Console

from bayleaf.run import progress
from bayleaf.run.progress import Bar, Lines, Silent, open_progress

STATUS = {"divergences": 3, "rhat": 1.2345, "step_size": 0.12345}


def phases(num_warmup: int, num_draws: int) -> dict[str, int]:
    return {"warm-up": num_warmup, "sampling": num_draws}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _last_line(written: str) -> str:
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    return [line for line in re.split(r"[\r\n]", plain) if line.strip()][-1]


def _shown(width: int, done: int, status: dict | None = None) -> str:
    file = io.StringIO()
    with Bar(
        phases(1000, 1000), console=Console(file=file, force_terminal=True, width=width)
    ) as bar:
        bar.update(done, status)
    return _last_line(file.getvalue())


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_bar_says_everything_on_one_line(width):
    line = _shown(width, 1500, STATUS)
    assert len(line.rstrip()) <= width
    for part in ("sampling", "1500/2000", "left", "divergent 3", "R-hat 1.23", "step 0.123"):
        assert part in line
    assert re.search(r"\d:\d\d:\d\d", line)


def test_the_phase_follows_the_step():
    assert "warm-up" in _shown(100, 999)
    assert "sampling" in _shown(100, 1000)


def test_what_is_not_known_yet_is_left_out():
    line = _shown(120, 1500, {"rhat": float("nan"), "divergences": None, "temperature": 0.5})
    assert "R-hat" not in line
    assert "divergent" not in line
    assert "temperature 0.5" in line


def test_cause_for_worry_is_coloured():
    calm = progress._coloured({"divergences": 0, "rhat": 1.01})
    assert calm == ["divergent 0", "R-hat 1.01"]
    assert progress._coloured({"divergences": 2, "rhat": 1.2}) == [
        "divergent [yellow]2[/]",
        "R-hat [yellow]1.20[/]",
    ]


def test_a_resumed_run_begins_where_it_stopped():
    file = io.StringIO()
    with Bar(phases(0, 100), done=40, console=Console(file=file, force_terminal=True, width=100)):
        pass
    assert "40/100" in _last_line(file.getvalue())


def test_an_update_is_cheap_however_often_it_comes():
    with Bar(
        phases(0, 10_000), console=Console(file=io.StringIO(), force_terminal=True, width=100)
    ) as bar:
        began = time.perf_counter()
        for done in range(2000):
            bar.update(done, STATUS)
        seconds = time.perf_counter() - began
    assert seconds < 1.0  # 0.02 s on a quiet machine; redrawing each time would take 3.6 s


def test_the_bar_stops_when_the_run_fails():
    bar = Bar(phases(0, 10), console=Console(file=io.StringIO(), force_terminal=True))
    with pytest.raises(KeyboardInterrupt), bar:
        raise KeyboardInterrupt
    assert not bar._display.live.is_started


def test_a_log_gets_a_line_in_ten_seconds():
    now, file = [0.0], io.StringIO()
    with Lines(phases(100, 100), file=file, clock=lambda: now[0]) as lines:
        for done in range(0, 201, 10):
            lines.update(done, STATUS)
            now[0] += 3.0
    written = file.getvalue().splitlines()
    assert len(written) == 5
    assert written[0] == (
        "warm-up: 40/200 steps, 0:00:12 elapsed, 0:00:48 left, divergent 3, R-hat 1.23, step 0.123"
    )
    assert written[-1].startswith("sampling: 200/200 steps, 0:01:00 elapsed, 0:00:00 left")


def test_a_short_run_writes_nothing_to_a_log():
    file = io.StringIO()
    with Lines(phases(0, 100), file=file) as lines:
        for done in range(100):
            lines.update(done)
    assert file.getvalue() == ""


def test_time_left_counts_from_where_a_resumed_run_began():
    now, file = [0.0], io.StringIO()
    with Lines(phases(0, 200), done=100, file=file, clock=lambda: now[0]) as lines:
        now[0] = 20.0
        lines.update(150)
    assert "0:00:20 elapsed, 0:00:20 left" in file.getvalue()


def test_the_display_suits_the_place(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(open_progress(phases(10, 10)), Lines)
    monkeypatch.setattr(sys, "stderr", _Terminal())
    assert isinstance(open_progress(phases(10, 10)), Bar)
    with open_progress(phases(10, 10), shown=False) as silent:
        assert isinstance(silent, Silent)
        silent.update(3, STATUS)
    assert sys.stderr.getvalue() == ""
