"""Command line: python -m roadwork_serve.testbed.real_pictures DATA --work FOLDER [--out FOLDER]."""

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from roadwork_serve.atomic_write import write_json
from roadwork_serve.engines.cpu_features import has_int8_dot_products
from roadwork_serve.engines.int8 import write_int8_backbone
from roadwork_serve.testbed.minis.data import fill, renderer_version
from roadwork_serve.testbed.real_pictures.attribution import attribution
from roadwork_serve.testbed.real_pictures.compose import Composer
from roadwork_serve.testbed.real_pictures.crops import CropCache, build_crops
from roadwork_serve.testbed.real_pictures.cutouts import cut_out
from roadwork_serve.testbed.real_pictures.features import FeatureCache
from roadwork_serve.testbed.real_pictures.lite2 import calibration_thumbs, import_backbone
from roadwork_serve.testbed.real_pictures.pairs import PairCache, build_pairs
from roadwork_serve.testbed.real_pictures.sources import background_pictures, traffic_pictures, training_pictures
from roadwork_serve.testbed.real_pictures.train import (
    collect,
    fit_patches,
    fit_roadwork,
    fit_words,
    out_of_fold,
    write_scores,
    write_weights,
)

SIDE = 224


def main() -> None:
    """Prepare what is missing, compute features, fit the heads, and write the weights."""
    parser = argparse.ArgumentParser(prog="real_pictures", description="Train the heads of the bundled backbone.")
    parser.add_argument("data", type=Path, help="folder with opendata/ and photos/")
    parser.add_argument("--work", type=Path, required=True, help="folder for caches; a stopped run goes on from them")
    parser.add_argument("--out", type=Path, help="folder of the weights to write; by default WORK/weights")
    parser.add_argument("--seed", type=int, default=72)
    parser.add_argument("--rounds", type=int, default=5, help="crops of each picture")
    parser.add_argument("--pairs", type=int, default=2500, help="composed pairs, in hundreds")
    parser.add_argument("--scenes", type=int, default=750, help="rendered scenes")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    work: Path = given.work
    pictures = training_pictures(given.data / "opendata", given.data / "photos")
    boxed = [picture for picture in [*pictures, *traffic_pictures(given.data)] if picture.boxes]
    build_crops(pictures, work / "crops", given.rounds, given.seed)
    build_crops(background_pictures(pictures), work / "crops", min(given.rounds, 2), given.seed)
    pairs = work / "pairs"
    if given.pairs > 100 * (len(list(pairs.glob("????"))) if pairs.is_dir() else 0):
        cutouts = [cutout for picture in boxed for cutout in cut_out(picture)]
        build_pairs(Composer(pictures, cutouts), pairs, given.pairs // 100, given.seed)
    scenes = fill(work / "scenes", "photos", range(1, given.scenes + 1), workers=1)
    backbone = work / "backbone"
    if not (backbone / "config.json").exists():
        backbone.mkdir(parents=True, exist_ok=True)
        import_backbone(backbone, SIDE)
    cache = FeatureCache(backbone, work / "features")
    data = collect(cache, CropCache(work / "crops"), PairCache(pairs), scenes, given.seed)
    print(f"{len(data.labels)} rows, {len(data.pairs.order)} pairs, {len(data.cells)} cells", flush=True)
    tiles = cache.tiles(pictures)
    write_scores(work / "out-of-fold.jsonl", list(out_of_fold(data, tiles, [picture.key for picture in pictures])))
    facts = {
        "seed": given.seed,
        "renderer": renderer_version(),
        "pictures": int(np.sum(data.whole)),
        "crops": int(np.sum(data.groups != "rendered")),
        "pairs": len(data.pairs.order),
        "scenes": len(scenes),
        "sources": sorted({picture.source for picture in pictures}),
        "groups": sorted({picture.group for picture in pictures}),
    }
    out = given.out or work / "weights"
    write_weights(out, backbone, fit_roadwork(data), fit_words(data), fit_patches(data), facts)
    (work / "attribution.md").write_text(attribution(pictures) + "\n", encoding="utf-8")
    print(f"written to {out}", flush=True)
    if has_int8_dot_products():
        found = asdict(write_int8_backbone(out, calibration_thumbs(pictures, scenes, SIDE, given.seed)))
        write_json(out / "int8.json", {name: value for name, value in found.items() if name != "file"})
    else:
        print("without the graph in 8 bits, which takes a CPU with VNNI: write it with `roadwork quantize`")


if __name__ == "__main__":
    main()
