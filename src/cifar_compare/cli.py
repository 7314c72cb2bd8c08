"""The command `cifar-compare`: classify pictures, list the shipped models."""

import argparse
import contextlib
import os
import sys

DESCRIPTION = "Two CIFAR-10 classifiers: a CNN trained from scratch and a fine-tuned MobileNetV2."
EPILOG = """\
A PATH is a picture (JPEG, PNG, WebP, GIF, BMP, TIFF), or a folder whose pictures directly inside are taken.
--json writes a list of objects: picture, model, model_sha256, label, probability (calibrated), unlike (true
where the picture is probably none of the ten classes), top (list of label, probability), probabilities.
--csv writes the same without top, one line an answer, with a column of its own for each class.

Exit status: 0, or 1 when a picture was skipped, or 2 for a wrong call or a missing model.
"""
BAR_FROM = 10  # pictures; fewer are done before anybody has read a progress bar


def main(arguments=None):
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _only_python_on_stderr():
            status = options.run(options)
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What is still buffered for the reader that has gone would raise once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser():
    parser = argparse.ArgumentParser("cifar-compare", description=DESCRIPTION)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    raw = argparse.RawDescriptionHelpFormatter
    predict = commands.add_parser("predict", help="classify pictures", epilog=EPILOG, formatter_class=raw)
    predict.set_defaults(run=_predict, write=_write_text)
    predict.add_argument("paths", nargs="+", metavar="PATH", help="a picture, or a folder of pictures")
    models = "mobilenet_v2 (the default, more accurate), custom_cnn (faster), or all"
    predict.add_argument("--model", default="mobilenet_v2", metavar="NAME", help=models)
    predict.add_argument("--top", type=int, default=3, choices=range(1, 11), metavar="N", help="classes shown (3)")
    form = predict.add_mutually_exclusive_group()
    form.add_argument("--json", dest="write", action="store_const", const=_write_json, help="write JSON")
    form.add_argument("--csv", dest="write", action="store_const", const=_write_csv, help="write CSV")

    commands.add_parser("models", help="list the shipped models").set_defaults(run=_models)
    return parser


def _predict(options):
    from tqdm import tqdm

    from . import artefacts, pictures

    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be valid text
    names = artefacts.NAMES if options.model == "all" else [options.model]
    try:
        classifiers = [pictures.open_classifier(name) for name in names]
    except (artefacts.ArtefactError, ValueError) as error:
        return _complain(error, 2)

    widths = [len(pictures.printable(name)) for name, _ in pictures.list_pictures(options.paths)]
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
                by_model = [pictures.classify(classifier, batch, options.top) for classifier in classifiers]
                with bar.external_write_mode(sys.stdout):
                    for of_picture in zip(*by_model, strict=True):
                        yield from zip(classifiers, of_picture, strict=True)
                bar.update(len(batch))

        options.write(answers(), min(40, max(widths)))
    return _complain(f"{skipped} of {len(widths)} pictures skipped", 1) if skipped else 0


def _write_text(answers, width):
    from .pictures import printable

    for classifier, answer in answers:
        ranked = "  ".join(f"{label:<10} {probability:6.1%}" for label, probability in answer.top)
        note = "  (unlike the ten classes)" if answer.unlike else ""
        print(f"{printable(answer.picture):<{width}}  {classifier.name:<12}  {ranked}{note}")


def _write_json(answers, width):
    import json

    start = "["
    for classifier, answer in answers:
        print(start, json.dumps(_record(classifier, answer)), sep="\n", end="")
        start = ","
    print("\n]" if start == "," else "[]")


def _write_csv(answers, width):
    import csv

    from .data import CLASSES

    header = ["picture", "model", "model_sha256", "label", "probability", "unlike", *CLASSES]
    table = csv.DictWriter(sys.stdout, header, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for record in (_record(*answer) for answer in answers):
        table.writerow(record | record["probabilities"])


def _record(classifier, answer):
    from .data import CLASSES

    probabilities = zip(CLASSES, answer.probabilities, strict=True)
    return {
        "picture": answer.picture,
        "model": classifier.name,
        "model_sha256": classifier.sha256,
        "label": answer.label,
        "probability": round(answer.probability, 9),
        "unlike": answer.unlike,
        "top": [{"label": label, "probability": round(p, 9)} for label, p in answer.top],
        "probabilities": {label: round(float(p), 9) for label, p in probabilities},
    }


def _models(options):
    from . import artefacts

    status = 0
    for name in artefacts.NAMES:
        try:
            card = artefacts.load_card(name)
            path = artefacts.verify(name, card)
            print(f"{name:<12}  {card['test']['accuracy']:.2%} of CIFAR-10's test images right  {path}")
        except artefacts.ArtefactError as error:
            status = _complain(error, 2)
    return status


def _complain(error, status):
    print(f"cifar-compare: {error}", file=sys.stderr)
    return status


@contextlib.contextmanager
def _only_python_on_stderr():
    """Silence libraries in C: TensorFlow greets and libtiff complains on the file descriptor itself."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        with open(kept, "w", buffering=1, closefd=False) as stderr, contextlib.redirect_stderr(stderr):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
