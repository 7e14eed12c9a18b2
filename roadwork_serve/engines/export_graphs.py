"""Export of a checkpoint to ONNX graphs beside its weights, which engines run without PyTorch.

The graphs read the weights of model.safetensors, so all engines run the same ones; only weights that are not in float16
are copied. A small vision language model has two graphs, which `OnnxLanguageEngine` runs, and a DINOv3 ViT one, for
`OnnxFolder`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from roadwork_serve.engines.backbones import load_backbone
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.loading import load_pretrained, read_config
from roadwork_serve.engines.onnx import WRITTEN_FOR
from roadwork_serve.engines.onnx_folder import FILE as BACKBONE
from roadwork_serve.engines.onnx_folder import VIT
from roadwork_serve.engines.onnx_language import DECODER, VISION, WEIGHTS
from roadwork_serve.engines.onnx_program import to_onnx
from roadwork_serve.engines.transformers import embed_patches_by_matmul
from roadwork_serve.errors import ModelError

_SHARED_VALUES = 1024  # of the smallest weights that are not copied
#: A module, an example of its inputs, their dimensions of other sizes, and the names of its outputs.
Graph = tuple[nn.Module, dict[str, Tensor], Mapping[str, tuple[int, ...]], list[str]]


def export_graphs(folder: Path) -> list[Path]:
    """Write the graphs of a checkpoint into its folder, and return them.

    Raises:
        ModelError: It is none of DINOv3 ViT, Qwen3-VL and Molmo 2, its weights are not in one safetensors file, or the
            pooling of a Molmo 2 does not divide its grid.
    """
    kind = read_config(str(folder), LoadOptions()).get("model_type")
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}, from which the graphs would read the weights")
    if kind == VIT:
        backbone = load_backbone(str(folder))
        inputs = {"pixels": torch.randn(2, 3, backbone.image_size, backbone.image_size)}
        _write((backbone, inputs, {"pixels": (0,)}, ["tokens"]), folder / BACKBONE)
        return [folder / BACKBONE]
    if kind not in _LANGUAGE:
        raise ModelError(f"{folder} is a {kind}, and graphs can be written for DINOv3 ViT, Qwen3-VL and Molmo 2")
    model: Any = load_pretrained(AutoModelForImageTextToText, str(folder), LoadOptions())
    model.set_attn_implementation("eager")
    embed_patches_by_matmul(model)
    for graph, name in zip(_LANGUAGE[kind](model, folder), (VISION, DECODER), strict=True):
        _write(graph, folder / name)
    return [folder / VISION, folder / DECODER]


class _QwenVision(nn.Module):
    """Patches of one image -> its tokens, and those that are added behind the first layers, [1 + layers, n, width]."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor, taps: Tensor, weights: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        tower = self.tower
        hidden = tower.patch_embed(pixels) + (tower.pos_embed.weight[taps] * weights[:, :, None]).sum(1)
        found = []
        for at, block in enumerate(tower.blocks):
            hidden = hidden + _attention(block.attn, block.norm1(hidden), cos[:, None], sin[:, None])
            hidden = hidden + block.mlp(block.norm2(hidden))
            if at in tower.deepstack_visual_indexes:
                found.append(tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(at)](hidden))
        return torch.stack([tower.merger(hidden), *found])


