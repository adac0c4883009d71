"""Small models of transformers' architectures, made from their default configurations with smaller numbers.

Nothing here knows an architecture, but for the few rows of SPECIAL: sizes are recognized by the names of a configuration's
attributes, inputs by the names of forward's parameters. Several sizes and sets of inputs are tried; the first that PyTorch runs is it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any, Optional

import torch
from small_models import Case, shake

LARGEST = 100_000_000  # parameters

# Attribute names (searched in order, the first that fits), and the value of a small model.
SIZES = [
    (r"(^|_)vocab_size$|vocab_size_per|^n_token$", 120),
    (r"entity_vocab_size|codebook_size|num_codevectors", 32),
    (r"num_key_value_heads|num_kv_heads|num_query_groups|attn_kv_heads|num_global_key_value_heads", 2),
    (r"^(mamba_(num|n)_heads|num_key_heads|num_value_heads|linear_num_(key|value)_heads|index_n_heads|.*linear_.*heads)$", 4),
    (r"^(mamba_head_dim|mamba_d_head)$", 16),
    (r"(attention_heads|num_heads|n_heads?|attention_head)$", 4),
    (r"first_k_dense|dense_layers$|first_dense|num_hash_layers|num_mtp", 1),
    (r"(^|_)(depth|num_blocks)$|^(iou_head_depth)$", 2),
    (r"layers?$|^num_layers_|_layers_per_", 2),
    (r"(qk_rope_head_dim|qk_nope_head_dim|v_head_dim|head_dim|d_kv|head_size|d_head|attention_channels)$", 16),
    (r"(lora_rank|index_head_dim)$", 32),
    (r"index_topk", 8),
    (r"(intermediate_size|ffn_dim|d_ff|n_inner|mlp_dim|ffn_hidden_size|dim_feedforward|inner_dim|linear_size|d_inner)$", 64),
    (r"num_experts_per_tok|moe_top_?k|^top_k$|moe_k$", 2),
    (r"num_(local_|routed_)?experts$|n_routed_experts|moe_num_experts|num_expert$", 4),
    (r"^(n_group|topk_group)$", 1),
    (r"^(max_position_embeddings|n_positions|max_(source|target)_positions|max_sequence_length|seq_length|max_seq_len|n_ctx)$", 64),
    (r"^num_queries$|num_query_tokens|num_object_queries|num_latents", 8),
    (r"num_mel_bins|num_mels", 16),
    (r"sliding_window|attention_window|window_context|local_attention|local_attn_chunk|attention_chunk", 8),
    (r"num_conv_pos_embeddings$", 16),
    (r"num_conv_pos_embedding_groups$|num_codevector_groups$|(^|_)n_groups$", 2),
    (r"state_size|d_state|ssm_state", 8),
    (r"(time_step_rank|dt_rank)$", 4),
    (
        r"(hidden_size|d_model|embed_dim|n_embd|embedding_size|embedding_dim|projection_dim|hidden_dim|feature_size|proj_size|emb_dim|"
        r"output_dim|proj_dim|^dim|_dim|width|embed_size|hidden_channels|conv_dim|codevector_dim|neck_size|lru_width|latents|d_embed|"
        r"(decoder|encoder|out|stem|upsample_initial|conv|intermediate|fusion)_channels|num_filters)$",
        64,
    ),
]
# For models whose rotary embeddings need heads of a certain size.
WIDE = [
    (r"num_key_value_heads|num_kv_heads|num_query_groups|attn_kv_heads|num_global_key_value_heads", 1),
    (r"(attention_heads|num_heads|n_heads?)$", 2),
    (r"(^|_)head_dim$", 64),
    (r"(hidden_size|d_model|n_embd|embed_dim)$", 128),
]
KEEP = re.compile(
    r"^_|relative_attention|dtype|token(?!s$)|^rope_|_id$|num_labels|num_channels|chunk_size_feed_forward|id2label|label2id|num_frames|bins$"
)
NORMALIZED = re.compile(r"sizes|dims?$|channels|widths|filters")

# What cannot be known from names: by model type, values given to the configuration.
SERIES = {"prediction_length": 8, "context_length": 24, "num_time_features": 2}
HGNET = {
    "stem_channels": [3, 16, 16],
    "stage_in_channels": [16, 16, 32, 64],
    "stage_mid_channels": [8, 8, 16, 16],
    "stage_out_channels": [16, 32, 64, 128],
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16}
SPECIAL: dict[str, dict[str, Any]] = {
    "autoformer": SERIES,
    "bamba": MAMBA,
    "chameleon": {"vocabulary_map": {"<image>": 100, "IMGIMGA": 101, "IMGIMGB": 102}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4},
    "dots1": {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "granitemoehybrid": MAMBA,
    "hgnet_v2": HGNET,
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hunyuan_vl_text": {"head_dim": 16, "num_key_value_heads": 2},
    "informer": SERIES,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "num_dense_layers": 1},
    "longcat_flash": {"qk_head_dim": 32},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "sam2_hiera_det_model": {"hidden_size": 96},
    "sam2_vision_model": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "time_series_transformer": SERIES,
    "vitmatte": {"fusion_hidden_sizes": [16, 16, 16, 16]},
    "wav2vec2-bert": {"feature_projection_input_dim": 16},
    "xmod": {"default_language": "en_XX"},
}


# ---- Configurations --------------------------------------------------------------------------------------------------------------


def smaller_int(name: str, value: int, how: str) -> int:
    if KEEP.search(name) and not name.endswith(("mel_bins",)):
        return value
    for pattern, size in (WIDE if how.startswith("wide") else []) + SIZES:
        if re.search(pattern, name):
            if how == "wider" and size >= 64:
                size *= 2
            return min(value, size) if value > 0 else value
    return value


def smaller_list(name: str, value: list[Any]) -> Any:
    """Sizes of stages: all divided by the same number, so that they still fit each other."""
    if not value or not all(type(v) is int for v in value):
        return value
    if re.search(r"depths|num_layers|layers$|num_blocks|num_modules", name):
        return type(value)(min(v, 2) if v > 0 else v for v in value)
    if re.search(r"attention_window|window", name):
        return type(value)(min(v, 8) for v in value)
    if NORMALIZED.search(name) and min(value) >= 16 and not re.search(r"kernel|patch|image|_grid|stride", name):
        by = next((d for d in (16, 8, 4, 2) if all(v % (d * 4) == 0 and v // d >= 8 for v in value)), 1)
        return type(value)(v // by for v in value)
    return value


def parameters_of(config: Any) -> set[str]:
    """What the configuration's class takes."""
    names = {f.name for f in dataclasses.fields(config) if f.init} if dataclasses.is_dataclass(config) else set()
    return names | {n for c in type(config).__mro__ for n in inspect.signature(c.__init__).parameters}


