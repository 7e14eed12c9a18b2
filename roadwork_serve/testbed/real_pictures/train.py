"""Trains the heads of the bundled backbone on real pictures, by source, and writes the folder that is served."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from roadwork_serve.atomic_write import replace_folder
from roadwork_serve.engines.features import Head, HeadSettings
from roadwork_serve.heads.linear_fit import Floats, Linear, PairFeatures, fit_linear, group_weights
from roadwork_serve.heads.patches import cell_evidence, choose_cells, fit_cells, patch_head_of
from roadwork_serve.stages.tiles import COUNT, closeup_logit
from roadwork_serve.testbed.minis.data import Cache
from roadwork_serve.testbed.real_pictures.crops import UNKNOWN, CropCache
from roadwork_serve.testbed.real_pictures.features import FeatureCache, Features, framing
from roadwork_serve.testbed.real_pictures.lite2 import ORIGINAL
from roadwork_serve.testbed.real_pictures.pairs import PairCache
from roadwork_serve.testbed.real_pictures.sources import EVIDENCE, HARD_NEGATIVE_GROUPS
from roadwork_serve.testbed.scene_dataset import has_readable_text

SCENE_GROUP = "rendered"
# Groups whose pictures show no words worth reading.
WORDLESS = frozenset({"baltic_road", "lums", "u_p1", "korea_walk_IMG", "korea_walk_image", "wande"})
_PATCH_FOLDS = 6


@dataclass(frozen=True)
class TrainingData:
    """Features and facts of everything that trains."""

    #: float32 [n, width].
    features: Floats
    #: 1, 0 or UNKNOWN, [n].
    labels: NDArray[np.int64]
    #: 1, 0 or UNKNOWN, [n].
    words: NDArray[np.int64]
    #: Group of each row, [n].
    groups: NDArray[np.str_]
    #: True for whole pictures, each of which occurs once, [n].
    whole: NDArray[np.bool_]
    #: Name of the picture of each row, [n].
    keys: NDArray[np.str_]
    pairs: PairFeatures
    pair_words: NDArray[np.int64]
    #: Groups that each pair was made from, [m].
    pair_groups: tuple[frozenset[str], ...]
    #: Features of cells and their evidence, float32 [cells, width] and bool [cells, classes].
    cells: Floats
    evidence: NDArray[np.bool_]
    #: Groups that each cell's picture was made from, [cells].
    cell_groups: tuple[frozenset[str], ...]
    #: Share of all cells of boxed pictures that show each class, [classes].
    prevalence: NDArray[np.float64]


def camera(group: str) -> str:
    """Return the camera of a group: parts of the same frames, and walks by the same person, share one."""
    for ending in ("_none", "_upper", "_background"):
        group = group.removesuffix(ending)
    return "korea_walk" if group.startswith("korea_walk") else group


def collect(cache: FeatureCache, crops: CropCache, pairs: PairCache, scenes: Cache, seed: int) -> TrainingData:
    """Compute what the cache misses, and put all training data together."""
    plain, worn, both = cache.crops(crops), cache.worn_crops(crops, seed), cache.pairs(pairs, seed)
    drawn = cache.pictures("scenes", np.stack([scenes.frame(index) for index in range(len(scenes))]))
    rows, truths = crops.rows, scenes.truths
    labels = [row.label for row in rows]
    words = [0 if row.group in WORDLESS else UNKNOWN for row in rows]
    groups = [row.group for row in rows]
    seen: set[str] = set()
    whole = [row.key not in seen and not seen.add(row.key) for row in rows]  # round 0 comes first
    cells: list[tuple[Floats, NDArray[np.bool_]]] = []
    cell_groups: list[frozenset[str]] = []  # of each entry of `cells`
    per_picture = plain.cells.shape[1]
    rng = np.random.default_rng(seed)
    for index, row in enumerate(rows):
        boxes = row.boxes if row.boxes is not None or row.label or row.group in HARD_NEGATIVE_GROUPS else []
        if boxes is not None:
            cells.append(_some_cells(plain.cells[index], boxes, rng))
            cells.append(_some_cells(worn.cells[index], framing(index, seed).boxes(boxes), rng))
            cell_groups += 2 * [frozenset({row.group})]
    for index, row in enumerate(pairs.rows):
        for side, boxes in enumerate(row.boxes):
            if boxes is not None:
                cells.append(_some_cells(both.cells[2 * index + side], boxes, rng))
                cell_groups.append(frozenset(row.groups))
    width = plain.pooled.shape[1]
    return TrainingData(
        features=np.concatenate([plain.pooled, worn.pooled, drawn.pooled]).astype(np.float32),
        labels=np.array([*labels, *labels, *(int(truth.label) for truth in truths)]),
        words=np.array([*words, *words, *(int(has_readable_text(truth)) for truth in truths)]),
        groups=np.array([*groups, *groups, *[SCENE_GROUP] * len(truths)]),
        whole=np.array([*whole, *[False] * (len(rows) + len(truths))]),
        keys=np.array([*(row.key for row in rows)] * 2 + [f"scene {truth.seed}" for truth in truths]),
        pairs=PairFeatures(
            np.asarray(both.pooled, np.float32).reshape(-1, 2, width),
            np.array([row.labels for row in pairs.rows], np.float32),
            np.array([row.order for row in pairs.rows], np.float32),
        ),
        pair_words=np.array([row.words for row in pairs.rows]),
        pair_groups=tuple(frozenset(row.groups) for row in pairs.rows),
        cells=np.concatenate([values for values, _ in cells]),
        evidence=np.concatenate([found for _, found in cells]),
        cell_groups=tuple(
            groups for groups, (_, found) in zip(cell_groups, cells, strict=True) for _ in range(len(found))
        ),
        prevalence=np.sum([found.sum(0) for _, found in cells], axis=0) / (per_picture * len(cells)),
    )


def _some_cells(
    cells: NDArray[np.float16], boxes: Sequence[Sequence[float]], rng: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the cells with evidence and a few without: float32 [k, width] and bool [k, classes]."""
    found = cell_evidence(boxes, round(len(cells) ** 0.5), len(EVIDENCE))
    chosen = choose_cells(found, rng)
    return np.asarray(cells[chosen], np.float32), found[chosen]


