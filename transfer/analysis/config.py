"""Config of the analyses of one or several encoders."""

from dataclasses import dataclass

SPACES = ("auto", "backbone", "head")


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """Which images, views and negatives the analyses use."""

    out: str = ""
    """Folder of the figures and their tables."""
    data: str = ""
    """Root in ImageNet's layout, ROOT/<split>/<class>/* or ROOT/imagenet/<split>/<class>/*."""
    split: str = "val"
    """Folder of ROOT with the images to analyse."""
    class_list: str = ""
    """Text file with one class folder per line; empty: all classes."""
    images: int = 5000
    """Number of images to use, spread evenly over the classes; 0: all."""
    resize_px: int = 256
    """Shorter side before the centre crop, in pixels."""
    crop_px: int = 224
    """Side of the encoder's input, in pixels."""
    augmentation: str = "moco_v2"
    """Augmentation recipe of the two views of an image, for the analyses of the proxy task."""
    min_scale: float = 0.2
    """Minimum share of the image's area that a view covers."""
    space: str = "auto"
    """Space of queries and keys: head (projection), backbone (pooled features) or auto (head if all have one)."""
    temperature: float = 0.2
    """tau of the logits [MoCo v2]."""
    top: int = 1024
    """Number of hardest negatives to analyse per query [MoCHi, figure 2]."""
    n: int = 1024
    """N, hardest negatives that mixes are drawn from; limited to the number of negatives."""
    s: int = 1024
    """s, pair mixes per query."""
    s_prime: int = 128
    """s', query mixes per query."""
    seed: int = 0
    """Seed of views and mixes."""
    batch: int = 128
    """Images per forward pass and queries per block; affects speed and memory only."""
    workers: int = 8
    """DataLoader processes; 0: the main process decodes."""
    device: str = "auto"
    """auto (cuda if available), cuda or cpu."""
    precision: str = "auto"
    """Precision of the encoder: fp32, bf16 or auto (bf16 on a CUDA device that supports it, else fp32)."""
    threads: int = 0
    """Intra-op CPU threads; 0: torch's default."""


def check_analysis_config(config: AnalysisConfig) -> None:
    """Raise ValueError that lists every mistake in the config."""
    mistakes = []
    if not config.out:
        mistakes.append("out: no output folder; add out=FOLDER")
    if not config.data:
        mistakes.append(f"data: no image folder; add data=ROOT, where ROOT/{config.split} holds one folder per class")
    if config.space not in SPACES:
        mistakes.append(f"space: got {config.space!r}; expected one of {', '.join(SPACES)}")
    if not 0 < config.crop_px <= config.resize_px:
        mistakes.append(f"crop_px={config.crop_px} must be in 1 … resize_px={config.resize_px}")
    if not config.temperature > 0:
        mistakes.append(f"temperature: expected more than 0, got {config.temperature}")
    mistakes += [
        f"{key}: expected at least 1, got {getattr(config, key)}"
        for key in ("top", "n", "batch")
        if getattr(config, key) < 1
    ]
    if config.s < 0 or config.s_prime < 0 or config.s + config.s_prime < 1:
        mistakes.append(
            f"s={config.s}, s_prime={config.s_prime}: expected counts of at least 0 with a sum of at least 1"
        )
    if mistakes:
        raise ValueError("\n".join(mistakes))
