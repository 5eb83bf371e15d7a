"""Writes the pages that are generated from the code: ``commands.md`` and ``settings.md``.

Each page begins with text written by hand. ``python docs/reference.py`` replaces the text below the marker. A
test (``tests/test_docs.py``) fails while a page differs from the code.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from sppnet.cli.commands import COMMANDS
from sppnet.cli.groups import load_command
from sppnet.detection.classification.pretraining_settings import PRETRAINING_PRESETS
from sppnet.detection.classification.views import ViewSettings
from sppnet.detection.distillation.settings import DistillSettings
from sppnet.detection.training.presets import PRESETS

DOCS = Path(__file__).resolve().parent
MARKER = "<!-- Below: written by docs/reference.py -->\n"


def pages() -> dict[Path, str]:
    """Returns the whole text of each generated page, with its part written by hand, by path."""
    parts = {"commands.md": commands(), "settings.md": settings()}
    return {DOCS / name: _below_marker(DOCS / name, part) for name, part in parts.items()}


def _below_marker(page: Path, part: str) -> str:
    text, marker, _ = page.read_text(encoding="utf-8").partition(MARKER)
    if not marker:
        raise ValueError(f"{page}: has no line {MARKER!r}; put it where the written part begins")
    return f"{text}{marker}\n{part}"


def commands() -> str:
    """Describes every command of ``sppnet`` with its arguments and options, as Markdown."""
    lines, panel = [], ""
    for name, lazy in COMMANDS.items():
        if lazy.panel != panel:
            panel = lazy.panel
            lines.append(f"## {panel}\n")
        lines += _command(f"sppnet {name}", load_command(name, lazy))
    return "\n".join(lines)


def _command(name: str, command: Any) -> Iterator[str]:
    """Yields the Markdown of a command, or of all commands of a group."""
    if hasattr(command, "commands"):
        for part, child in command.commands.items():
            yield from _command(f"{name} {part}", child)
        return
    yield f"### `{name}`\n"
    yield f"{_escaped(inspect.cleandoc(command.help or ''))}\n"
    parameters = [param for param in command.params if not param.hidden and param.name != "help"]
    arguments = [param for param in parameters if param.param_type_name == "argument"]
    options = [param for param in parameters if param.param_type_name == "option"]
    usage = " ".join([name, *map(_usage, arguments), "[OPTIONS]" if options else ""]).strip()
    yield f"```\n{usage}\n```\n"
    if arguments:
        rows = [(f"`{_metavar(argument)}`", argument.help or "") for argument in arguments]
        yield from _table(("argument", "meaning"), rows)
    panels: dict[str, list[tuple[str, ...]]] = {}
    for option in options:
        panel = getattr(option, "rich_help_panel", None) or "Options"
        row = (_flags(option), _default(option), (option.help or "") + _environment(option))
        panels.setdefault(panel, []).append(row)
    for panel, rows in panels.items():
        title = "option" if panel == "Options" else f"option ({panel[0].lower()}{panel[1:]})"
        yield from _table((title, "default", "meaning"), rows)


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name).upper()


def _usage(argument: Any) -> str:
    text = _metavar(argument).removesuffix("...") + ("..." if argument.nargs == -1 else "")
    return text if argument.required else f"[{text}]"


def _flags(option: Any) -> str:
    flags = [*option.opts, *option.secondary_opts]
    repeatable = ", repeatable" if option.multiple and "epeatable" not in (option.help or "") else ""
    return ", ".join(f"`{flag}`" for flag in flags) + repeatable


def _default(option: Any) -> str:
    value = option.default() if callable(option.default) else option.default
    if option.required:
        return "required"
    if isinstance(value, bool):
        flags = option.opts if value else option.secondary_opts
        return f"`{flags[0]}`" if flags else ""
    if value is None or value in ("", [], ()):
        return ""
    return f"`{getattr(value, 'value', value)}`"


def _environment(option: Any) -> str:
    return f" Environment variable: `{option.envvar}`." if option.envvar else ""


def settings() -> str:
    """Describes every setting with its default and source, and the changes of each preset, as Markdown."""
    parts = ["## Presets of a run\n\n`default` has the values in the tables below. The others:\n\n"]
    parts += _presets(PRESETS, "default")
    parts.append("\n## Settings of a run\n\n")
    parts += _tables(PRESETS["default"], "")
    parts.append("\n## `sppnet pretrain`\n\nThe preset `paper` has the values in the tables. The others:\n\n")
    parts += _presets(PRETRAINING_PRESETS, "paper")
    parts.append("\n")
    parts += _tables(PRETRAINING_PRESETS["paper"], "")
    parts.append("\n## Views (`sppnet classify`, `sppnet test-classifier`)\n\n")
    parts += _tables(ViewSettings(), "")
    parts.append("\n## `sppnet distill`\n\n")
    parts += _tables(DistillSettings(), "")
    return "".join(parts)


def _presets(presets: Mapping[str, Any], first: str) -> Iterator[str]:
    """Describes each preset but the first by its differences from the most similar earlier preset."""
    earlier = {first: dict(_leaves(presets[first]))}
    for name, preset in presets.items():
        if name == first:
            continue
        values = dict(_leaves(preset))
        differences = {
            base: {key: value for key, value in values.items() if value != base_values[key]}
            for base, base_values in earlier.items()
        }
        nearest = min(differences, key=lambda base: len(differences[base]))
        text = "; ".join(f"`{key} = {_toml(value)}`" for key, value in differences[nearest].items())
        yield f"- **`{name}`**: like `{nearest}`, with {text}.\n"
        earlier[name] = values


def _leaves(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted names and the values of nested dataclasses."""
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _tables(settings: Any, prefix: str) -> Iterator[str]:
    """Yields the tables of a settings dataclass and of the dataclasses inside it."""
    meanings = attribute_docs(type(settings))
    rows, nested = [], []
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            nested.append((name, value))
        else:
            rows.append((f"`{name}`", f"`{_toml(value)}`", meanings.get(field.name, "")))
    if rows:
        if prefix:
            yield f"### `[{prefix.rstrip('.')}]`\n\n{_summary(type(settings))}\n\n"
        yield "\n".join(_table(("setting", "default", "meaning"), rows)) + "\n"
    for name, value in nested:
        yield from _tables(value, f"{name}.")


