"""Render the pictures beside this file: an airliner, a cat and a lorry, lit scenes of signed distance functions.

    python test_images/render.py [FOLDER]

Sphere tracing (Hart 1996) in NumPy: a shape is a function from points to their distance from its surface, and a ray
walks by that distance until it arrives. Points are arrays (3, n): x to the right, y up, z towards the viewer.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

LATTICE = np.random.default_rng(2).random((32, 32, 32), dtype=np.float32)


def vec(*values):
    return np.array(values, np.float32)[:, None]


def norm(v):
    return np.sqrt((v * v).sum(axis=0))


def unit(v):
    return v / norm(v).clip(1e-9)


def mix(a, b, share):
    return a + (b - a) * share


def ramp(x, low, high):
    return np.clip((x - low) / (high - low), 0, 1)


def noise(p, octaves=4):
    """Fractal value noise in 0..1 at points (3, n)."""
    layers = (map_coordinates(LATTICE, p * 2**i + 7 * i, order=1, mode="grid-wrap") / 2**i for i in range(octaves))
    return sum(layers) / (2 - 2 ** (1 - octaves))


def mirror(p, axis):
    return np.where(np.arange(3)[:, None] == axis, np.abs(p), p)


def ball(p, centre, radii):
    q = (p - vec(*centre)) / vec(*radii)
    k = norm(q)
    return k * (k - 1) / np.maximum(norm(q / vec(*radii)), 1e-6)


def cone(p, start, end, r_start, r_end):
    """A line from `start` to `end`, thickened by radii that pass from one to the other."""
    a, along = vec(*start), vec(*end) - vec(*start)
    h = np.clip(((p - a) * along).sum(axis=0) / (along * along).sum(), 0, 1)
    return norm(p - a - along * h) - mix(r_start, r_end, h)


def box(p, centre, half, radius=0.05):
    q = np.abs(p - vec(*centre)) - vec(*half) + radius
    return norm(np.maximum(q, 0)) + np.minimum(q.max(axis=0), 0) - radius


def wing(p, root, chord, tip_chord, span, sweep, rise):
    """Two swept, tapering wings that spread along z from `root`."""
    x, y, out = mirror(p - vec(*root), 2)
    c = mix(chord, tip_chord, np.clip(out / span, 0, 1))
    section, radii = np.stack([x + sweep * out, y - rise * out]), np.stack([c, 0.09 * c])
    k = norm(section / radii)
    return 0.7 * np.maximum(k * (k - 1) / np.maximum(norm(section / radii**2), 1e-6), out - span)


def melt(k, first, *others):
    """Union of shapes with joints filled to radius `k`."""
    for d in others:
        h = np.maximum(k - np.abs(first - d), 0) / k
        first = np.minimum(first, d) - h * h * k / 4
    return first


def march(shapes, origin, direction, bounds, steps):
    """Walk rays to a surface: how far each came (inf if nowhere), and how narrowly it passed (1: not near)."""
    to = vec(*bounds[0]) - origin
    middle = (to * direction).sum(axis=0)
    half = np.sqrt(np.maximum(bounds[1] ** 2 - (to * to).sum(axis=0) + middle**2, 0))
    far, travelled = middle + half, np.maximum(middle - half, 0)
    passed = np.ones_like(travelled)
    active, arrived = np.flatnonzero((half > 0) & (far > 0)), np.zeros(travelled.shape, bool)
    for _ in range(steps):
        d = shapes(origin[:, active] + direction[:, active] * travelled[active]).min(axis=0)
        passed[active] = np.minimum(passed[active], 12 * d / np.maximum(travelled[active], 0.05))
        travelled[active] += d
        arrived[active] = travelled[active] < far[active]
        active = active[(d > 0.0015) & arrived[active]]
    return np.where(arrived, travelled, np.inf), passed


def render(scene, width, height):
    """Render a scene to uint8 (height, width, 3).

    It has `shapes`, the distances (k, n) of k parts; `paint`, their colours given points and normals, and `gloss`; a
    sphere `bounds` around them; `camera` (eye, target, zoom); `sun`, a direction; `sky`; and perhaps a `ground` at
    y = 0 and `haze` (density, colour).
    """
    shapes, (eye, target, zoom) = scene["shapes"], scene["camera"]
    forward = unit(vec(*target) - vec(*eye))
    right = unit(np.cross(forward, vec(0, 1, 0), axis=0))
    rows, columns = np.mgrid[0:height, 0:width].reshape(2, -1).astype(np.float32)
    u, v = (columns + 0.5 - width / 2) / width, (height / 2 - rows - 0.5) / width
    direction = unit(forward * zoom + right * u + np.cross(right, forward, axis=0) * v)
    origin, sun = np.broadcast_to(vec(*eye), direction.shape), unit(vec(*scene["sun"]))
    picture = scene["sky"](direction, sun)
    far, _ = march(shapes, origin, direction, scene["bounds"], 90)
    down = np.minimum(direction[1], -1e-6)
    floor = np.where((direction[1] < -1e-4) & ("ground" in scene), -eye[1] / down, np.inf)
    seen = np.flatnonzero(np.isfinite(np.minimum(far, floor)))
    distance = np.minimum(far, floor)[seen].astype(np.float32)
    p = origin[:, seen] + direction[:, seen] * distance
    solid = far[seen] < floor[seen]
    normal, colour, gloss = vec(0, 1, 0) + 0 * p, 0 * p, 0 * distance
    part = shapes(q := p[:, solid]).argmin(axis=0)
    slope = [shapes(q + s).min(axis=0) - shapes(q - s).min(axis=0) for s in 0.004 * np.eye(3)[:, :, None]]
    normal[:, solid] = unit(np.stack(slope))
    gloss[solid] = np.take(scene["gloss"], part)
    for number, paint in enumerate(scene["paint"](q, normal[:, solid])):
        colour[:, solid] = np.where(part == number, paint, colour[:, solid])
    if not solid.all():
        colour[:, ~solid] = scene["ground"](p[:, ~solid])
    clear, passed = march(shapes, p + 0.02 * normal, np.broadcast_to(sun, p.shape), scene["bounds"], 50)
    shadow = np.where(np.isfinite(clear), 0, passed.clip(0, 1))
    closed = sum(0.35 * np.clip(1 - shapes(p + normal * reach).min(axis=0) / reach, 0, 1) for reach in (0.1, 0.3, 0.8))
    light = (normal * sun).sum(axis=0).clip(0) * shadow
    glint = gloss * (normal * unit(sun - direction[:, seen])).sum(axis=0).clip(0) ** 60 * shadow
    ambient = mix(vec(0.25, 0.22, 0.19), vec(0.33, 0.38, 0.46), normal[1] / 2 + 0.5) * (1 - closed).clip(0.2)
    density, haze = scene.get("haze", (0, vec(0, 0, 0)))
    lit = colour * (ambient + light * vec(0.95, 0.88, 0.76)) + glint
    picture[:, seen] = mix(haze, lit, np.exp(density * (8 - distance.clip(8))))
    return (255 * picture.clip(0, 1) ** (1 / 2.2) + 0.5).astype(np.uint8).T.reshape(height, width, 3)


def cloudy(direction, sun, clear=0.52):
    """A blue sky with cumulus clouds, brighter on the side of the sun."""
    blue = mix(vec(0.30, 0.52, 0.82), vec(0.05, 0.19, 0.55), ramp(direction[1], -0.7, 0.3))
    at = direction / (0.45 + np.abs(direction[1] + 0.15)) * vec(1.3, 3.0, 1.3) + 3
    here, sunward = noise(at, 6), noise(at + sun * 0.12, 6)
    return mix(blue, vec(0.86, 0.88, 0.92) + 1.3 * (here - sunward), ramp(here, clear, clear + 0.16))


def airliner():
    """An airliner with its nose along +x."""

    def shapes(p):
        p = mirror(p, 2)
        tube, nose = cone(p, (-5.5, 0, 0), (6.5, 0, 0), 1, 1), ball(p, (6.5, -0.08, 0), (3.1, 0.95, 0.98))
        hull = melt(0.5, tube, nose, cone(p, (-5.5, 0, 0), (-10.5, 0.75, 0), 1, 0.22))
        fin = np.maximum(wing(p[[0, 2, 1]], (-8.3, 0, 0.4), 1.6, 0.8, 3.4, 0.75, 0), -p[1])
        main = wing(p, (0.8, -0.5, 0), 2.3, 0.6, 9.5, 0.52, 0.11)
        rear = wing(p, (-8.9, 0.5, 0), 1.2, 0.5, 3.7, 0.55, 0.08)
        engine = np.maximum(cone(p, (2.4, -1.35, 3.6), (0, -1.35, 3.6), 0.72, 0.4), p[0] - 2.5)
        engine = np.minimum(engine, box(p, (0.8, -0.65, 3.6), (0.9, 0.3, 0.08)))  # with its pylon
        return np.stack([hull, np.minimum(main, rear), fin, engine])

    def paint(p, normal):
        x, y, z = p
        white, grey, blue = vec(0.86, 0.87, 0.9), vec(0.45, 0.47, 0.5), vec(0.02, 0.1, 0.42)
        window = (np.abs(x % 0.55 - 0.27) < 0.13) & (np.abs(y - 0.22) < 0.15) & (np.abs(x) < 6.6)
        cockpit = (x > 8.05) & (x < 8.8) & (y > 0.2) & (np.abs(np.abs(z) % 0.42 - 0.21) < 0.18)
        hull = np.where(y < -0.42, grey, np.where(y < -0.25, blue, white))
        engine = np.where(normal[0] > 0.8, 0.03, np.where(x > 2.2, grey, white))
        return [np.where(window | cockpit, 0.03, hull), vec(0.62, 0.64, 0.68), blue, engine]

    scene = {"shapes": shapes, "paint": paint, "gloss": (0.5, 0.3, 0.3, 0.4), "bounds": ((-0.5, 0.8, 0), 11.5)}
    return scene | {"camera": ((17, 11, 16), (-0.6, 0.4, 0.6), 1.0), "sun": (-0.1, 0.8, 0.6), "sky": cloudy}


def cat():
    """A tabby cat that sits facing +z, its head turned to the viewer."""

    def face(p):
        x, y, z = p - vec(0.02, 2.5, 0.3)
        return np.stack([np.abs(0.955 * x - 0.296 * z), y, 0.296 * x + 0.955 * z])

    def shapes(p):
        q = mirror(p, 0)
        trunk = melt(0.5, ball(p, (0, 0.95, -0.45), (0.78, 0.95, 0.85)), ball(p, (0, 1.45, 0.1), (0.56, 0.85, 0.52)))
        haunch, foot = ball(q, (0.6, 0.55, -0.25), (0.4, 0.6, 0.7)), cone(q, (0.7, 0.1, 0), (0.7, 0.1, 0.6), 0.2, 0.15)
        leg, paw = cone(q, (0.3, 1.3, 0.4), (0.3, 0.2, 0.6), 0.24, 0.15), ball(q, (0.3, 0.1, 0.7), (0.2, 0.15, 0.3))
        turns = np.array([0.2, -1.2, 0.9, -1.05, 1.3, -0.4, 1.35, 0.3, 1.05, 0.85, 0.6, 1.05]).reshape(-1, 2)
        tail = [cone(p, (a, 0.15, b), (c, 0.15, d), 0.16, 0.15) for (a, b), (c, d) in pairwise(turns)]
        body = melt(0.15, melt(0.25, trunk, melt(0.2, haunch, foot), melt(0.15, leg, paw)), *tail)
        f = face(p)
        skull = melt(0.12, ball(f, (0, 0, 0), (0.66, 0.56, 0.56)), ball(f, (0.3, -0.2, 0.22), (0.34, 0.28, 0.32)))
        chin, lip = ball(f, (0, -0.33, 0.42), (0.16, 0.12, 0.16)), ball(f, (0.12, -0.22, 0.53), (0.17, 0.13, 0.14))
        ear = cone(f, (0.4, 0.2, -0.02), (0.58, 0.85, -0.05), 0.3, 0.03)
        ear = np.maximum(ear, -ball(f, (0.5, 0.5, 0.2), (0.15, 0.32, 0.18)))
        nose = cone(f, (0, 0.12, 0.42), (0, -0.1, 0.62), 0.14, 0.09)
        head = melt(0.08, melt(0.12, skull, melt(0.05, chin, lip)), nose, ear) + 0.03 * noise(f * 10, 3)
        eye = ball(f, (0.27, 0.07, 0.43), (0.155, 0.145, 0.12))
        ends = ((1.0, -0.28, 0.7), (1.0, -0.12, 0.6), (1.0, 0.04, 0.5))
        whiskers = np.min([cone(f, (0.2, -0.2, 0.6), end, 0.009, 0.004) for end in ends], axis=0)
        return np.stack([body + 0.05 * noise(p * vec(9, 4, 9), 3), head, eye, whiskers])

    def fur(p, pale, across):
        bands = np.sin(across + 3.5 * noise(p * 1.6 + 5)) * 0.5 + 0.5
        coat = mix(vec(0.36, 0.24, 0.14), vec(0.07, 0.045, 0.03), ramp(bands, 0.45, 0.8))
        return mix(coat, vec(0.72, 0.62, 0.5), pale) * (0.75 + 0.5 * noise(p * vec(28, 9, 28), 2))

    def spot(f, x, y, width, height):
        return ramp(np.hypot((f[0] - x) / width, (f[1] - y) / height), 1.1, 0.7)

    def paint(p, normal):
        x, y, z = mirror(p, 0)
        bib = ramp(z + 0.35 * y - 1.5 * x, 0.75, 1.0) * ramp(y, 0.5, 1.0)
        body = fur(p, np.maximum(bib, ramp(y, 0.3, 0.16) * (z > 0.4) * (x < 0.55)), 13 * y + 7 * z)
        x, y, z = f = face(p)
        pale = np.maximum(spot(f, 0, -0.3, 0.34, 0.24), 0.7 * spot(f, 0.27, 0.1, 0.2, 0.18) * (z > 0.2))
        pink = np.maximum(0.8 * spot(f, 0.5, 0.5, 0.15, 0.3) * (z > -0.15), spot(f, 0, -0.1, 0.1, 0.07) * (z > 0.5))
        head = mix(fur(f, pale, np.where(y > 0.12, 21 * x, 14 * y + 8 * x)), vec(0.6, 0.28, 0.23), pink)
        eye = mix(vec(0.25, 0.4, 0.06), vec(0.55, 0.55, 0.08), spot(f, 0.27, 0.07, 0.1, 0.1))
        eye = eye * spot(f, 0.27, 0.07, 0.15, 0.15) * (1 - spot(f, 0.27, 0.07, 0.06, 0.15))
        return [body, head, eye, vec(0.9, 0.9, 0.88)]

    def wall(direction, sun):
        return mix(vec(0.42, 0.36, 0.27), vec(0.68, 0.62, 0.5), ramp(direction[1] - 0.3 * direction[0], -0.4, 0.2))

    def carpet(p):
        out = np.hypot(p[0] - 0.2, p[2])
        rug = mix(vec(0.12, 0.2, 0.34), vec(0.6, 0.55, 0.42), ramp(np.abs(out - 2.3), 0.1, 0.07))
        wood = mix(vec(0.62, 0.5, 0.36), vec(0.45, 0.33, 0.22), noise(p * vec(4, 0, 0.5)))
        return mix(rug * (0.7 + 0.6 * noise(p * vec(14, 1, 14), 3)), wood, ramp(out, 2.55, 2.6))

    scene = {"shapes": shapes, "paint": paint, "gloss": (0.03, 0.03, 0.9, 0), "bounds": ((0.15, 1.6, -0.1), 2.1)}
    scene |= {"camera": ((2.6, 2.6, 6.4), (0.15, 1.6, 0), 1.75), "sun": (-0.55, 0.75, 0.6)}
    return scene | {"sky": wall, "ground": carpet, "haze": (0.12, vec(0.5, 0.45, 0.36))}


def lorry():
    """A lorry that drives towards +x."""
    axles = (2.6, -2.2, -3.35)

    def shapes(p):
        p = mirror(p, 2)
        slant = (p[0] - 3.35) * 0.94 + (p[1] - 2.2) * 0.34
        top = np.maximum(box(p, (2.6, 1.75, 0), (0.95, 1.15, 1.12), 0.15), slant)
        cab = melt(0.1, top, box(p, (2.75, 1.0, 0), (0.98, 0.45, 1.12), 0.1))
        chassis, bumper = box(p, (-0.4, 0.72, 0), (3.8, 0.14, 0.55)), box(p, (3.62, 0.6, 0), (0.2, 0.14, 1.14))
        tank, glass = box(p, (-0.4, 0.62, 0.95), (0.7, 0.2, 0.12)), box(p, (3.2, 2.15, 1.35), (0.06, 0.26, 0.1))
        frame = np.minimum.reduce([chassis, bumper, tank, glass])
        tyres = np.minimum.reduce([cone(p, (x, 0.52, 0.8), (x, 0.52, 1.2), 0.52, 0.52) for x in axles])
        light = ball(p, (3.72, 1.0, 0.85), (0.08, 0.14, 0.2))
        return np.stack([box(p, (-1.3, 2.25, 0), (2.9, 1.35, 1.2)), cab, frame, np.maximum(tyres, p[2] - 1.15), light])

    def paint(p, normal):
        x, y, z = p
        ahead, _, aside = np.abs(normal)
        stripe = (np.abs(y - 1.75 - 0.12 * x) < 0.2) & (np.abs(normal[1]) < 0.5)
        cargo = np.where(stripe, vec(0.75, 0.3, 0.02), vec(0.85, 0.85, 0.82)) * np.where(x % 0.58 < 0.06, 0.88, 1)
        side = (aside > 0.8) & (x > 2.15) & (x < 3.45 - 0.25 * y) & (np.abs(y - 2.2) < 0.4)
        front = (ahead > 0.6) & (x > 3) & (np.abs(z) < 0.98) & (np.abs(y - 2.2) < 0.45)
        grille = (ahead > 0.8) & (np.abs(z) < 0.6) & (np.abs(y - 1.07) < 0.23) & (y % 0.15 < 0.09)
        glass = mix(vec(0.03, 0.05, 0.08), vec(0.25, 0.35, 0.45), ramp(y + 0.4 * z, 1.6, 3))
        cab = np.where(side | front, glass, np.where(grille, 0.02, vec(0.62, 0.03, 0.03)))
        hub = np.minimum.reduce([np.hypot(x - axle, y - 0.52) for axle in axles])
        return [cargo, cab, 0.04, np.where(hub < 0.27, 0.6, 0.018), vec(0.9, 0.88, 0.75)]

    def hills(direction, sun):
        along = np.arctan2(direction[0], -direction[2])
        crest = 0.03 + 0.1 * noise(np.stack([2.5 * along, 0 * along + 2, 0 * along]))
        wood = mix(vec(0.05, 0.12, 0.03), vec(0.14, 0.24, 0.07), noise(direction * 40, 3))
        return mix(wood, cloudy(direction, sun, 0.53), ramp(direction[1] - crest, 0, 0.006))

    def road(p):
        x, _, z = p
        grass, tar = mix(vec(0.1, 0.2, 0.04), vec(0.24, 0.33, 0.1), noise(p * 1.5, 5)), 0.11 + 0.05 * noise(p * 6)
        line = (np.abs(z - 2.6) < 0.09) & (x % 4 < 2.2) | (np.abs(z + 1.9) < 0.07)
        return np.where(line, 0.75, mix(tar, grass, ramp(np.abs(z - 2.6), 4.6, 4.8)))

    scene = {"shapes": shapes, "paint": paint, "gloss": (0.1, 0.6, 0.1, 0.1, 0.9), "bounds": ((-0.2, 1.7, 0), 4.7)}
    scene |= {"camera": ((9.3, 2.9, 9.5), (0, 1.75, 0), 1.6), "sun": (0.35, 0.75, 0.65)}
    return scene | {"sky": hills, "ground": road, "haze": (0.004, vec(0.3, 0.42, 0.35))}


def shrunk(scene, width, height, factor):
    large = render(scene, factor * width, factor * height).reshape(height, factor, width, factor, 3)
    return (large.mean(axis=(1, 3)) + 0.5).astype(np.uint8)


def main(folder):
    Image.fromarray(shrunk(airliner(), 640, 480, 2)).save(folder / "airplane_test.jpg", quality=90)
    Image.fromarray(shrunk(cat(), 576, 640, 2)).save(folder / "cat_test.jpg", quality=90)
    truck = shrunk(lorry(), 30, 30, 8).repeat(36, axis=0).repeat(36, axis=1)
    Image.fromarray(truck).save(folder / "truck_9_sample.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else Path(__file__).resolve().parent))
