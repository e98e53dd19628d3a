"""List every key of a chain file or of a tool's config: type, unit, default and meaning.

  python -m tools.settings.list_settings pretrain|chain|linear|knn|analyse|convert [WORD] [schema=true]

With WORD, only the keys whose name or meaning contains it; schema=true prints the JSON schema with which an editor
completes and checks a file (first line of the file: # yaml-language-server: $schema=FILE).

Example: python -m tools.settings.list_settings chain time   # keys of configs/chains/*.yaml about time
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.runtime.command_line import UsageError, run_command, split_arguments
from pretrain.runtime.setting_docs import write_json_schema, write_settings
from pretrain.runtime.settings import read_settings

SCHEMAS = {
    "pretrain": ("pretrain.config", "PretrainConfig"),
    "chain": ("tools.chain.plan.config", "ChainConfig"),
    "linear": ("transfer.probes.linear_heads", "LinearConfig"),
    "knn": ("transfer.probes.knn_run", "KnnConfig"),
    "analyse": ("transfer.analysis.config", "AnalysisConfig"),
    "convert": ("tools.convert_checkpoint", "ConvertSettings"),
}
"""Command → module and dataclass of its config."""


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """Output options."""

    schema: bool = False
    """Print the JSON schema for editors."""


def main(arguments: Sequence[str]) -> int:
    """Print the config keys of a command."""
    words, overrides = split_arguments(arguments, ["COMMAND"], ["WORD"])
    if words[0] not in SCHEMAS:
        raise UsageError(f"expected one of {', '.join(SCHEMAS)}; got {words[0]!r}")
    module, name = SCHEMAS[words[0]]
    schema = getattr(importlib.import_module(module), name)  # only this one: some need torch
    options = read_settings(KeyOptions, None, overrides)
    print(write_json_schema(schema, f"mochi {words[0]}") if options.schema else write_settings(schema, *words[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
