"""This module puts errors into the words of the command line: the package's own speak of arguments of Python."""

import re
from collections.abc import Mapping


def in_words_of_options(text: str, options: Mapping[str, str]) -> str:
    """Renames arguments in a text to the options of the command.

    Args:
        options: those that the command has, by the name of the argument.

    An argument is told by its backquotes or its value: `on_damage="warn"` becomes `--on-damage warn`. A row's own keys,
    which stand behind their place in the row, and parts of paths stay.
    """

    def renamed(match: re.Match) -> str:
        option = options.get(match["quoted"] or match["plain"])
        if option is None:
            return match[0]
        if match["limit"] is not None:
            return f"{option} {match['limit']}={match['number']}"
        if match["value"] == "False":
            return option.replace("--", "--no-", 1)
        return option if match["value"] in (None, "True") else f"{option} {match['value']}"

    value = r'=(?:\{"(?P<limit>\w+)": (?P<number>[\w.]+)\}|(?P<mark>["\']?)(?P<value>[\w.+-]+)(?P=mark))'
    # the value may stand within the backquotes or behind them
    argument = rf"(?:`(?P<quoted>\w+)`(?!=)|(?<![/\\])`?\b(?P<plain>\w+)`?{value}(?![\w.+-]*[/\\])`?)"
    return re.sub(rf"(?<!\]`: ){argument}", renamed, text)
