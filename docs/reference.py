"""Writes the pages that follow from the code: ``commands.md`` and ``settings.md``.

Each page begins with text written by hand. ``python docs/reference.py`` replaces what is below the marker. A
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
    """The whole text of each page that this module writes a part of."""
    parts = {"commands.md": commands(), "settings.md": settings()}
    return {DOCS / name: _below_marker(DOCS / name, part) for name, part in parts.items()}


def _below_marker(page: Path, part: str) -> str:
    text, marker, _ = page.read_text(encoding="utf-8").partition(MARKER)
    if not marker:
        raise ValueError(f"{page}: has no line {MARKER!r}; put it where the written part begins")
    return f"{text}{marker}\n{part}"


def commands() -> str:
    """Every command of ``sppnet`` with its arguments and options, as Markdown."""
    lines, panel = [], ""
    for name, lazy in COMMANDS.items():
        if lazy.panel != panel:
            panel = lazy.panel
            lines.append(f"## {panel}\n")
        lines += _command(f"sppnet {name}", load_command(name, lazy))
    return "\n".join(lines)


def _command(name: str, command: Any) -> Iterator[str]:
    """Markdown of a command, or of all commands of a group."""
    if hasattr(command, "commands"):
        for part, child in command.commands.items():
            yield from _command(f"{name} {part}", child)
        return
    yield f"### `{name}`\n"
    yield f"{_escaped(inspect.cleandoc(command.help or ''))}\n"
    parameters = [one for one in command.params if not one.hidden and one.name != "help"]
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    options = [one for one in parameters if one.param_type_name == "option"]
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
    """Every setting with its default and its source, and what each preset changes, as Markdown."""
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
    """For each preset but the first: which one it is like, and its differences from that."""
    known = {first: dict(_leaves(presets[first]))}
    for name, preset in presets.items():
        if name == first:
            continue
        values = dict(_leaves(preset))
        differences = {
            other: {key: value for key, value in values.items() if value != others[key]}
            for other, others in known.items()
        }
        like = min(differences, key=lambda other: len(differences[other]))
        text = "; ".join(f"`{key} = {_toml(value)}`" for key, value in differences[like].items())
        yield f"- **`{name}`**: like `{like}`, with {text}.\n"
        known[name] = values


def _leaves(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested dataclasses."""
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _tables(settings: Any, prefix: str) -> Iterator[str]:
    """Tables of a settings dataclass and of those inside it."""
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
    """The texts of the section "Attributes" of a docstring, by attribute."""
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
    """A value as TOML writes it; None, which TOML has not, as none."""
    if value is None:
        return "none"
    if dataclasses.is_dataclass(value):
        value = str(value)
    if isinstance(value, tuple):
        value = [str(one) if dataclasses.is_dataclass(one) else one for one in value]
        return "[" + ", ".join(map(_toml, value)) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield "|" + "---|" * len(titles)
    for row in rows:
        yield f"| {' | '.join(_escaped(cell) for cell in row)} |"
    yield ""


def _escaped(text: str) -> str:
    """Text of docstrings and help as Markdown: code stays code, all else is plain."""
    text = re.sub(r"(?<![`\w])(--[a-z][a-z-]+)", r"`\1`", text.replace("``", "`"))
    pieces = re.split(r"(`[^`]*`)", text)
    pieces[::2] = [re.sub(r"([\\*_<\[\]])", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces).replace("|", "\\|")


if __name__ == "__main__":
    for path, text in pages().items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"written: {path}")