def is_config(value: Any) -> bool:
    import transformers

    kind = getattr(transformers, "PreTrainedConfig", None) or transformers.PretrainedConfig  # the name before 4.57
    return isinstance(value, kind)


def backbone() -> Any:
    """In place of one of timm, which need not be installed."""
    from transformers import ResNetConfig

    stages = ["stage2", "stage3", "stage4"]
    return ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], out_features=stages)


def shrink(config: Any, how: str) -> Any:
    """A configuration of the same class with smaller numbers; `how`: "tiny", "wide" and "wider" (larger heads), "layers" (only fewer layers and
    words)."""
    changed: dict[str, Any] = {}
    own = parameters_of(config)
    for name, value in list(vars(config).items()):
        if name.startswith("_") or name not in own:
            continue  # or it is derived from others
        if is_config(value):
            changed[name] = backbone() if value.model_type == "timm_backbone" else shrink(value, how)
        elif isinstance(value, list) and value and all(is_config(v) for v in value):
            changed[name] = [shrink(v, how) for v in value]
        elif name in ("layer_types", "layers_block_type", "mlp_layer_types", "attn_types", "indexer_types") and value:
            changed[name] = value
        elif name in ("rope_parameters", "rope_scaling") and isinstance(value, dict) and "mrope_section" in value:
            changed[name] = {**value, "mrope_section": [4, 2, 2]} if how == "tiny" else value
        elif type(value) is int:
            if how != "layers" or re.search(r"layers?$|depth$|vocab_size$", name):
                changed[name] = smaller_int(name, value, how)
        elif isinstance(value, (list, tuple)) and how != "layers":
            changed[name] = smaller_list(name, value)
    fit_layers(config, changed)
    fit_stages(config, changed)
    heads = vars(config).get("num_attention_heads")
    if "num_key_value_heads" in changed and heads == vars(config)["num_key_value_heads"]:
        changed["num_key_value_heads"] = changed.get("num_attention_heads", heads)
    vocabulary = changed.get("vocab_size", vars(config).get("vocab_size"))
    if type(vocabulary) is int:
        for name, value in vars(config).items():
            if re.search(r"(token_id|token_index|_token)$", name) and type(value) is int and value >= vocabulary:
                changed[name] = vocabulary - 1 - sum(map(ord, name)) % 40
    patch, image = vars(config).get("patch_size"), vars(config).get("image_size")
    if how != "layers" and type(image) is int and image > 64:
        changed["image_size"] = 4 * patch if type(patch) is int and patch >= 8 and image % patch == 0 else 64
    changed = {n: v for n, v in changed.items() if is_config(v) or v != vars(config).get(n)}
    changed = {**given(config, own), **changed}
    changed.update(SPECIAL.get(config.model_type, {}) if how != "layers" else {})
    return remade(config, changed)


