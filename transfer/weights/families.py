"""Table of the key schemes of all known checkpoint families.

A scheme names the container of the tensors (dotted keys from the top of the file), the ResNet's prefix there, and the
branch: query (online) or key (its moving average); student or teacher if the authors use these names and neither is the
obvious choice. Wrapper prefixes (`module.` of DDP and averaged models, `_orig_mod.` of torch.compile, those of FSDP and
activation checkpointing) are removed from the keys before matching. Families that share a scheme are distinguished by
marks (keys of heads or of the file) where possible; the extracted tensors are the same either way.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of checkpoints; a family with several layouts has several entries."""

    name: str
    schemes: tuple[tuple[str, str, str], ...]
    """(container, prefix, branch); container and prefix are regular expressions that must match in full."""
    marks: str = ""
    """Regular expression that some key of the file (dotted from the top) must contain. Empty: no condition."""
    keys: str
    """Description of the scheme for the table in the documentation."""
    source: str
    """Public code that defines the scheme."""


_PLAIN = r"(state_dict|model|model_state_dict)?"
"""Containers used by libraries whose examples do not prescribe how to save."""

FAMILIES = (
    Family(
        name="moco",
        schemes=(("state_dict", r"encoder_q\.", "query"), ("state_dict", r"encoder_k\.", "key")),
        keys="`state_dict`: `encoder_q.*`, `encoder_k.*` (MoCo, SynCo and this project's own)",
        source="facebookresearch/moco main_moco.py; this project's own checkpoints and encoder.pt",
    ),
    Family(
        name="hard-negative-mixing",
        schemes=(("model", r"encoder_q\.", "query"), ("model", r"encoder_k\.", "key")),
        keys="`model`: `encoder_q.*`, `encoder_k.*`",
        source="davidsvy/hard-negative-mixing src/utils.py (save_checkpoint), src/moco.py",
    ),
    Family(
        name="moco-v3",
        schemes=(("state_dict", r"base_encoder\.", "query"), ("state_dict", r"momentum_encoder\.", "key")),
        keys="`state_dict`: `base_encoder.*`, `momentum_encoder.*`",
        source="facebookresearch/moco-v3 main_moco.py",
    ),
    Family(
        name="simsiam",
        schemes=(("state_dict", r"encoder\.", "query"),),
        keys="`state_dict`: `encoder.*`",
        source="facebookresearch/simsiam main_simsiam.py",
    ),
    Family(
        name="soco",
        schemes=(("model", r"encoder\.", "query"), ("model", r"encoder_k\.", "key")),
        marks=r"^model\.(module\.)?(neck|neck_k|head_k)\.",
        keys="`model`: `encoder.*`, `encoder_k.*`, with `neck` or `head_k`",
        source="hologerry/SoCo contrast/models/SoCo_FPN.py",
    ),
    Family(
        name="pixpro",
        schemes=(("model", r"encoder\.", "query"), ("model", r"encoder_k\.", "key")),
        marks=r"projector_k|value_transform",
        keys="`model`: `encoder.*`, `encoder_k.*`, with `projector_k` or `value_transform`",
        source="zdaxie/PixPro contrast/models/PixPro.py",
    ),
    Family(
        name="pycontrast",
        schemes=(("model", r"encoder\.", "query"), ("model_ema", r"encoder\.", "key")),
        keys="`model`: `encoder.*`; `model_ema`: `encoder.*` (InfoMin and the others of its zoo)",
        source="HobbitLong/PyContrast pycontrast/learning/contrast_trainer.py",
    ),
    Family(
        name="openselfsup",
        schemes=(
            ("state_dict", r"backbone\.", "query"),
            ("state_dict", r"(encoder_q|online_net)\.0\.", "query"),
            ("state_dict", r"(encoder_k|target_net)\.0\.", "key"),
        ),
        marks=r"^state_dict\.(encoder_q|online_net)\.0\.",
        keys="`state_dict`: `backbone.*` and `encoder_q.0.*` or `online_net.0.*` (equal, or refused), `encoder_k.0.*` "
        "or `target_net.0.*` (DenseCL too)",
        source="open-mmlab/OpenSelfSup and WXinlong/DenseCL openselfsup/models/moco.py",
    ),
    Family(
        name="mmselfsup",
        schemes=(
            ("state_dict", r"backbone\.", "query"),
            ("state_dict", r"(encoder_k|target_net|target_backbone|target_generator)\.0\.", "key"),
            ("ema_state_dict", r"backbone\.", "key"),
        ),
        marks=r"^meta\b|^message_hub\b",
        keys="`state_dict`: `backbone.*`, `encoder_k.module.0.*` or `target_net.module.0.*`, with `meta` (mmselfsup, "
        "mmpretrain 1.x)",
        source="open-mmlab/mmselfsup and open-mmlab/mmpretrain mmpretrain/models/selfsup/moco.py, byol.py",
    ),
    Family(
        name="stable-pretraining",
        schemes=(
            (_PLAIN, r"backbone\.student\.", "student"),
            (_PLAIN, r"backbone\.teacher\.", "teacher"),
        ),
        marks=r"ema_coefficient",
        keys="`state_dict`: `backbone.student.*`, `backbone.teacher.*`",
        source="galilai-group/stable-pretraining stable_pretraining/backbone/utils.py (TeacherStudentWrapper)",
    ),
    Family(
        name="solo-learn",
        schemes=(("state_dict", r"backbone\.", "query"), ("state_dict", r"momentum_backbone\.", "key")),
        marks=r"momentum_backbone|^state_dict\.(classifier|projector)\.",
        keys="`state_dict`: `backbone.*`, `momentum_backbone.*`",
        source="vturrisi/solo-learn solo/methods/base.py, all4one.py",
    ),
    Family(
        name="lightly",
        schemes=((_PLAIN, r"query_backbone\.", "query"), (_PLAIN, r"backbone\.", "key")),
        marks=r"(^|\.)query_backbone\.",
        keys="`query_backbone.*`, and `backbone.*` as its moving average",
        source="lightly-ai/lightly benchmarks/imagenet/resnet50/mocov2.py",
    ),
    Family(
        name="lightly",
        schemes=(
            (_PLAIN, r"student_backbone\.", "student"),
            (_PLAIN, r"(teacher_backbone|backbone)\.", "teacher"),
        ),
        marks=r"(^|\.)student_backbone\.",
        keys="`student_backbone.*`, `teacher_backbone.*`",
        source="lightly-ai/lightly examples/pytorch/dino.py",
    ),
    Family(
        name="lightly",
        schemes=(
            (_PLAIN, r"backbone\.", "query"),
            (_PLAIN, r"(key_backbone|backbone_momentum|teacher_backbone)\.", "key"),
        ),
        marks=r"key_backbone|backbone_momentum|teacher_backbone|projection_head|pytorch-lightning_version",
        keys="`backbone.*` (names or children's numbers), `backbone_momentum.*`, `key_backbone.*` or "
        "`teacher_backbone.*`; Lightning's `state_dict` or bare",
        source="lightly-ai/lightly examples/pytorch (moco, byol, densecl, mmcr, smog, tico) and benchmarks/imagenet",
    ),
    Family(
        name="vissl",
        schemes=(
            (r"classy_state_dict\.base_model\.model\.trunk", r"(base_model\.)?_feature_blocks\.", "query"),
            (r"model_state_dict", r"(_feature_blocks\.)?", "query"),
        ),
        keys="`classy_state_dict.base_model.model.trunk`: `_feature_blocks.*`; `model_state_dict`",
        source="facebookresearch/vissl vissl/models/trunks and its model zoo",
    ),
    Family(
        name="dino",
        schemes=(("student", r"(backbone\.)?", "student"), ("teacher", r"(backbone\.)?", "teacher")),
        keys="`student`: `backbone.*`; `teacher`: `backbone.*`",
        source="facebookresearch/dino main_dino.py",
    ),
    Family(
        name="swav",
        schemes=((r"(state_dict)?", "", "query"),),
        marks=r"prototypes|projection_head",
        keys="bare names with `prototypes` or `projection_head`",
        source="facebookresearch/swav main_swav.py",
    ),
    Family(
        name="barlow-twins",
        schemes=(("model", r"backbone\.", "query"),),
        marks=r"^model\.(module\.)?bn\.",
        keys="`model`: `backbone.*`, with `bn`",
        source="facebookresearch/barlowtwins main.py",
    ),
    Family(
        name="vicreg",
        schemes=(("model", r"backbone\.", "query"),),
        marks=r"^model\.(module\.)?projector\.",
        keys="`model`: `backbone.*`, with `projector`",
        source="facebookresearch/vicreg main_vicreg.py",
    ),
    Family(
        name="transformers",
        schemes=((r"", r"([\w.]+\.)?(_backbone|timm_model)\.", "query"),),
        keys="`_backbone.*` or `timm_model.*`: timm's names",
        source="huggingface/transformers models/timm_backbone and models/timm_wrapper",
    ),
    Family(
        name="torchvision-detector",
        schemes=((r"(model|state_dict)?", r"backbone\.body\.", "query"),),
        keys="`backbone.body.*` of its Faster R-CNN, Mask R-CNN, RetinaNet and FCOS",
        source="pytorch/vision torchvision/models/detection/backbone_utils.py",
    ),
    Family(
        name="caffe2",
        schemes=((r"(blobs|model)?", "", "query"),),
        keys="`conv1_w`, `res_conv1_bn_*`, `res2_0_branch2a_*` …, bare or in `blobs` (MSRA's R-50.pkl)",
        source="facebookresearch/detectron2 detectron2/checkpoint/c2_model_loading.py, MODEL_ZOO.md",
    ),
    Family(
        name="detectron2",
        schemes=(("model", r"(backbone\.(bottom_up\.)?)?", "query"),),
        marks=r"(^|\.)(stem\.|res[2-5]\.)",
        keys="`stem.*`, `res2.*` … `res5.*`; with the prefixes of a C4, FPN or RetinaNet detector too",
        source="facebookresearch/detectron2 detectron2/checkpoint; this project's own output",
    ),
    Family(
        name="timm",
        schemes=((r"(state_dict)?", "", "query"), ("state_dict_ema", "", "key")),
        marks=r"^(state_dict_ema|amp_scaler|metric)\b",
        keys="`state_dict`, `state_dict_ema`: bare names",
        source="huggingface/pytorch-image-models timm/models/resnet.py and timm/utils/checkpoint_saver.py",
    ),
    Family(
        name="torchvision",
        schemes=((r"(state_dict|model)?", "", "query"),),
        marks=r"(^|\.)fc\.(weight|bias)$",
        keys="bare names with `fc.*`",
        source="pytorch/vision torchvision/models/resnet.py; timm's raw files have the same names",
    ),
    Family(
        name="extracted",
        schemes=((_PLAIN, r"(backbone\.)?", "query"),),
        keys="bare or `backbone.*` names without a head",
        source="the extraction scripts of OpenSelfSup and DenseCL; Barlow Twins' and VICReg's raw resnet50.pth",
    ),
)

