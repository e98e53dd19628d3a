"""Slurm settings in the user's environment: used where the chain file sets nothing, else reported as unused."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from submitit.helpers import clean_env

SETTINGS = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_WCKEY": "wckey",
}
"""Variables of sbatch(1) used for options that the chain's resources leave empty → the option's name."""
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables that locate Slurm and authenticate: sbatch must see the same ones as squeue and scancel."""


def find_cluster(environment: Mapping[str, str] | None = None) -> str:
    """Return the cluster that Slurm's commands address; "" for the default one.

    Raises:
        ValueError: several are named, of which sbatch would choose one.

    """
    values = os.environ if environment is None else environment
    names = [name for word in ("SLURM_CLUSTERS", "SBATCH_CLUSTERS") for name in values.get(word, "").split(",") if name]
    if len(set(names)) > 1 or "all" in names:
        raise ValueError(
            f"SLURM_CLUSTERS and SBATCH_CLUSTERS name {', '.join(dict.fromkeys(names))}; a chain needs one cluster, so "
            "set SLURM_CLUSTERS to its name alone"
        )
    return names[0] if names else ""


def find_settings(asked: Mapping[str, object], environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return {option: value} of the SBATCH_ variables for options that `asked` leaves empty or does not have."""
    values = os.environ if environment is None else environment
    return {name: values[word] for word, name in SETTINGS.items() if values.get(word) and not asked.get(name)}


def list_ignored(used: Mapping[str, object], environment: Mapping[str, str] | None = None) -> list[str]:
    """Return a sentence for each SBATCH_ variable that the chain's jobs do not use.

    Args:
        used: {option: value} as the jobs have them.
        environment: os.environ when None.

    """
    values = os.environ if environment is None else environment
    sentences = []
    for word in sorted(word for word in values if word.startswith("SBATCH_") and word != "SBATCH_CLUSTERS"):
        name = SETTINGS.get(word, "")
        if name and str(used.get(name, "")) == values[word]:
            continue
        remedy = f"the chain's resources set {name}={used[name]}" if used.get(name) else "set it under resources"
        sentences.append(f"{word}={values[word]} is not used: {remedy}")
    return sentences


@contextmanager
def clean_environment() -> Iterator[None]:
    """Remove a surrounding job's variables from the environment, except those that locate Slurm."""
    kept = {key: os.environ[key] for key in KEPT if key in os.environ}
    if cluster := find_cluster():
        kept["SLURM_CLUSTERS"] = cluster
    with clean_env():
        os.environ.update(kept)
        try:
            yield
        finally:
            for key in kept:
                os.environ.pop(key, None)
