"""Untrusted names and notes stay text in every output format of the report."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.runtime.storage import write_json
from tests.making.chain_folders import write_detector
from tools.report.text.escaping import (
    clean,
    escape_chart,
    escape_csv,
    escape_latex,
    escape_markdown,
    escape_sentence,
    to_script,
)
from tools.write_report import main

NAMES = [
    "<!--<script>", "</script><b>", "=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "a|b", "**bold**", "_x_", "[x](y)",
    "a\\b", "50%_{$x$}^2~#&", "line\nbreak", "tab\there", "\u202egnihtyna", "\x1b[31mred", "\udcff", "`code`", "# head",
    "'quote\"", "\u2028", "{{ 7*7 }}", "../../up", "x" * 300, "<img src=x onerror=alert(1)>",
]  # fmt: skip


@given(st.text(alphabet=st.characters(), max_size=40))
def test_cleaned_text_is_one_printable_line(text: str) -> None:
    for made in (clean(text), escape_markdown(text), escape_latex(text), escape_csv(text), escape_chart(text)):
        assert all(sign.isprintable() for sign in made)
        made.encode()


@given(st.text(max_size=40))
def test_csv_cell_never_begins_a_formula(text: str) -> None:
    assert not re.match(r"[=+\-@\t\r]", escape_csv(text))


def test_numbers_stay_numbers_in_csv() -> None:
    assert [escape_csv(value) for value in (-1.5, 2, "")] == [-1.5, 2, ""]


@given(st.text(max_size=40))
def test_latex_has_no_special_sign_of_the_text_left(text: str) -> None:
    left = re.sub(r"\\[a-z]+\{\}|\\[&%$#_{}]|\$\\[a-zA-Z]+\$|\$-\$", "", escape_latex(text))
    assert not re.search(r'[&%$#_{}~^\\<>|"]', left)


@given(st.text(max_size=40))
def test_script_holds_no_tag_and_gives_the_value_back(text: str) -> None:
    made = to_script([text, {"x": text}])
    assert not re.search(r"[<>&\u2028\u2029]", made)
    assert json.loads(made) == [text, {"x": text}]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("moco_v2", "moco_v2"),
        ("_x_", r"\_x\_"),
        ("a|b", r"a\|b"),
        ("**x**", r"\*\*x\*\*"),
        ("<b>", r"\<b>"),
        ("p < 0.001 & x", "p < 0.001 & x"),
        ("&lt;", r"\&lt;"),
        ("a\\", r"a\\"),
    ],
)
def test_markdown_escapes_what_would_be_read_and_nothing_else(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("# x", r"\# x"), ("> x", r"\> x"), ("- x", r"\- x"), ("1. x", r"1\. x"), ("+x", "+x"), ("x", "x")],
)
def test_sentence_begins_no_heading_or_list(text: str, escaped: str) -> None:
    assert escape_sentence(text) == escaped


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "x"
    write_json(folder / "chain.json", {"name": "<script>alert(1)</script>", "stages": []})
    for place, name in enumerate(NAMES):
        stage = write_detector(folder, f"b{place}", "voc-c4-24k@moco", 0, {"AP": 50.0 + place})
        result = json.loads((stage / "metrics.json").read_text())
        result |= {"backbone": name, "deviations": [{"key": name, "expected": name, "got": name}] if place % 2 else []}
        (stage / "metrics.json").write_text(json.dumps(result))
    main([str(folder)])
    return folder / "report"


def test_page_holds_no_markup_from_names(report: Path) -> None:
    page = (report / "index.html").read_text()
    for text in ("<script>alert(1)", "</script><b>", "<img src=x", "\u202e", "\x1b"):
        assert text not in page
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    charts = next(text for text in scripts if text.lstrip().startswith("const charts ="))
    assert "<!--" not in charts  # it would start a comment that hides the end of the script
    assert "b&lt;" in page or "&lt;/script&gt;" in page


def test_csv_is_read_back_with_no_formula(report: Path) -> None:
    rows = list(csv.reader(io.StringIO((report / "results.csv").read_text())))
    assert len({len(row) for row in rows}) == 1
    for row in rows[1:]:
        for cell in row:
            assert not re.match(r"[=+@\t\r]|-\D", cell), cell


def test_markdown_tables_keep_their_columns(report: Path) -> None:
    tables = re.findall(r"(?:^\|.*\|\n)+", (report / "report.md").read_text(), re.MULTILINE)
    assert len(tables) > 2
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_pictures_stay_in_their_folder(report: Path) -> None:
    pictures = list((report / "pictures").iterdir())
    assert len(pictures) >= 2
    assert all(len(path.name.encode()) < 256 for path in pictures)
    assert not (report.parent / "up").exists()
