"""Settings of the analyses of one or several encoders."""

from dataclasses import dataclass

SPACES = ("auto", "backbone", "head")


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """What to look at, and how much of it."""

    out: str = ""
    """Folder of the figures and the numbers behind them."""
    data: str = ""
    """ImageNet layout, ROOT/<split>/<class>/*; ROOT/imagenet/… is found as well."""
    split: str = "val"
    """Folder of ROOT with the images to look at."""
    class_list: str = ""
    """Text file with one class folder per line; empty: all classes."""
    images: int = 5000
    """Take so many images, classes evenly; 0: all."""
    resize_px: int = 256
    """Shorter side before the centre crop, in pixels."""
    crop_px: int = 224
    """Side of what the encoder sees, in pixels."""
    augmentation: str = "moco_v2"
    """Of the two views of an image, for the analyses of the proxy task."""
    min_scale: float = 0.2
    """Smallest share of the image's area that a view covers."""
    space: str = "auto"
    """Where queries and keys lie: head (projection), backbone (pooled features), or auto (head if all have one)."""
    temperature: float = 0.2
    """tau of the logits [MoCo v2]."""
    top: int = 1024
    """How many of the hardest negatives to look at [MoCHi, figure 2]."""
    n: int = 1024
    """N of the mixes that are drawn for the analyses; cut to the number of negatives."""
    s: int = 1024
    """s, pair mixes per query."""
    s_prime: int = 128
    """s', query mixes per query."""
    seed: int = 0
    """Of views and mixes."""
    batch: int = 128
    """Images per forward pass and queries compared at a time; changes nothing but speed and memory."""
    workers: int = 8
    """DataLoader processes; 0: the main process decodes."""
    device: str = "auto"
    """auto (cuda if there is one), cuda or cpu."""
    precision: str = "auto"
    """Of the encoder: fp32, bf16 or auto (bf16 on CUDA, fp32 on a CPU)."""
    threads: int = 0
    """Intra-op CPU threads; 0: torch's choice."""


def check_analysis_config(config: AnalysisConfig) -> None:
    """Raise ValueError with every mistake in the settings."""
    mistakes = []
    if not config.out:
        mistakes.append("out: no folder for the figures; add out=FOLDER")
    if not config.data:
        mistakes.append(f"data: no images; add data=ROOT, where ROOT/{config.split} holds one folder per class")
    if config.space not in SPACES:
        mistakes.append(f"space: got {config.space!r}; expected one of {', '.join(SPACES)}")
    if not 0 < config.crop_px <= config.resize_px:
        mistakes.append(f"crop_px={config.crop_px} must lie in 1 … resize_px={config.resize_px}")
    if not config.temperature > 0:
        mistakes.append(f"temperature: expected more than 0, got {config.temperature}")
    mistakes += [
        f"{key}: expected at least 1, got {getattr(config, key)}"
        for key in ("top", "n", "batch")
        if getattr(config, key) < 1
    ]
    if config.s < 0 or config.s_prime < 0 or config.s + config.s_prime < 1:
        mistakes.append(f"s={config.s}, s_prime={config.s_prime}: expected counts from 0, and at least one mix")
    if mistakes:
        raise ValueError("\n".join(mistakes))
