"""mochi: pretrain, convert, transfer and report, one command for all of it.

  mochi pretrain CONFIG [key=value …]           pretrain an encoder (MoCHi, MoCo-v2, SimCLR)
  mochi convert IN OUT [to=detectron2]          convert any known checkpoint to Detectron2 weights, and verify it
  mochi inspect FILE                            what is in a checkpoint, and what would be converted
  mochi check FILE [SOURCE]                     verify a converted file again
  mochi finetune CONFIG WEIGHTS [key=value …]   Faster R-CNN on VOC, Mask R-CNN on COCO
  mochi linear CONFIG WEIGHTS [key=value …]     linear classification on frozen features
  mochi knn CONFIG WEIGHTS [key=value …]        nearest neighbours on frozen features
  mochi evaluate GT DETECTIONS [key=value …]    saved detections against VOC's or COCO's annotations
  mochi analyse CONFIG NAME=WEIGHTS …           the paper's analyses, as figures and numbers
  mochi gallery CONFIG OUT NAME=RUN …           detections of several runs side by side
  mochi chain init|plan|submit|status|… CHAIN   all of the above in order, here or on Slurm
  mochi report CHAIN_FOLDER                     the page, the tables
  mochi data make|fetch|check|pack …            the embedded digits; VOC and COCO; check a data root; pack a cache
  mochi doctor                                  what is installed, what is missing, and the remedy

  mochi COMMAND --help     shows usage and an example
  mochi COMMAND keys       lists the config keys of pretrain, chain, linear, knn, analyse and convert
  mochi completion bash    prints the completion script: eval "$(mochi completion bash)" (or zsh, fish)
  mochi --version          the version and the commit

A config is a file, or the name of one that comes with the project: mochi pretrain mochi_r50_in1k works from any folder.

Example: mochi chain plan configs/chains/digits.yaml
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pretrain.runtime.command_line import run_command
from pretrain.runtime.machine import PROJECT_ROOT, read_commit
from pretrain.runtime.stopping import EXIT_USER_ERROR

COMMANDS = {
    "pretrain": "tools.pretrain_encoder",
    "convert": "tools.convert_checkpoint",
    "inspect": "tools.convert_checkpoint",
    "check": "tools.convert_checkpoint",
    "finetune": "tools.finetune_detector",
    "linear": "tools.train_linear",
    "knn": "tools.classify_knn",
    "evaluate": "tools.evaluate_detections",
    "analyse": "tools.analyse_encoder",
    "gallery": "tools.draw_gallery",
    "chain": "tools.chain.__main__",
    "report": "tools.write_report",
    "doctor": "tools.check_setup",
}
FIRST_WORDS = {"inspect": ["inspect"], "check": ["check"]}
"""Command → arguments inserted before the user's."""
DATA_COMMANDS = {
    "make": "tools.make_digits",
    "fetch": "tools.data.fetch_data",
    "check": "tools.check_data",
    "pack": "tools.pack_images",
}
CHAIN_WORDS = ("init", "keys", "plan", "submit", "status", "resume", "cancel", "logs", "report", "watch")
WITH_KEYS = ("pretrain", "linear", "knn", "analyse", "convert")
"""Commands whose `keys` are listed by tools.settings.list_settings; `chain keys` is a command of its own."""
CONFIG_AT = {"pretrain": 0, "finetune": 0, "linear": 0, "knn": 0, "analyse": 0, "gallery": 0, "chain": 1}
"""Command → the position of its config argument."""
CONFIGS = PROJECT_ROOT / "configs"

BASH = """_mochi() {{
  local word=${{COMP_WORDS[COMP_CWORD]}}
  if [[ $COMP_CWORD == 1 ]]; then COMPREPLY=($(compgen -W "{commands} data completion --help --version" -- "$word"))
  elif [[ $COMP_CWORD == 2 && ${{COMP_WORDS[1]}} == data ]]; then COMPREPLY=($(compgen -W "{data}" -- "$word"))
  elif [[ $COMP_CWORD == 2 && ${{COMP_WORDS[1]}} == chain ]]; then COMPREPLY=($(compgen -W "{chain}" -- "$word"))
  else
    COMPREPLY=($(mochi complete "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null) $(compgen -f -- "$word"))
    [[ ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace 2>/dev/null
  fi
  true
}}
complete -o filenames -F _mochi mochi"""
ZSH = (
    """autoload -U +X bashcompinit && bashcompinit
"""
    + BASH
)
FISH = """complete -c mochi -n __fish_use_subcommand -f -a "{commands} data completion"
complete -c mochi -n "__fish_seen_subcommand_from data" -f -a "{data}"
complete -c mochi -n "__fish_seen_subcommand_from chain" -f -a "{chain}"
complete -c mochi -n "not __fish_use_subcommand" -a "(mochi complete (commandline -opc)[2..-1] (commandline -ct))\""""
COMPLETIONS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def write_completion(shell: str) -> str:
    """Return the completion script of bash, zsh or fish."""
    if shell not in COMPLETIONS:
        raise ValueError(f"no completion for {shell!r}; there is one for {', '.join(COMPLETIONS)}")
    return COMPLETIONS[shell].format(
        commands=" ".join(COMMANDS), data=" ".join(DATA_COMMANDS), chain=" ".join(CHAIN_WORDS)
    )


def find_module(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the module that runs `words`, and the arguments for it; ValueError lists the known commands."""
    command, *rest = words
    if command in WITH_KEYS and rest[:1] == ["keys"]:
        return "tools.settings.list_settings", [command, *rest[1:]]
    if command in COMMANDS:
        return COMMANDS[command], [*FIRST_WORDS.get(command, []), *name_config(command, rest)]
    if command != "data":
        raise ValueError(f"no command {command!r}; there are {', '.join([*COMMANDS, 'data', 'completion'])}")
    if not rest or rest[0] not in DATA_COMMANDS:
        raise ValueError(f"expected mochi data {'|'.join(DATA_COMMANDS)} …; got {rest[0] if rest else 'nothing'}")
    return DATA_COMMANDS[rest[0]], rest[1:]


def name_config(command: str, words: Sequence[str]) -> list[str]:
    """Return the words with the name of a project config, or its path in the checkout, replaced by the file's path."""
    named, at = list(words), CONFIG_AT.get(command, len(words))
    if at < len(named) and "=" not in named[at] and not Path(named[at]).exists():
        found = find_config(named[at])
        named[at] = str(found) if found else named[at]
    return named


def find_config(name: str) -> Path | None:
    """Return the project config with this name (configs/…/NAME.yaml, NAME.yaml or NAME); None if there is none."""
    path = CONFIGS.parent / name
    if path.is_relative_to(CONFIGS) and path.is_file():
        return path
    stem = name.removesuffix(".yaml")
    return next((found for found in sorted(CONFIGS.rglob("*.yaml")) if found.stem == stem), None)


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
        if words[0] == "complete":
            from tools.settings.completion import complete  # imported late: reads YAML

            print("\n".join(complete(words[1:])))
            return 0
        name, rest = find_module(words)
    except ValueError as error:
        print(f"error: {error}. Try mochi --help.", file=sys.stderr)
        return EXIT_USER_ERROR
    module = importlib.import_module(name)  # only the module that runs, so that --help is instant
    return run_command(module.main, module.__doc__, rest)


if __name__ == "__main__":
    sys.exit(main())
