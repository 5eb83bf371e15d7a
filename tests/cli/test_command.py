"""The decorator of commands: groups of options, and errors as one line with an exit code."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
import typer
from command import call

from sppnet.cli.command import Defaults, Without, command
from sppnet.cli.groups import single_command
from sppnet.common.errors import InputError


@dataclass(frozen=True)
class BoxOptions:
    PANEL: ClassVar[str] = "Box"

    name: Annotated[str, typer.Option(help="Its name.")]
    width: Annotated[int, typer.Option(min=1, help="In pixels.")] = 3
    folder: Annotated[Path | None, typer.Option(help="Where to.")] = None
    colour: Annotated[Literal["red", "blue"], typer.Option("--paint", help="Of the lid.")] = "red"
    tags: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None
    open: Annotated[bool, typer.Option(help="Without the lid.")] = False


def app_of(function):
    return single_command("box", command(function))


def test_options_become_an_instance():
    @app_of
    def app(text: str, *, box: BoxOptions, count: int = 1) -> None:
        print(text, box, count)

    result = call("hello", "--name", "a", app=app)
    assert result.exit_code == 0, result.output
    assert result.output == f"hello {BoxOptions('a')} 1\n"
    options = ("--width", 5, "--folder", "x/y", "--paint", "blue", "--tags", "one", "--tags", "two", "--open")
    result = call("hello", "--name", "a", *options, "--count", 4, app=app)
    assert result.output == f"hello {BoxOptions('a', 5, Path('x/y'), 'blue', ['one', 'two'], True)} 4\n"


def test_help_lists_options_below_the_heading_of_their_group():
    @app_of
    def app(*, box: BoxOptions) -> None:
        """Makes a box."""

    lines = call("--help", app=app).output.splitlines()
    assert "  Makes a box." in lines
    heading = lines.index("Box:")
    assert lines[heading + 1].split()[0] == "--name"
    assert heading < lines.index("Options:")


def test_a_command_may_lack_options_and_have_other_defaults():
    @app_of
    def app(
        *, box: Annotated[BoxOptions, Without("width", "tags"), Defaults(colour="blue", name="b")]
    ) -> None:
        print(box)

    assert call(app=app).output == f"{BoxOptions('b', colour='blue')}\n"
    assert call("--paint", "red", app=app).output == f"{BoxOptions('b')}\n"
    result = call("--width", 3, app=app)
    assert result.exit_code == 2
    assert "No such option: --width" in result.output


def test_two_groups():
    @dataclass(frozen=True)
    class LidOptions:
        height: Annotated[int, typer.Option(help="In pixels.")] = 2

    @app_of
    def app(*, box: BoxOptions, lid: LidOptions) -> None:
        print(box.width, lid.height)

    assert call("--name", "a", "--height", 7, app=app).output == "3 7\n"


def test_unknown_names_of_options_are_a_mistake_of_the_program():
    def function(*, box: Annotated[BoxOptions, Without("depth")]) -> None: ...

    with pytest.raises(AssertionError, match=r"BoxOptions has no .*depth"):
        command(function)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("photo.jpg: not an image"), 2, "error: photo.jpg: not an image"),
        (OSError(28, "No space left on device", "x.bin"), 2, "error: x.bin: No space left on device; check"),
        (OSError("no more"), 2, "error: a file: no more; check the folder and the space left"),
        (MemoryError("Unable to allocate 5 GiB"), 2, "error: too little memory (Unable to allocate 5 GiB)"),
        (RuntimeError("can't allocate memory: 5 GB\nC++"), 2, "error: too little memory (can't allocate"),
        (RuntimeError("CUDA out of memory. Tried 5 GiB"), 2, "error: too little memory (CUDA out of memory."),
        (MemoryError(), 2, "error: too little memory; free some, and run the same command again"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from here"),
    ],
)
def test_errors_are_one_line(error, code, line):
    @app_of
    def app() -> None:
        raise error

    result = call(app=app, columns=40)
    assert result.exit_code == code
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1


def test_other_errors_are_raised():
    @app_of
    def app() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(app=app)
