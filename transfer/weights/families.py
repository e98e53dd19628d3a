"""Recognise whose checkpoint it is: every family's own key scheme, as one table.

A scheme says where the tensors lie (the container: dotted keys from the top of the file), which prefix the ResNet has
there, and which branch that is: query (online) or key (momentum); student or teacher in DINO. Several families share a
scheme; marks (keys of heads or of the file) tell them apart where they can, and the extraction is the same.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of checkpoints."""

    name: str
    schemes: tuple[tuple[str, str, str], ...]
    """(container, prefix, branch); container and prefix are regular expressions matched whole."""
    marks: str = ""
    """Regular expression; some key of the file (dotted from the top) must contain it. Empty: no mark needed."""
    source: str
    """Where the scheme was read."""


_MODULE = r"(module\.)?"

FAMILIES = (
    Family(
        name="moco",
        schemes=(("state_dict", _MODULE + r"encoder_q\.", "query"), ("state_dict", _MODULE + r"encoder_k\.", "key")),
        source="facebookresearch/moco main_moco.py; this project's own checkpoints and encoder.pt",
    ),
    Family(
        name="moco-v3",
        schemes=(
            ("state_dict", _MODULE + r"base_encoder\.", "query"),
            ("state_dict", _MODULE + r"momentum_encoder\.", "key"),
        ),
        source="facebookresearch/moco-v3 main_moco.py",
    ),
    Family(
        name="simsiam",
        schemes=(("state_dict", _MODULE + r"encoder\.", "query"),),
        source="facebookresearch/simsiam main_simsiam.py",
    ),
    Family(
        name="soco",
        schemes=(("model", _MODULE + r"encoder\.", "query"), ("model", _MODULE + r"encoder_k\.", "key")),
        marks=r"^model\.(module\.)?(neck|neck_k|head_k)\.",
        source="hologerry/SoCo contrast/models/SoCo_FPN.py",
    ),
    Family(
        name="pixpro",
        schemes=(("model", _MODULE + r"encoder\.", "query"), ("model", _MODULE + r"encoder_k\.", "key")),
        marks=r"projector_k|value_transform",
        source="zdaxie/PixPro contrast/models/PixPro.py",
    ),
    Family(
        name="pycontrast",
        schemes=(
            ("model", _MODULE + r"encoder\.", "query"),
            ("model_ema", _MODULE + r"encoder\.", "key"),
        ),
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
        source="open-mmlab/OpenSelfSup and WXinlong/DenseCL openselfsup/models/moco.py",
    ),
    Family(
        name="solo-learn",
        schemes=(("state_dict", r"backbone\.", "query"), ("state_dict", r"momentum_backbone\.", "key")),
        marks=r"momentum_backbone|^state_dict\.(classifier|projector)\.",
        source="vturrisi/solo-learn solo/methods/base.py",
    ),
    Family(
        name="lightly",
        schemes=(
            ("state_dict", r"backbone\.", "query"),
            ("state_dict", r"(key_backbone|backbone_momentum|teacher_backbone)\.", "key"),
        ),
        marks=r"key_backbone|backbone_momentum|projection_head|pytorch-lightning_version",
        source="lightly-ai/lightly examples/pytorch_lightning and benchmarks",
    ),
    Family(
        name="mmselfsup",
        schemes=(("state_dict", r"backbone\.", "query"),),
        marks=r"^meta\b|^message_hub\b",
        source="open-mmlab/mmselfsup mmselfsup/models/algorithms",
    ),
    Family(
        name="vissl",
        schemes=(
            (r"classy_state_dict\.base_model\.model\.trunk", r"(base_model\.)?_feature_blocks\.", "query"),
            (r"model_state_dict", r"(_feature_blocks\.)?", "query"),
        ),
        source="facebookresearch/vissl vissl/models/trunks and its model zoo",
    ),
    Family(
        name="dino",
        schemes=(
            ("student", _MODULE + r"(backbone\.)?", "student"),
            ("teacher", _MODULE + r"(backbone\.)?", "teacher"),
        ),
        source="facebookresearch/dino main_dino.py",
    ),
    Family(
        name="swav",
        schemes=((r"(state_dict)?", _MODULE, "query"),),
        marks=r"prototypes|projection_head",
        source="facebookresearch/swav main_swav.py",
    ),
    Family(
        name="barlow-twins",
        schemes=(("model", _MODULE + r"backbone\.", "query"),),
        marks=r"^model\.(module\.)?bn\.",
        source="facebookresearch/barlowtwins main.py",
    ),
    Family(
        name="vicreg",
        schemes=(("model", _MODULE + r"backbone\.", "query"),),
        marks=r"^model\.(module\.)?projector\.",
        source="facebookresearch/vicreg main_vicreg.py",
    ),
    Family(
        name="detectron2",
        schemes=(("model", r"(backbone\.(bottom_up\.)?)?", "query"),),
        marks=r"(^|\.)(stem\.|res[2-5]\.)",
        source="facebookresearch/detectron2 detectron2/checkpoint; this project's own output",
    ),
    Family(
        name="timm",
        schemes=((r"(state_dict)?", _MODULE, "query"), ("state_dict_ema", _MODULE, "key")),
        marks=r"^(state_dict_ema|amp_scaler|metric)\b",
        source="huggingface/pytorch-image-models timm/models/resnet.py and timm/utils/checkpoint_saver.py",
    ),
    Family(
        name="torchvision",
        schemes=((r"(state_dict|model)?", _MODULE, "query"),),
        marks=r"(^|\.)fc\.(weight|bias)$",
        source="pytorch/vision torchvision/models/resnet.py; timm's raw files have the same names",
    ),
    Family(
        name="extracted",
        schemes=((r"(state_dict|model)?", _MODULE + r"(backbone\.)?", "query"),),
        source="the extraction scripts of OpenSelfSup and DenseCL; Barlow Twins' and VICReg's raw resnet50.pth",
    ),
)

ALSO_CALLED = {"densecl": "openselfsup", "mochi": "moco", "infomin": "pycontrast"}
"""Other names accepted by family=…"""

HEAD_WORDS = (
    r"fc\d*|mlp\d*|bn|lambd|center|logit_scale|value_transform|proposal_generator|roi_heads|fpn_\w+|pixel_(mean|std)|"
    r"(\w+_)?(heads?|necks?|queue\w*|projectors?|predictors?|prototypes|classifiers?|memory\w*)(_\w+)?"
)
"""What is dropped: a key belongs to a head, a queue or a memory when one of its dotted words matches this whole."""
