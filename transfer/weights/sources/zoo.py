"""Public ResNet checkpoints by name: address, digest, licence and source."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class PublicCheckpoint:
    """One published checkpoint."""

    url: str
    digest: str = ""
    """"sha256:…" or "md5:…" with the first digits as published; empty: none is published."""
    megabytes: float | None = None
    """File size in MiB as published; None: not published."""
    licence: str
    source: str
    """Public file that contains the address."""
    options: dict[str, str] = field(default_factory=dict)
    """Options that the conversion needs, such as the branch."""


_FACEBOOK = "https://dl.fbaipublicfiles.com"
_PYTORCH = "https://download.pytorch.org/models"
_NON_COMMERCIAL = "CC-BY-NC-4.0"


def _moco(version: str, epochs: int, md5: str) -> PublicCheckpoint:
    name = f"moco_{version}_{epochs}ep"
    return PublicCheckpoint(
        url=f"{_FACEBOOK}/moco/moco_checkpoints/{name}/{name}_pretrain.pth.tar",
        digest=f"md5:{md5}",
        licence=_NON_COMMERCIAL,
        source="facebookresearch/moco README.md",
    )


def _swav(name: str) -> PublicCheckpoint:
    return PublicCheckpoint(
        url=f"{_FACEBOOK}/deepcluster/{name}_pretrain.pth.tar",
        licence="see LICENSE of facebookresearch/swav",
        source="facebookresearch/swav README.md",
    )


def _torchvision(depth: int, digest: str, megabytes: float) -> PublicCheckpoint:
    return PublicCheckpoint(
        url=f"{_PYTORCH}/resnet{depth}-{digest}.pth",
        digest=f"sha256:{digest}",
        megabytes=megabytes,
        licence="BSD-3-Clause (code); trained on ImageNet",
        source="pytorch/vision torchvision/models/resnet.py",
    )


ZOO: dict[str, PublicCheckpoint] = {
    "moco-v1-200ep": _moco("v1", 200, "b251726a"),
    "moco-v2-200ep": _moco("v2", 200, "59fd9945"),
    "moco-v2-800ep": _moco("v2", 800, "a04e12f8"),
    **{
        f"moco-v3-r50-{epochs}ep": PublicCheckpoint(
            url=f"{_FACEBOOK}/moco-v3/r-50-{epochs}ep/r-50-{epochs}ep.pth.tar",
            licence=_NON_COMMERCIAL,
            source="facebookresearch/moco-v3 CONFIG.md",
        )
        for epochs in (100, 300, 1000)
    },
    "simsiam-100ep": PublicCheckpoint(
        url=f"{_FACEBOOK}/simsiam/models/100ep/pretrain/checkpoint_0099.pth.tar",
        licence=_NON_COMMERCIAL,
        source="facebookresearch/simsiam README.md",
    ),
    **{f"swav-{epochs}ep": _swav(f"swav_{epochs}ep") for epochs in (100, 200, 400, 800)},
    "deepcluster-v2-800ep": _swav("deepclusterv2_800ep"),
    "dino-r50": PublicCheckpoint(
        url=f"{_FACEBOOK}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
        licence="Apache-2.0",
        source="facebookresearch/dino README.md",
    ),
    "barlow-twins-1000ep": PublicCheckpoint(
        url=f"{_FACEBOOK}/barlowtwins/ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051/resnet50.pth",
        licence="see LICENSE of facebookresearch/barlowtwins",
        source="facebookresearch/barlowtwins hubconf.py",
    ),
    "vicreg-1000ep": PublicCheckpoint(
        url=f"{_FACEBOOK}/vicreg/resnet50.pth",
        licence="MIT",
        source="facebookresearch/vicreg README.md, hubconf.py",
    ),
    "infomin-800ep": PublicCheckpoint(
        url="https://www.dropbox.com/sh/87d24jqsl6ra7t2/AAAzMTynP3Qc8mIE4XWkgILUa/InfoMin_800.pth?dl=1",
        licence="see HobbitLong/PyContrast",
        source="HobbitLong/PyContrast pycontrast/docs/MODEL_ZOO.md names the file; transfer benchmarks its address",
    ),
    "msra-r50": PublicCheckpoint(
        url=f"{_FACEBOOK}/detectron2/ImageNetPretrained/MSRA/R-50.pkl",
        licence="see KaimingHe/deep-residual-networks",
        source="facebookresearch/detectron2 MODEL_ZOO.md",
    ),
    "torchvision-r18-v1": _torchvision(18, "f37072fd", 44.661),
    "torchvision-r34-v1": _torchvision(34, "b627a593", 83.275),
    "torchvision-r50-v1": _torchvision(50, "0676ba61", 97.781),
    "torchvision-r50-v2": _torchvision(50, "11ad3fa6", 97.79),
    "torchvision-r101-v1": _torchvision(101, "63fe2227", 170.511),
    "torchvision-r101-v2": _torchvision(101, "cd907fc2", 170.53),
    "torchvision-r152-v1": _torchvision(152, "394f9c45", 230.434),
    "torchvision-r152-v2": _torchvision(152, "f82ba261", 230.474),
}
"""Checkpoints of PixPro, DenseCL and others have no direct address; download these manually."""


def render_zoo() -> str:
    """Return the checkpoints as the Markdown table shown in the documentation."""
    lines = ["| name | digest | MiB | licence | address stands in |", "|---|---|---|---|---|"]
    for name, entry in ZOO.items():
        digest = f"`{entry.digest}`" if entry.digest else "–"
        lines.append(f"| `zoo:{name}` | {digest} | {entry.megabytes or '–'} | {entry.licence} | {entry.source} |")
    return "\n".join(lines) + "\n"
