"""``bayleaf segment`` as it is used: four files, exit codes, messages."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from imageio.v3 import imread, imwrite

from bayleaf.cli import main

SHORT = ["--superpixels", "60", "--draws", "40", "--warmup", "40", "--quiet"]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    image = np.full((40, 48, 3), 60, np.uint8)
    image[:, 22:] = (160, 150, 60)
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    imwrite(path, np.clip(image + noise, 0, 255).astype(np.uint8))
    return path


def test_it_writes_four_files(picture: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "deep" / "out"
    assert main(["segment", str(picture), "-o", str(out), *SHORT]) == 0
    assert {p.name for p in out.iterdir()} == {
        "labels.png",
        "overlay.png",
        "uncertainty.png",
        "index.html",
    }
    labels = imread(out / "labels.png")
    assert labels.dtype == np.uint16
    assert labels.shape == (40, 48)
    assert set(np.unique(labels)) == {1, 2}
    assert imread(out / "uncertainty.png").max() > 240
    assert imread(out / "overlay.png").shape == (40, 48, 3)
    page = (out / "index.html").read_text()
    assert "2 segments" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page), "the page asks for another file"
    assert "2 segments shown" in capsys.readouterr().out


def test_a_mask_leaves_zeros(picture: Path, tmp_path: Path) -> None:
    mask = np.zeros((40, 48), np.uint8)
    mask[5:, 4:40] = 255
    imwrite(tmp_path / "mask.png", mask)
    options = ["--mask", str(tmp_path / "mask.png"), "-o", str(tmp_path / "o"), *SHORT]
    assert main(["segment", str(picture), *options]) == 0
    np.testing.assert_array_equal(imread(tmp_path / "o" / "labels.png") > 0, mask > 0)


def test_files_that_cannot_be_used_end_with_2(picture: Path, tmp_path: Path, capsys) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    imwrite(tmp_path / "small.png", np.full((3, 3), 255, np.uint8))
    tried = {
        "there is no file": [str(tmp_path / "none.png")],
        "not an image": [str(text)],
        "mask: got": [str(picture), "--mask", str(tmp_path / "small.png")],
        "cannot write": [str(picture), "-o", str(text)],
    }
    for message, arguments in tried.items():
        assert main(["segment", *arguments, *SHORT]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--beta", "-1"], ["--beta", "nan"], ["--draws", "0"], []])
def test_a_command_line_that_cannot_be_used_ends_with_2(option: list[str], capsys) -> None:
    arguments = ["segment", *(["in.png", *option] if option else [])]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="paths are shown otherwise there")
def test_without_scikit_image_it_says_what_to_install(monkeypatch, capsys) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "skimage" else find(name, *a)
    )
    assert main(["segment", "in.png"]) == 2
    assert "pip install 'bayleaf[images]'" in capsys.readouterr().err
