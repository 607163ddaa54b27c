"""The tensor table: for every tensor that a language model may have, its dimensions in terms of the model's widths.

A cell is dimensions, fastest first, as names from `widths.py`, numbers, or `3*n_embd`; `?` does not follow from the
metadata, and `|` stands between alternatives. One table serves all architectures: those that give a tensor another
shape have a column of their own in `OF_ARCHITECTURE`, and which tensors an architecture may have at all is the gguf
package's to say (MODEL_TENSORS). To teach another tensor, add a cell, and a width to `widths.py` where it has one.
Source: what the classes in llama.cpp's src/models create.
"""

from typing import Final

_ATTENTION: Final = {
    "attn_norm": "n_embd",
    "attn_norm_2": "n_embd",
    "attn_q": "n_embd q | n_embd q_swa",
    "attn_k": "n_embd k | n_embd k_swa",
    "attn_v": "n_embd v | n_embd v_swa",
    "attn_qkv": "n_embd qkv | n_embd qkv_swa",
    "attn_q.bias": "q | q_swa",
    "attn_k.bias": "k | k_swa",
    "attn_v.bias": "v | v_swa",
    "attn_qkv.bias": "qkv | qkv_swa",
    "attn_output": "q n_embd | heads_v n_embd | q_swa n_embd | heads_v_swa n_embd",
    "attn_output.bias": "n_embd",
    "attn_output_norm": "n_embd",
    "attn_sub_norm": "n_embd",
    "attn_post_norm": "n_embd",
    "post_attention_norm": "n_embd",
    "attn_q_norm": "head_k | q | head_k n_head | head_k_swa",
    "attn_k_norm": "head_k | k | head_k n_head_kv | head_k_swa | n_embd",
    "attn_sinks": "n_head",
    "attn_gate": "n_embd q | n_embd q_swa | n_embd n_head",
    "attn_q_a": "n_embd q_lora_rank",
    "attn_q_a_norm": "q_lora_rank",
    "attn_q_b": "q_lora_rank q_mla",
    "attn_kv_a_mqa": "n_embd kv_a",
    "attn_kv_a_norm": "kv_lora_rank",
    "attn_kv_b": "kv_lora_rank kv_b",
    "attn_k_b": "head_k_nope kv_lora_rank n_head",
    "attn_v_b": "kv_lora_rank head_v_mla n_head",
    "attn_rel_b": "n_head ?",
    "cross_attn_norm": "n_embd",
    "cross_attn_q": "n_embd q",
    "cross_attn_k": "n_embd k",
    "cross_attn_v": "n_embd v",
    "cross_attn_o": "heads_v n_embd",
    "attn_o": "heads_v n_embd",
    "indexer.attn_k": "n_embd indexer_head",
    "indexer.attn_q_b": "q_lora_rank indexer_q",
    "indexer.k_norm": "indexer_head",
    "indexer.proj": "n_embd indexer_n_head",
    "vis_attn_qkv": "n_embd qkv",
    "vis_attn_output": "q n_embd",
}