ALSO_CALLED = {
    "densecl": "openselfsup",
    "mochi": "moco",
    "synco": "moco",
    "infomin": "pycontrast",
    "mmpretrain": "mmselfsup",
}
"""Other names that family=… accepts → family."""

HEAD_WORDS = (
    r"fc\d*|mlp\d*|bn|lambd|center|logit_scale|value_transform|proposal_generator|pixel_(mean|std)|n_averaged|steps|"
    r"roi_heads|rpn|fpn|fpn_\w+|top_block|anchor_generator|smog|pos_enc|transformer_encoder|\w*ema_coefficient|"
    r"_?callbacks_(modules|metrics)|"
    r"(\w+_)?(heads?|necks?|queue\w*|projectors?|predictors?\d*|prototypes|classifiers?|memory\w*)(_\w+)?"
)
"""A key belongs to a head, queue or memory, and is dropped, if one of its dotted words matches this in full."""


def render_table() -> str:
    """Return the families as the Markdown table shown in the documentation."""
    lines = ["| family | its keys | branches | the scheme's source |", "|---|---|---|---|"]
    for family in FAMILIES:
        branches = " or ".join(dict.fromkeys(branch for _, _, branch in family.schemes))
        names = [family.name, *(other for other, name in ALSO_CALLED.items() if name == family.name)]
        asked = ": must be said" if branches in ("student or teacher",) else ""
        lines.append(f"| {', '.join(names)} | {family.keys} | {branches}{asked} | {family.source} |")
    return "\n".join(lines) + "\n"
