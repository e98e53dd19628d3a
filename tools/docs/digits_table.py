"""The tables of docs/digits.md, from the chain file of the demo and the configs that it names."""

from collections.abc import Iterator

from pretrain.config import PretrainConfig
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.settings import read_settings
from tools.chain.plan.config import Backbone, ChainConfig, read_chain
from tools.make_digits import DigitsConfig

CHAIN = PROJECT_ROOT / "configs" / "chains" / "digits.yaml"


def render_digits() -> str:
    """Return two tables in Markdown: the demo's data, its pretrainings; then its measurements and question."""
    chain = read_chain(CHAIN)
    return "\n".join([*_list_data(chain), "", *_list_backbones(chain), "", *_list_measurements(chain)]) + "\n"


def _list_data(chain: ChainConfig) -> Iterator[str]:
    made = read_settings(DigitsConfig, None, chain.data.make)
    scenes = f"{made.scene_min_px} to {made.scene_max_px} px, at most {made.scene_max_digits} digits each"
    if made.scene_min_px == made.scene_max_px:
        scenes = (
            f"{made.scene_min_px} px, at most {made.scene_max_digits} digit{'s' * (made.scene_max_digits > 1)} each"
        )
    voc = f"{made.voc2007_trainval} + {made.voc2012_trainval} training scenes, {made.voc2007_test} test scenes"
    yield "| set | made for the demo | used for |"
    yield "|---|---|---|"
    yield (
        f"| ImageNet's layout | {made.imagenet_train:,} + {made.imagenet_val:,} images of one main digit, "
        f"{made.imagenet_px} px | pretraining; linear and kNN accuracy |"
    )
    yield f"| VOC's layout | {voc}, {scenes} | Faster R-CNN |"
    coco = f"{made.coco_train} training scenes, {made.coco_val} test scenes"
    yield f"| COCO's layout | {coco} with masks, {scenes} | Mask R-CNN |"


def _list_backbones(chain: ChainConfig) -> Iterator[str]:
    yield "| backbone | config in `configs/pretrain/` | what it is | seeds |"
    yield "|---|---|---|---|"
    for name, backbone in chain.backbones.items():
        file = backbone.pretrain.rpartition("/")[2]
        seeds = ", ".join(map(str, backbone.seeds)) or "that of the config"
        yield f"| {name} | `{file}` | {_describe(backbone)} | {seeds} |"


def _describe(backbone: Backbone) -> str:
    config = read_settings(PretrainConfig, PROJECT_ROOT / backbone.pretrain, backbone.set)
    model, mixing = config.model, config.mixing
    if not config.run.epochs:
        return f"{model.arch}, not trained"
    parts = [f"{model.arch}, {model.method}, {config.run.epochs} epochs, batch {config.run.batch_size}"]
    parts.append(f"{config.data.crop_px} px crops of at least {config.data.min_scale:g} of the image")
    parts.append(f"{config.optimizer.name} at {config.optimizer.lr:g}")
    if model.method == "moco":
        parts.append(f"queue {model.queue_len}, momentum {model.momentum:g}, temperature {model.temperature:g}")
    if mixing.is_on:
        parts.append(f"mixing ({mixing.n}, {mixing.s}, {mixing.s_prime})")
    return "; ".join(parts)


def _list_measurements(chain: ChainConfig) -> Iterator[str]:
    for name, protocol in chain.protocols.items():
        count = len(chain.seeds if protocol.seeds is None else protocol.seeds)
        file = protocol.config.rpartition("/")[2]
        once = "once" if protocol.kind == "knn" else f"with {count} seed{'s' * (count > 1)}"
        yield f"- `{name}`: `{file}`, {once} for each pretraining;"
    pairs = "; ".join(f"is {first} better than {second}?" for first, second in chain.compare)
    ends = chain.controls
    yield f"- the question: {pairs} The control: {ends.ceiling} must beat {ends.floor}."
