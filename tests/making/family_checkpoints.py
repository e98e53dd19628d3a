"""Checkpoints in the key scheme of every known family, of a ResNet with random values.

All tensors are views of one buffer, which torch.save writes once, so a ResNet-50's file has 10 MB instead of 100.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transfer.weights.resnet_names import detectron2_name, expected_shapes

State = dict[str, Tensor]


@cache
def buffers(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(2_500_000, generator=generator) * 0.02
    return weights, torch.rand(8192, generator=generator) + 0.5


@cache
def make_state(depth: int = 18, seed: int = 0) -> State:
    """Return the full state of a ResNet: random weights, statistics in [0.5, 1.5), counters of 1000."""
    weights, statistics = buffers(seed)
    state, offset = {}, 0
    for name, shape in expected_shapes(depth).items():
        count = torch.Size(shape).numel()
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000)
            continue
        offset = (offset + 977) % 4096
        source = weights if len(shape) == 4 else statistics
        state[name] = source[offset : offset + count].view(shape)
    return state


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def sequential(state: State) -> State:
    children = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {f"{children[name.split('.', 1)[0]]}.{name.split('.', 1)[1]}": tensor for name, tensor in state.items()}


def without_counters(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def head(*names: str) -> State:
    return {name: torch.ones(4, 4) for name in names}


def fc(prefix: str = "") -> State:
    return {f"{prefix}fc.weight": torch.ones(10, 512), f"{prefix}fc.bias": torch.ones(10)}


Maker = Callable[[State, State], dict[str, Any]]

MAKERS: dict[str, Maker] = {
    "moco": lambda q, k: {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": under("module.encoder_q.", q)
        | under("module.encoder_k.", k)
        | head("module.encoder_q.fc.0.weight", "module.encoder_q.fc.2.bias", "module.encoder_k.fc.0.weight")
        | {"module.queue": torch.ones(8, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.03}]},
    },
    "moco (our encoder.pt)": lambda q, _: {
        "state_dict": under("module.encoder_q.", q) | head("module.encoder_q.fc.0.weight"),
        "arch": "resnet50",
        "epoch": 7,
        "config": {"model": {"method": "moco"}, "mixing": {"n": 1024, "s": 512, "s_prime": 256}},
    },
    "moco-v3": lambda q, k: {
        "state_dict": under("module.base_encoder.", q)
        | under("module.momentum_encoder.", k)
        | head("module.base_encoder.fc.0.weight", "module.momentum_encoder.fc.0.weight", "module.predictor.0.weight")
    },
    "simsiam": lambda q, _: {
        "state_dict": under("module.encoder.", q) | head("module.encoder.fc.0.weight", "module.predictor.0.weight")
    },
    "pixpro": lambda q, k: {
        "model": under("module.encoder.", q)
        | under("module.encoder_k.", k)
        | head("module.projector.linear1.weight", "module.projector_k.bn1.weight", "module.value_transform.weight")
    },
    "soco": lambda q, k: {
        "model": under("module.encoder.", q)
        | under("module.encoder_k.", k)
        | head(
            "module.neck.lateral_convs.0.conv.weight", "module.neck_k.fpn_convs.0.conv.weight", "module.head.fc1.bias"
        )
        | head("module.projector.linear1.weight", "module.predictor.linear1.weight", "module.head_k.fc1.bias")
    },
    "pycontrast": lambda q, k: {
        "model": under("module.encoder.", q) | head("module.head.0.weight"),
        "model_ema": under("encoder.", k) | head("head.0.weight"),
        "contrast": {"memory": torch.ones(4, 4)},
    },
    "openselfsup (DenseCL)": lambda q, k: {
        "meta": {"epoch": 200},
        "state_dict": under("backbone.", q)
        | under("encoder_q.0.", q)
        | under("encoder_k.0.", k)
        | head("encoder_q.1.mlp.0.weight", "encoder_q.1.mlp2.0.weight", "encoder_k.1.mlp.0.weight", "queue", "queue2"),
    },
    "solo-learn": lambda q, k: {
        "pytorch-lightning_version": "1.6.0",
        "state_dict": under("backbone.", q)
        | under("momentum_backbone.", k)
        | head("projector.0.weight", "momentum_projector.0.weight", "classifier.weight", "queue"),
    },
    "lightly": lambda q, k: {
        "pytorch-lightning_version": "2.0.0",
        "state_dict": under("backbone.", q) | under("key_backbone.", k) | head("projection_head.layers.0.weight"),
    },
    "lightly (children)": lambda q, k: {
        "pytorch-lightning_version": "2.0.0",
        "state_dict": under("backbone.", sequential(q))
        | under("backbone_momentum.", sequential(k))
        | head("projection_head.layers.0.weight", "projection_head_momentum.layers.0.weight"),
    },
    "hard-negative-mixing": lambda q, k: {
        "model": under("encoder_q.", q)
        | under("encoder_k.", k)
        | head("encoder_q.fc.0.weight", "encoder_k.fc.0.weight", "queue")
        | {"queue_file": torch.full((1, 16), -1, dtype=torch.int32)},
        "optimizer": {},
        "step": 1000,
    },
    "lightly (plain PyTorch)": lambda q, k: (
        under("backbone.", sequential(q))
        | under("backbone_momentum.", sequential(k))
        | head(
            "projection_head.layers.0.weight",
            "projection_head_momentum.layers.0.weight",
            "prediction_head.layers.0.bias",
        )
    ),
    "lightly (densecl)": lambda q, k: (
        under("backbone.", sequential(q))
        | under("backbone_momentum.", sequential(k))
        | head("projection_head_global.layers.0.weight", "projection_head_local_momentum.layers.0.weight")
    ),
    "lightly (smog)": lambda q, k: (
        under("backbone.", sequential(q))
        | under("backbone_momentum.", sequential(k))
        | head("projection_head.layers.0.weight", "projection_head_momentum.layers.0.weight", "smog.group_features")
    ),
    "lightly (mocov2 benchmark)": lambda q, k: {
        "pytorch-lightning_version": "2.0.0",
        "state_dict": under("query_backbone.", q)
        | under("backbone.", k)
        | head("projection_head.layers.0.weight", "query_projection_head.layers.0.weight", "criterion.memory_bank.bank")
        | head("online_classifier.linear.weight"),
    },
    "lightly (byol benchmark)": lambda q, k: {
        "pytorch-lightning_version": "2.0.0",
        "state_dict": under("backbone.", q)
        | under("teacher_backbone.", k)
        | head("teacher_projection_head.layers.0.weight", "online_classifier.linear.weight"),
    },
    "mmselfsup (mmpretrain's MoCo)": lambda q, k: {
        "meta": {"cfg": "model = dict(backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN')))"},
        "message_hub": {},
        "state_dict": under("backbone.", q)
        | under("encoder_k.module.0.", k)
        | head("neck.mlp.0.weight", "encoder_k.module.1.mlp.0.weight", "queue")
        | {"encoder_k.steps": torch.tensor(7), "queue_ptr": torch.zeros(1, dtype=torch.long)},
    },
    "mmselfsup (mmpretrain's BYOL)": lambda q, k: {
        "meta": {"cfg": "model = dict(type='BYOL')"},
        "state_dict": under("backbone.", q)
        | under("target_net.module.0.", k)
        | head("neck.fc0.weight", "head.predictor.fc0.weight", "target_net.module.1.fc0.weight")
        | {"target_net.steps": torch.tensor(7)},
    },
    "solo-learn (all4one)": lambda q, k: {
        "pytorch-lightning_version": "2.0.0",
        "state_dict": under("backbone.", q)
        | under("momentum_backbone.", k)
        | head("projector.0.weight", "momentum_projector.0.weight", "classifier.weight", "predictor2.0.weight")
        | head(
            "transformer_encoder.layers.0.linear1.weight", "pos_enc.penc.inv_freq", "queue", "queue_y", "queue_index"
        ),
    },
    "transformers (TimmBackbone)": lambda q, _: under("_backbone.", q),
    "transformers (TimmWrapper)": lambda q, _: under("timm_model.", q | fc()),
    "torchvision-detector": lambda q, _: {
        "model": under("backbone.body.", without_counters(q))
        | head("backbone.fpn.inner_blocks.0.0.weight", "rpn.head.conv.0.0.weight", "roi_heads.box_head.fc6.weight"),
        "epoch": 25,
    },
    "torchvision (torch.compile)": lambda q, _: under("_orig_mod.", q | fc()),
    "torchvision (torch.compile under DDP)": lambda q, _: {"state_dict": under("module._orig_mod.", q | fc())},
    "torchvision (DDP under torch.compile)": lambda q, _: {"model": under("_orig_mod.module.", q | fc())},
    "torchvision (averaged weights)": lambda q, _: under("module.", q | fc()) | {"n_averaged": torch.tensor(5)},
    "extracted (FSDP)": lambda q, _: {
        "model": {name.replace(".conv", "._fsdp_wrapped_module.conv"): tensor for name, tensor in q.items()}
    },
    "detectron2 (RetinaNet)": lambda q, _: {
        "model": {f"backbone.bottom_up.{detectron2_name(name)}": t for name, t in without_counters(q).items()}
        | head("backbone.fpn_lateral3.weight", "backbone.fpn_lateral3.norm.weight", "backbone.top_block.p6.weight")
        | head("head.cls_subnet.0.weight", "head.bbox_pred.bias", "anchor_generator.cell_anchors.0")
        | {"pixel_mean": torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)}
        | {"pixel_std": torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)},
        "iteration": 89999,
    },
    "mmselfsup": lambda q, _: {
        "meta": {"mmcv_version": "1"},
        "state_dict": under("backbone.", q) | head("neck.mlp.0.weight", "head.predictor.fc0.weight"),
    },
    "vissl": lambda q, _: {
        "classy_state_dict": {
            "base_model": {"model": {"trunk": under("_feature_blocks.", q), "heads": head("0.clf.0.weight")}}
        }
    },
    "vissl (model_state_dict)": lambda q, _: {"model_state_dict": under("_feature_blocks.", q)},
    "swav": lambda q, _: under("module.", q) | head("module.projection_head.0.weight", "module.prototypes.weight"),
    "barlow-twins": lambda q, _: {
        "epoch": 300,
        "model": under("module.backbone.", q) | head("module.projector.0.weight", "module.bn.running_mean"),
    },
    "vicreg": lambda q, _: {"model": under("module.backbone.", q) | head("module.projector.0.weight")},
    "extracted (Barlow Twins' raw file)": lambda q, _: dict(q),
    "extracted": lambda q, _: {"state_dict": dict(q), "author": "OpenSelfSup"},
    "torchvision": lambda q, _: q | fc(),
    "torchvision (PyTorch's ImageNet example)": lambda q, _: {"epoch": 90, "state_dict": under("module.", q | fc())},
    "detectron2": lambda q, _: {
        "model": {detectron2_name(name): tensor for name, tensor in q.items()},
        "__author__": "MOCO",
        "matching_heuristics": True,
    },
    "timm": lambda q, k: {"epoch": 5, "metric": 70.0, "state_dict": q | fc(), "state_dict_ema": k | fc()},
}
"""Name → function of (query state, key state) that builds a checkpoint; the name starts with the family's."""


