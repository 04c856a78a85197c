"""The report, against numbers worked out by hand. Photos have 100 pixels, so that areas are percentages."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import prmagic.cli.report  # noqa: F401 (it adds itself to `app`)
from prmagic.cli import app
from prmagic.evaluation import offline
from prmagic.evaluation.published import published
from prmagic.evaluation.records import read_masks, read_run
from prmagic.evaluation.report import CLASS_MIOU, EPISODE_MIOU, METRICS, document, rows, summaries, summarise
from prmagic.evaluation.tables import Bold, Table, latex, markdown
from prmagic.export import rle


def found(predicted, truth, inside):
    """I₀ U₀ I₁ U₁ of a mask of so many pixels, of 100."""
    union = predicted + truth - inside
    return [100 - union, 100 - inside, inside, union]


def episode(id="0/00000", category="cat", truth=10, masks=((10, 5), (10, 10)), chosen=1, seed=42, **fields):
    """A line of episodes.jsonl; masks: of each candidate its pixels, and how many of them are the object's."""
    scores = [0.5] * len(masks)
    scores[chosen] = 0.9
    return {
        "seed": seed, "fold": int(id[0]), "episode": id, "class": category, "query": f"{id}.jpg",
        "query_instance": None, "supports": ["s.jpg"], "support_instances": [None], "pixels": 100, "object": truth,
        "areas": [found(pixels, truth, inside) for pixels, inside in masks], "predicted_iou": [0.9] * len(masks),
        "scores": {"reencode": scores, "predicted-iou": [0.8, 0.7, 0.6][: len(masks)]}, "chosen": chosen,
        "support_pixels": [7], "counts": {"encodes": 2}, "seconds": {"encode": 0.5, "decode": 0.25}, **fields,
    }  # fmt: skip


def failed(why="no peak", **fields):
    entry = episode(**fields)
    for name in ("areas", "scores", "chosen", "predicted_iou", "counts", "seconds"):
        del entry[name]
    return {**entry, "failed": why}


THREE = [  # two classes of different sizes
    episode("0/00000", "cat", 10, [(10, 5), (10, 10)], chosen=1),  # better
    episode("0/00001", "cat", 50, [(40, 40), (40, 30)], chosen=1),  # worse
    episode("0/00002", "dog", 20, [(0, 0), (0, 0)], chosen=0),  # nothing found
]


