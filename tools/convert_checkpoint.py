"""Convert a pretrained checkpoint into a proved backbone file, look into one, or prove a converted one again.

  python -m tools.convert_checkpoint IN OUT [to=…] [branch=…] [family=…] [layout=…] [trust_pickle=true]
  python -m tools.convert_checkpoint inspect FILE [branch=…] [family=…] [trust_pickle=true]
  python -m tools.convert_checkpoint check FILE [SOURCE]

  python -m tools.convert_checkpoint runs/mochi/encoder.pt runs/mochi/backbone.pkl

to      detectron2 (.pkl or .pth; the default), torchvision, timm, moco, safetensors (with a model card beside it)
branch  query (default), key, teacher, student
family  recognised; give it where two are possible
layout  any (Detectron2 matches names by their ends; the default), c4 or fpn (a detector's full names)
trust_pickle=true  accept a torch file that names other classes; they become empty stand-ins
metrics=FILE       a result's metrics.json for the model card of to=safetensors

OUT.manifest.json says where the weights came from and what was proved. Exit code 2: refused, and nothing written.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.settings import read_settings
from tools.command_line import run_command, split_arguments


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """What key=value may say."""

    to: str = "detectron2"
    """detectron2, torchvision, timm, moco or safetensors."""
    branch: str | None = None
    """query, key, teacher or student; none: the query."""
    family: str | None = None
    """Whose checkpoint it is; none: recognised."""
    layout: str = "any"
    """any, c4 or fpn."""
    trust_pickle: bool = False
    """Accept names beyond tensors and plain values in a torch file."""


def main(arguments: Sequence[str]) -> int:
    """Convert."""
    words, overrides = split_arguments(arguments, ["IN", "OUT"])
    settings = read_settings(ConvertSettings, None, overrides)
    from transfer.convert import convert  # torch: --help must start at once

    manifest = convert(
        words[0],
        words[1],
        to=settings.to,
        family=settings.family,
        branch=settings.branch,
        trust_pickle=settings.trust_pickle,
        layout=settings.layout,
    )
    print(f"{words[0]}: {manifest.source['reason']}")
    print(f"{words[1]}: {manifest.matched} of {manifest.expected} tensors of a ResNet-{manifest.depth}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
