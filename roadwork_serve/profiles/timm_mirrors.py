"""Mirrors of the gated DINOv3 models on timm's pages of the hub."""

from collections.abc import Mapping

_TIMM_SIZES = {
    "s16": "small",
    "s16plus": "small_plus",
    "b16": "base",
    "l16": "large",
    "h16plus": "huge_plus",
    "7b16": "7b",
}
#: Hub ids of timm with the weights of the gated DINOv3 models, and no licence to accept before the download.
TIMM_MIRRORS: Mapping[str, str] = {
    **{f"facebook/dinov3-vit{size}-pretrain-lvd1689m": f"timm/vit_{name}_patch16_dinov3.lvd1689m"
       for size, name in _TIMM_SIZES.items()},
    **{f"facebook/dinov3-vit{size}-pretrain-sat493m": f"timm/vit_{_TIMM_SIZES[size]}_patch16_dinov3.sat493m"
       for size in ("l16", "7b16")},
    **{f"facebook/dinov3-convnext-{size}-pretrain-lvd1689m": f"timm/convnext_{size}.dinov3_lvd1689m"
       for size in ("tiny", "small", "base", "large")},
}  # fmt: skip
