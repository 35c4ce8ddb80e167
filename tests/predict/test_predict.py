"""The command ``bayleaf predict``, as a user meets it: tables in, predictions and a page out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bayleaf.cli import main
from bayleaf.errors import BayleafError
from bayleaf.predict import model, table

RNG = np.random.default_rng(0)


def houses(num: int) -> pd.DataFrame:
    """Prices by size and quarter, with a column of each kind of trouble."""
    size = RNG.uniform(40, 200, num)
    quarter = RNG.choice(["north", "south", "harbour"], num)
    extra = np.where(quarter == "harbour", 80.0, 0.0)
    price = 50 + 2 * size + extra + RNG.normal(0, 15, num)
    frame = pd.DataFrame({"size": size, "quarter": quarter, "price": price})
    frame["plot"] = RNG.uniform(0, 1, num)
    frame.loc[frame.index[::7], "plot"] = np.nan
    frame["id"] = [f"h{i}" for i in range(num)]
    frame["country"] = "here"
    return frame


def test_a_table_becomes_features_and_says_what_it_leaves_out():
    frame = houses(60)
    encoder = table.learn(frame.drop(columns="price"))
    assert encoder.features[0] == "size"
    assert set(encoder.features) == {
        "size",
        "quarter = north",
        "quarter = south",
        "quarter = harbour",
        "plot",
        "plot missing",
    }
    assert set(encoder.dropped) == {"id", "country"}
    x = encoder.encode(frame)
    assert np.all(np.isfinite(x))
    np.testing.assert_allclose(x[:, 0].mean(), 0, atol=1e-12)
    np.testing.assert_allclose(x[:, 0].std(), 1, rtol=1e-12)
    new = frame.assign(quarter="moon")  # a level that was never seen is none of the known
    names = [name for name in encoder.features if name.startswith("quarter")]
    columns = [encoder.features.index(name) for name in names]
    assert np.all(encoder.encode(new)[:, columns] == 0)
    with pytest.raises(BayleafError, match="without size"):
        encoder.encode(frame.drop(columns="size"))


def test_texts_and_few_whole_numbers_are_classes():
    assert table.is_classes(pd.Series(["a", "b"]))
    assert table.is_classes(pd.Series([True, False]))
    assert table.is_classes(pd.Series([0, 1, 1, np.nan]))
    assert not table.is_classes(pd.Series(np.arange(30)))
    assert not table.is_classes(pd.Series([0.5, 1.5]))


def test_the_factor_of_the_interval_is_the_conformal_quantile():
    class LeftOut:
        mean, std = np.zeros(9), np.ones(9)

    scores = np.arange(1.0, 10.0)
    assert model.quantile(LeftOut, scores, 0.8) == 8.0  # the 8th of 9: ceil(0.8 * 10)
    assert model.quantile(LeftOut, scores, 0.5) == 5.0


@pytest.mark.slow
def test_a_column_of_numbers_is_predicted_with_intervals_that_cover(tmp_path, capsys):
    houses(100).to_csv(tmp_path / "train.csv", index=False)
    new = houses(50)
    new.drop(columns="price").to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "out"
    command = ["predict", str(tmp_path / "train.csv"), "--target", "price", "--quiet"]
    assert main([*command, "--test", str(tmp_path / "new.csv"), "-o", str(out)]) == 0
    written = pd.read_csv(out / "predictions.csv")
    assert np.sqrt(np.mean((written["price_predicted"] - new["price"].to_numpy()) ** 2)) < 25
    inside = (written["price_low"] < new["price"]) & (new["price"] < written["price_high"])
    # 50 rows at 90 %: fewer than 33 has probability 1e-6.
    assert inside.sum() >= 33
    page = (out / "index.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("<figure>") >= 1
    assert "column id is not used" in page
    assert "held-out rows inside their 90% interval" in capsys.readouterr().out


def test_wrong_input_is_named(tmp_path, capsys):
    path = tmp_path / "train.csv"
    houses(30).to_csv(path, index=False)
    for arguments, message in (
        ([str(path), "--target", "cost"], "cost"),
        ([str(tmp_path / "no.csv"), "--target", "price"], "no.csv"),
        ([str(path), "--target", "price", "--level", "2"], "--level"),
        ([str(path), "--target", "id"], "classes"),
    ):
        assert main(["predict", *arguments, "--quiet", "-o", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
