"""Molmo 2's native configuration with the names vLLM reads.

vLLM 0.32 and 0.33 read the fields of the configuration class that the hub's repository brings along as Python. That
code is not run here; transformers' own class holds the same facts under other names.
"""

from typing import Any

from roadwork_serve.engines.chat import token_id


class VllmNames:
    """Adds vLLM's names to a Molmo 2 configuration; any other goes through as it is. A value, so that it pickles.

    column, low: ids of the tokens at the end of a row of patches, and of low-resolution patches.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.column, self.low = token_id(tokenizer, "<im_col>"), token_id(tokenizer, "<im_low>")

    def __call__(self, config: Any) -> Any:
        """The configuration, with vLLM's names added in place."""
        if config.model_type != "molmo2":
            return config
        vision, adapter, text = config.vision_config, config.adapter_config, config.text_config
        config.image_col_id, config.image_low_res_id, config.vit_config = self.column, self.low, vision
        vision.image_default_input_size = tuple(vision.image_size)
        vision.image_patch_size, vision.image_num_pos = vision.patch_size, vision.num_position_embeddings
        adapter.vit_layers, adapter.pooling_attention_mask = tuple(adapter.vision_feature_layer), True
        text.qkv_bias, text.use_qk_norm, text.layer_norm_eps = text.attention_bias, True, text.rms_norm_eps
        text.rope_theta = text.rope_parameters["rope_theta"]
        return config