def _summary(kind: type) -> str:
    return _escaped((inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "))


def attribute_docs(kind: type) -> dict[str, str]:
    """Returns the texts of the section "Attributes" of a class's docstring, by attribute."""
    lines = (inspect.getdoc(kind) or "").splitlines()
    if "Attributes:" not in lines:
        return {}
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index("Attributes:") + 1 :]:
        if line and not line.startswith(" "):
            break
        start = re.match(r"    (\w[\w, ]*?)(?: \([^)]*\))?: (.*)", line)
        if start and not line.startswith("     "):
            names = [name.strip() for name in start[1].split(",")]
            texts |= dict.fromkeys(names, start[2])
        elif line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts


def _toml(value: Any) -> str:
    """Writes a value as TOML; TOML has no None, so None becomes ``none``."""
    if value is None:
        return "none"
    if dataclasses.is_dataclass(value):
        value = str(value)
    if isinstance(value, tuple):
        value = [str(item) if dataclasses.is_dataclass(item) else item for item in value]
        return "[" + ", ".join(map(_toml, value)) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield "|" + "---|" * len(titles)
    for row in rows:
        yield f"| {' | '.join(_escaped(cell) for cell in row)} |"
    yield ""


def _escaped(text: str) -> str:
    """Escapes the text of a docstring or help for Markdown; text in backticks stays code."""
    text = re.sub(r"(?<![`\w])(--[a-z][a-z-]+)", r"`\1`", text.replace("``", "`"))
    pieces = re.split(r"(`[^`]*`)", text)
    pieces[::2] = [re.sub(r"([\\*_<\[\]])", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces).replace("|", "\\|")


if __name__ == "__main__":
    for path, text in pages().items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"written: {path}")
