"""Incremental updates of the driver's states equal a full read, at a constant cost per change."""

import random
from pathlib import Path

import pytest

from pretrain.runtime.storage import write_json
from tools.chain.plan.config import ChainConfig, OwnStage
from tools.chain.plan.make_plan import Stage, make_plan
from tools.chain.record import watch
from tools.chain.record.state import ENDED, find_states, is_ready, stage_folder
from tools.chain.record.watch import StateWatch


def plan_of(stages: dict[str, OwnStage]) -> list[Stage]:
    return make_plan(ChainConfig(report=False, stages=stages), [Path()])


def set_state(chain: Path, stage: Stage, state: str, states: dict[str, str]) -> None:
    folder = stage_folder(chain, stage.folder)
    for name in ("DONE.json", "FAILED.json"):
        (folder / name).unlink(missing_ok=True)
    if state == "done":
        seen = {name: states[name] for name in stage.upstream} if stage.always else {}
        write_json(folder / "DONE.json", {"outputs": {}, "upstream_states": seen})
    if state == "failed":
        write_json(folder / "FAILED.json", {"kind": "error", "message": "", "tail": ""})


def take_all(states: StateWatch) -> list[str]:
    names = []
    while (stage := states.take_ready()) is not None:
        names.append(stage.name)
    for name in names:
        states.put_back(name)
    return sorted(set(names))


@pytest.mark.parametrize("seed", range(8))
def test_states_after_any_changes_are_those_of_a_look_at_everything(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    names = [f"s{number}" for number in range(12)]
    own = {
        name: OwnStage(
            command=(name,),
            after=tuple(chance.sample(names[:number], min(number, chance.randrange(3)))),
            always=chance.random() < 0.25,
        )
        for number, name in enumerate(names)
    }
    stages = plan_of(own)
    states = StateWatch(tmp_path, stages)
    for _ in range(60):
        stage = chance.choice(stages)
        if stage.always and any(states.states[name] not in ENDED for name in stage.upstream):
            continue  # nothing runs it before these have ended
        set_state(tmp_path, stage, chance.choice(["done", "done", "failed", "pending"]), states.states)
        states.update(stage.name)
        wanted = find_states(tmp_path, stages)
        assert states.states == wanted
        assert {state: count for state, count in states.counts.items() if count} == {
            state: list(wanted.values()).count(state) for state in set(wanted.values())
        }
        assert take_all(states) == sorted(stage.name for stage in stages if is_ready(stage, wanted))


def test_stages_become_ready_in_the_plans_order(tmp_path: Path) -> None:
    stages = plan_of({"b": OwnStage(command=("b",)), "a": OwnStage(command=("a",)), "c": OwnStage(command=("c",))})
    states = StateWatch(tmp_path, stages)
    taken = [states.take_ready() for _ in range(4)]
    assert [stage.name if stage else None for stage in taken] == ["b", "a", "c", None]


def test_one_change_reads_a_number_of_stages_that_does_not_grow_with_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, real = {}, watch.find_state
    for size in (20, 200):
        own = {f"s{number}": OwnStage(command=(str(number),)) for number in range(size)}
        own |= {f"t{number}": OwnStage(command=(f"t{number}",), after=(f"s{number}",)) for number in range(size)}
        own["last"] = OwnStage(command=("last",), after=tuple(own), always=True)
        stages = plan_of(own)
        states = StateWatch(tmp_path / str(size), stages)
        calls: list[str] = []

        def count(chain: Path, stage: Stage, before: dict[str, str], calls: list[str] = calls) -> str:
            calls.append(stage.name)
            return real(chain, stage, before)

        with monkeypatch.context() as patch:
            patch.setattr(watch, "find_state", count)
            for stage in stages[: 2 * 10]:
                set_state(states.chain, stage, "done", states.states)
                states.update(stage.name)
                states.take_ready()
        counts[size] = len(calls)
    assert counts[200] == counts[20]
