"""Widths: the names that the tensor table uses, worked out from the hyperparameters of one model.

None where the file does not say. It is known which key a width follows from, so that one which contradicts every
tensor can be named instead of them all.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from app.model.hyperparameters import Hyperparameters, PerLayer

Widths = Mapping[str, int | None]

_OWED: Final = {
    "embedding_length": ("n_embd",),
    "context_length": ("n_ctx",),
    "feed_forward_length": ("n_ff", "half_ff", "n_ff_exp"),
    "expert_feed_forward_length": ("n_ff_exp_given", "n_ff_exp"),
    "expert_shared_feed_forward_length": ("n_ff_shexp",),
    "expert_count": ("n_expert",),
    "attention.head_count": (
        "n_head", "q", "qkv", "q_mla", "q_rot", "heads_v", "kv_b", "heads_v_mla", "n_head_most", "kda",
    ),
    "attention.head_count_kv": ("n_head_kv", "k", "v", "k_rot", "qkv"),
    "attention.q_lora_rank": ("q_lora_rank",),
    "attention.kv_lora_rank": ("kv_lora_rank",),
    "ssm.inner_size": ("d_inner",),
    "ssm.conv_kernel": ("d_conv",),
    "ssm.state_size": ("d_state",),
    "ssm.time_step_rank": ("dt_rank",),
}  # fmt: skip
"""The widths that are owed to a key, the first of them the key's own value; those of many keys are nobody's."""


_KEYS: Final = {
    width: tuple((key, owed[0]) for key, owed in _OWED.items() if width in owed)
    for width in {width for owed in _OWED.values() for width in owed}
}


def keys_of(width: str, of_block: Widths) -> Iterator[tuple[str, int | None]]:
    """List the keys, without the architecture, to which a width is owed, and what each says for this block."""
    given = of_block["n_ff_exp_given"] is not None
    for key, own in _KEYS.get(width, ()):
        # Experts are as wide as a dense layer where the file does not give them a width of their own.
        if width != "n_ff_exp" or given is (key == "expert_feed_forward_length"):
            yield key, of_block[own]


def widths(hyperparameters: Hyperparameters, block: int | None) -> Widths:
    """Work out the widths of one block or, for None, outside of the blocks."""
    return {
        "n_embd": hyperparameters.n_embd,
        "n_vocab": hyperparameters.n_vocab,
        "n_ctx": hyperparameters.n_ctx_train,
        "half_rot": _over(hyperparameters.n_rot, 2),
        "half_head": _over(hyperparameters.n_embd_head_k, 2),
        "half_head_swa": _over(hyperparameters.n_embd_head_k_swa or hyperparameters.n_embd_head_k, 2),
        "n_embd_per_layer": hyperparameters.n_embd_per_layer,
        "per_layer_all": _times(hyperparameters.n_embd_per_layer, hyperparameters.n_layer),
        **_attention(hyperparameters, block),
        **_latent_attention(hyperparameters, block),
        **_feed_forward(hyperparameters, block),
        **_recurrent(hyperparameters),
        **_rwkv(hyperparameters),
    }


def _attention(h: Hyperparameters, block: int | None) -> Widths:
    n_head, n_head_kv = _here(h.n_head, block), _here(h.n_head_kv, block)
    # Layers with a sliding window may have heads of their own size; which layers those are differs by architecture.
    head_k_swa, head_v_swa = h.n_embd_head_k_swa or h.n_embd_head_k, h.n_embd_head_v_swa or h.n_embd_head_v
    q, k, v = _times(n_head, h.n_embd_head_k), _times(n_head_kv, h.n_embd_head_k), _times(n_head_kv, h.n_embd_head_v)
    q_swa, k_swa, v_swa = _times(n_head, head_k_swa), _times(n_head_kv, head_k_swa), _times(n_head_kv, head_v_swa)
    return {
        "n_head": n_head,
        "n_head_kv": n_head_kv,
        "head_k": h.n_embd_head_k,
        "head_k_swa": head_k_swa,
        "q": q,
        "k": k,
        "v": v,
        "qkv": _sum(q, k, v),
        "q_swa": q_swa,
        "k_swa": k_swa,
        "v_swa": v_swa,
        "qkv_swa": _sum(q_swa, k_swa, v_swa),
        "heads_v": _times(n_head, h.n_embd_head_v),
        "heads_v_swa": _times(n_head, head_v_swa),
        "q_rot": _times(n_head, h.n_rot),
        "k_rot": _times(n_head_kv, h.n_rot),
        "indexer_n_head": h.indexer_n_head,
        "indexer_head": h.indexer_head_size,
        "indexer_q": _times(h.indexer_n_head, h.indexer_head_size),
    }


def _latent_attention(h: Hyperparameters, block: int | None) -> Widths:
    n_head = _here(h.n_head, block)
    # Files from before the `_mla` keys have the heads' real size in key_length.
    head_k, head_v = h.n_embd_head_k_mla or h.n_embd_head_k, h.n_embd_head_v_mla or h.n_embd_head_v
    nope = None if head_k is None or h.n_rot is None else head_k - h.n_rot
    return {
        "q_lora_rank": h.q_lora_rank,
        "kv_lora_rank": h.kv_lora_rank,
        "kv_a": _sum(h.kv_lora_rank, h.n_rot),
        "q_mla": _times(n_head, head_k),
        "kv_b": _times(n_head, _sum(nope, head_v)),
        "head_k_nope": nope,
        "head_v_mla": head_v,
        "heads_v_mla": _times(n_head, head_v),
    }


def _feed_forward(h: Hyperparameters, block: int | None) -> Widths:
    n_ff, given, used = _here(h.n_ff, block), _here(h.n_ff_exp, block), _here(h.n_expert_used, block)
    n_ff_exp = given or n_ff
    shared = _times(n_ff_exp, h.n_expert_shared or 1)
    return {
        "n_ff": n_ff,
        "half_ff": _over(n_ff, 2),
        "n_expert": h.n_expert,
        "n_embd_latent": h.n_embd_latent or h.n_embd,
        "n_ff_exp": n_ff_exp,
        "n_ff_exp_given": given,
        # Where a file says nothing of its experts' width, a dense layer's is shared out among those in use.
        "n_ff_used": _over(n_ff, used or 1),
        "n_ff_shexp": h.n_ff_shexp or shared,
        "n_ff_shexp_all": _times(h.n_ff_shexp, h.n_expert_shared or 1),
        "n_ff_shared": shared,
    }


def _recurrent(h: Hyperparameters) -> Widths:
    n_head_most = max(h.n_head, default=None) if h.n_head else None
    groups = h.ssm_n_group or 1
    states = _times(h.ssm_d_state, 2 * groups)
    plamo_dt = None if h.n_embd is None else max(64, h.n_embd // 16)
    return {
        "d_conv": h.ssm_d_conv,
        "d_inner": h.ssm_d_inner,
        "d_state": h.ssm_d_state,
        "dt_rank": h.ssm_dt_rank,
        "n_group": groups,
        "ssm_x": _sum(h.ssm_dt_rank, _times(h.ssm_d_state, 2)),
        "ssm_in_2": _sum(_times(h.ssm_d_inner, 2), states, h.ssm_dt_rank),
        "ssm_conv_2": _sum(h.ssm_d_inner, states),
        "ssm_per_group": _over(h.ssm_d_inner, groups),
        "ssm_per_rank": _over(h.ssm_d_inner, h.ssm_dt_rank),
        "delta_qkv": _sum(states, h.ssm_d_inner),
        "delta_qkvz": _sum(states, _times(h.ssm_d_inner, 2)),
        "plamo_dt": plamo_dt,
        "plamo_x": _sum(plamo_dt, _times(h.ssm_d_state, 2)),
        "n_head_most": n_head_most,
        "kda_head": h.kda_head_dim,
        "kda": _times(n_head_most, h.kda_head_dim),
        "shortconv": h.shortconv_l_cache,
    }


def _rwkv(h: Hyperparameters) -> Widths:
    return {
        "wkv_head": h.wkv_head_size,
        "wkv_heads": _over(h.n_embd, h.wkv_head_size),
        "time_mix": h.time_mix_extra_dim,
        "time_decay": h.time_decay_extra_dim,
        "lora_decay": h.n_lora_decay,
        "lora_iclr": h.n_lora_iclr,
        "lora_value": h.n_lora_value,
        "lora_gate": h.n_lora_gate,
    }


def _here(values: PerLayer | None, block: int | None) -> int | None:
    return values[block] if values is not None and block is not None and block < len(values) else None


def _times(count: int | None, width: int | None) -> int | None:
    return None if count is None or width is None else count * width


def _over(width: int | None, parts: int | None) -> int | None:
    return None if width is None or not parts else width // parts


def _sum(*widths: int | None) -> int | None:
    known = [width for width in widths if width is not None]
    return sum(known) if len(known) == len(widths) else None
