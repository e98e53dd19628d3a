"""Config of a pretraining run: every field with its default and the source of the default.

Sources: [MoCo] facebookresearch/moco; [MoCHi] arXiv 2010.01028; [SynCo] arXiv 2410.02401; [SimCLR] arXiv 2002.05709;
[MoCo-v3] facebookresearch/moco-v3.
"""

from dataclasses import dataclass, field, replace
from typing import TypeVar

Value = TypeVar("Value")
FREE = "free"
"""Metadata key of fields whose value may change when a run is resumed; see `pretrain.continuation`."""


def free(default: Value) -> Value:
    """Return a field that affects the training result only by rounding, so that it may change on resume."""
    return field(default=default, metadata={FREE: True})


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Location of the images and how two views of each are made."""

    root: str = free("")
    """ImageNet layout: ROOT/train/<class>/*.JPEG and, for run.knn_every_epochs, ROOT/val/<class>/*.JPEG; or a flat
    folder of images without classes, ROOT or ROOT/train."""
    class_list: str = ""
    """imagenet100, or a text file with one class folder per line; empty: all classes."""
    cache: str = ""
    """Folder written by tools.pack_images; empty: decode the image files."""
    pipeline: str = "auto"
    """cpu (crops and photometrics in the workers), crops (photometrics on the device) or auto (crops on CUDA)."""
    augmentation: str = "moco_v2"
    """moco_v1, moco_v2, infomin, moco_v2_no_blur (images too small to be blurred, as in SimCLR on CIFAR-10), or
    crop_flip (no colour changes: the standard augmentation of supervised training)."""
    crop_px: int = 224
    """Side of a view in pixels."""
    min_scale: float = 0.2
    """Smallest fraction of the image area that a crop covers [MoCo]."""
    workers: int = free(8)
    """DataLoader processes per rank; 0 decodes in the main process."""
    skip_broken: bool = False
    """Replace an unreadable image with the next one and count it; false: stop with an error that names the file."""
    max_megapixels: float = 179.0
    """Refuse an image whose header declares more megapixels, before decoding it; one megapixel takes 3 MB."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Encoders, projection head and queue."""

    arch: str = "resnet50"
    """torchvision's name: resnet18, 34, 50, 101 or 152."""
    method: str = "moco"
    """moco (queue, momentum encoder), simclr (in-batch negatives) or supervised (cross-entropy with the classes of the
    training folders; no head, no mixing)."""
    zero_init_residual: bool = False
    """Initialise the scale of each residual block's last batch norm to 0, so that the block starts as the identity
    (Goyal et al., arXiv 1706.02677, section 5.1; MoCo-v3); a deep network then learns sooner in a short run."""
    head: str = "mlp"
    """mlp (MoCo-v2: Linear-ReLU-Linear, hidden width equal to the feature width), linear (MoCo-v1), or mlp_bn (batch
    norm after both layers, as in MoCo-v3, arXiv 2104.02057: prevents collapse in runs of a few hundred steps)."""
    dim: int = 128
    """D, the width of queries and keys [MoCo]."""
    queue_len: int = 65536
    """K, the number of keys in the queue [MoCo]; 16384 on ImageNet-100 [MoCHi]."""
    momentum: float = 0.999
    """m of the key encoder's moving average [MoCo]."""
    temperature: float = 0.2
    """tau [MoCo v2]; 0.07 in v1."""
    shuffle_bn: bool = True
    """Shuffle the global key batch before the key encoder, so that a key's batch statistics do not reveal its query
    [MoCo §3.3]; requires several ranks or `bn_groups` above 1."""
    bn_groups: int = 1
    """MoCo only: number of groups in which each rank encodes its images, each with its own batch statistics, as that
    many GPUs would; makes the shuffle effective on one GPU (MoCo's CIFAR-10 demo splits batch norm for this)."""
    sync_bn: bool = False
    """Synchronise batch statistics over the ranks instead of shuffling."""


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """Hard negative mixing: MoCHi (N, s, s'), SynCo's types and the variants that the paper compares with."""

    n: int = 0
    """N, the number of hardest negatives per query to mix from; 0 disables mixing [MoCHi §4]."""
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
    """Remove negatives of the query's class from the denominator and the mixes (requires labels) [MoCHi §3]."""
    mask_same_image: bool = False
    """Remove older keys of the query's image from the denominator and the mixes; false in the paper."""
    detach: bool = True
    """Treat the synthetic features as constants, as all public code does; false: the gradient also flows through q
    inside h' (MoCHi only)."""
    approximate: bool = False
    """Find the N hardest negatives approximately: faster, with a recall of about 95 %."""
    hcl_beta: float = 0.0
    """Beta of HCL (arXiv 2010.04592), which re-weights the real negatives by exp(beta t / tau); 0 disables it."""

    @property
    def is_synco(self) -> bool:
        """Whether the mixes are SynCo's six types instead of MoCHi's two."""
        return any(self.synco)

    @property
    def count(self) -> int:
        """Return M, the number of mixes per query while mixing is on."""
        return sum(self.synco) if self.is_synco else self.s + self.s_prime

    @property
    def is_on(self) -> bool:
        """Whether mixing is configured: N > 0 and at least one mix per query."""
        return self.n > 0 and self.count > 0

    def is_on_in(self, epoch: int, epochs: int) -> bool:
        """Whether `epoch` (0-based) of `epochs` mixes, i.e. lies neither in the warm-up nor in the cool-down."""
        return self.is_on and self.warmup_epochs <= epoch < epochs - self.cooldown_epochs

    def without_mixes(self) -> "MixingConfig":
        """Return this config without mixes; HCL's re-weighting, the oracle and the masks are kept."""
        return replace(self, s=0, s_prime=0, synco=())


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    name: str = "sgd"
    """sgd [MoCo], adamw or lars [MoCo-v3]."""
    lr: float = 0.03
    """Peak learning rate at a global batch of `lr_batch`; MoCo: 0.03 at 256."""
    lr_rule: str = "given"
    """How `lr` scales with `run.batch_size`: given (not at all), linear (lr x batch_size / lr_batch: for SGD, Goyal et
    al., arXiv 1706.02677) or sqrt (lr x sqrt(batch_size / lr_batch): for AdamW, Malladi et al., arXiv 2205.10287; for
    LARS at small batches [SimCLR, appendix B.1])."""
    lr_batch: int = 256
    """Global batch size to which `lr` refers if `lr_rule` is linear or sqrt."""
    momentum: float = 0.9
    """Momentum of SGD [MoCo] and LARS; beta1 of AdamW."""
    weight_decay: float = 1e-4
    """Applied as in each optimizer's source: sgd and adamw to all parameters, lars not to biases and batch norm (see
    pretrain/optimization/optimizers.py). 1e-4 with sgd [MoCo]; MoCo-v3: 0.1 with adamw, 1e-6 with lars."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly to its peak; 0 in MoCo, 10 epochs in SimCLR."""
    schedule: str = "cosine"
    """cosine (to 0) or step (x 0.1 at each of `milestones`) [MoCo]; linear (to 0), for short budgets (Li, Yumer and
    Ramanan, "Budgeted Training", arXiv 1905.04753)."""
    milestones: tuple[float, ...] = (0.6, 0.8)
    """Drops of the step schedule as fractions of all epochs: 120 and 160 of 200 in MoCo-v1."""
    per_step: bool = False
    """Update the rate every step instead of every epoch (the reference updates it per epoch); needed in runs of few
    epochs."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Device, precision and speed; `free` fields affect the training result only by rounding."""

    device: str = free("auto")
    """auto (cuda if there is one), cuda or cpu."""
    precision: str = free("auto")
    """fp32, bf16, fp16, or auto: bf16 on a CUDA device that supports it natively, fp16 on an older one (V100, T4), fp32
    on a CPU. fast: as auto, but bf16 on a CPU with bf16 instructions (AVX-512 BF16, AMX), which takes 0.56 of the time
    (ResNet-18, one core of an EPYC). The contrastive loss is always computed in float32."""
    tf32: bool = free(True)
    """Allow TF32 in CUDA matrix products and convolutions."""
    channels_last: bool = free(True)
    """Memory format of images and weights."""
    compile: bool = free(False)
    """torch.compile the query encoder."""
    gradient_checkpointing: bool = free(False)
    """Recompute the query encoder's activations in the backward pass: less memory, more time (batch norm's running
    statistics are updated twice per step)."""
    max_batch_per_rank: int = 0
    """Accumulate gradients over slices of at most this many images; 0: the rank's entire batch at once. Batch
    statistics are computed per slice, so this changes the training result."""
    threads: int = free(0)
    """Intra-op CPU threads; 0: torch's default."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length of the run, seed, checkpoints and logging."""

    out: str = free("")
    """Folder of the run: checkpoints/, metrics.jsonl, progress.json, tensorboard/, encoder.pt."""
    epochs: int = 200
    """Passes over the data; 0 writes the random initialisation as encoder.pt."""
    batch_size: int = 256
    """Global batch size, summed over all ranks and accumulation slices."""
    seed: int = 0
    """Seed of initial weights, sample order, augmentation and mixing."""
    checkpoint_minutes: float = free(15.0)
    """Maximum time between checkpoints; one is also written at the end of every epoch."""
    checkpoint_steps: int = free(0)
    """Steps between checkpoints; 0: by time and epoch only."""
    milestone_every_epochs: int = free(0)
    """Keep the checkpoint of every n-th epoch permanently; 0: keep only the newest two."""
    log_every_steps: int = free(20)
    """Steps between two lines of metrics.jsonl and TensorBoard."""
    knn_every_epochs: int = free(0)
    """Measure kNN accuracy on ROOT/val every n epochs; 0: never."""
    analyse_every_epochs: int = free(0)
    """Measure the hardness curve and the paper's other diagnostics of the negatives every n epochs; 0: never."""
    resume: bool = free(True)
    """Resume from the newest valid checkpoint in OUT/checkpoints."""
    profile_steps: int = free(0)
    """Steps to profile, after three warm-up steps; writes a trace and a table to OUT/profile/. 0: no profile."""
    wandb: bool = free(False)
    """Also log to Weights & Biases, under the same keys (requires the package wandb)."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    run: RunConfig = field(default_factory=RunConfig)