_FEED_FORWARD: Final = {
    "ffn_norm": "n_embd",
    "ffn_norm_exps": "n_embd",
    "ffn_sub_norm": "n_ff",
    "ffn_post_norm": "n_embd",
    "post_ffw_norm": "n_embd",
    "post_ffw_norm_1": "n_embd",
    "post_ffw_norm_2": "n_embd",
    "pre_ffw_norm_2": "n_embd",
    "layer_output_norm": "n_embd",
    "ffn_gate": "n_embd n_ff",
    "ffn_up": "n_embd n_ff",
    "ffn_down": "n_ff n_embd",
    "ffn_gate.bias": "n_ff",
    "ffn_up.bias": "n_ff",
    "ffn_down.bias": "n_embd",
    "ffn_gate_inp": "n_embd n_expert",
    "ffn_gate_inp.bias": "n_expert",
    "ffn_gate_exps": "n_embd n_ff_exp n_expert | n_embd n_ff n_expert | n_embd n_ff_used n_expert",
    "ffn_up_exps": "n_embd n_ff_exp n_expert | n_embd n_ff n_expert | n_embd n_ff_used n_expert",
    "ffn_gate_up_exps": "n_embd 2*n_ff_exp n_expert | n_embd 2*n_ff n_expert | n_embd 2*n_ff_used n_expert",
    "ffn_down_exps": "n_ff_exp n_embd n_expert | n_ff n_embd n_expert | n_ff_used n_embd n_expert",
    "ffn_gate_exps.bias": "n_ff_exp n_expert | n_ff n_expert",
    "ffn_up_exps.bias": "n_ff_exp n_expert | n_ff n_expert",
    "ffn_down_exps.bias": "n_embd n_expert",
    "exp_probs_b": "n_expert",
    "ffn_gate_inp_shexp": "n_embd",
    "ffn_gate_shexp": "n_embd n_ff_shexp | n_embd n_ff_shared | n_embd n_ff_exp | n_embd n_ff",
    "ffn_up_shexp": "n_embd n_ff_shexp | n_embd n_ff_shared | n_embd n_ff_exp | n_embd n_ff",
    "ffn_down_shexp": "n_ff_shexp n_embd | n_ff_shared n_embd | n_ff_exp n_embd | n_ff n_embd",
    "ffn_gate_chexps": "n_embd ? ?",
    "ffn_up_chexps": "n_embd ? ?",
    "ffn_down_chexps": "? n_embd ?",
    "vis_gate": "n_embd n_ff",
    "vis_up": "n_embd n_ff",
    "vis_down": "n_ff n_embd",
    "nextn.eh_proj": "2*n_embd n_embd",
    "nextn.enorm": "n_embd",
    "nextn.hnorm": "n_embd",
    "nextn.shared_head_norm": "n_embd",
    "nextn.shared_head_head": "n_embd n_vocab",
    "nextn.embed_tokens": "n_embd n_vocab",
    "inp_gate": "n_embd n_embd_per_layer",
    "proj": "n_embd_per_layer n_embd",
    "post_norm": "n_embd",
}

# As mamba has them; what other recurrent families call the same is in OF_ARCHITECTURE.
_RECURRENT: Final = {
    "ssm_in": "n_embd 2*d_inner",
    "ssm_conv1d": "d_conv d_inner",
    "ssm_conv1d.bias": "d_inner",
    "ssm_x": "d_inner ssm_x",
    "ssm_dt": "dt_rank d_inner",
    "ssm_dt.bias": "d_inner",
    "ssm_dt_norm": "dt_rank",
    "ssm_b_norm": "d_state",
    "ssm_c_norm": "d_state",
    "ssm_a": "d_state d_inner",
    "ssm_d": "d_inner",
    "ssm_out": "d_inner n_embd",
    "shortconv.conv": "shortconv n_embd",
    "shortconv.in_proj": "n_embd 3*n_embd",
    "shortconv.out_proj": "n_embd n_embd",
    "channel_mix_lerp_k": "n_embd",
    "channel_mix_lerp_r": "n_embd",
    "channel_mix_key": "n_embd n_ff",
    "channel_mix_value": "n_ff n_embd",
    "channel_mix_receptance": "n_embd n_embd",
    "time_mix_lerp_x": "n_embd",
    "time_mix_lerp_fused": "n_embd 1 1 5 | n_embd 1 1 6",
    "time_mix_decay": "n_embd",
    "time_mix_decay_w1": "n_embd time_decay",
    "time_mix_decay_w2": "time_decay n_embd",
    "time_mix_first": "wkv_head wkv_heads",
    "time_mix_gate": "n_embd n_embd",
    "time_mix_receptance": "n_embd n_embd",
    "time_mix_output": "n_embd n_embd",
    "time_mix_key": "n_embd n_embd | n_embd ?",
    "time_mix_value": "n_embd n_embd | n_embd ?",
    "time_mix_ln": "n_embd",
    "time_mix_w0": "n_embd",
    "time_mix_w1": "n_embd 5*time_mix",
    "time_mix_w2": "time_mix n_embd 5",
    "time_mix_a0": "n_embd",
    "time_mix_a1": "n_embd lora_iclr",
    "time_mix_a2": "lora_iclr n_embd",
    "time_mix_v0": "n_embd",
    "time_mix_v1": "n_embd lora_value | n_embd lora_iclr",
    "time_mix_v2": "lora_value n_embd | lora_iclr n_embd",
    "time_mix_g1": "n_embd lora_gate",
    "time_mix_g2": "lora_gate n_embd",
    "time_mix_k_k": "n_embd",
    "time_mix_k_a": "n_embd",
    "time_mix_r_k": "n_embd",
}

