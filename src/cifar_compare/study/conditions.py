"""The conditions that models are measured under, and the routes by which their networks get the degraded images."""

from dataclasses import asdict, dataclass

import numpy as np

from .. import checks
from ..data import digests
from .degrade import METHODS, SEVERITIES, check_corruption, check_method, check_size, checked, corrupted, resized

# "bypass" is past the model's preprocessing: resized straight to its input resolution, or to 224 px.
ROUTES = ("preprocessing", "bypass-nearest", "bypass-bilinear", "bypass-nearest-224", "bypass-bilinear-224")


@dataclass(frozen=True)
class Condition:
    """How the test images are degraded before a model gets them, and how many of them are measured.

    Each image is corrupted, shrunk to `resolution`, and enlarged to `size`. Raises ValueError for a value that is none
    of those named.
    """

    name: str
    study: str  # part: "content", "delivery", "published", "corruption", "cifar-10-c", or a name of your own
    n: int  # images at most, as many of each class; a class that has fewer is measured with those it has
    resolution: int = 32  # px, side that the content is carried at
    size: int = 32  # px, side of the delivered image
    method: str = "bicubic"  # of the enlargement to `size`, one of METHODS
    corruption: str = "none"  # or one of SEVERITIES
    severity: int = 0  # 1 to 5 with a corruption
    only: str = "all"  # or the one class to measure

    def __post_init__(self):
        for field in ("name", "study", "only"):
            if not isinstance(getattr(self, field), str):
                raise ValueError(f"{field} of a condition is {getattr(self, field)!r}, expected text")
        checks.whole(self.n, f"n of condition {self.name!r}")
        for field in ("resolution", "size"):
            check_size(getattr(self, field), f"{field} of condition {self.name!r}")
        check_method(self.method)
        if (self.corruption, self.severity) != ("none", 0):
            check_corruption(self.corruption, self.severity)

    def make(self, images, seed=0):
        """The degraded images, uint8 (n, size, size, 3), from images of 32×32 px, uint8."""
        images = checked(images, side=32)
        for field in ("resolution", "size"):
            check_size(getattr(self, field), f"{field} of condition {self.name!r}", len(images))
        return self.degraded(images, checks.whole(seed, "seed", least=0))

    def choose(self, split):
        """Which images of a split are measured, int (n,): those of the smallest digests in each class, in any order."""
        images, labels, classes = checks.split(split, size=32)
        return self.places(digests(checked(images)), labels, classes)

    def degraded(self, images, seed=0):
        """As `make`, without its checks."""
        if self.severity:
            images = corrupted(images, self.corruption, self.severity, seed)
        return resized(resized(images, self.resolution, "bicubic"), self.size, self.method)

    def places(self, digests, labels, classes):
        """As `choose`, from the images' digests, uint64 (n,), their labels, int (n,), and the names of the classes."""
        if self.only not in ("all", *classes):
            given = f"condition {self.name!r} is about {self.only!r}, and the split has {', '.join(classes)}"
            raise ValueError(f"{given}: leave this condition out, as in [c for c in DELIVERIES if c.only == 'all']")
        wanted = range(len(classes)) if self.only == "all" else [classes.index(self.only)]
        order = np.argsort(digests, kind="stable")
        each = [order[labels[order] == k][: self.n // len(wanted)] for k in wanted]
        if not sum(map(len, each)):
            given = f"condition {self.name!r} asks for {self.n} images of {len(wanted)} classes, and finds none"
            raise ValueError(f"{given}: give a larger n, or a split that has images of these classes")
        return np.sort(np.concatenate(each))

    @property
    def columns(self):
        """What a row of the table says of it: its fields, `name` as "condition"."""
        return {"condition" if key == "name" else key: value for key, value in asdict(self).items()}

    @property
    def routes(self):
        """Those of ROUTES that are measured; the costly ones where they were found to matter."""
        fewer = {"content": ROUTES[:1], "cifar-10-c": ROUTES[:1], "corruption": ("preprocessing", "bypass-bilinear")}
        return fewer.get(self.study, ROUTES)


NATIVE = Condition("content-32", "content", 10_000)  # the test images as they are
DELIVERIES = (
    Condition("native", "delivery", 2000),
    *(Condition(f"{size}-{method}", "delivery", 2000, 32, size, method) for size in (224, 1080) for method in METHODS),
    # The situation of the published comparison, whose picture was a truck.
    Condition("published", "published", 2000, 30, 1080, "nearest"),
    Condition("published-truck", "published", 1000, 30, 1080, "nearest", only="truck"),
)
CHECK = Condition("check", "check", 200, 30, 1080, "nearest")  # measured in seconds, to be held against the record
FIRST = ("gaussian_noise", "gaussian_blur", "jpeg", "contrast", "pixelate")  # measured at all severities
OTHERS = tuple(c for c in SEVERITIES if c not in FIRST)  # measured at three
CONDITIONS = (
    NATIVE,
    *(Condition(f"content-{size}", "content", 10_000, size) for size in (24, 16, 12, 8)),
    *DELIVERIES,
    # With all 10,000 images these would take most of a night on two cores.
    *(Condition(f"{c}-{i}", "corruption", 2000, corruption=c, severity=i) for c in FIRST for i in range(1, 6)),
    *(Condition(f"{c}-{i}", "cifar-10-c", 1000, corruption=c, severity=i) for c in OTHERS for i in (1, 3, 5)),
    CHECK,
)