def given(config: Any, own: set[str]) -> dict[str, Any]:
    """What a configuration inside another has been given, other than the defaults of its class."""
    try:
        base = type(config)()
    except Exception:
        return {}
    values = {n: v for n, v in vars(config).items() if n in own and not n.startswith("_") and not is_config(v)}
    found = {n: v for n, v in values.items() if n in vars(base) and vars(base)[n] != v}
    for name in ("out_features",):
        if getattr(config, name, None) != getattr(base, name, None):
            found[name] = getattr(config, name)
    return found


def fit_layers(config: Any, changed: dict[str, Any]) -> None:
    """As many layers as there are kinds of layers, each once, in lists that say the kind of each."""
    lists = {
        n: changed[n]
        for n in ("layer_types", "layers_block_type", "mlp_layer_types", "attn_types", "indexer_types")
        if n in changed
    }
    if not lists:
        return
    length = len(next(iter(lists.values())))
    lists = {n: v for n, v in lists.items() if len(v) == length}
    rows = list(dict.fromkeys(zip(*lists.values())))[:4]
    while len(rows) < 2:
        rows.append(rows[-1])
    for i, name in enumerate(lists):
        changed[name] = [row[i] for row in rows]
    for name, value in vars(config).items():
        if name in ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers") and value == length:
            changed[name] = len(rows)


def fit_stages(config: Any, changed: dict[str, Any]) -> None:
    """As many layers as a transformer that serves as a backbone gives the results of; and as many channels as the backbone gives."""
    wanted = getattr(config, "out_indices", None) or ()
    if "reshape_hidden_states" in vars(config) and len(wanted) > 1 and "num_hidden_layers" in changed:
        changed["num_hidden_layers"] = len(wanted)
        changed["out_indices"] = list(range(1, len(wanted) + 1))
        changed["out_features"] = [f"stage{i}" for i in changed["out_indices"]]
    if "encoder_hidden_dim" in changed and isinstance(changed.get("decoder_in_channels"), (list, tuple)):
        changed["decoder_in_channels"] = [changed["encoder_hidden_dim"]] * len(changed["decoder_in_channels"])
    inner = changed.get("backbone_config")
    if is_config(inner) and isinstance(changed.get("encoder_in_channels"), (list, tuple)):
        sizes = getattr(inner, "hidden_sizes", None)
        if sizes:
            changed["encoder_in_channels"] = list(sizes)[-len(changed["encoder_in_channels"]) :]


def remade(config: Any, changed: dict[str, Any]) -> Any:
    """A new configuration, so that what it derives is derived again; or else a changed one."""
    try:
        return type(config)(**changed)
    except Exception:
        kept = {
            n: v for n, v in config.to_dict().items() if not n.startswith("_") and n not in ("model_type", "transformers_version")
        }
        try:
            return type(config)(**{**kept, **changed})
        except Exception:
            for name, value in changed.items():
                setattr(config, name, value)
            return config


def set_everywhere(config: Any, name: str, value: Any) -> None:
    if name in vars(config):
        setattr(config, name, value)
    for child in vars(config).values():
        if is_config(child):
            set_everywhere(child, name, value)


