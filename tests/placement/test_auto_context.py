"""With a context, too, `auto` finds what trying every contiguous cut finds: the graph is part of what has to fit."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from app.model import Layer, LayerKey, Model
from app.placement import HOST, ContextRequest, Override, PlacementRequest, Strategy, model_needs, output_matrix, plan
from app.placement.layout import Layout
from app.placement.memory import Needs, compute_bytes, context_bytes
from tests.placement.layers import OWN_STRATEGIES, cuts, devices
from tests.placement.models import small_model
from tests.placement.test_auto import offloaded

N_LAYER = 4
contexts = st.builds(
    ContextRequest,
    n_ctx=st.just(512),
    kv_offload=st.booleans(),
    flash_attention=st.booleans(),
    n_ubatch=st.sampled_from([1, 32, 256]),
)


@dataclass(frozen=True)
class Case:
    """A model in a context, and what single tensors are placed by: a text in the name, and the device."""

    model: Model
    needs: Needs
    ids: tuple[str, ...]
    apart: tuple[str, str] | None

    def required(self, layers: Sequence[Layer], cut: Sequence[int]) -> Counter[str]:
        """Add up what each device needs if these layers go to the devices of the cut: the long way."""
        homes: dict[LayerKey, str] = {layer.key: self.ids[index] for layer, index in zip(layers, cut, strict=True)}
        found: Counter[str] = Counter()
        tensors = {}
        for layer in self.model.layers:
            for tensor in layer.tensors:
                home = homes.get(layer.key, HOST)
                tensors[tensor.name] = self.apart[1] if self.apart and self.apart[0] in tensor.name else home
                found[tensors[tensor.name]] += -(-tensor.nbytes // 256) * 256
        output = output_matrix(self.model)
        networks = [
            next(where for name, where in tensors.items() if f"blk.{n}.ffn_down" in name) for n in range(N_LAYER)
        ]
        touched = self.apart is not None and any(self.apart[0] in name for name in tensors)
        layout = Layout(
            devices=self.ids,
            blocks=tuple(homes.get(number, HOST) for number in range(N_LAYER)),
            output=tensors[output.name] if output else HOST,
            experts=tuple(networks),
            overridden=touched,
        )
        return found + Counter(context_bytes(self.needs, layout)) + Counter(compute_bytes(self.needs, layout))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a model with experts or not, tied or not, on up to three devices."""
    described, caches = small_model(
        n_layer=N_LAYER, tied=draw(st.booleans()), n_expert=draw(st.sampled_from([0, 0, 2, 4]))
    )
    ids = tuple(f"sim:{number}" for number in range(draw(st.integers(1, 3))))
    texts = st.sampled_from(["blk.3.ffn_", "blk.1.ffn_", "token_embd", "output.weight", "blk.0.attn"])
    apart = draw(st.one_of(st.none(), st.tuples(texts, st.sampled_from((HOST, *ids)))))
    return Case(described, model_needs(described, caches, draw(contexts)), ids, apart)


@settings(max_examples=120)
@given(cases(), st.sampled_from(OWN_STRATEGIES), st.data())
def test_every_cut_that_fits_is_found(case: Case, strategy: Strategy, data: st.DataObject) -> None:
    """On devices with exactly the room that one cut needs, or almost, n is the largest for which any cut fits."""
    layers = {n: offloaded(case.model.layers, strategy, n) for n in range(N_LAYER + 1)}
    aim = layers[data.draw(st.integers(0, N_LAYER))]
    needed = case.required(aim, data.draw(st.sampled_from(list(cuts(len(aim), len(case.ids))))))
    rooms = [max(0, needed[id_] + data.draw(st.sampled_from([0, 0, 0, -1, 40_000, -40_000]))) for id_ in case.ids]

    def fits(n: int) -> bool:
        needs = (case.required(layers[n], cut) for cut in cuts(len(layers[n]), len(case.ids)))
        return any(all(need[id_] <= room for id_, room in zip(case.ids, rooms, strict=True)) for need in needs)

    expected = next((n for n in range(N_LAYER, -1, -1) if fits(n)), None)
    overrides = (Override(case.apart[0].replace(".", r"\."), case.apart[1]),) if case.apart else ()
    request = PlacementRequest(0, strategy, overrides=overrides)
    found = plan(case.model.layers, devices(*rooms), request, needs=case.needs, output=output_matrix(case.model))

    assert found.largest_n_gpu_layers == expected
