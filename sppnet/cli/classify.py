"""The commands ``sppnet classify`` and ``test-classifier``."""

from pathlib import Path
from typing import Annotated

import typer

from sppnet.cli.command import command
from sppnet.cli.options import SkipErrors, ViewOptions

_Models = Annotated[
    list[Path],
    typer.Argument(metavar="MODEL", help="Folders of trained classifiers; their scores are averaged."),
]


@command
def classify(
    models: _Models,
    *,
    images: Annotated[list[Path], typer.Option(help="An image, or a folder of images; repeatable.")],
    limit: Annotated[int, typer.Option(min=0, help="Only the first images; 0: all.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for top5.json, and for scores.sqlite, from which a stopped command continues."
        ),
    ] = None,
    skip_errors: SkipErrors = False,
    views: ViewOptions,
) -> None:
    """Classifies images: the five best classes of each."""
    from sppnet.cli.image_scores import best_classes, complain_of, make_tester, print_agreement, score_files
    from sppnet.cli.terminal import say_written
    from sppnet.common.files import write_json
    from sppnet.common.outputs import check_output_folder
    from sppnet.data.image_folder import list_images

    if output is not None:
        check_output_folder(output)
    tester = make_tester(models, views)
    files = [file for path in images for file in list_images(path)][: limit or None]
    print_agreement(tester, files, views.check_crops, skip_errors)
    scores, errors = score_files(tester, files, output, show=True)
    if output is not None:
        result = [
            {"image": str(file), "classes": best_classes(tester.classes, row)} for file, row in scores.items()
        ]
        write_json(output / "top5.json", result, indent=1)
        say_written(output / "top5.json")
    complain_of(errors, len(files), skip_errors)


@command
def evaluate_classifier(
    models: _Models,
    *,
    labelled: Annotated[Path, typer.Option(help="A labelled set, FOLDER/<class>/<image>.")],
    limit: Annotated[
        int, typer.Option(min=0, help="Number of images, spread evenly over the classes; 0: all.")
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for classification.json, confusion.csv and confusion.png, and for scores.sqlite, "
            "from which a stopped command continues."
        ),
    ] = None,
    skip_errors: SkipErrors = False,
    views: ViewOptions,
) -> None:
    """Tests classifiers on a labelled set: top-1 and top-5 errors, confusion."""
    import numpy as np

    from sppnet.cli.image_scores import complain_of, make_tester, print_agreement, score_files
    from sppnet.cli.terminal import console, say, say_written
    from sppnet.common.outputs import check_output_folder
    from sppnet.common.text import percent
    from sppnet.data.image_folder import open_image_folder
    from sppnet.data.image_splits import spread_over_classes
    from sppnet.eval import accuracy_table, evaluate_classification, write_classification

    if output is not None:
        check_output_folder(output)
    tester = make_tester(models, views)
    folder = spread_over_classes(open_image_folder(labelled, tester.classes), limit)
    files = list(folder.paths)
    print_agreement(tester, files, views.check_crops, skip_errors)
    scores, errors = score_files(tester, files, output, show=False)
    if scores:
        labels = np.array([label for file, label in zip(files, folder.labels, strict=True) if file in scores])
        result = evaluate_classification(np.array(list(scores.values())), labels, tester.classes)
        title = f"{labelled}, {result.images} images, views {views.views} from {tester.source}, accuracy in %"
        console.print(accuracy_table(result, title))
        say(f"top-1 error: {percent(result.top1_error)}; top-5: {percent(result.top5_error)}")
        if output is not None:
            about = {
                "models": [str(model) for model in models],
                "labelled": str(labelled),
                "views": views.views,
                "from": tester.source,
                "limit": limit,
                "skipped": len(errors),
            }
            write_classification(output, result, about)
            say_written(output / "classification.json", output / "confusion.csv", output / "confusion.png")
    complain_of(errors, len(files), skip_errors)
