"""Convert a pretrained checkpoint into a proved backbone file, look into one, or prove a converted one again.

  python -m tools.convert_checkpoint IN OUT [to=…] [branch=…] [family=…] [layout=…] [metrics=…] [trust_pickle=true]
  python -m tools.convert_checkpoint inspect FILE [branch=…] [family=…] [trust_pickle=true]
  python -m tools.convert_checkpoint check FILE [SOURCE] [trust_pickle=true]

For example: python -m tools.convert_checkpoint runs/mochi/encoder.pt runs/mochi/backbone.pkl

to        detectron2 (.pkl or .pth; the default), torchvision, timm, moco, or safetensors (with a model card beside it)
branch    query (the default), key, teacher or student
family    whose checkpoint it is; recognised by its keys, needed only where two are possible
layout    any (Detectron2 matches names by their ends; the default), c4 or fpn (a detector's full names)
metrics   metrics.json of runs from these weights, for the model card; several: metrics=[a.json,b.json]
trust_pickle=true  accept a torch file that names other classes; they become empty stand-ins and are still not run

OUT.manifest.json says where the weights came from and what was proved. Exit code 2: refused, and nothing written.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings


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
    metrics: tuple[str, ...] = ()
    """Results for the model card."""
    trust_pickle: bool = False
    """Accept names beyond tensors and plain values in a torch file."""


def main(arguments: Sequence[str]) -> None:
    """Convert, inspect or check, by the first word."""
    words, overrides = split_arguments(arguments, ["IN", "OUT"], ["SOURCE"])
    settings = read_settings(ConvertSettings, None, overrides)
    if words[0] == "inspect":
        _inspect(words[1], settings)
    elif words[0] == "check":
        _check(words[1], words[2] if len(words) > 2 else None, settings)
    else:
        split_arguments(arguments, ["IN", "OUT"])
        _convert(words[0], words[1], settings)


def _convert(source: str, output: str, settings: ConvertSettings) -> None:
    from transfer.weights.convert import convert  # torch: --help must start at once
    from transfer.weights.manifest import manifest_path
    from transfer.weights.model_card import write_model_card

    if settings.metrics and settings.to != "safetensors":
        raise ValueError("metrics=… goes into the model card, which is written with to=safetensors only")
    manifest = convert(
        source,
        output,
        to=settings.to,
        family=settings.family,
        branch=settings.branch,
        trust_pickle=settings.trust_pickle,
        layout=settings.layout,
    )
    found = manifest.source
    print(f"source    {source}: {found['family']} ({found['reason']})")
    print(f"left out  {found['dropped']} tensors of heads and queues in the same dictionary")
    if found["filled"]:
        print(f"filled    {found['filled']} batch counters that the source does not hold, with 0")
    print(f"output    {output}: ResNet-{manifest.depth} for {settings.to}")
    print(f"matched   {manifest.matched} of {manifest.expected} tensors, bit by bit, both key sets equal")
    print(
        f"parity    {_format_parity(manifest.parity)} (torchvision on the source, {manifest.parity_by} on the output)"
    )
    print(f"manifest  {manifest_path(output)}")
    if settings.to == "safetensors":
        print(f"card      {write_model_card(output, manifest, settings.metrics)}")


def _inspect(path: str, settings: ConvertSettings) -> None:
    from transfer.weights.inspection import inspect_checkpoint  # torch: --help must start at once

    print(inspect_checkpoint(path, family=settings.family, branch=settings.branch, trust_pickle=settings.trust_pickle))


def _check(path: str, source: str | None, settings: ConvertSettings) -> None:
    from transfer.weights.convert import check_converted  # torch: --help must start at once

    manifest, compared = check_converted(path, source, trust_pickle=settings.trust_pickle)
    print(f"{path}: digest as in the manifest; {manifest.matched} of {manifest.expected} tensors; parity holds")
    print("compared with the source, tensor by tensor" if compared else "the source is not here: not compared with it")


def _format_parity(parity: dict[str, float]) -> str:
    return ", ".join(f"{stage} {difference:.1e}" for stage, difference in parity.items())


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
