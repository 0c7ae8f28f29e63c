"""The reliability diagram: drawn for any scores, and says what it shows."""

from pathlib import Path

import numpy as np
import pytest

from service.evaluation.judging import judge
from service.evaluation.plot import draw
from service.numeric.scores import Scores


def scores_of(rows: int, sureness: float = 1.0, num_bins: int = 15) -> Scores:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(rows, 3))
    return judge(
        logits * sureness, (logits + generator.normal(size=logits.shape)).argmax(axis=1), num_bins=num_bins
    )


def test_a_png_is_a_png(tmp_path: Path) -> None:
    draw({"raw": scores_of(50)}, "pets", tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_it_says_what_it_shows(tmp_path: Path) -> None:
    raw, calibrated = scores_of(1234, 4.0), scores_of(1234)
    draw({"raw": raw, "calibrated": calibrated}, "pets version 2", tmp_path / "r.svg")
    svg = (tmp_path / "r.svg").read_text(encoding="utf-8")
    for text in (
        "pets version 2",
        f"raw: log loss {raw.log_loss:.4f}, ECE {raw.ece_equal_width:.4f}, MCE {raw.mce:.4f}",
        f"calibrated: log loss {calibrated.log_loss:.4f}",
        "accuracy of the bin",
        "gap to the mean confidence",
        "as sure as right",
        "confidence, 15 bins of 1,234 rows",
        f"accuracy {raw.accuracy:.3f}",
    ):
        assert f"<!-- {text}" in svg, text


@pytest.mark.parametrize(("rows", "num_bins"), [(1, 1), (1, 15), (3, 1000), (5000, 3)])
def test_any_number_of_rows_and_bins_can_be_drawn(tmp_path: Path, rows: int, num_bins: int) -> None:
    draw({"raw": scores_of(rows, num_bins=num_bins)}, "pets", tmp_path / "r.svg")
    assert "<svg" in (tmp_path / "r.svg").read_text(encoding="utf-8")
