"""Every setting of a pretraining run, with its default and where the default comes from.

Sources: [MoCo] facebookresearch/moco; [MoCHi] arXiv 2010.01028; [SynCo] arXiv 2410.02401; [SimCLR] arXiv 2002.05709.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images are and how two views are made of each."""

    root: str = ""
    """ImageNet layout: ROOT/train/<class>/*.JPEG and, for the monitors, ROOT/val/<class>/*.JPEG; or a flat folder of
    images without classes, ROOT or ROOT/train."""
    class_list: str = ""
    """imagenet100, or a text file with one class folder per line; empty: all classes."""
    cache: str = ""
    """Folder made by tools.pack_images; empty: decode the JPEG files."""
    pipeline: str = "auto"
    """cpu (crops and photometrics in the workers), crops (photometrics on the device) or auto (crops on CUDA)."""
    augmentation: str = "moco_v2"
    """moco_v1, moco_v2, infomin, or moco_v2_no_blur (images too small to be blurred, as in SimCLR on CIFAR-10)."""
    crop_px: int = 224
    """Side of a view in pixels."""
    min_scale: float = 0.2
    """Smallest share of the image's area that a crop covers [MoCo]."""
    workers: int = 8
    """DataLoader processes per rank; 0 decodes in the main process."""
    skip_broken: bool = False
    """Replace an unreadable image by its successor and count it, instead of stopping with its name."""
    max_megapixels: float = 179.0
    """Refuse an image file that declares more, before it is decoded: a megapixel takes 3 MB."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Encoders, head and queue."""

    arch: str = "resnet50"
    """torchvision's name: resnet18, 34, 50, 101 or 152."""
    method: str = "moco"
    """moco (queue, momentum encoder) or simclr (in-batch negatives)."""
    head: str = "mlp"
    """mlp (MoCo-v2: Linear-ReLU-Linear, hidden width as the features), linear (MoCo-v1), or mlp_bn (batch norm
    after both layers, as in MoCo-v3, arXiv 2104.02057: a run of some hundred steps does not collapse)."""
    dim: int = 128
    """D, the width of queries and keys [MoCo]."""
    queue_len: int = 65536
    """K, the number of keys in the queue [MoCo]; 16384 on ImageNet-100 [MoCHi]."""
    momentum: float = 0.999
    """m of the key encoder's moving average [MoCo]."""
    temperature: float = 0.2
    """tau [MoCo v2]; 0.07 in v1."""
    shuffle_bn: bool = True
    """Shuffle the global key batch before the key encoder, so that a key's batch statistics do not give away its query
    [MoCo §3.3]; it takes several ranks or `bn_groups`."""
    bn_groups: int = 1
    """MoCo: encode each rank's images in so many groups, each with batch statistics of its own, as so many GPUs would:
    what makes the shuffle work on one GPU (MoCo's CIFAR-10 demo splits batch norm for this)."""
    sync_bn: bool = False
    """Synchronise batch statistics over the ranks, in place of shuffling."""


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """Hard negative mixing: MoCHi(N, s, s'), SynCo's types, and what the paper compares them with."""

    n: int = 0
    """N, how many of the hardest negatives of each query may be mixed; 0 turns mixing off [MoCHi §4]."""
    s: int = 0
    """s, pair mixes per query: normalize(a n_i + (1-a) n_j), a ~ U(0,1)."""
    s_prime: int = 0
    """s', query mixes per query: normalize(b q + (1-b) n_j), b ~ U(0,0.5)."""
    synco: tuple[int, ...] = ()
    """SynCo's six counts (interpolation, extrapolation, mixup, noise, perturbed, adversarial); empty: MoCHi."""
    warmup_epochs: int = 0
    """Epochs without mixing at the start: 10 on ImageNet-100, 15 on ImageNet-1K [MoCHi, as reported]."""
    cooldown_epochs: int = 0
    """Epochs without mixing at the end."""
    oracle: bool = False
    """Remove queue entries of the query's class from the denominator and the mixes (needs labels) [MoCHi §3]."""
    mask_same_image: bool = False
    """Remove the query image's own older keys from the denominator and the mixes; off in the paper."""
    detach: bool = True
    """Stop the gradient at the synthetic features (all public code); off: also through q inside h'."""
    approximate: bool = False
    """Find the hardest N approximately; faster, recall about 95 %, never the default."""
    hcl_beta: float = 0.0
    """Re-weight the real negatives by exp(beta t / tau) as HCL does (arXiv 2010.04592); 0: off."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """SGD and its schedule."""

    lr: float = 0.03
    """At the global batch of `run.batch_size`; MoCo: 0.03 at 256."""
    lr_rule: str = "given"
    """given (lr as it stands) or linear (lr x batch_size / 256)."""
    momentum: float = 0.9
    """SGD momentum [MoCo]."""
    weight_decay: float = 1e-4
    """On all parameters [MoCo]."""
    schedule: str = "cosine"
    """cosine (to 0) or step (x 0.1 at each of `milestones`) [MoCo]."""
    milestones: tuple[float, ...] = (0.6, 0.8)
    """Where the step schedule drops, as shares of all epochs: 120 and 160 of 200 in MoCo-v1."""
    per_step: bool = False
    """Move the rate every step instead of every epoch (the reference moves it per epoch)."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How fast and on what; nothing here changes what is learned, up to rounding."""

    device: str = "auto"
    """auto (cuda if there is one), cuda or cpu."""
    precision: str = "auto"
    """fp32, bf16, fp16, or auto (bf16 on CUDA, fp32 on a CPU). The contrastive head stays in float32."""
    tf32: bool = True
    """Let CUDA matrix products round to TF32."""
    channels_last: bool = True
    """Memory format of images and weights."""
    compile: bool = False
    """torch.compile the query encoder."""
    gradient_checkpointing: bool = False
    """Recompute the query encoder's activations in the backward: less memory, more time (BN moves twice)."""
    max_batch_per_rank: int = 0
    """Accumulate gradients over slices of at most this many images; 0: the whole share of the rank at once."""
    threads: int = 0
    """Intra-op CPU threads; 0: torch's choice."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length, seeds, files."""

    out: str = ""
    """Folder of the run: checkpoints/, metrics.jsonl, progress.json, tensorboard/, encoder.pt."""
    epochs: int = 200
    """Passes over the data; 0 writes the random initialisation as encoder.pt."""
    batch_size: int = 256
    """Global batch: over all ranks and accumulation slices."""
    seed: int = 0
    """Of weights, order, augmentation and mixing."""
    checkpoint_minutes: float = 15.0
    """Longest time between two checkpoints; one is also written at the end of every epoch."""
    checkpoint_steps: int = 0
    """Write a checkpoint every so many steps; 0: by time and epoch only."""
    milestone_every_epochs: int = 0
    """Keep the checkpoint of every n-th epoch for ever; 0: only the newest two and the last."""
    log_every_steps: int = 20
    """Steps between two lines of metrics.jsonl and TensorBoard."""
    knn_every_epochs: int = 0
    """kNN accuracy on ROOT/val every n epochs; 0: never."""
    analyse_every_epochs: int = 0
    """Hardness histogram and the paper's other monitors of queue or SimCLR batch, every n epochs; 0: never."""
    resume: bool = True
    """Continue from the newest valid checkpoint in OUT/checkpoints."""
    profile_steps: int = 0
    """Profile so many steps, after three that warm up: OUT/profile/ gets a trace and a table; 0: none."""
    wandb: bool = False
    """Also log to Weights & Biases, under the same keys (needs the package wandb)."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    run: RunConfig = field(default_factory=RunConfig)
