"""Comparisons come from the chain file or the command line; by default all are against the first."""

from pathlib import Path

import pytest

from pretrain.runtime.settings import SettingsError
from tools.chain.plan.config import read_chain
from transfer.results.question import Controls, Question, make_question

CHAIN = """
backbones: {mochi: {weights: a}, moco: {weights: b}, "random@0": {weights: c}, "random@1": {weights: d}}
protocols: {voc: {config: x}}
"""


def read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN + text)
    read_chain(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "compare: [[mochi, moco], [mochi, random]]",
        "compare: [[moco, random@1]]",
        "baseline: moco",
        "controls: {floor: random, ceiling: moco}\ndelta: 0.3",
    ],
)
def test_chain_takes_names_of_backbones_and_of_methods(tmp_path: Path, text: str) -> None:
    read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            "compare: [[mochi, mocov2]]",
            "compare[0] names 'mocov2', which is not a backbone here; expected one of mochi, moco",
        ),
        ("compare: [[mochi]]", "compare[0] is [mochi]; expected two different methods"),
        ("compare: [[random@0, random@1]]", "compare[0] is [random@0, random@1]; expected two different methods"),
        ("baseline: nothing", "baseline names 'nothing'"),
        ("baseline: moco\ncompare: [[mochi, moco]]", "compare and baseline are both given"),
        ("controls: {floor: random}", "controls needs both a floor and a ceiling"),
        ("controls: {floor: moco, ceiling: moco}", "floor and ceiling are both moco"),
        ("controls: {floor: random, ceiling: resnet}", "controls.ceiling names 'resnet'"),
        ("delta: 0", "delta is 0.0; expected percent points above 0"),
        ("delta: 100", "delta is 100.0; expected percent points above 0"),
    ],
)
def test_chain_refuses_a_question_that_its_backbones_cannot_answer(tmp_path: Path, text: str, mistake: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    assert mistake in str(caught.value)


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, "compare: [[a, b], [mochi]]\ncontrols: {floor: c}\ndelta: -1\nbackend: x")
    assert len(str(caught.value).splitlines()) == 7


def test_default_is_all_against_the_first_whatever_it_is_called() -> None:
    question = make_question((), "", Controls(), None, {"zeta@0": [], "zeta@1": [], "random": [], "moco_v2": []})
    assert question.list_pairs(["zeta", "random", "moco_v2"]) == [("random", "zeta"), ("moco_v2", "zeta")]
    assert Question().list_pairs(["a", "b"]) == [("b", "a")]
    assert Question().list_pairs([]) == []


def test_swept_backbone_stands_for_its_variants() -> None:
    backbones = {"mochi": ["mochi_n1", "mochi_n2"], "moco@0": [], "moco@1": []}
    question = make_question([["mochi", "moco@1"]], "", Controls(floor="moco", ceiling="mochi"), None, backbones)
    assert question.compare == (("mochi_n1", "moco"), ("mochi_n2", "moco"))
    assert question.controls == Controls(floor="moco", ceiling="mochi_n1")