@pytest.fixture
def make(tmp_path):
    """A run folder with these lines; changes: to run.json."""

    def write(lines=THREE, name="run", end="", **changes):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        seeds = sorted({line["seed"] for line in lines})
        settings = {"framework": "matcher", "preset": "default", "selector": "Reencode(published=False)"}
        run = {
            "benchmark": "coco", "title": "COCO-20i", "settings": {**settings, "flow": {"mode": "full", "steps": 1}},
            "model": "sam + dino", "shots": 1, "size": None, "seeds": seeds,
            "folds": sorted({line["fold"] for line in lines}), "sampling": "default", "limit": None,
            "manifests": {str(seed): f"{seed}" * 32 for seed in seeds},
            "episodes": {str(seed): sum(line["seed"] == seed for line in lines) for seed in seeds},
            "classes": {str(fold): 2 for fold in range(4)}, "data": str(tmp_path / "data"), "dataset_options": {},
            "device": "cpu", "versions": {},
        }  # fmt: skip
        for key, value in changes.items():
            run[key] = {**run[key], **value} if key == "settings" else value
        (folder / "run.json").write_text(json.dumps(run))
        (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
        return folder

    return write


def means(summary, metric):
    return {quantity: value.mean for quantity, value in summary.values[metric].items()}


def percent(value):
    return pytest.approx(100 * value)


def report(*arguments, code=0):
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_the_four_metrics_differ_as_by_hand(make):
    summary = summarise(read_run(make()))
    # B: I₀ U₀ I₁ U₁ are 85 95 5 15, 50 60 40 50 and 80 100 0 20
    expected = {
        "episode-mIoU": ((85 / 95 + 5 / 15) / 2 + (50 / 60 + 40 / 50) / 2 + 0.4) / 3,
        "class-mIoU": (45 / 65 + 0) / 2,
        "FB-IoU": (215 / 255 + 45 / 85) / 2,
        "episode foreground IoU": (5 / 15 + 40 / 50 + 0) / 3,
    }
    for metric in METRICS:
        values = means(summary, metric)
        assert values["B"] == values["t = 0"] == percent(expected[metric])
    assert len({round(value, 4) for value in expected.values()}) == 4
    # T: the second mask, 90 90 10 10 and 40 70 30 60; O takes the first where that is better
    assert means(summary, EPISODE_MIOU)["T"] == percent((1 + (40 / 70 + 30 / 60) / 2 + 0.4) / 3)
    assert means(summary, EPISODE_MIOU)["O"] == percent((1 + (50 / 60 + 40 / 50) / 2 + 0.4) / 3)
    assert means(summary, CLASS_MIOU)["T"] == percent(40 / 70 / 2)
    assert means(summary, CLASS_MIOU)["O"] == percent(50 / 60 / 2)
    assert means(summary, CLASS_MIOU)["t = 1"] == percent(40 / 70 / 2)
    assert means(summary, EPISODE_MIOU)["empty mask"] == percent((0.9 + 0.5 + 0.8) / 3 / 2)
    assert means(summary, EPISODE_MIOU)["full mask"] == percent((0.1 + 0.5 + 0.2) / 3 / 2)
    assert means(summary, CLASS_MIOU)["full mask"] == percent((60 / 200 + 20 / 100) / 2)


def test_what_the_choice_of_t_brings(make):
    summary = summarise(read_run(make()))
    gains = [1 - (85 / 95 + 5 / 15) / 2, (40 / 70 + 30 / 60) / 2 - (50 / 60 + 40 / 50) / 2, 0]
    assert summary.gains == percent(np.array(gains))
    assert summary.gap_closed == percent(sum(gains) / gains[0])
    assert summary.worse() == summary.worse(1) == percent(1 / 3)
    assert summary.worse(50) == 0
    low, high = summary.interval
    assert low < summary.gains.mean() < high
    tallies = summary.tallies
    assert (tallies["empty prediction, B"], tallies["empty prediction, T"], tallies["failed"]) == (1, 1, 0)


def test_ties_go_to_the_earlier(make):
    same = [episode(masks=[(10, 5), (12, 10), (12, 10)], chosen=2)]
    records = read_run(make(same))
    assert offline.choose(records, "oracle") == [1]
    assert offline.choose(replace(records, scores={"flat": np.array([[0.5, np.nan, 0.5]])}), "flat") == [0]
    assert offline.choose(replace(records, scores={"none": np.full((1, 3), -np.inf)}), "none") == [0]


def test_nothing_to_gain_leaves_the_share_of_the_gap_undefined(make):
    folder = make([THREE[2]])
    summary = summarise(read_run(folder))
    assert np.isnan(summary.gap_closed)
    (row,) = [row for row in rows(summary) if row["quantity"] == "share of the oracle gap closed"]
    assert row["value"] is None
    assert "oracle gap" not in report(folder).stdout


def test_a_failed_episode_counts_as_an_empty_mask_and_is_listed(make):
    lines = [*THREE[:2], failed("out of memory", id="0/00003", category="dog", truth=20)]
    paper = make(lines, "paper", settings={"preset": "paper-coco"})
    default = make(lines, "default")
    for folder in (paper, default):
        summary = summarise(read_run(folder))
        assert means(summary, EPISODE_MIOU)["T"] == percent((1 + (40 / 70 + 30 / 60) / 2 + 0.4) / 3)
        assert means(summary, CLASS_MIOU)["T"] == percent(40 / 70 / 2)
        tallies = summary.tallies
        assert (tallies["failed"], tallies["empty prediction, T"], tallies["found"]) == (1, 0, 3)
        assert "| 42   | 0/00003        | dog   | out of memory |" in report(folder).stdout
        assert summary.records.seconds == {"encode": 0.5, "decode": 0.25}
    text = report(paper).stdout
    assert summarise(read_run(paper)).without_failed["B"] == percent(((85 / 95 + 1 / 3) / 2 + (5 / 6 + 4 / 5) / 2) / 2)
    said = "Without the failed episodes, as the published code for PerSAM averages, episode-mIoU"
    assert f"{said}: B 71.54, T 76.79, O 90.83" in text
    assert "Without the failed" not in report(default).stdout
    assert json.loads(report(paper, "--format", "json").stdout)["runs"][0]["failed"] == [
        {"seed": 42, "episode": "0/00003", "class": "dog", "why": "out of memory"}
    ]


def test_what_is_empty_is_counted(make):
    lines = [
        episode("0/00000", truth=0, masks=[(0, 0), (3, 0)], chosen=1),
        episode("0/00001", support_pixels=[7, 0]),
        failed("the masks of all its supports are empty", id="0/00002", support_pixels=[0]),
        failed("a crop without pixels", id="0/00003", pixels=0, truth=0),
    ]
    tallies = summarise(read_run(make(lines))).tallies
    assert tallies == {
        "expected": 4, "found": 4, "missing": 0, "distinct": 4, "failed": 2, "empty ground truth": 1,
        "empty support": 2, "empty prediction, B": 1, "empty prediction, T": 0,
    }  # fmt: skip


def test_a_run_may_fail_altogether_and_before_anything_is_known(make):
    lines = [failed(id=f"0/{number:05d}", truth=0, pixels=0) for number in range(25)]
    text = report(make(lines, settings={"preset": "paper"})).stdout
    assert "Failed: 25." in text and "… and 5 more" in text
    assert text.count("no peak") == 20


def test_seeds_that_repeat_an_episode_are_one_episode(make):
    """The published PerSAM runs: five seeds, one list of episodes."""
    gain, loss = {"masks": [(10, 5), (10, 10)]}, {"masks": [(10, 10), (10, 5)]}
    lines = [
        episode("0/00000", "cat", 10, seed=42, **gain), episode("0/00000", "cat", 10, seed=43, **loss),
        episode("0/00001", "cat", 10, seed=42, **gain), episode("0/00001", "cat", 10, seed=43, **gain),
        episode("0/00001", "cat", 10, seed=44, **gain, supports=["another.jpg"]),
    ]  # fmt: skip
    summary = summarise(read_run(make(lines)))
    gained = 1 - (85 / 95 + 5 / 15) / 2
    assert summary.tallies["distinct"] == 3
    assert summary.distinct_gains == percent(np.array([0, gained, gained]))
    assert summary.gains == percent(np.array([gained, gained, -gained, gained, gained]))
    half = (85 / 95 + 5 / 15) / 2
    b = summary.values[EPISODE_MIOU]["B"]
    assert b.mean == percent((half + (1 + half) / 2 + half) / 3)
    assert b.over_seeds == percent(np.std([half, (1 + half) / 2, half], ddof=1)) and np.isnan(b.over_folds)
    assert "5 of 5, 3 of them distinct (3 seeds)" in report(summary.name).stdout


def test_folds_weigh_the_same_whatever_their_size(make):
    full, none = [(10, 10)], [(0, 0)]
    lines = [
        *(episode(f"0/{n:05d}", "cat", 10, full, chosen=0) for n in range(3)),
        episode("1/00000", "dog", 10, none, chosen=0),
    ]
    value = summarise(read_run(make(lines, classes={"0": 1, "1": 1}))).values
    assert value[EPISODE_MIOU]["B"].mean == percent((1 + 0.45) / 2)
    assert value[EPISODE_MIOU]["B"].over_folds == percent(0.55 / np.sqrt(2))
    assert value[CLASS_MIOU]["B"].mean == percent(0.5)


def test_a_class_without_episodes_counts_as_0_unless_the_run_is_limited_or_unfinished(make):
    b = 45 / 65
    assert means(summarise(read_run(make(name="whole", classes={"0": 3}))), CLASS_MIOU)["B"] == percent(b / 3)
    limited = make(name="limited", classes={"0": 3}, limit=3)
    assert means(summarise(read_run(limited)), CLASS_MIOU)["B"] == percent(b / 2)
    unfinished = make(name="unfinished", classes={"0": 3}, episodes={"42": 5})
    assert means(summarise(read_run(unfinished)), CLASS_MIOU)["B"] == percent(b / 2)
    text = report(limited, unfinished).stdout
    assert "61.02†" in text and "61.02‡" in text
    assert "† A limited run" in text and "‡ The run is not finished" in text
    assert "2 episodes are missing (2 of seed 42)" in text
    assert "†" not in report(make(name="fine")).stdout


def test_a_cut_line_is_passed_over_the_first_of_two_counts_and_order_does_not_matter(make):
    again = {**THREE[0], "chosen": 0}
    whole = make([*THREE, failed(id="0/00003")], "a")
    odd = make(
        [failed(id="0/00003"), THREE[2], *THREE[:2], again], "b", '{"seed": 42, "episode": "0/00', episodes={"42": 4}
    )
    with (odd / "episodes.jsonl").open("a") as file:  # where a run went on behind a cut line
        file.write(json.dumps(THREE[0]) + "\n" + json.dumps(again)[:-1])
    first, second = (report(folder, "--format", "csv").stdout.replace(str(folder), "") for folder in (whole, odd))
    assert first == second


def test_lines_that_do_not_belong_are_named(make):
    short = make([THREE[0], episode("0/00001", masks=[(10, 5)], chosen=0)], "short")
    assert "line 2 is no record" in report(short, code=2).stderr
    fieldless = {key: value for key, value in THREE[1].items() if key != "object"}
    del fieldless["class"]
    assert "line 1 is no record" in report(make([fieldless], "fieldless"), code=2).stderr
    other = episode("0/00001")
    other["scores"] = {"mine": [1, 2]}
    assert "the scores reencode, predicted-iou" in report(make([THREE[0], other], "other"), code=2).stderr


def test_folders_that_are_no_runs(make, tmp_path):
    assert "has no run.json" in report(tmp_path, code=2).stderr
    started = make(name="started")
    (started / "episodes.jsonl").write_text('{"seed"')
    assert "has not finished an episode yet" in report(started, code=2).stderr
    (started / "episodes.jsonl").unlink()
    assert "has not finished an episode yet" in report(started, code=2).stderr
    (started / "run.json").write_text('{"benchmark": "coco"}')
    assert "was not written by `prmagic evaluate`" in report(started, code=2).stderr
    twice = make(name="twice")
    assert "named twice" in report(twice, twice, code=2).stderr


def cells(text):
    """Of Markdown's tables, without their rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if "---" not in line]


def test_the_papers_table_with_the_published_numbers_below(make):
    one = make(name="one")
    five = make(name="five", shots=5)
    persam = make(name="persam", settings={"framework": "persam-f"}, benchmark="lvis", title="LVIS-92i")
    text = report(one, five, persam).stdout
    table = cells(text)
    assert table[0] == ["framework", "shots", "", "COCO-20i, episode-mIoU", "LVIS-92i, episode-mIoU"]
    assert table[1:5] == [
        ["matcher", "1-shot", "B", "61.02", ""],
        ["matcher", "1-shot", "B, published", "69.53", ""],
        ["matcher", "1-shot", "T", "**64.52**", ""],
        ["matcher", "1-shot", "T, published", "71.23", ""],
    ]
    assert ["matcher", "5-shot", "T, published", "70.74", ""] in table
    assert ["persam-f", "1-shot", "O, published", "", "47.29"] in table
    classes = table[table.index(["framework", "shots", "", "COCO-20i, class-mIoU", "LVIS-92i, class-mIoU"]) :]
    assert classes[1:3] == [["matcher", "1-shot", "B", "34.62", ""], ["matcher", "1-shot", "B, published", "52.7", ""]]
    assert ["matcher", "5-shot", "B, published", "60.7", ""] in classes
    assert not any(row[2] == "T, published" for row in classes)  # nobody published T in this metric
    assert "published: PR-MaGIC" in text and "published: Matcher" in text
    assert text.count(" 424242424242 ") == 3


def test_published_numbers_have_their_metric():
    assert published("episode-mIoU", "T", "matcher", 1, "dis5k") == "55.08"
    assert published("class-mIoU", "B", "matcher", 5, "fss") == "89.6"
    assert published("episode-mIoU", "T", "matcher", 5, "dis5k") is None
    assert published("FB-IoU", "B", "matcher", 1, "coco") is None
    assert published("episode-mIoU", "B", "persam", 1, "coco") is None


def test_t_is_bold_where_it_beats_b(make):
    better, worse = make([THREE[0]], "better"), make([THREE[1]], "worse", benchmark="lvis", title="LVIS-92i")
    (table, *_) = [block for block in document(summaries([better, worse])) if isinstance(block, Table)]
    (t,) = [row for row in table.rows if row[2] == "T"]
    assert isinstance(t[3], Bold) and not isinstance(t[4], Bold)


def test_runs_that_would_share_a_cell_get_rows_with_their_names(make):
    a, b, c = make(name="a"), make(name="b", settings={"preset": "paper"}), make(name="c", shots=5)
    table = cells(report(a, b, c).stdout)
    assert table[0][:4] == ["framework", "shots", "run", ""]
    named = {row[2].replace("\\", "") for row in table if row[:2] == ["matcher", "1-shot"] and row[3] == "B"}
    assert named == {str(a), str(b)}
    assert [row[2] for row in table if row[:2] == ["matcher", "5-shot"] and row[3] == "B"] == ["", ""]


def test_a_selector_is_tried_offline(make):
    folder = make()

    def t(selector):
        return means(summarise(read_run(folder), selector), EPISODE_MIOU)["T"]

    values = means(summarise(read_run(folder)), EPISODE_MIOU)
    assert t("baseline") == t("predicted-iou") == values["B"]
    assert t("oracle") == values["O"]
    assert t("reencode") == values["T"]
    assert "T chosen by oracle" in report(folder, "--selector", "oracle").stdout
    said = report(folder, "--selector", "orakel", code=2).stderr
    assert "did you mean 'oracle'" in said and "predicted-iou" in said


def test_a_selector_from_a_file(make, tmp_path):
    lines = [*THREE, failed(id="0/00003")]
    folder = make(lines)
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def smallest(arrays):\n"
        "    assert set(arrays) == {'scores', 'predicted_iou', 'share', 'class', 'fold'}\n"
        "    assert list(arrays['class']) == ['cat', 'cat', 'dog'] and list(arrays['fold']) == [0, 0, 0]\n"
        "    assert arrays['share'].tolist() == [[0.1, 0.1], [0.4, 0.4], [0, 0]]\n"
        "    assert arrays['scores']['predicted-iou'].shape == arrays['predicted_iou'].shape == (3, 2)\n"
        "    arrays['scores']['reencode'][:] = 0\n"
        "    return [[0, 1], [float('nan'), -1], [1, 1]]\n"
        "def flat(arrays):\n"
        "    return np.zeros(3)\n"
        "def wrong(arrays):\n"
        "    return arrays['truth']\n"
        "def words(arrays):\n"
        "    return 'best'\n"
    )
    records = read_run(folder)
    assert offline.choose(records, f"{file}:smallest").tolist() == [1, 1, 0, 0]
    assert offline.choose(records, "reencode").tolist() == [
        1,
        1,
        0,
        0,
    ]  # what a function does to its arrays stays there

    def said(selector):
        return report(folder, "--selector", selector, code=2).stderr

    assert f"{file}:flat returned an array of shape (3,); it has to be (3, 2)" in said(f"{file}:flat")
    assert f"{file}:wrong failed in line 12: KeyError: 'truth'" in said(f"{file}:wrong")
    assert "mine.py:words failed: ValueError" in said(f"{file}:words")
    assert "has no function 'smalest': did you mean 'smallest'" in said(f"{file}:smalest")
    assert "other.py is missing" in said(f"{tmp_path / 'other.py'}:smallest")
    file.write_text("import nothing_of_this_name\n")
    assert "mine.py cannot be loaded: ModuleNotFoundError" in said(f"{file}:smallest")


def test_csv_and_json_have_a_row_for_every_number(make):
    folder = make(settings={"preset": "paper-coco"}, shots=1)
    table = list(csv.DictReader(io.StringIO(report(folder, "--format", "csv").stdout)))
    found = {(row["metric"], row["quantity"]): row for row in table}
    assert len(found) == len(table)
    assert float(found[EPISODE_MIOU, "T"]["value"]) == percent((1 + (40 / 70 + 30 / 60) / 2 + 0.4) / 3)
    assert found[CLASS_MIOU, "B, published"]["value"] == "52.7"
    assert found["episodes", "found"]["value"] == "3" and found["time per episode", "encode"]["value"] == "0.5"
    assert {metric for metric, quantity in found if quantity == "full mask"} == set(METRICS)
    assert {row["framework"] for row in table} == {"matcher"} and {row["complete"] for row in table} == {"True"}
    loaded = json.loads(report(folder, "--format", "json").stdout)
    assert [str(row["quantity"]) for row in loaded["rows"]] == [row["quantity"] for row in table]
    (gain,) = [row for row in loaded["rows"] if row["quantity"] == "T - B, distinct episodes"]
    assert gain["low"] < gain["value"] < gain["high"] and gain["unit"] == "points" and gain["std_over_seeds"] is None
    assert loaded["runs"][0]["manifests"] == {"42": "42" * 32}


def test_latex_has_tables_of_even_rows_and_no_bare_character(make):
    text = report(make([*THREE, failed("100 % of $5 & a_b #1\n{x}^~\\", id="0/00003")]), "--format", "latex").stdout
    tables = re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.S)
    assert len(tables) == 5
    for columns, body in tables:
        for row in body.replace(r"\hline", "").strip().splitlines():
            assert row.endswith(r" \\") or not row
            assert not row or len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
    assert r"100 \% of \$5 \& a\_b \#1 \{x\}\textasciicircum{}\textasciitilde{}\textbackslash{}" in text
    assert r"\textbf{" in text and "†" not in text and "−" not in text
    assert not re.search(r"(?<!\\)[#%_]", text)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_markdown_leaves_names_as_they_are():
    text = markdown([Table(("a|b", "n"), [["x*y_z <b>", Bold("1")]], 1)])
    assert text.splitlines() == [
        r"| a\|b          |     n |",
        r"| ------------- | ----: |",
        r"| x\*y\_z \<b\> | **1** |",
    ]
    assert r"{[}1{]}" in latex(["[1]"])


def test_out_gets_the_report_and_figures_need_it(make, tmp_path):
    folder, out = make(), tmp_path / "out"
    for format, name in (("md", "report.md"), ("latex", "report.tex"), ("csv", "report.csv"), ("json", "report.json")):
        result = report(folder, "--format", format, "--out", out, "--no-figures")
        assert (out / name).read_text(encoding="utf-8") == result.stdout
    assert not list(out.glob("**/*.png"))
    for option in (["--figures"], ["--strips", 9], ["--data", folder]):
        assert "figures and strips need a folder" in report(folder, *option, code=2).stderr
    assert "did you mean 'latex'" in report(folder, "--format", "latx", code=2).stderr


def test_figures_of_each_run_and_a_reason_for_missing_strips(make, tmp_path):
    a, b, out = make(name="x/run"), make([THREE[2]], name="y/run", shots=5), tmp_path / "out"
    result = report(a, b, "--out", out)
    assert sorted(str(file.relative_to(out)) for file in out.glob("**/*.png")) == [
        f"{folder}/{name}.png" for folder in ("1-run", "2-run") for name in ("gains", "scatter", "steps")
    ]
    assert f"{a} gets no strips of photos: the run kept no masks" in result.stderr
    assert str(b) not in result.stderr  # where T equals B there is nothing to show


@pytest.fixture
def pictured(make, tmp_path):
    """A run on a folder of the user's own, with masks: a better episode and a worse one, for two seeds."""
    data = tmp_path / "data"
    square = np.zeros((40, 60), bool)
    square[10:30, 20:40] = True
    for name in "abc":
        for kind, pixels in (("images", np.full((40, 60, 3), 120, np.uint8)), ("masks", np.uint8(square) * 255)):
            (data / "a $cat_" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(data / "a $cat_" / kind / f"{name}.png")
    half = square.copy()
    half[20:] = False
    sizes = {"pixels": 2400, "object": 400}
    better, worse = [[2000, 2200, 200, 400], [2000, 2000, 400, 400]], [[2000, 2000, 400, 400], [2000, 2200, 200, 400]]
    lines, masks = [], []
    for seed in (42, 43):
        for id, areas, order in (("0/00000", better, [0, 1]), ("0/00001", worse, [1, 0])):
            query, support = f"a $cat_/images/{'ab'[int(id[-1])]}.png", "a $cat_/images/c.png"
            lines.append(episode(id, "a $cat_", seed=seed, areas=areas, query=query, supports=[support], **sizes))
            masks.append({"seed": seed, "episode": id, "masks": [rle(half), rle(square)], "candidates": order})
    folder = make(lines, benchmark="own", title="own data")
    (folder / "masks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in masks) + '{"seed": 42, "epi')
    return folder


def red(picture):
    """Pixels with the tint of a mask, of a grey photo."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return int(((pixels[..., 0] - pixels[..., 1] > 40) & (pixels[..., 1] < 120)).sum())


def test_strips_show_the_worst_and_the_best_episode_once(pictured, tmp_path):
    out = tmp_path / "out"
    result = report(pictured, "--out", out)
    assert "no strips" not in result.stderr
    for name, refined in (("regressions", 0.5), ("rescues", 2)):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 4 * 400 and picture.height < 600  # one row: the seeds share the episode
            width = picture.width // 4
            support, b, t, truth = (
                red(picture.crop((i * width, 0, (i + 1) * width, picture.height))) for i in range(4)
            )
        assert t / b == pytest.approx(refined, rel=0.15)
        assert support == pytest.approx(truth, rel=0.05)
    found = read_masks(pictured, {(43, "0/00001")})
    assert [mask.sum() for mask in found[43, "0/00001"]] == [400, 200]


def test_no_strips_when_the_data_is_gone_or_other_data(pictured, tmp_path):
    data = (tmp_path / "data").rename(tmp_path / "moved")
    out = tmp_path / "out"
    assert "gets no strips of photos: " in report(pictured, "--out", out).stderr
    assert not (out / "rescues.png").exists()
    assert "no strips" not in report(pictured, "--out", out, "--data", data).stderr
    assert (out / "rescues.png").exists()
    for kind in ("images", "masks"):
        for file in (data / "a $cat_" / kind).iterdir():
            Image.open(file).resize((30, 20)).save(file)
    assert "this is not the data of the run" in report(pictured, "--out", out, "--data", data).stderr


def test_strips_of_a_run_on_squashed_photos(pictured, tmp_path):
    run = json.loads((pictured / "run.json").read_text())
    (pictured / "run.json").write_text(json.dumps({**run, "size": 32}))
    lines = [json.loads(line) for line in (pictured / "masks.jsonl").read_text().splitlines()[:-1]]
    square = np.zeros((32, 32), bool)
    square[8:24, 10:22] = True
    for line in lines:
        line["masks"] = [rle(square), rle(~square)]
    (pictured / "masks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "no strips" not in report(pictured, "--out", tmp_path / "out").stderr
    assert (tmp_path / "out" / "regressions.png").exists()
