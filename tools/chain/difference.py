"""What a submit would do otherwise than the last one: it has to be asked for, for it may cost days of GPUs."""

from collections.abc import Iterator

from tools.chain.plan.make_plan import Stage
from tools.chain.record.state import find_states, read_plan
from tools.chain.submit import Chain

SUMMARIES = ("analyse", "report", "notify")
"""Kinds that follow from the others and cost minutes."""
SHOWN = 12


def refuse_other_work(chain: Chain) -> None:
    """Raise ValueError when a stage of the last submit would run anew with other settings, data or code.

    A stage that failed, or waits for one that failed, has to change; and what is new adds to the last submit.
    """
    if not (chain.folder / "chain.json").is_file():
        return
    if changes := list(_find_changes(chain)):
        more = [f"  … and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
        text = "\n".join(["this would start other work than the last submit did:", *changes[:SHOWN], *more])
        raise ValueError(
            f"{text}\nIf that is meant, add changed=true; name=NEW starts a chain of its own beside this one; "
            "`plan` with the same words shows all of it."
        )


def _find_changes(chain: Chain) -> Iterator[str]:
    try:
        before = read_plan(chain.folder)[1]
    except ValueError:
        return  # a damaged chain.json: this submit writes it anew
    states = find_states(chain.folder, before)
    now = {stage.name: stage for stage in chain.stages}
    for stage in before:
        other = now.get(stage.name)
        if other is None or other.key == stage.key or stage.kind in SUMMARIES:
            continue
        if states[stage.name] not in ("failed", "blocked") and (parts := say_changes(stage, other)):
            yield f"  {stage.name} ({states[stage.name]}): {', '.join(parts)}"


def say_changes(before: Stage, now: Stage) -> list[str]:
    """Return what differs between two stages of one name: words one by one, else the parts of the key."""
    parts = [part for part in {**before.why, **now.why} if before.why.get(part) != now.why.get(part)]
    said = []
    for part in parts:
        if part == "words":
            gone = [word for word in before.command if word not in now.command]
            come = [word for word in now.command if word not in before.command]
            said.append(f"{' '.join(gone) or 'nothing'} → {' '.join(come) or 'nothing'}" if gone or come else part)
        else:
            said.append(part)
    return said
