"""The command `cifar-compare`: classify pictures, list and export models."""

import argparse
import os
import sys
import warnings

from . import __version__
from .system import only_python_on_stderr, printable

DESCRIPTION = "CIFAR-10 classifiers: a CNN trained from scratch, and MobileNetV2 fine-tuned in two ways."
EPILOG = """\
A PATH is a picture (JPEG, PNG, WebP, GIF, BMP, TIFF, and AVIF where Pillow can), or a folder whose pictures directly
inside are taken.
--json writes a list of objects, one for each picture and model: picture (the path), model, model_sha256 (null for a
file without a card), label, probability (calibrated), out_of_distribution (true where the picture is probably none of
the model's classes; null where the card has no threshold), top (list of label, probability), probabilities (object, by
class). Figures have 9 decimals.
--csv writes the same without top, one line an answer, with a column of its own for each class, and nothing for
null. Pictures that were skipped are told on stderr alone, a line each.

Exit status: 0, or 1 when a picture was skipped, or 2 for a wrong call, a missing or diverged model or no room to write,
130 after Ctrl-C, 141 where the reader of the output has gone.
"""
BAR_FROM = 10  # pictures; fewer are done before anybody has read a progress bar


def main(arguments=None):
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        if sys.stdout is None:
            raise OSError("standard output is closed")
        with only_python_on_stderr(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _complain(message, 0)
            sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be valid text
            status = options.run(options)
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # What is still buffered for a reader that has gone would raise once more when Python ends.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        told = error if error.filename else f"cannot write the answers: {error}"  # only opened files have a name
        return 141 if isinstance(error, BrokenPipeError) else _complain(told, 2)


def _parser():
    parser = argparse.ArgumentParser("cifar-compare", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    raw = argparse.RawDescriptionHelpFormatter
    predict = commands.add_parser("predict", help="classify pictures", epilog=EPILOG, formatter_class=raw)
    predict.set_defaults(run=_predict, write=_write_text)
    predict.add_argument("paths", nargs="+", metavar="PATH", help="a picture, or a folder of pictures")
    models = "mobilenet_v2 (the default, more accurate), custom_cnn (faster), all (these two), either with _robust "
    models += "behind its name (for poor pictures), or the path of a .keras file of your own"
    predict.add_argument("--model", default="mobilenet_v2", metavar="MODEL", help=models)
    predict.add_argument("--top", type=_count, metavar="N", help="classes shown (3)")
    form = predict.add_mutually_exclusive_group()
    form.add_argument("--json", dest="write", action="store_const", const=_write_json, help="write JSON")
    form.add_argument("--csv", dest="write", action="store_const", const=_write_csv, help="write CSV")

    export = commands.add_parser("export", help="write a model for LiteRT, without its preprocessing")
    export.set_defaults(run=_export)
    models = "mobilenet_v2 or custom_cnn, either with _robust behind its name, or the path of a .keras file"
    export.add_argument("model", metavar="MODEL", help=models)
    export.add_argument("file", metavar="FILE.tflite", help="takes float32 pixels (n, size, size, 3) in [0, 255]")
    precisions = ("float32", "float16", "int8")
    export.add_argument("--precision", default="float32", choices=precisions, help="of the weights (float32)")

    commands.add_parser("models", help="list the released models").set_defaults(run=_models)
    return parser


def _count(text):
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{count} is less than 1")
    return count


def _predict(options):
    from tqdm import tqdm

    from . import artefacts, pictures, prediction

    names = artefacts.NAMES if options.model == "all" else [options.model]
    try:
        classifiers = [prediction.open_classifier(name) for name in names]
        top = min(prediction.top_of(options.top, classifier) for classifier in classifiers)
    except (artefacts.ArtefactError, ValueError) as error:
        return _complain(error, 2)

    columns = dict.fromkeys(label for classifier in classifiers for label in classifier.classes)
    widths = [len(printable(name)) for name, _ in pictures.list_pictures(options.paths)]
    hidden = True if len(widths) < BAR_FROM else None  # None hides it where stderr is no terminal
    skipped = 0
    with tqdm(total=len(widths), unit="picture", leave=False, disable=hidden) as bar:

        def skip(error):
            nonlocal skipped
            skipped += 1
            with bar.external_write_mode(sys.stderr):
                _complain(error, 1)
            bar.update()

        def answers():
            for batch in pictures.read_batches(pictures.list_pictures(options.paths), on_error=skip):
                by_model = [prediction.classify(classifier, batch, top) for classifier in classifiers]
                with bar.external_write_mode(sys.stdout):
                    for of_picture in zip(*by_model, strict=True):
                        yield from zip(classifiers, of_picture, strict=True)
                bar.update(len(batch))

        try:
            options.write(answers(), min(40, max(widths)), list(columns))
        except ValueError as error:  # the answers of a model that diverged in training
            return _complain(error, 2)
    return _complain(f"{skipped} of {len(widths)} pictures skipped", 1) if skipped else 0


def _write_text(answers, width, classes):
    for classifier, answer in answers:
        ranked = "  ".join(f"{label:<10} {probability:6.1%}" for label, probability in answer.top)
        number = "ten" if len(answer.classes) == 10 else len(answer.classes)
        note = f"  (probably none of the {number} classes)" if answer.out_of_distribution else ""
        print(f"{printable(answer.picture):<{width}}  {classifier.name:<12}  {ranked}{note}")


def _write_json(answers, width, classes):
    import json

    start = "["
    for classifier, answer in answers:
        print(start, json.dumps(_record(classifier, answer)), sep="\n", end="")
        start = ","
    print("\n]" if start == "," else "[]")


def _write_csv(answers, width, classes):
    import csv

    first = ["picture", "model", "model_sha256", "label", "probability", "out_of_distribution"]
    if same := set(first) & set(classes):
        raise ValueError(f"{', '.join(same)}: a class has the name of another column; use --json")
    table = csv.DictWriter(sys.stdout, [*first, *classes], extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for record in (_record(*answer) for answer in answers):
        outside = {True: "true", False: "false", None: ""}[record["out_of_distribution"]]
        table.writerow(record | record["probabilities"] | {"out_of_distribution": outside})


def _record(classifier, answer):
    probabilities = zip(answer.classes, answer.probabilities, strict=True)
    return {
        "picture": answer.picture,
        "model": classifier.name,
        "model_sha256": classifier.sha256,
        "label": answer.label,
        "probability": round(answer.probability, 9),
        "out_of_distribution": answer.out_of_distribution,
        "top": [{"label": label, "probability": round(p, 9)} for label, p in answer.top],
        "probabilities": {label: round(float(p), 9) for label, p in probabilities},
    }


def _export(options):
    from . import artefacts, litert

    try:
        litert.export(options.model, options.file, options.precision)
    except (artefacts.ArtefactError, ValueError, OSError) as error:
        return _complain(error, 2)
    print(f"{options.file} written: {os.path.getsize(os.path.expanduser(options.file)):,} bytes")
    return 0


def _models(options):
    from . import artefacts

    status = 0
    for name in artefacts.SHIPPED:
        try:
            card = artefacts.load_card(name)
            path = artefacts.verify(name, card, fetch=False) or "(is downloaded when it is first used)"
            accuracy = (
                f"{card['test']['accuracy']:.2%} of CIFAR-10's test images right" if "test" in card else "unmeasured"
            )
            print(f"{name:<19}  {accuracy}  {path}")
        except artefacts.ArtefactError as error:
            status = _complain(error, 2)
    return status


def _complain(error, status):
    print(f"cifar-compare: {printable(error)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
