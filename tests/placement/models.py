"""Small described models, for tests that need tensors and hyperparameters rather than layers of bytes."""

from app.gguf import parse_header
from app.model import Model, describe
from app.model.caches import Caches, read_caches
from tests.gguf_builder import F16, F32, UINT32, KeyValue, build, tensor_size


def small_model(*, n_layer: int = 4, tied: bool = False, n_expert: int = 0) -> tuple[Model, Caches]:
    """Make a llama of width 64 with 2 of 4 heads for keys and values, and a vocabulary of 100.

    Tensors in F16: a block's attention is 2 x (64 x 64 + 64 x 32), its network 3 x 64 x 128 or that many times experts.
    """
    shape = {
        "context_length": 1024,
        "embedding_length": 64,
        "block_count": n_layer,
        "feed_forward_length": 128,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "vocab_size": 100,
    } | ({"expert_count": n_expert, "expert_used_count": 2} if n_expert else {})
    pairs: list[KeyValue] = [(f"llama.{key}", UINT32, value) for key, value in shape.items()]
    shapes = {"token_embd.weight": (64, 100), "output_norm.weight": (64,)}
    if not tied:
        shapes["output.weight"] = (64, 100)
    for block in range(n_layer):
        shapes |= {f"blk.{block}.attn_{part}.weight": (64, 64 if part in "qo" else 32) for part in "qkvo"}
        if n_expert:
            shapes[f"blk.{block}.ffn_gate_inp.weight"] = (64, n_expert)
        apart, experts = ("_exps", (n_expert,)) if n_expert else ("", ())
        shapes |= {
            f"blk.{block}.ffn_gate{apart}.weight": (64, 128, *experts),
            f"blk.{block}.ffn_up{apart}.weight": (64, 128, *experts),
            f"blk.{block}.ffn_down{apart}.weight": (128, 64, *experts),
        }
    kinds = {name: F32 if len(dims) == 1 else F16 for name, dims in shapes.items()}
    tensors = [(name, kinds[name], dims, bytes(tensor_size(kinds[name], dims))) for name, dims in shapes.items()]
    header = parse_header(build([("general.architecture", 8, "llama"), *pairs], tensors))
    model = describe([header])
    return model, read_caches(header.metadata, model.architecture, model.hyperparameters)
