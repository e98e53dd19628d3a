"""Files of a running stage are read even if they are missing, damaged or partially written."""

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tools.chain.record.state import read_done, read_failed
from tools.chain.status import read_progress
from tools.watch.stage_files import MAX_POINTS, CurveFile, describe_attempts, read_log_end


def test_curve_grows_by_complete_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    curves = CurveFile(path)
    curves.update()
    assert curves.thinned() == []
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "lo')
    curves.update()
    assert curves.points == {"loss": [(1, 3.0)]}
    with path.open("a") as stream:
        stream.write('ss": 2.5}\n')
    curves.update()
    assert curves.points == {"loss": [(1, 3.0), (2, 2.5)]}
    assert curves.latest("loss") == 2.5


def test_curve_that_was_cut_by_a_resume_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": step}) + "\n" for step in range(9)))
    curves = CurveFile(path)
    curves.update()
    path.write_text('{"step": 0, "loss": 7}\n')
    curves.update()
    assert curves.points == {"loss": [(0, 7)]}


def test_long_curve_is_thinned_and_keeps_its_last_point(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(5000)))
    curves = CurveFile(path)
    curves.update()
    (drawn,) = curves.thinned()
    assert len(drawn["x"]) <= MAX_POINTS + 1
    assert drawn["x"][-1] == 4999


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(content: bytes, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("stage")
    (folder / "attempts").mkdir()
    for name in ("metrics.jsonl", "log.txt", "DONE.json", "FAILED.json", "progress.json", "attempts/0001.json"):
        (folder / name).write_bytes(content)
    curves = CurveFile(folder / "metrics.jsonl")
    curves.update()
    json.dumps(curves.thinned(), allow_nan=False)
    json.dumps(
        [describe_attempts(folder), read_log_end(folder), read_done(folder), read_failed(folder), read_progress(folder)]
    )


def test_log_end_is_searched_and_loses_escape_codes(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"first\nloss \x1b[31m3\x1b[0m\nother\xff\n")
    assert read_log_end(tmp_path, "LOSS")["lines"] == ["loss [31m3[0m"]
    assert len(read_log_end(tmp_path)["lines"]) == 3
