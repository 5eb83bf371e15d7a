"""The photos and videos of ``sppnet predict``, all checked before any of them is worked on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sppnet.cli.options import OutputOptions, PhotoOptions
from sppnet.cli.photo_outputs import check_outputs
from sppnet.cli.progress import ProgressReport
from sppnet.cli.terminal import console, say
from sppnet.common.errors import InputError
from sppnet.common.text import counted
from sppnet.data.photos import Photo, check_photo, read_camera, select_photos

# So many errors are printed; the number of the others stands behind them.
_MOST_ERRORS = 20


class PhotoInputs(NamedTuple):
    """Photos and videos to detect in, and how many were left out because they cannot be read."""

    photos: Sequence[Photo]
    videos: Sequence[Photo]
    skipped: int = 0


def choose_photos(paths: Sequence[Path], options: PhotoOptions, outputs: OutputOptions) -> PhotoInputs:
    """Finds the photos and videos that were named, and checks them and the outputs.

    Raises:
        InputError: none was named; files cannot be read, all of which are listed; two photos would be written
            under one name; or an output cannot be written.
    """
    if not paths and options.camera is None:
        raise InputError("nothing to detect in: name photos, folders or videos, or give --camera 0")
    selection = select_photos(paths)
    if selection.other_videos:
        number = counted(len(selection.other_videos), "video")
        first = selection.other_videos[0]
        say(f"left out: {number} in folders, such as {first}; name a video to detect in its frames")
    files = [*selection.photos, *selection.videos]
    check_outputs(outputs, selection.photos, selection.videos)
    if options.camera is not None:
        next(read_camera(options.camera))
    errors = list(selection.errors)
    bad = set()
    with ProgressReport(console) as progress:
        for done, photo in enumerate(files, start=1):
            if error := check_photo(photo):
                errors.append(error)
                bad.add(photo)
            progress("checking files", done, len(files))
    photos, videos = (
        [photo for photo in named if photo not in bad] for named in (selection.photos, selection.videos)
    )
    if errors:
        listed = list_errors(errors)
        if not options.skip_errors:
            raise InputError(f"{listed}\nNothing was done. --skip-errors leaves them out.")
        if not photos and not videos and options.camera is None:
            raise InputError(f"{listed}\nNothing is left.")
        say(listed)
    return PhotoInputs(photos, videos, len(errors))


def list_errors(errors: Sequence[InputError]) -> str:
    """Lists errors below a heading with their number."""
    lines = [f"{counted(len(errors), 'file')} cannot be used:", *map(str, errors[:_MOST_ERRORS])]
    if len(errors) > _MOST_ERRORS:
        lines.append(f"… and {len(errors) - _MOST_ERRORS} more")
    return "\n  ".join(lines)
