"""Molmo 2's configuration of transformers with the field names that vLLM reads.

vLLM 0.32 and 0.33 read the fields of the configuration class in the hub repository, which is Python code that is not
run here. The class of transformers has the same fields under other names. Experimental, not yet run with the published
weights.
"""

from typing import Any

from roadwork_serve.engines.chat import token_id


class VllmNames:
    """Adds vLLM's field names to a Molmo 2 configuration, and returns any other unchanged. Can be pickled."""

    def __init__(self, tokenizer: Any) -> None:
        self.column, self.low = token_id(tokenizer, "<im_col>"), token_id(tokenizer, "<im_low>")

    def __call__(self, config: Any) -> Any:
        """Add vLLM's field names in place and return the configuration."""
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