def fit_roadwork(data: TrainingData, left_out: frozenset[str] = frozenset()) -> Linear:
    """Fit the image head's output for road work without the cameras that are left out."""
    kept = (data.labels != UNKNOWN) & ~np.isin([camera(group) for group in data.groups], list(left_out))
    used = [not left_out & {camera(group) for group in groups} for groups in data.pair_groups]
    chosen = np.array(used, bool)
    pairs = PairFeatures(data.pairs.features[chosen], data.pairs.labels[chosen], data.pairs.order[chosen])
    labels = data.labels[kept] == 1
    return fit_linear(data.features[kept], labels, group_weights(labels, data.groups[kept]), pairs)


def fit_words(data: TrainingData) -> Linear:
    """Fit the image head's output for words worth reading."""
    width = data.features.shape[1]
    words = np.concatenate([data.words, data.pair_words.reshape(-1)])
    groups = np.concatenate([data.groups, np.full(data.pair_words.size, "pairs")])
    features = np.concatenate([data.features, data.pairs.features.reshape(-1, width)])
    known = words != UNKNOWN
    labels = words[known] == 1
    return fit_linear(features[known], labels, group_weights(labels, groups[known]))


def fit_patches(data: TrainingData, left_out: frozenset[str] = frozenset()) -> list[Linear]:
    """Fit the patch head, an output for each class of EVIDENCE, without the cameras that are left out."""
    kept = np.array([not left_out & {camera(group) for group in groups} for groups in data.cell_groups])
    return fit_cells(data.cells[kept], data.evidence[kept], data.prevalence)


