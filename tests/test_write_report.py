"""The report says what the files say: means, spread, noise, lineage, cost; and the page works in a browser."""

import csv
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain.storage import write_json
from tests.chain_folders import write_chain, write_detector, write_stage
from tools.report.gather import gather
from tools.report.page import write_page
from tools.report.tables import build_tables, to_latex
from tools.report.verdict import write_verdict
from tools.write_report import main
from transfer.results import RunResult, summarise


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_chain(tmp_path_factory.mktemp("runs") / "trial")
    main([str(folder)])
    return folder


def results(backbone: str, values: list[float], protocol: str = "voc-c4-digits@moco") -> list[RunResult]:
    return [
        RunResult(backbone=backbone, protocol=protocol, seed=seed, metrics={"AP": value}, commit="c", machine={})
        for seed, value in enumerate(values)
    ]


def test_summary_holds_a_row_per_backbone_protocol_and_metric(chain: Path) -> None:
    summary = json.loads((chain / "report" / "summary.json").read_text())
    rows = {(row["backbone"], row["protocol"], row["metric"]): row for row in summary["rows"]}
    row = rows["mochi", "voc-c4-digits@moco", "AP"]
    assert row["mean"] == pytest.approx(30.1)  # 30.0, 30.1, 30.2
    assert row["std"] == pytest.approx(0.1)
    assert row["n"] == 3
    assert ("random", "coco-c4-digits@moco", "mask/AP") in rows
    assert summary["machine"]["cpu"]
    assert summary["commit"]


