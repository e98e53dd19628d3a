"""Escape untrusted text (names, notes, paths) for Markdown, LaTeX, CSV, charts and scripts."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "Δ": r"$\Delta$",
    **{sign: rf"\{sign}" for sign in "&%$#_"},
}
_FORMULA = re.compile(r"^[=+\-@\t\r]")
_MARKDOWN = re.compile(r"[\\`*\[\]|~]|<(?=[A-Za-z/!?])|&(?=[#\w]+;)|(?<!\w)_|_(?!\w)")
_BLOCK_START = re.compile(r"^(#|>|[+-](?= )|\d+(?=[.)])|=)")


def clean(text: str) -> str:
    """Return the text on one line, with U+FFFD for every character that is not printable.

    These are control and escape codes, bidirectional marks, and undecodable bytes.
    """
    return "".join(sign if sign.isprintable() else " " if sign.isspace() else "\ufffd" for sign in text)


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows literally, also in a table cell."""
    return _MARKDOWN.sub(lambda match: "\\" + match[0], clean(text))


def escape_sentence(text: str) -> str:
    """Return a paragraph that Markdown shows literally: it cannot start a heading, a list or a rule."""
    return _BLOCK_START.sub(
        lambda match: f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}", escape_markdown(text)
    )


def escape_latex(text: str) -> str:
    """Return text that LaTeX typesets literally."""
    return "".join(_LATEX.get(sign, sign) for sign in clean(text))


def escape_csv(value: Any) -> Any:
    """Return a cell that spreadsheets do not interpret as a formula; numbers are unchanged."""
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if _FORMULA.match(text) else text


def escape_chart(text: str) -> str:
    """Return text that plotly.js shows literally (it interprets tags and entities)."""
    return clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def make_storable(value: Any) -> Any:
    """Return values valid in UTF-8 and strict JSON: no lone surrogates, None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {make_storable(str(key)): make_storable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [make_storable(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def to_script(value: Any) -> str:
    """Return JSON for a script element, in which no tag or comment can start."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
