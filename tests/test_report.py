import base64
import io
import json
import re
from pathlib import Path

import pytest
import torch
from pages import Page
from PIL import Image
from tiny import new_run, tag_random

from dom2 import evaluate, fit, report, run
from dom2data.errors import UserError

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> run.Run:
    made = new_run(tmp_path_factory.mktemp("report") / "run", seeds=2, eval_every=2, eval_episodes=2)
    fit.fit(made)
    return made


def test_report_is_one_self_contained_file(
    finished: run.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluate.evaluate(finished, episodes=5)
    (finished.folder / "evaluation.json").write_text(json.dumps(result))
    path = tmp_path / "report.html"
    report.write(finished, path)
    text = path.read_text()
    found = Page(text)
    assert found.open == []
    assert all(link.startswith("data:image/") for link in found.links)
    kinds = [re.match(r"data:image/([a-z+]+);base64,", image)[1] for image in found.images]
    assert kinds.count("gif") == 1
    assert kinds.count("svg+xml") == 1 + len(report.curves(finished))  # the first: returns
    gif = next(i for i in found.images if "image/gif" in i)
    assert Image.open(io.BytesIO(base64.b64decode(gif.split(",")[1]))).n_frames == 2 * 26
    data = finished.document["dataset"]
    for shown in (tag_random(), data["hash"], f"{result['normalized']['iqm']:.1f}", "batch_size", "zeta"):
        assert shown in text
    assert "Not evaluated yet" not in text
    assert str(tmp_path) not in text
    assert "Shifted environments" not in text
    assert "Returns of the evaluated agents and of the data; lines are means." in text
    monkeypatch.setattr(report, "pictures", lambda run: (None, []))
    report.write(finished, path, root=tmp_path / "elsewhere", force=True)
    assert "evaluated agents; lines are means. The data are missing" in path.read_text()


def test_every_metric_has_a_curve_whoever_s_it_is(finished: run.Run, tmp_path: Path) -> None:
    shown = [title for title, _ in report.curves(finished)]
    assert shown[:4] == ["Return while training", "Cloning loss", "Q of the policy's and the data's actions",
                         "Squared TD error"]  # fmt: skip
    other = new_run(tmp_path / "other")
    line = {
        "update": 1,
        "train/plan/loss": [1.0, 2.0],
        "train/plan/grad_norm": [1.0, 1.0],
        "time/seconds": 1.0,
    }
    (other.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert [title for title, _ in report.curves(other)] == ["plan/loss"]


def test_shifted_evaluations_stand_beside_the_standard_one(finished: run.Run, tmp_path: Path) -> None:
    results = [evaluate.evaluate(finished, episodes=5, shift=shift) for shift in ("none", "speed", "delay")]
    for result in results:
        evaluate.file(finished.folder, result["shift"]).write_text(json.dumps(result))
    path = tmp_path / "report.html"
    report.write(finished, path)
    assert Page(path.read_text()).open == []
    rows = re.findall(r"<tr><th>(speed|delay)</th>(.*?)</tr>", path.read_text(), flags=re.S)
    assert [name for name, _ in rows] == ["speed", "delay"]
    for (_, row), result in zip(rows, results[1:], strict=True):
        assert f"{result['return']['mean'] - results[0]['return']['mean']:+.1f}" in row
    for result in results[1:]:
        evaluate.file(finished.folder, result["shift"]).unlink()


def test_report_before_evaluation_and_without_the_data(
    finished: run.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished.folder / "evaluation.json").unlink(missing_ok=True)
    path = tmp_path / "report.html"
    report.write(finished, path, root=tmp_path / "elsewhere")
    assert "Not evaluated yet" in path.read_text()
    assert "Histogram" not in path.read_text()
    monkeypatch.setattr(report, "pictures", lambda run: (None, []))  # which take long
    report.write(finished, path, force=True)
    assert "Returns of the data; lines are means." in path.read_text()


def test_nowhere_to_write_and_nothing_trained(finished: run.Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a folder to write into"):
        report.write(finished, tmp_path / "no" / "report.html")
    new = new_run(tmp_path / "new")
    with pytest.raises(UserError, match="expected a checkpoint"):
        report.write(new, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    for own in (new.folder / report.OWN, tmp_path / "mine.html"):
        own.write_text("of before")
    with pytest.raises(UserError, match="expected a checkpoint"):  # so it would be replaced
        report.write(new, new.folder / report.OWN)
    with pytest.raises(UserError, match=r"expected a new file, found .*mine\.html; --force replaces it"):
        report.write(new, tmp_path / "mine.html")
