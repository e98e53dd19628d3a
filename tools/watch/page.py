"""Write the page's HTML: the live page polls the server; the static page contains its data."""

import json
from html import escape
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "page"
PLOTLY_PATH = "plotly.min.js"


def read_plotly() -> str:
    """Return the text of the plotly.js that the plotly package contains."""
    from plotly.offline import get_plotlyjs  # heavy

    return str(get_plotlyjs())


def write_page(*, live: bool) -> str:
    """Return HTML that loads its scripts and data from the server."""
    scripts = f'<script src="assets/{PLOTLY_PATH}" defer></script><script src="assets/watch.js" defer></script>'
    return _fill("watching" if live else "", '<link rel="stylesheet" href="assets/watch.css">', scripts)


def write_static_page(snapshot: dict[str, Any], details: dict[int, dict[str, Any]]) -> str:
    """Return self-contained HTML: style, scripts, `snapshot` and, by stage index, the `details` of stages."""
    data = json.dumps({"snapshot": snapshot, "details": details}, allow_nan=False)
    for character, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        data = data.replace(character, code)  # so that no value can close the script element or open a comment
    style = f"<style>{(FOLDER / 'watch.css').read_text()}</style>"
    scripts = "".join(
        [
            f'<script type="application/json" id="held">{data}</script>',
            f"<script>{read_plotly()}</script>",
            f"<script>{(FOLDER / 'watch.js').read_text()}</script>",
        ]
    )
    return _fill(f"{snapshot['name']} (static)", style, scripts)


def _fill(title: str, style: str, scripts: str) -> str:
    text = (FOLDER / "watch.html").read_text()
    text = text.replace("{{title}}", escape(title or "chain")).replace("{{style}}", style)
    head, _, tail = text.partition("{{scripts}}")
    return head + scripts + tail
