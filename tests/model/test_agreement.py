"""Agreement: what the layers of a model tell of each other, of an architecture that nobody knows."""

from tests import gguf_builder as gguf
from tests.model.llama import Llama


def unknown(n_layer: int = 3) -> Llama:
    """Call a llama of equal blocks by a name that nobody knows."""
    metadata = gguf.llama_metadata(n_layer=n_layer, n_embd=64, n_ff=128, n_head=4, n_head_kv=2, n_vocab=96)
    shapes = gguf.llama_shapes(n_layer=n_layer, n_embd=64, n_ff=128, n_kv=32, n_vocab=96, tied=False, uneven=False)
    renamed = tuple((str(key).replace("llama.", "llama9."), kind, value) for key, kind, value in metadata[1:])
    return Llama(metadata=(("general.architecture", gguf.STRING, "llama9"), *renamed), shapes=tuple(shapes))


def test_an_unknown_architecture_is_judged_by_its_layers() -> None:
    """The one block that lacks what its siblings have, or has it in another shape, is named."""
    assert unknown().described().problems == ()
    assert unknown().without_tensor("blk.1.attn_k").problem().tensor == "blk.1.attn_k.weight"
    assert unknown().with_tensor("blk.2.ffn_up.weight", 64, 96).problem().expected == "[64, 128]"
    assert unknown(2).with_tensor("blk.0.ffn_up.weight", 64, 96).problem().tensor == "blk.0.ffn_up.weight"


def test_layers_that_differ_by_design_are_no_problem() -> None:
    """Where the file says that layers differ, in an architecture that nobody knows, they may."""
    model = unknown().with_key("llama9.feed_forward_length", gguf.ARRAY, (gguf.UINT32, [128, 128, 96]))
    for part in ("gate", "up"):
        model = model.with_tensor(f"blk.2.ffn_{part}.weight", 64, 96)

    assert model.with_tensor("blk.2.ffn_down.weight", 96, 64).described().problems == ()
