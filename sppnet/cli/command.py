"""The decorator of commands: options in groups, and errors as one line with an exit code."""

import copy
import functools
import inspect
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ParameterInfo

from sppnet.common.errors import InputError


class Without:
    """In ``Annotated[<group of options>, Without("name")]``: options of the group that a command lacks."""

    def __init__(self, *names: str) -> None:
        """Leaves out the fields ``names``, which keep their defaults."""
        self.names = frozenset(names)


class Defaults:
    """In ``Annotated[<group of options>, Defaults(name=value)]``: other defaults than the group's."""

    def __init__(self, **values: Any) -> None:
        """Takes the defaults by the name of the field."""
        self.values = values


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a function a command of typer.

    A parameter that is annotated with a dataclass is a group of options: typer gets an option for each of
    its fields, and the function gets an instance. The fields carry ``Annotated[<type>, typer.Option(…)]``;
    the class attribute ``PANEL`` is the heading of the group in ``--help``.

    Bad input, a package that is not installed, too little memory and Ctrl-C end the command with one line and
    an exit code: 2, 2, 2 and 130.

    Args:
        function: the command; its docstring is its help.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class SizeOptions:
        ...     PANEL = "Sizes"
        ...     width: Annotated[int, typer.Option(help="In pixels.")] = 3
        >>> @command
        ... def show(name: str, *, sizes: SizeOptions) -> None:
        ...     print(name, sizes.width)
        >>> [parameter.name for parameter in inspect.signature(show).parameters.values()]
        ['name', 'width']
        >>> show(name="a", width=5)
        a 5
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, tuple[type, list[str]]] = {}
    flat: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        group, marks = _group_of(hints[parameter.name])
        if group is None:
            flat.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[parameter.name]))
            continue
        options = _options_of(group, marks)
        groups[parameter.name] = group, [option.name for option in options]
        flat += options

    @functools.wraps(function)
    def wrapper(**values: Any) -> None:
        for name, (group, names) in groups.items():
            values[name] = group(**{option: values.pop(option) for option in names})
        with _errors_in_one_line():
            function(**values)

    signature = inspect.Signature(flat, return_annotation=None)
    # Both, for typer reads either.
    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    wrapper.__annotations__ = {option.name: option.annotation for option in flat}
    return wrapper


def _group_of(annotation: Any) -> tuple[type | None, tuple[Any, ...]]:
    """The dataclass that a parameter is annotated with, if any, and the marks beside it."""
    kind, *marks = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    return (kind if isinstance(kind, type) and is_dataclass(kind) else None), tuple(marks)


def _options_of(group: type, marks: tuple[Any, ...]) -> list[inspect.Parameter]:
    absent = frozenset().union(*(mark.names for mark in marks if isinstance(mark, Without)))
    defaults = {
        name: value for mark in marks if isinstance(mark, Defaults) for name, value in mark.values.items()
    }
    known = {field.name for field in fields(group)}
    assert absent | defaults.keys() <= known, f"{group.__name__} has no {absent | defaults.keys() - known}"
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(field.name, _default(field)),
            annotation=_with_panel(hints[field.name], getattr(group, "PANEL", None)),
        )
        for field in fields(group)
        if field.name not in absent
    ]


def _default(field: Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default


def _with_panel(annotation: Any, panel: str | None) -> Any:
    """The same annotation, its option listed below the heading ``panel``."""
    kind, *marks = get_args(annotation)
    for index, mark in enumerate(marks):
        if isinstance(mark, ParameterInfo):
            marks[index] = copy.copy(mark)
            marks[index].rich_help_panel = panel
    return Annotated[kind, *marks]


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    for stream in (sys.stdout, sys.stderr):
        # Not every name that a disk holds is UTF-8.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except InputError as error:
        _print_error(f"error: {error}")
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        from sppnet.common.packages import explain_missing

        explanation = explain_missing(error)
        if explanation is None:
            raise
        _print_error(f"error: {explanation}")
        raise typer.Exit(2) from None
    except OSError as error:
        path = error.filename or "a file"
        _print_error(f"error: {path}: {error.strerror or error}; check the folder and the space left")
        raise typer.Exit(2) from None
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
        _print_error(f"error: too little memory{reason}; free some, and run the same command again")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        _print_error("stopped; the same command goes on from here", style="")
        raise typer.Exit(130) from None


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch and OpenCV have other errors for it, of general types.
    words = ("can't allocate memory", "out of memory", "Insufficient memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _print_error(sentence: str, style: str = "bold red") -> None:
    from rich.console import Console

    Console(stderr=True).print(sentence, style=style, markup=False, highlight=False, soft_wrap=True)
