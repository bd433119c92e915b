"""Writes the tables of docs/source/en/options.md from the one table in which the options are declared.

python docs/write_options.py
"""

from pathlib import Path

from omnivinci_hf.omnivinci.options_omnivinci import AS_BY_DEFAULT, OPTIONS, Option


PAGE = Path(__file__).parent / "source" / "en" / "options.md"
START, END = "<!-- options: start -->\n", "<!-- options: end -->\n"
# heading -> groups of options
SECTIONS = {
    "Frames and ranges": ("frames", "positions", "range"),
    "What comes with media": ("given",),
    "Images and frames": ("images",),
    "Audio": ("audio",),
    "Sequence": ("sequence",),
    "Reading media": ("reading",),
    "Text": ("text",),
    "Output": ("output",),
}
COLUMNS = "| option | value | default | where | meaning |\n|---|---|---|---|---|\n"


def options_tables() -> str:
    """Returns one table in Markdown for each subject."""
    texts = []
    for title, groups in SECTIONS.items():
        rows = [_row(option) for option in OPTIONS if option.group in groups]
        texts.append(f"### {title}\n\n{COLUMNS}{''.join(rows)}")
    return "\n".join(texts)


def page_with_tables(page: str) -> str:
    """Returns the page with new tables between its markers."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{options_tables()}\n{END}{after}"


def _row(option: Option) -> str:
    where = [name for name, given in (("load", option.stored_by), ("call", option.in_call)) if given]
    where += [f"{modality} part" for modality in option.in_parts]
    default = "" if option.default is None and not option.stored_by else _code(option.default)
    if option.original not in (AS_BY_DEFAULT, option.default):
        default += f"; original: {_code(option.original)}"
    value = str(option.check)
    if option.in_call and option.stored_by and option.stored_check:
        value += f"; on loading: {option.stored_check}"
    return f"| `{option.name}` | {value} | {default} | {', '.join(where)} | {option.summary} |\n"


def _code(value: object) -> str:
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