IN_MODEL: Final = {
    "token_embd": "n_embd n_vocab",
    "token_embd_norm": "n_embd",
    "position_embd": "n_embd n_ctx",
    "token_types": "n_embd ?",
    "output_norm": "n_embd",
    "enc.output_norm": "n_embd",
    "dec.output_norm": "n_embd",
    "output": "n_embd n_vocab",
    "output.bias": "n_vocab",
    "cls.output": "n_embd ?",
    "rope_freqs": "half_rot | half_head | half_head_swa",
    "rope_factors_long": "half_rot | half_head",
    "rope_factors_short": "half_rot | half_head",
    "per_layer_token_embd": "per_layer_all n_vocab",
    "per_layer_model_proj": "n_embd per_layer_all",
    "per_layer_proj_norm": "n_embd_per_layer",
}
"""Tensors outside of the blocks, written likewise."""

IN_BLOCKS: Final = {**_ATTENTION, **_FEED_FORWARD, **_RECURRENT}
"""Tensors of a block, without `blk.N.`; without a suffix it is the weight, or a bias as long as the weight."""

_MAMBA2: Final = {
    "ssm_in": "n_embd ssm_in_2",
    "ssm_conv1d": "d_conv ssm_conv_2",
    "ssm_conv1d.bias": "ssm_conv_2",
    "ssm_dt.bias": "dt_rank",
    "ssm_a": "1 dt_rank",
    "ssm_d": "1 dt_rank",
    "ssm_norm": "ssm_per_group n_group",
}

_DELTA_NET: Final = {
    "attn_q": "n_embd 2*q",
    "attn_q.bias": "2*q",
    "attn_qkv": "n_embd delta_qkv",
    "attn_gate": "n_embd d_inner",
    "ssm_in": "n_embd delta_qkvz",
    "ssm_conv1d": "d_conv delta_qkv",
    "ssm_dt.bias": "dt_rank",
    "ssm_a": "dt_rank",
    "ssm_norm": "ssm_per_rank",
    "ssm_ba": "n_embd 2*dt_rank",
    "ssm_alpha": "n_embd dt_rank",
    "ssm_beta": "n_embd dt_rank",
}

# Blocks with delta attention and with latent attention give these names different widths.
_KIMI: Final = {
    "attn_q": "n_embd q_mla | n_embd kda",
    "attn_k": "n_embd kda",
    "attn_v": "n_embd kda",
    "attn_q.bias": "kda",
    "attn_k.bias": "kda",
    "attn_v.bias": "kda",
    "attn_output": "heads_v_mla n_embd | kda n_embd",
    "ssm_conv1d_q": "d_conv 1 kda",
    "ssm_conv1d_k": "d_conv 1 kda",
    "ssm_conv1d_v": "d_conv 1 kda",
    "ssm_f_a": "n_embd kda_head",
    "ssm_f_b": "kda_head kda",
    "ssm_g_a": "n_embd kda_head",
    "ssm_g_b": "kda_head kda",
    "ssm_beta": "n_embd n_head_most",
    "ssm_dt.bias": "kda",
    "ssm_a": "1 n_head_most",
    "ssm_norm": "kda_head",
}