def test_csv_and_latex_hold_the_same_numbers(chain: Path) -> None:
    with (chain / "report" / "results.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert float(lines[0]["mean"]) == pytest.approx(30.1)
    assert r"30.1 $\pm$ 0.1" in (chain / "report" / "tables.tex").read_text()


def test_markdown_has_one_table_per_protocol_and_bold_beyond_the_noise(chain: Path) -> None:
    text = (chain / "report" / "report.md").read_text()
    assert text.count("## ") == 2
    assert "| mochi | **30.1 ± 0.1** |" in text


def test_pictures_lie_beside_the_report(chain: Path) -> None:
    names = {path.name for path in (chain / "report" / "pictures").iterdir()}
    assert "voc-c4-digits@moco-image_1-mochi.png" in names
    assert "hardness.svg" in names


def test_difference_within_the_noise_is_not_bold_and_said_so() -> None:
    summaries = summarise([*results("mochi", [30, 32, 31]), *results("random", [30, 31, 31])])
    (table,) = build_tables(summaries)
    assert not any(cell.bold for row in table.rows for cell in row.cells)
    assert "does not differ from random by more than the noise" in write_verdict(summaries)[0]


def test_single_runs_have_an_unknown_spread_and_the_verdict_says_so() -> None:
    summaries = summarise([*results("mochi", [30.0]), *results("random", [20.0])])
    assert "(+10.0) by one run each, so with an unknown spread" in write_verdict(summaries)[0]
    assert not any(cell.bold for row in build_tables(summaries)[0].rows for cell in row.cells)


def test_worse_backbone_is_called_worse() -> None:
    summaries = summarise([*results("mochi", [10.0, 10.1]), *results("random", [20.0, 20.1])])
    assert "mochi is below random beyond the noise" in write_verdict(summaries)[0]


def test_mixing_is_compared_with_the_same_method_without() -> None:
    runs = [*results("mochi", [31.0, 31.1]), *results("moco_v2", [30.0, 30.1]), *results("simclr_mochi", [5.0, 5.1])]
    sentences = write_verdict(summarise([*runs, *results("simclr", [4.0, 4.1])]))
    assert [sentence.split(" is ")[0] for sentence in sentences] == ["mochi", "simclr_mochi"]
    assert "above simclr beyond the noise in voc-c4-digits@moco AP (+1.0)" in sentences[1]


def test_published_rows_stand_only_beside_their_own_protocol() -> None:
    full = build_tables(summarise(results("mochi", [57.0, 57.2], "voc-c4-24k@moco")))[0]
    digits = build_tables(summarise(results("mochi", [57.0, 57.2])))[0]
    assert any(row.published and "as reported" in row.note for row in full.rows)
    assert not any(row.published for row in digits.rows)


def test_names_are_escaped_for_latex() -> None:
    (table,) = build_tables(summarise(results("a_b&c", [1.0])))
    assert r"a\_b\&c & 1.0 & 1" in to_latex(table)


def test_unfinished_chain_reports_what_is_there(tmp_path: Path) -> None:
    write_json(tmp_path / "chain.json", {"name": "half", "stages": []})
    write_detector(tmp_path, "mochi", "voc-c4-digits@moco", 0, {"AP": 1.0})
    broken = write_stage(tmp_path, "coco-mochi", "finetune")
    (broken / "DONE.json").unlink()
    write_json(broken / "FAILED.json", {"kind": "error", "message": "out of memory"})
    main([str(tmp_path)])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Without a result: coco-mochi (failed)" in text
    assert "out of memory" in (tmp_path / "report" / "index.html").read_text()


def test_folder_without_a_chain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no chain\.json there"):
        main([str(tmp_path)])


def test_sweep_becomes_a_heat_map_of_means(tmp_path: Path) -> None:
    write_json(tmp_path / "chain.json", {"name": "sweep", "stages": []})
    for n in (256, 512):
        for s in (0, 128):
            stage = write_detector(tmp_path, f"mochi {n} {s}", "voc-c4-digits@moco", 0, {"AP": float(n + s)})
            spec = json.loads((stage / "spec.json").read_text()) | {"grid": {"mixing.n": n, "mixing.s": s}}
            write_json(stage / "spec.json", spec)
    page = write_page(gather(tmp_path), [], [])
    assert "AP over mixing.n and mixing.s" in page
    assert '"z": [[256.0, 512.0], [384.0, 640.0]]' in page


def test_text_from_outside_cannot_become_markup(tmp_path: Path) -> None:
    write_json(tmp_path / "chain.json", {"name": "<script>alert(1)</script>", "stages": []})
    write_detector(tmp_path, "</script><b>", "voc", 0, {"AP": 1.0})
    main([str(tmp_path)])
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<script>alert(1)" not in page
    assert "</script><b>" not in page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs chromium and chromedriver; as root on Debian `make system` installs them")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--window-size=1280,1600",
    ):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def open_page(browser: Any, path: Path, *, dark: bool = False, width_px: int = 1280) -> None:
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    metrics = {"width": width_px, "height": 1600, "deviceScaleFactor": 1, "mobile": width_px < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(path.resolve().as_uri())


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_page_draws_its_charts_without_an_error_or_an_external_request(browser: Any, chain: Path) -> None:
    browser.get_log("performance")
    open_page(browser, chain / "report" / "index.html")
    browser.execute_script("document.querySelector('#curves').scrollIntoView()")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not browser.execute_script("return document.querySelector('svg .trace')"):
        time.sleep(0.1)
    assert browser.execute_script("return document.querySelectorAll('.chart svg .trace').length") >= 2
    assert browser.get_log("browser") == []
    requested = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [entry["params"]["request"]["url"] for entry in requested if entry["method"] == "Network.requestWillBeSent"]
    assert urls
    assert all(url.startswith(("file:", "data:", "blob:")) for url in urls), urls


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_page_sorts_its_tables(browser: Any, chain: Path) -> None:
    open_page(browser, chain / "report" / "index.html")
    first = "document.querySelector('#results table')"
    column = f"[...{first}.tBodies[0].rows].map(row => row.cells[1].dataset.value)"
    browser.execute_script(f"{first}.querySelectorAll('th button')[1].click()")
    rising = [float(value) for value in browser.execute_script(f"return {column}")]
    browser.execute_script(f"{first}.querySelectorAll('th button')[1].click()")
    falling = [float(value) for value in browser.execute_script(f"return {column}")]
    assert rising == sorted(rising)
    assert falling == sorted(rising, reverse=True)


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width_px", [1280, 390])
def test_page_is_readable_on_desk_and_phone_in_light_and_dark(
    browser: Any, chain: Path, dark: bool, width_px: int
) -> None:
    open_page(browser, chain / "report" / "index.html", dark=dark, width_px=width_px)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width_px, (
        "the page scrolls sideways"
    )
    script = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    ink, paper = (
        [int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
        for colour in browser.execute_script(script)
    )
    assert contrast(ink, paper) > 7  # WCAG 2.1, level AAA
    assert (sum(paper) < 128) == dark


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_fifty_backbones_of_ten_seeds_open_within_two_seconds(browser: Any, tmp_path: Path) -> None:
    folder = write_chain(tmp_path / "large", backbones=50, seeds=10)
    main([str(folder)])
    open_page(browser, folder / "report" / "index.html")
    script = "const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd - t.startTime"
    milliseconds = browser.execute_script(script)
    print(f"the page of 1,000 runs opened in {milliseconds:.0f} ms")
    assert browser.execute_script("return document.querySelectorAll('#lineage tbody tr').length") == 1000


def contrast(first: list[int], second: list[int]) -> float:
    """WCAG 2.1's contrast ratio of two sRGB colours."""

    def luminance(colour: list[int]) -> float:
        parts = [
            value / 255 / 12.92 if value / 255 <= 0.04045 else ((value / 255 + 0.055) / 1.055) ** 2.4
            for value in colour
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