@dataclass(frozen=True)
class OutOfFold:
    """The score of a whole picture by a head that has seen nothing of its camera."""

    key: str
    group: str
    camera: str
    label: int
    logit: float
    #: Scores of all crops of the picture, as of a clip that pans and zooms.
    frames: tuple[float, ...]
    #: Score of the closer look; None for pictures whose tiles were not computed.
    closeup: float | None = None


def out_of_fold(data: TrainingData, tiles: Features, keys: Sequence[str]) -> Iterator[OutOfFold]:
    """Fit the heads without a camera, and score the camera's whole pictures.

    The image head is fitted for every camera, the patch head for _PATCH_FOLDS groups of cameras.

    Args:
        data: The training data.
        tiles: Tokens of tiles.
        keys: Names of the pictures whose tiles they are, in order.
    """
    cameras = np.array([camera(group) for group in data.groups])
    known = data.labels != UNKNOWN
    names = sorted(set(cameras[data.whole]))
    folds = [frozenset(names[at::_PATCH_FOLDS]) for at in range(_PATCH_FOLDS)]
    by_camera: dict[str, list[Linear]] = {}
    for fold in folds:
        by_camera |= dict.fromkeys(fold, fit_patches(data, fold))
    place = {key: slice(at * COUNT, (at + 1) * COUNT) for at, key in enumerate(keys)}
    for name in names:
        head = fit_roadwork(data, frozenset({name}))
        for index in np.flatnonzero(data.whole & (cameras == name) & known):
            key, label = str(data.keys[index]), int(data.labels[index])
            frames = head(data.features[(data.keys == key) & known])
            logit = float(head(data.features[index]))
            closer = _closeup(tiles, place[key], head, by_camera[name]) if key in place else None
            yield OutOfFold(
                key, str(data.groups[index]), name, label, logit, tuple(float(each) for each in frames), closer
            )


def _closeup(tiles: Features, rows: slice, head: Linear, patch_heads: Sequence[Linear]) -> float:
    """Return the closer look's score of a picture, from the tokens of its tiles."""
    cells = np.asarray(tiles.cells[rows], np.float32)
    side = round(cells.shape[1] ** 0.5)
    patches = np.stack([each(cells) for each in patch_heads], axis=-1).reshape(COUNT, side, side, len(patch_heads))
    return closeup_logit(head(tiles.pooled[rows]).astype(np.float32), patches.astype(np.float32))


def write_weights(
    out: Path, backbone: Path, roadwork: Linear, words: Linear, patches: Sequence[Linear], facts: dict[str, object]
) -> None:
    """Write the folder that is served: the backbone with its heads and training.json. It replaces an older one."""
    settings = HeadSettings(width=len(roadwork.weight), recipe="cls", hidden=0, dropout=0.0)
    head = Head(settings)
    patch_head = patch_head_of(patches, EVIDENCE)
    weight, bias = (np.stack(v).astype(np.float32) for v in zip(*map(_parts, (roadwork, words)), strict=True))
    head[0].load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    with replace_folder(out, overwrite=True) as draft:
        for name in ("config.json", "backbone.onnx"):
            (draft / name).write_bytes((backbone / name).read_bytes())
        head.save(draft)
        patch_head.save(draft)
        text = json.dumps({"backbone": ORIGINAL, **facts}, indent=2)
        (draft / "training.json").write_text(text + "\n", encoding="utf-8")


def _parts(fit: Linear) -> tuple[Floats, np.float32]:
    return fit.weight, np.float32(fit.bias)


def write_scores(file: Path, scores: Sequence[OutOfFold]) -> None:
    """Write out-of-fold scores as JSON Lines."""
    file.write_text("".join(json.dumps(asdict(score)) + "\n" for score in scores), encoding="utf-8")