_PLAMO2: Final = {
    "ffn_up": "n_embd 2*n_ff",
    "ssm_x": "d_inner plamo_x",
    "ssm_dt": "plamo_dt dt_rank",
    "ssm_dt.bias": "dt_rank",
    "ssm_dt_norm": "plamo_dt",
    "ssm_a": "dt_rank",
    "ssm_d": "dt_rank",
}

_LATENT_ATTENTION: Final = {"attn_q": "n_embd q_mla", "attn_output": "heads_v_mla n_embd"}
_GATE_IN_UP: Final = {"ffn_up": "n_embd 2*n_ff"}
_ROTATED_HEADS: Final = {
    "attn_q": "n_embd q | n_embd q_rot",
    "attn_k": "n_embd k | n_embd k_rot",
    "attn_v": "n_embd v | n_embd k_rot",
    "attn_output": "q n_embd | q_rot n_embd",
}
_LATENT_EXPERTS: Final = {
    "ffn_up_exps": "n_embd_latent n_ff_exp n_expert",
    "ffn_down_exps": "n_ff_exp n_embd_latent n_expert",
    "ffn_gate_inp": "n_embd n_expert",
}
_SHARED_BY_NUMBER: Final = {
    "ffn_gate_shexp": "n_embd n_ff_shexp_all | n_embd n_ff_shared",
    "ffn_up_shexp": "n_embd n_ff_shexp_all | n_embd n_ff_shared",
    "ffn_down_shexp": "n_ff_shexp_all n_embd | n_ff_shared n_embd",
}
_ANY_ROTATION: Final = dict.fromkeys(("rope_freqs", "rope_factors_long", "rope_factors_short"), "?")
_RWKV7: Final = {"time_mix_w1": "n_embd lora_decay", "time_mix_w2": "lora_decay n_embd"}

_COLUMNS: Final = (
    (("mamba2", "granitehybrid", "nemotron_h", "nemotron_h_moe", "falcon-h1"), _MAMBA2),
    (("nemotron_h_moe",), _LATENT_EXPERTS),
    (("qwen3next", "qwen35", "qwen35moe"), _DELTA_NET),
    (("kimi-linear",), _KIMI),
    (("plamo2",), _PLAMO2),
    (("deepseek2", "deepseek2-ocr", "deepseek32", "glm-dsa", "mistral4", "minicpm3", "plm"), _LATENT_ATTENTION),
    (("chatglm", "glm4", "phi3", "plamo3", "modern-bert", "neo-bert"), _GATE_IN_UP),
    (("jina-bert-v2",), {"ffn_up": "n_embd n_ff | n_embd 2*n_ff", "ffn_up.bias": "n_ff | 2*n_ff"}),
    (("qwen",), {"ffn_gate": "n_embd half_ff", "ffn_up": "n_embd half_ff", "ffn_down": "half_ff n_embd"}),
    (("arctic",), {"ffn_gate": "n_embd n_embd", "ffn_up": "n_embd n_embd", "ffn_down": "n_embd n_embd"}),
    (("bailingmoe", "gpt-oss"), _ROTATED_HEADS),
    (("bailingmoe2",), _SHARED_BY_NUMBER),
    (("step35",), _ANY_ROTATION),  # as long as the most that any of its layers rotates
    (("rwkv7", "arwkv7"), _RWKV7),
    (("qwen3vl",), {"output": "n_embd ?"}),  # its reranker has an output of its own size
    (("talkie",), {"attn_q_norm": "1 n_head"}),
)

OF_ARCHITECTURE: Final = {
    architecture: {
        name: cell for members, column in _COLUMNS if architecture in members for name, cell in column.items()
    }
    for members, _ in _COLUMNS
    for architecture in members
}
"""The cells that an architecture fills otherwise."""

STEMS: Final = frozenset({*IN_BLOCKS, *IN_MODEL, *(name for _, column in _COLUMNS for name in column)})
"""Every name that the table has, in whatever column."""

NOT_IN_TABLE: Final = frozenset({"clip", "eagle3", "dflash", "wavtokenizer-dec", "gemma4-assistant", "mtp"})
"""Projectors, draft heads and vocoders: they use the names for tensors of other shapes."""