def _attention(attention: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the attention of all patches of an image to one another; transformers splits it by images."""
    count = hidden.shape[0]
    q, k, v = attention.qkv(hidden).reshape(count, 3, attention.num_heads, -1).permute(1, 0, 2, 3).unbind(0)
    q, k, v = (each.transpose(0, 1) for each in (_rotated(q, cos, sin), _rotated(k, cos, sin), v))
    shares = torch.softmax(q @ k.transpose(1, 2) * attention.scaling, dim=-1)
    return attention.proj((shares @ v).transpose(0, 1).reshape(count, -1))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class _MolmoVision(nn.Module):
    """Patches of frames [frames, patches, values] -> tokens [1, frames * tokens of a frame, width]."""

    def __init__(self, model: Any, pools: NDArray[np.int64]) -> None:
        super().__init__()
        self.tower, self.adapter = model.model.vision_tower, model.model.multi_modal_projector
        self.layers = model.config.adapter_config.vision_feature_layer
        self.pools: Tensor
        self.placeholder: Tensor
        embeddings = model.model.language_model.embed_tokens.weight
        self.register_buffer("placeholder", embeddings[model.config.image_patch_id].detach().clone(), persistent=False)
        self.register_buffer("pools", torch.from_numpy(pools), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.tower.patch_embedding(pixels) + self.tower.positional_embedding[None]
        states = []
        for layer in self.tower.layers:
            states.append(hidden)
            hidden = _first(layer(hidden, None))
        states.append(hidden)
        features = torch.cat([states[at + 1 if at >= 0 else at] for at in self.layers], dim=-1)
        pooled = features[:, self.pools].flatten(0, 1)  # [tokens, patches of a token, width]
        tokens = _first(self.adapter.image_pooling_2d(pooled.mean(1, keepdim=True), pooled, attention_mask=None))
        return (self.adapter.image_projector(tokens[:, 0]) + self.placeholder)[None]


class _Decoder(nn.Module):
    """Tokens and the cache of those before them -> logits of the next token, and the cache with them.

    A token id beyond the vocabulary is an image token: its embedding is a row of `images`.
    """

    def __init__(self, text: Any, head: Any) -> None:
        super().__init__()
        self.text, self.head = text, head

    def forward(
        self, ids: Tensor, images: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past: Tensor
    ) -> tuple[Tensor, Tensor]:
        table = self.text.embed_tokens.weight
        hidden = torch.cat([table, images[0]])[ids][None]
        cache = _Cache(past)
        for at, layer in enumerate(self.text.layers):
            hidden = _first(
                layer(
                    hidden,
                    position_embeddings=(cos[None], sin[None]),
                    attention_mask=mask[None, None],
                    past_key_values=cache,
                )
            )
            if at + 1 < images.shape[0]:
                added = torch.cat([torch.zeros_like(table[:1]), images[at + 1]])  # nothing for text
                hidden = hidden + added[(ids - table.shape[0] + 1).clamp(min=0)][None]
        return self.head(self.text.norm(hidden[:, -1]))[0], torch.stack(cache.present)


class _Cache:
    """The cache of one pass as transformers' layers use it. past: [layers, 2, heads, tokens, width]."""

    def __init__(self, past: Tensor) -> None:
        self.past, self.present = past, []

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        keys, values = (torch.cat([self.past[layer, i][None], new], dim=2) for i, new in enumerate((keys, values)))
        self.present.append(torch.cat([keys, values]))
        return keys, values


def _first(found: Any) -> Tensor:
    return found[0] if isinstance(found, tuple) else found


def _qwen(model: Any, _folder: Path) -> tuple[Graph, Graph]:
    tower, config = model.model.visual, model.config.vision_config
    patches, width = 24, config.hidden_size // config.num_heads
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    inputs = {
        "pixels": torch.randn(patches, values),
        "taps": torch.randint(0, config.num_position_embeddings, (patches, 4)),
        "weights": torch.rand(patches, 4),
        "cos": torch.rand(patches, width),
        "sin": torch.rand(patches, width),
    }
    vision = _QwenVision(tower), inputs, dict.fromkeys(inputs, (0,)), ["tokens"]
    return vision, _decoder(model.model.language_model, model.lm_head, 1 + len(tower.deepstack_visual_indexes))


def _molmo(model: Any, folder: Path) -> tuple[Graph, Graph]:
    config = model.config.vision_config
    rows, columns = (side // config.patch_size for side in config.image_size)
    processor = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))["video_processor"]
    down, across = processor["pooling_size"]
    if rows % down or columns % across:
        raise ModelError(f"{folder}: a grid of {rows} x {columns} patches is not divisible by {down} x {across}")
    grid = np.arange(rows * columns).reshape(rows // down, down, columns // across, across)
    pools = grid.transpose(0, 2, 1, 3).reshape(-1, down * across)
    inputs = {"pixels": torch.randn(3, rows * columns, config.num_channels * config.patch_size**2)}
    vision = _MolmoVision(model, pools), inputs, {"pixels": (0,)}, ["tokens"]
    return vision, _decoder(model.model.language_model, model.lm_head, 1)


def _decoder(text: Any, head: Any, parts: int) -> Graph:
    config = text.config
    tokens, before, seen, heads, width = 7, 5, 4, config.num_key_value_heads, config.head_dim
    inputs = {
        "ids": torch.randint(0, config.vocab_size, (tokens,)),
        "images": torch.randn(parts, seen, config.hidden_size),
        "cos": torch.rand(tokens, width),
        "sin": torch.rand(tokens, width),
        "mask": torch.zeros(tokens, before + tokens),
        "past": torch.randn(config.num_hidden_layers, 2, heads, before, width),
    }
    shapes = {"ids": (0,), "images": (1,), "cos": (0,), "sin": (0,), "mask": (0, 1), "past": (3,)}
    return _Decoder(text, head), inputs, shapes, ["logits", "present"]


_LANGUAGE = {"qwen3_vl": _qwen, "molmo2": _molmo}


def _write(graph: Graph, file: Path) -> None:
    module, inputs, shapes, outputs = graph
    sizes = {name: dict.fromkeys(dims, torch.export.Dim.DYNAMIC) for name, dims in shapes.items()}
    program = to_onnx(module, inputs, sizes, outputs)
    import onnx

    model = program.model_proto
    del model.graph.value_info[:]
    _share_weights(onnx, model.graph, file.parent / WEIGHTS)
    onnx.helper.set_model_props(model, {WRITTEN_FOR: fingerprint(str(file.parent))})
    onnx.save(model, file)


def _share_weights(onnx: Any, graph: Any, weights: Path) -> None:
    """Replace the weights of a graph by equal rows of the tensors in a safetensors file, and casts to float32."""
    tensors, offsets = _tensors(weights)
    kept, shared, casts = [], [], []
    for each in graph.initializer:
        values = onnx.numpy_helper.to_array(each)
        found = _rows(values, tensors) if values.dtype == np.float32 and values.size >= _SHARED_VALUES else None
        if found is None:
            kept.append(each)
            continue
        name, first, rows, flipped = found
        row_bytes = tensors[name][0].nbytes
        part = onnx.TensorProto(name=f"{each.name}_half", data_type=onnx.TensorProto.FLOAT16, dims=rows.shape)
        part.data_location = onnx.TensorProto.EXTERNAL
        where = {"location": weights.name, "offset": offsets[name] + first * row_bytes, "length": rows.nbytes}
        for key, value in where.items():
            part.external_data.add(key=key, value=str(value))
        shared.append(part)
        cast = f"{each.name}_rows" if flipped else each.name
        casts.append(onnx.helper.make_node("Cast", [part.name], [cast], to=onnx.TensorProto.FLOAT))
        if flipped:
            casts.append(onnx.helper.make_node("Transpose", [cast], [each.name], perm=[1, 0]))
    nodes = list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend([*kept, *shared])
    graph.node.extend([*casts, *nodes])


def _rows(
    values: NDArray[np.float32], tensors: Mapping[str, NDArray[np.float16]]
) -> tuple[str, int, NDArray[np.float16], bool] | None:
    """Return the tensor and the rows of it that have these values, and whether they are transposed.

    A checkpoint may keep several matrices as one, below one another. None if no rows have them.
    """
    for flipped in (False, True) if values.ndim == 2 else (False,):
        wanted = values.T if flipped else values
        for name, own in tensors.items():
            if own.ndim != wanted.ndim or own.shape[1:] != wanted.shape[1:]:
                continue
            for first in range(0, len(own) - len(wanted) + 1, len(wanted)):
                rows = own[first : first + len(wanted)]
                if np.array_equal(wanted, rows.astype(np.float32)):
                    return name, first, rows, flipped
    return None


def _tensors(file: Path) -> tuple[dict[str, NDArray[np.float16]], dict[str, int]]:
    """Return the float16 tensors of a safetensors file, and where the bytes of each begin."""
    with file.open("rb") as source:
        size = int.from_bytes(source.read(8), "little")
        header = json.loads(source.read(size))
    with safe_open(file, "numpy") as tensors:
        found = {name: tensors.get_tensor(name) for name in header if header[name].get("dtype") == "F16"}
    return found, {name: 8 + size + header[name]["data_offsets"][0] for name in found}
