"""mochi: pretrain, convert, transfer and report, one command for all of it.

  mochi pretrain CONFIG [key=value …]           pretrain an encoder (MoCHi, MoCo-v2, SimCLR)
  mochi convert IN OUT [to=detectron2]          turn any known checkpoint into Detectron2 weights, and prove it
  mochi finetune CONFIG WEIGHTS [key=value …]   Faster R-CNN on VOC, Mask R-CNN on COCO
  mochi linear CONFIG WEIGHTS [key=value …]     linear classification on frozen features
  mochi knn CONFIG WEIGHTS [key=value …]        nearest neighbours on frozen features
  mochi analyse CONFIG NAME=WEIGHTS …           the paper's analyses, as figures and numbers
  mochi chain plan|submit|status|… CHAIN        all of the above in order, here or on Slurm
  mochi report CHAIN_FOLDER                     the page, the tables
  mochi data make|fetch|check|pack …            the embedded digits; VOC and COCO; check a data root; pack a cache
  mochi doctor                                  what is installed, what is missing, and the remedy

  mochi COMMAND --help     teaches each with an example
  mochi completion bash    prints the completion script: eval "$(mochi completion bash)" (or zsh, fish)
  mochi --version          the version and the commit

Example: mochi chain plan configs/chains/digits.yaml
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from pretrain.runtime.command_line import run_command
from pretrain.runtime.machine import read_commit
from pretrain.runtime.stopping import EXIT_USER_ERROR

COMMANDS = {
    "pretrain": "tools.pretrain_encoder",
    "convert": "tools.convert_checkpoint",
    "finetune": "tools.finetune_detector",
    "linear": "tools.train_linear",
    "knn": "tools.classify_knn",
    "analyse": "tools.analyse_encoder",
    "chain": "tools.chain.__main__",
    "report": "tools.write_report",
    "doctor": "tools.check_setup",
}
DATA_COMMANDS = {
    "make": "tools.make_digits",
    "fetch": "tools.data.fetch_data",
    "check": "tools.check_data",
    "pack": "tools.pack_images",
}
CHAIN_WORDS = ("plan", "submit", "status", "resume", "cancel", "logs", "report")

BASH = """_mochi() {{
  local word=${{COMP_WORDS[COMP_CWORD]}}
  if [[ $COMP_CWORD == 1 ]]; then COMPREPLY=($(compgen -W "{commands} data completion --help --version" -- "$word"))
  elif [[ $COMP_CWORD == 2 && ${{COMP_WORDS[1]}} == data ]]; then COMPREPLY=($(compgen -W "{data}" -- "$word"))
  elif [[ $COMP_CWORD == 2 && ${{COMP_WORDS[1]}} == chain ]]; then COMPREPLY=($(compgen -W "{chain}" -- "$word"))
  else COMPREPLY=($(compgen -f -- "$word")); fi
}}
complete -o filenames -F _mochi mochi"""
ZSH = (
    """autoload -U +X bashcompinit && bashcompinit
"""
    + BASH
)
FISH = """complete -c mochi -n __fish_use_subcommand -f -a "{commands} data completion"
complete -c mochi -n "__fish_seen_subcommand_from data" -f -a "{data}"
complete -c mochi -n "__fish_seen_subcommand_from chain" -f -a "{chain}\""""
COMPLETIONS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def write_completion(shell: str) -> str:
    """Return the completion script of bash, zsh or fish."""
    if shell not in COMPLETIONS:
        raise ValueError(f"no completion for {shell!r}; there is one for {', '.join(COMPLETIONS)}")
    return COMPLETIONS[shell].format(
        commands=" ".join(COMMANDS), data=" ".join(DATA_COMMANDS), chain=" ".join(CHAIN_WORDS)
    )


def find_module(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the module that runs `words`, and the words that are left for it; ValueError lists the known commands."""
    command, *rest = words
    if command in COMMANDS:
        return COMMANDS[command], rest
    if command != "data":
        raise ValueError(f"no command {command!r}; there are {', '.join([*COMMANDS, 'data', 'completion'])}")
    if not rest or rest[0] not in DATA_COMMANDS:
        raise ValueError(f"expected mochi data {'|'.join(DATA_COMMANDS)} …; got {rest[0] if rest else 'nothing'}")
    return DATA_COMMANDS[rest[0]], rest[1:]


def main() -> int:
    """Run the command that the first word names."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return 0
    if words[0] == "--version":
        print(f"mochi-transfer {version('mochi-transfer')}, commit {read_commit()}")
        return 0
    try:
        if words[0] == "completion":
            print(write_completion(words[1] if len(words) > 1 else "bash"))
            return 0
        name, rest = find_module(words)
    except ValueError as error:
        print(f"error: {error}. Try mochi --help.", file=sys.stderr)
        return EXIT_USER_ERROR
    module = importlib.import_module(name)  # only the module that runs, so that the others' weight is not paid
    return run_command(module.main, module.__doc__, rest)


if __name__ == "__main__":
    sys.exit(main())
