"""Convert a pretrained checkpoint into a verified backbone file, inspect a checkpoint, or verify a converted file.

  python -m tools.convert_checkpoint IN OUT [to=…] [branch=…] [family=…] [prefix=…] [pixel_format=…] [float32=true]
                                            [layout=…] [metrics=…] [licence=…] [push=…] [overwrite=true]
                                            [trust_pickle=true]
  python -m tools.convert_checkpoint inspect FILE [branch=…] [family=…] [prefix=…] [pixel_format=…] [trust_pickle=true]
  python -m tools.convert_checkpoint check FILE [SOURCE] [trust_pickle=true]

IN is a file, zoo:NAME, hf://OWNER/NAME[/FILE] or https://…[#sha256=DIGITS] (fetched once into $MOCHI_CACHE).
For example: python -m tools.convert_checkpoint runs/mochi/encoder.pt runs/mochi/backbone.pkl

to        output format: detectron2 (.pkl or .pth; the default), torchvision, timm, moco, safetensors (with a model card
          beside it), or hub-folder (OUT is a folder that timm loads as local-dir: or, once uploaded, as hf-hub:)
branch    query (the default), key, teacher or student
family    family of the checkpoint; detected from its keys, needed only if several match
prefix    CONTAINER:PREFIX, the encoder's location in a file of no known scheme; inspect lists the candidates
pixel_format  pixel format that the weights expect: torchvision, msra (BGR, std 1, stride in the 1×1), bgr or half;
          required if a Detectron2-style file does not record it
float32=true  convert float16, bfloat16 and float64 weights to float32
layout    any (Detectron2 matches names by suffix; the default), c4 or fpn (a detector's full names)
metrics   metrics.json of runs from these weights, for the model card; several: metrics=[a.json,b.json]
licence   for the model card, as the hub's identifier: licence=cc-by-nc-4.0
push      OWNER/NAME on the Hugging Face Hub, for to=hub-folder; lists the uploads, and uploads with dry=false
overwrite=true  replace an output that was made from another checkpoint
trust_pickle=true  accept a torch file that names other classes; they are read as dictionaries, never executed

OUT.manifest.json records the origin of the weights and the verification. Exit code 2: refused, nothing written.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """Options of the command."""

    to: str = "detectron2"
    """Output format: detectron2, torchvision, timm, moco, safetensors or hub-folder."""
    branch: str | None = None
    """query, key, teacher or student; none: query."""
    family: str | None = None
    """Family of the checkpoint; none: detected."""
    layout: str = "any"
    """any, c4 or fpn."""
    metrics: tuple[str, ...] = ()
    """metrics.json files for the model card."""
    licence: str = ""
    """Licence of the weights, for the model card."""
    push: str = ""
    """OWNER/NAME to upload a hub folder to."""
    dry: bool = True
    """With push: list the files and upload nothing."""
    prefix: str | None = None
    """CONTAINER:PREFIX of the encoder; none: detected."""
    pixel_format: str | None = None
    """torchvision, msra, bgr or half; none: as recorded in the file."""
    float32: bool = False
    """Convert float16, bfloat16 and float64 weights to float32."""
    overwrite: bool = False
    """Replace an output that was made from another checkpoint."""
    trust_pickle: bool = False
    """Accept torch files that name classes other than tensors and plain values."""

    def reading(self) -> dict[str, Any]:
        """Return the options for reading the checkpoint, see `transfer.weights.backbone.ReadOptions`."""
        names = ("family", "branch", "prefix", "pixel_format", "float32", "trust_pickle")
        return {name: getattr(self, name) for name in names}


def main(arguments: Sequence[str]) -> None:
    """Convert, inspect or check, depending on the first argument."""
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
    from transfer.weights.convert import convert  # torch is slow to import; --help must be instant
    from transfer.weights.hub_folder import WEIGHTS, push_folder, write_hub_folder
    from transfer.weights.manifest import manifest_path
    from transfer.weights.model_card import write_model_card

    if (settings.metrics or settings.licence) and settings.to not in ("safetensors", "hub-folder"):
        raise ValueError("metrics= and licence= go into the model card, written with to=safetensors or hub-folder only")
    if settings.push and settings.to != "hub-folder":
        raise ValueError("push= uploads a hub folder; add to=hub-folder")
    options = {"layout": settings.layout, "overwrite": settings.overwrite, **settings.reading()}
    if settings.to == "hub-folder":
        manifest = write_hub_folder(source, output, settings.metrics, licence=settings.licence, **options)
        weights = f"{output}/{WEIGHTS}"
    else:
        manifest, weights = convert(source, output, to=settings.to, **options), output
    found = manifest.source
    print(f"source    {source}: {found['family']} ({found['reason']})")
    print(f"left out  {found['dropped']} tensors of heads and queues in the same dictionary")
    if found["filled"]:
        print(f"filled    {found['filled']} counters and statistics that the source does not hold")
    print(f"assumed   {manifest.assumed}")
    print(f"output    {output}: ResNet-{manifest.depth} for {settings.to}")
    print(f"matched   {manifest.matched} of {manifest.expected} tensors, bit by bit, both key sets equal")
    print(
        f"parity    {_format_parity(manifest.parity)} (torchvision on the source, {manifest.parity_by} on the output)"
    )
    print(f"manifest  {manifest_path(weights)}")
    if settings.to == "safetensors":
        print(f"card      {write_model_card(output, manifest, settings.metrics, licence=settings.licence)}")
    if settings.push:
        print("\n".join(push_folder(output, settings.push, dry=settings.dry)))


def _inspect(path: str, settings: ConvertSettings) -> None:
    from transfer.weights.inspection import inspect_checkpoint  # torch is slow to import; --help must be instant

    print(inspect_checkpoint(path, **settings.reading()))


def _check(path: str, source: str | None, settings: ConvertSettings) -> None:
    from transfer.weights.convert import check_converted  # torch is slow to import; --help must be instant

    manifest, compared = check_converted(path, source, trust_pickle=settings.trust_pickle)
    print(f"{path}: digest as in the manifest; {manifest.matched} of {manifest.expected} tensors; parity holds")
    print("compared with the source, tensor by tensor" if compared else "source not found: not compared with it")


def _format_parity(parity: dict[str, float]) -> str:
    return ", ".join(f"{stage} {difference:.1e}" for stage, difference in parity.items())


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
