"""Groups of commands: commands are imported when they are called, and listed below headings in ``--help``.

Help is click's plain text. Typer's panels cut long names and texts on narrow terminals, and take longer to
import than all other parts of the command line.
"""

import importlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

_HELP = {"help_option_names": ["-h", "--help"]}
# Longer than any first sentence, so that no sentence is cut.
_UNCUT = 1000


class LazyCommand(NamedTuple):
    """A command that is imported when it is called.

    Attributes:
        path: ``<module>:<name>`` of a function or of a `typer.Typer`.
        panel: the heading in ``--help``.
        help: the first sentence of the command's docstring.
    """

    path: str
    panel: str
    help: str


def new_app(help: str, cls: type[TyperGroup] | None = None, add_completion: bool = False) -> typer.Typer:
    """Makes an app whose help is not cut.

    Args:
        help: the description of the app.
        cls: the class of its groups; None: `PanelGroup`.
        add_completion: whether the app can install shell completion.
    """
    return typer.Typer(
        help=help,
        cls=cls or PanelGroup,
        no_args_is_help=True,
        add_completion=add_completion,
        context_settings=_HELP,
        rich_markup_mode=None,
    )


def single_command(name: str, function: Callable[..., None]) -> typer.Typer:
    """Makes an app of one command."""
    app = typer.Typer(add_completion=False, context_settings=_HELP, rich_markup_mode=None)
    app.command(name, cls=PanelCommand)(function)
    return app


class PanelCommand(TyperCommand):
    """A command whose options are listed below the headings of their groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments and options."""
        records = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                records.append((getattr(parameter, "rich_help_panel", None) or usual, record))
        _write_sections(formatter, records)


class PanelGroup(TyperGroup):
    """A group whose commands are listed below headings, with their whole first sentences."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes names and descriptions."""
        listed = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        _write_sections(
            formatter,
            (
                (
                    getattr(command, "rich_help_panel", None) or "Commands",
                    (name, command.get_short_help_str(_UNCUT)),
                )
                for name, command in listed
            ),
        )


def lazy_group(commands: dict[str, LazyCommand]) -> type[TyperGroup]:
    """Makes a class of groups with these commands; a command is imported when it is called."""

    class LazyGroup(PanelGroup):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            for name, lazy in commands.items():
                self.add_command(_listed(name, lazy), name)

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """Parses the group's own options."""
            for parameter in self.get_params(ctx):
                # Flags that typer itself adds have None; newer versions load pydantic to convert it.
                if getattr(parameter, "is_flag", False) and parameter.default is None:
                    parameter.default = False
            return super().parse_args(ctx, args)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            """Finds the command that is called, and imports it."""
            name, listed, remaining = super().resolve_command(ctx, args)
            return name, listed if name is None else load_command(name, commands[name]), remaining

    return LazyGroup


def _listed(name: str, lazy: LazyCommand) -> TyperCommand:
    """Makes a command that can be listed, suggested and completed, but not called."""
    return TyperCommand(name, help=lazy.help, rich_help_panel=lazy.panel, rich_markup_mode=None)


def load_command(name: str, lazy: LazyCommand) -> Any:
    """Imports a command."""
    module, _, attribute = lazy.path.partition(":")
    loaded = getattr(importlib.import_module(module), attribute)
    return get_command(loaded if isinstance(loaded, typer.Typer) else single_command(name, loaded))


def _write_sections(formatter: Any, records: Iterable[tuple[str, tuple[str, str]]]) -> None:
    """Writes pairs of name and text below their headings; headings come in the order of first use."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for heading, record in records:
        sections.setdefault(heading, []).append(record)
    for heading, rows in sections.items():
        with formatter.section(heading):
            formatter.write_dl(rows)
