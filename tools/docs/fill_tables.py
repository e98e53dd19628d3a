"""Write the generated tables into the documentation: families, named checkpoints, protocols, digits, benchmarks.

  python -m tools.docs.fill_tables [check=true]

A generated part stands between "<!-- generated: NAME -->" and "<!-- end -->" in docs/*.md. check=true changes nothing
and ends with exit code 2 when a table is not what the code says.

Example: python -m tools.docs.fill_tables check=true
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.settings import read_settings
from pretrain.runtime.storage import write_text
from tools.docs.benchmark_tables import render_benchmarks, render_faults
from tools.docs.digits_table import render_digits
from tools.docs.protocol_table import render_protocols
from transfer.weights.families import render_table
from transfer.weights.sources.zoo import render_zoo

DOCS = PROJECT_ROOT / "docs"
TABLES: Mapping[str, Callable[[], str]] = {
    "families": render_table,
    "zoo": render_zoo,
    "protocols": render_protocols,
    "benchmarks": render_benchmarks,
    "faults": render_faults,
    "digits": render_digits,
}
"""Name of a generated part → its text."""
PART = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class FillSettings:
    """What to do."""

    check: bool = False
    """Only compare."""


def main(arguments: Sequence[str]) -> int:
    """Fill every page; with check=true raise ValueError for those that would change."""
    _, overrides = split_arguments(arguments, [])
    settings = read_settings(FillSettings, None, overrides)
    stale = [path for path in sorted(DOCS.glob("*.md")) if fill(path.read_text()) != path.read_text()]
    if settings.check and stale:
        names = ", ".join(path.name for path in stale)
        raise ValueError(f"docs: {names} differ from the code; run `python -m tools.docs.fill_tables`")
    for path in stale:
        write_text(path, fill(path.read_text()))
        print(f"{_shorten(path)}: written")
    return 0


def fill(text: str) -> str:
    """Return the text of a page with every generated part as the code has it.

    Raises:
        ValueError: a part that no table is named after.

    """
    unknown = {name for _, name, _, _ in PART.findall(text)} - TABLES.keys()
    if unknown:
        raise ValueError(f"no table is named {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    return PART.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[4]}", text)


def _shorten(path: Path) -> str:
    return path.relative_to(PROJECT_ROOT).as_posix()


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