# ---- Inputs ----------------------------------------------------------------------------------------------------------------------


def look_up(config: Any, names: tuple[str, ...], default: Any) -> Any:
    """The first attribute of one of these names, in the configuration or those inside it."""
    for name in names:
        value = vars(config).get(name)
        if value is None and name in getattr(config, "attribute_map", {}):
            value = vars(config).get(config.attribute_map[name])
        if value is not None:
            return value
    for child in vars(config).values():
        if is_config(child):
            value = look_up(child, names, None)
            if value is not None:
                return value
    return default


class Inputs:
    """Arguments by name, for one configuration."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.vision = getattr(config, "vision_config", None) or config
        self.text = config.get_text_config() if hasattr(config, "get_text_config") else config
        self.generator = torch.Generator().manual_seed(3)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def words(self, *shape: int) -> torch.Tensor:
        vocabulary = look_up(self.text, ("vocab_size",), 100)
        vocabulary = vocabulary if type(vocabulary) is int else 100
        return torch.randint(min(8, vocabulary // 4), max(2, min(70, vocabulary)), shape, generator=self.generator)

    def image(self, batch: int, shape: Optional[tuple[int, ...]] = None) -> torch.Tensor:
        size = look_up(self.vision, ("image_size", "img_size", "pretrain_image_size", "input_size"), 64)
        size = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
        if isinstance(size[0], dict) or max(size) > 256:
            size = (64, 64)
        channels = look_up(self.vision, ("num_channels", "in_channels", "in_chans", "image_channels"), 3)
        return self.random(batch, *(shape or ()), channels if type(channels) is int else 3, *size)

    def make(self, name: str, sizes: dict[str, int], second: bool) -> tuple[Any, dict[int, str]]:
        """(an argument, its dimensions that may vary)."""
        b, n, t = sizes.get("batch", 2), sizes.get("length", 16), sizes.get("target", 8)
        c = self.config
        mel = look_up(c, ("num_mel_bins", "feature_size", "input_feat_per_channel", "num_mels", "input_dim"), 16)
        if name in ("input_ids", "input_ids_1"):
            return self.words(b, n), {0: "batch", 1: "length"}
        if name == "attention_mask":
            mask = torch.ones(b, n, dtype=torch.int64)
            if second:
                mask[0, -3:] = 0
            return mask, {0: "batch", 1: "length"}
        if name == "decoder_input_ids":
            return self.words(b, t), {0: "batch", 1: "target"}
        if name == "bbox":
            corner = torch.randint(0, 8, (b, n, 2), generator=self.generator)
            return torch.cat([corner, corner + torch.randint(1, 8, (b, n, 2), generator=self.generator)], -1), {
                0: "batch",
                1: "length",
            }
        if name in ("pixel_values", "pixel_values_images"):
            return self.image(b), {0: "batch"}
        if name == "video":
            return self.image(b, (look_up(c, ("num_frames",), 4),)), {0: "batch"}
        if name in ("features_first", "wide_features"):  # [batch, mel, time]
            frames = 2 * look_up(c, ("max_source_positions",), 32)
            return self.random(b, mel, frames), {0: "batch"}
        if name == "features_last":  # [batch, time, mel]
            return self.random(b, look_up(c, ("max_length",), 64) if look_up(c, ("max_length",), 64) in (1024,) else 64, mel), {
                0: "batch"
            }
        if name == "wave":
            return self.random(b, 1600), {0: "batch", 1: "wave"}
        if name == "wave_channel":
            return self.random(b, look_up(c, ("audio_channels",), 1), 1600), {0: "batch"}
        if name == "series":
            channels = look_up(c, ("num_input_channels", "input_size"), 1)
            return self.random(b, look_up(c, ("context_length",), 32), channels), {0: "batch"}
        if name.startswith("past_series"):
            past = look_up(c, ("context_length",), 24) + max(look_up(c, ("lags_sequence",), [7]))
            if name == "past_series_time":
                return self.random(b, past, look_up(c, ("num_time_features",), 2)), {0: "batch"}
            return (torch.ones(b, past) if name == "past_series_mask" else self.random(b, past)), {0: "batch"}
        if name == "future_values":
            return self.random(b, look_up(c, ("prediction_length",), 8)), {0: "batch"}
        if name == "future_time":
            return self.random(b, look_up(c, ("prediction_length",), 8), look_up(c, ("num_time_features",), 2)), {0: "batch"}
        if name in ("states", "actions"):
            return self.random(b, n, look_up(c, ("state_dim" if name == "states" else "act_dim",), 4)), {0: "batch", 1: "length"}
        if name == "returns":
            return self.random(b, n, 1), {0: "batch", 1: "length"}
        if name == "timesteps":
            return torch.arange(n).expand(b, n).clone(), {0: "batch", 1: "length"}
        if name == "embeddings":
            return self.random(b, n, look_up(c, ("hidden_size", "d_model"), 32)), {0: "batch", 1: "length"}
        if name == "patches":
            return self.random(b, 16, 3 * look_up(self.vision, ("patch_size",), 16) ** 2), {0: "batch"}
        if name == "patch_mask":
            return torch.ones(b, 16, dtype=torch.int64), {0: "batch"}
        if name == "patch_shapes":
            return torch.full((b, 2), 4), {0: "batch"}
        if name == "flat_patches":  # with the row and the column of each in front
            at = torch.stack(torch.meshgrid(torch.arange(1.0, 5), torch.arange(1.0, 5), indexing="ij"), -1).reshape(1, 16, 2)
            return torch.cat(
                [at.expand(b, 16, 2), self.random(b, 16, look_up(self.vision, ("patch_embed_hidden_size",), 32))], -1
            ), {0: "batch"}
        if name in ("whole_series", "no_padding"):
            series = self.random(b, 2 * look_up(c, ("patch_length",), 32))
            return (series if name == "whole_series" else torch.zeros(series.shape, dtype=torch.int64)), {0: "batch"}
        if name == "frequency":
            return torch.zeros(b, 1, dtype=torch.int64), {0: "batch"}
        if name == "spectrum":
            return self.random(b, 1, 256, look_up(c, ("num_mel_bins",), 64)), {0: "batch"}
        if name == "pair":
            return self.image(b, (2,)), {0: "batch"}
        if name in ("regions", "region_boxes"):
            size = 4 if name == "region_boxes" else look_up(c, ("visual_feat_dim",), 2048)
            return self.random(b, 5, size), {0: "batch"}
        raise KeyError(name)


# What to call forward with: parameter -> what it gets. "?" in front: only if forward has such a parameter.
TEXT = {"input_ids": "input_ids", "?attention_mask": "attention_mask"}
RECIPES: list[dict[str, str]] = [
    {**TEXT, "decoder_input_ids": "decoder_input_ids"},
    {**TEXT, "bbox": "bbox"},
    {**TEXT, "bbox": "bbox", "pixel_values": "pixel_values"},
    TEXT,
    {"pixel_values": "pixel_values"},
    {"pixel_values": "video"},
    {**TEXT, "pixel_values": "pixel_values"},
    {"input_features": "features_first", "decoder_input_ids": "decoder_input_ids"},
    {"input_features": "features_last", "decoder_input_ids": "decoder_input_ids"},
    {"input_features": "features_first"},
    {"input_features": "features_last"},
    {"input_values": "wave", "decoder_input_ids": "decoder_input_ids"},
    {"input_values": "wave"},
    {"input_values": "wave_channel"},
    {"input_values": "features_last"},
    {"input_values": "features_first"},
    {**TEXT, "input_features": "features_first"},
    {**TEXT, "input_features": "features_last"},
    {**TEXT, "input_values": "wave"},
    {"past_values": "series"},
    {"spectrogram": "features_last"},
    {"pixel_values_videos": "video"},
    {"pixel_values": "pixel_values", "decoder_input_ids": "decoder_input_ids"},
    {
        "past_values": "past_series",
        "past_time_features": "past_series_time",
        "past_observed_mask": "past_series_mask",
        "future_time_features": "future_time",
        "future_values": "future_values",
    },
    {
        "states": "states",
        "actions": "actions",
        "rewards": "returns",
        "returns_to_go": "returns",
        "timesteps": "timesteps",
        "attention_mask": "attention_mask",
    },
    {**TEXT, "input_features": "spectrum"},
    {"past_values": "whole_series", "past_values_padding": "no_padding", "?freq": "frequency"},
    {**TEXT, "visual_feats": "regions", "visual_pos": "region_boxes"},
    {"pixel_values": "patches", "pixel_attention_mask": "patch_mask", "spatial_shapes": "patch_shapes"},
    {**TEXT, "pixel_values": "patches", "pixel_attention_mask": "patch_mask", "spatial_shapes": "patch_shapes"},
    {"flattened_patches": "flat_patches", "decoder_input_ids": "decoder_input_ids"},
    {"pixel_values": "pair"},
    {**TEXT, "pixel_values": "video"},
    {"pixel_values": "pixel_values", "prompt_pixel_values": "pixel_values", "prompt_masks": "pixel_values"},
    {"pixel_values": "pixel_values", "task_inputs": "input_ids"},
    {"input_values": "embeddings", "decoder_input_values": "embeddings"},
    {"inputs": "embeddings"},
    {"inputs_embeds": "embeddings"},
    {"hidden_states": "embeddings"},
]


def recipes(model: Any) -> Iterator[dict[str, str]]:
    """Those that forward takes and that give it all that it needs; those with the model's main input first."""
    parameters = inspect.signature(model.forward).parameters
    needed = {n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    fitting = []
    for recipe in RECIPES:
        given = {n.lstrip("?"): v for n, v in recipe.items() if n.lstrip("?") in parameters or not n.startswith("?")}
        if set(given) <= set(parameters) and needed <= set(given):
            fitting.append(given)
    main = getattr(model, "main_input_name", "input_ids")
    mains = [main] if isinstance(main, str) else main
    return iter(sorted(fitting, key=lambda given: mains[0] not in given))


# ---- Models ----------------------------------------------------------------------------------------------------------------------


def listing(heads: bool) -> list[tuple[str, str]]:
    """(model type, class) of the base models, and of those with heads where there is no base or where `heads` asks for them."""
    from transformers.models.auto import modeling_auto as auto

    tables = [auto.MODEL_MAPPING_NAMES]
    tables += [v for n, v in sorted(vars(auto).items()) if n.startswith("MODEL_FOR_") and n.endswith("_MAPPING_NAMES")]
    jobs: dict[tuple[str, str], None] = {}
    bases: set[str] = set()
    for table in tables:
        for family, classes in table.items():
            for name in [classes] if isinstance(classes, str) else classes[:1]:
                if heads or family not in bases:
                    jobs[family, name] = None
            bases.add(family)
    return sorted(jobs)


def make(family: str, name: str) -> Case:
    import transformers
    from transformers import CONFIG_MAPPING

    transformers.logging.set_verbosity_error()
    failures: list[str] = []
    for how in ("tiny", "wide", "wider", "layers"):
        try:
            config = shrink(CONFIG_MAPPING[family](), how)
            set_everywhere(config, "use_cache", False)
            kind = getattr(transformers, name)
            torch.manual_seed(0)
            with torch.device("meta"):
                count = sum(p.numel() for p in kind(config).parameters())
            if count > LARGEST:
                raise ValueError(f"{how}: {count} parameters")
            torch.manual_seed(0)
            model = shake(kind(config).float().eval())
        except Exception as error:
            failures.append(f"{how}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        for recipe in recipes(model):
            try:
                case = make_case(model, config, recipe)
                for kwargs in case.sets:
                    model(**kwargs)
                return case
            except Exception as error:
                failures.append(
                    f"{how} {'+'.join(recipe)}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                )
        if not list(recipes(model)):
            failures.append(f"{how}: forward takes {list(inspect.signature(model.forward).parameters)[:6]}")
    raise RuntimeError(" || ".join(failures))


def make_case(model: Any, config: Any, recipe: dict[str, str]) -> Case:
    inputs = Inputs(config)

    def arguments(sizes: dict[str, int], second: bool) -> dict[str, Any]:
        return {name: inputs.make(what, sizes, second)[0] for name, what in recipe.items()}

    varying = {name: inputs.make(what, {}, False)[1] for name, what in recipe.items()}
    return Case(model, [arguments({}, False), arguments({}, True)], varying, remake=lambda sizes: arguments(sizes, True))
