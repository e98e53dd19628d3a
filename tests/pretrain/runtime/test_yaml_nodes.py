"""YAML is parsed within bounds, scalars keep their text, and every node has its line number."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.runtime.yaml_nodes import MAX_DEPTH, DocumentError, parse_document, plain_value, read_document


def read(text: str) -> object:
    return plain_value(parse_document(text, "x.yaml"))


def test_plain_scalars_are_those_of_yaml_1_2_and_keep_their_text() -> None:
    text = "{a: 1e-4, b: 12:00:00, c: 010, d: 1_000, e: no, f: '1', g: 2026-01-01, h: ~, i: 1.10, j: 0x1F}"
    expected = {"a": 1e-4, "b": "12:00:00", "c": "010", "d": 1000, "e": False, "f": "1", "g": "2026-01-01", "h": None}
    assert read(text) == expected | {"i": 1.1, "j": "0x1F"}
    assert parse_document(text, "x").content["i"].content == "1.10"  # type: ignore[index, call-overload]


def test_anchors_aliases_and_merges_are_read() -> None:
    assert read("a: &x {k: 1, l: 2}\nb: *x\nc: {<<: *x, k: 3}\nd: {k: 4, <<: [*x]}") == {
        "a": {"k": 1, "l": 2}, "b": {"k": 1, "l": 2}, "c": {"k": 3, "l": 2}, "d": {"k": 4, "l": 2},
    }  # fmt: skip


def test_alias_bomb_is_refused_immediately() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    began = time.monotonic()
    with pytest.raises(DocumentError, match="aliases that expand to more than"):
        read("\n".join(lines))
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &a [*a]", "line 1: the alias \\*a contains itself"),
        ("a: 1\nb: *c", "line 2: the alias \\*c is not defined above|undefined alias"),
        ("[" * 200_000, "nest"),
        ("\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 99))]), "nested deeper"),
        ("a: !!python/object/apply:os.system [ls]", "tag .* is not allowed"),
        ("a: 1\n---\nb: 2", "a second document"),
        ("a: 1\nb: 2\na: 3", r"line 3: the key 'a' is given twice \(first in line 1\)"),
        ("? [a]\n: 1", "a key must be a string"),
        ("a: [1,\nb: 2", "not valid YAML: line [23]"),
        ("a: \x1b[31m", "not valid YAML"),
    ],
)
def test_unsafe_documents_are_reported_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(DocumentError, match=sentence):
        read(text)


def test_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(DocumentError, match=r"x.yaml: not UTF-8 \(byte 3 is 0xff\)"):
        read_document(path)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!?|>'\"\n #,%@`0.~<", max_size=60))
def test_any_text_is_a_value_or_an_error(text: str) -> None:
    try:
        node = parse_document(text, "x.yaml")
    except DocumentError as error:
        assert str(error).startswith("x.yaml")
    else:
        plain_value(node)
        assert node.depth <= MAX_DEPTH
