"""What `prmagic report` prints and writes."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from handmade_runs import THREE, failed, percent, report

from prmagic.evaluation.document import document
from prmagic.evaluation.published_numbers import published_number
from prmagic.evaluation.summary import CLASS_MIOU, EPISODE_MIOU, METRICS, summaries
from prmagic.evaluation.tables import Bold, Table, latex, markdown


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


@pytest.mark.parametrize(
    "flow, told",
    [
        ({"mode": "spread"}, "spread, steps 5"),
        ({"mode": "none"}, "none"),
        ({"mode": "noise"}, "noise, steps 5, eta 0.001, gamma 0.1"),
        ({"mode": "full"}, "full, steps 5, eta 0.001, gamma 0.1, objective sum"),
        ({"mode": "full", "rho": 0.1}, "full, steps 5, eta 0.001, gamma 0.1, rho 0.1, objective sum"),
        ({"mode": "yours", "rho": 0.1}, "mode yours, steps 5, eta 0.001, gamma 0.1, rho 0.1, objective sum"),
    ],
)
def test_only_what_the_flow_uses_is_told(make, flow, told):
    given = {"mode": "", "steps": 5, "eta": 0.001, "gamma": 0.1, "rho": None, "objective": "sum", **flow}
    assert f"Flow: {told}. T chosen by" in report(make(settings={"flow": given})).stdout


def test_published_numbers_have_their_metric():
    assert published_number("episode-mIoU", "T", "matcher", 1, "dis5k") == "55.08"
    assert published_number("class-mIoU", "B", "matcher", 5, "fss") == "89.6"
    assert published_number("episode-mIoU", "T", "matcher", 5, "dis5k") is None
    assert published_number("class-mIoU", "B", "gf-sam", 1, "pascal-part") == "44.5"
    assert published_number("FB-IoU", "B", "matcher", 1, "coco") is None
    assert published_number("episode-mIoU", "B", "persam", 1, "coco") is None


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
    (gain,) = [row for row in loaded["rows"] if row["quantity"] == "T - B, all episodes"]
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
        assert "igures and strips need a folder" in report(folder, *option, code=2).stderr
    assert "did you mean 'latex'" in report(folder, "--format", "latx", code=2).stderr


def test_a_limited_run_says_how_many_of_the_classes_were_run(make):
    few = make([*THREE[:2]], name="few", limit=2, classes={"0": 20})
    assert "Classes: 1 of the 20 in fold 0." in report(few).stdout
    found = {(row["metric"], row["quantity"]): row["value"] for row in rows_of(few)}
    assert (found["classes", "fold 0"], found["classes", "fold 0, in all"]) == (1, 20)
    assert "Classes: 2 in fold 0." in report(make(THREE, classes={"0": 2})).stdout


def rows_of(folder):
    return json.loads(report(folder, "--format", "json").stdout)["rows"]
