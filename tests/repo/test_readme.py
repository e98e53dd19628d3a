"""The README stays short, leads to the documentation, and shows what exists; its commands are tested with the docs'."""

import re

from pretrain.runtime.machine import PROJECT_ROOT

README = (PROJECT_ROOT / "README.md").read_text()
SCREENS = 90


def test_readme_is_one_and_a_half_screens() -> None:
    assert len(README.splitlines()) <= SCREENS


def test_readme_begins_with_the_question_and_the_two_commands() -> None:
    assert README.index("make demo") < README.index("make test") < README.index("## ")
    assert "?**" in README.split("\n\n")[1]


def test_readme_shows_one_example_each_of_convert_chain_and_slurm() -> None:
    assert re.findall(r"^## (.*)", README, re.MULTILINE) == ["Convert", "Chain", "Slurm", "Further"]
    for title in ("Convert", "Chain", "Slurm"):
        section = README.partition(f"## {title}\n")[2].partition("\n## ")[0]
        assert "```sh\n" in section, f"{title} shows no command"


def test_readme_has_one_table_of_the_demos_figures() -> None:
    assert README.count("<!-- demo -->") == 1
    table = README.partition("<!-- demo -->\n```text\n")[2].partition("```")[0].splitlines()
    assert table[0].split()[:3] == ["protocol", "metric", "mochi"]


def test_readme_leads_to_every_page_of_the_documentation() -> None:
    pages = {path.name for path in (PROJECT_ROOT / "docs").glob("*.md")}
    assert set(re.findall(r"\]\(docs/([\w-]+\.md)\)", README)) == pages


def test_a_reader_finds_chain_files_conversion_and_verdicts_within_two_clicks() -> None:
    for page in ("chains", "converting", "verdicts"):
        assert f"(docs/{page}.md)" in README