def make_dino(q: State, k: State) -> dict[str, Any]:
    return {
        "epoch": 100,
        "student": under("module.backbone.", q) | head("module.head.mlp.0.weight"),
        "teacher": under("backbone.", k) | head("head.mlp.0.weight"),
        "dino_loss": {"center": torch.ones(1, 4)},
    }


def make_lightly_dino(q: State, k: State) -> dict[str, Any]:
    return (
        under("student_backbone.", sequential(q))
        | under("teacher_backbone.", sequential(k))
        | head("student_head.layers.0.weight", "teacher_head.layers.0.weight")
    )


def make_teacher_student(q: State, k: State) -> dict[str, Any]:
    """Return a checkpoint as of stable-pretraining's TeacherStudentWrapper."""
    return {
        "pytorch-lightning_version": "2.5",
        "state_dict": under("backbone.student.", q)
        | under("backbone.teacher.", k)
        | head("projector.student.0.weight", "projector.teacher.0.weight", "callbacks_modules.linear_probe.weight")
        | {f"backbone.{name}ema_coefficient": torch.tensor(0.99) for name in ("base_", "final_", "")},
    }


def caffe2_state(depth: int = 50) -> dict[str, Any]:
    """Return a ResNet's tensors under Caffe2's names, with batch-norm statistics folded into scale and shift."""
    kinds = {"weight": "s", "bias": "b"}
    layers = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}
    state = {}
    for name, tensor in make_state(depth).items():
        layer, _, kind = detectron2_name(name).rpartition(".")
        layer, norm = layer.removesuffix(".norm"), layer.endswith(".norm")
        if norm and kind not in kinds:
            continue
        if layer == "stem.conv1":
            key = f"res_conv1_bn_{kinds[kind]}" if norm else "conv1_w"
        else:
            stage, block, place = layer.split(".")
            key = f"{stage}_{block}_branch{layers[place]}_{f'bn_{kinds[kind]}' if norm else 'w'}"
        state[key] = tensor
    return state | {"fc1000_w": torch.ones(10, 4), "conv1_b": torch.zeros(64)}


def save(folder: Path, tree: Any, name: str = "checkpoint.pth") -> Path:
    path = folder / name
    torch.save(tree, path)
    return path
