"""What the page looks like: to a screen reader, in the dark, on a telephone, with names that are attacks, and full."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.api.process import environment, running
from tests.api.server import Json, answer, load, unload
from tests.dashboard.conftest import Show
from tests.gguf_builder import tiny_llama
from tests.materialise import HEADERS, materialised

pytestmark = pytest.mark.slow

HOSTILE = [
    "<img src=x onerror=document.title='taken'>",
    '"><script>document.title="taken"<',
    "{{7*7}} %2e%2e ?#&=%",
    "line\nbreak",
    "\u202eright-to-left",
]
WATCH_ROWS = """() => {
    window.touched = new Set();
    const rowOf = (node) => (node.closest ? node : node.parentElement).closest(".model");
    const note = (changes) => changes.forEach(({ target }) => rowOf(target) && window.touched.add(rowOf(target).title));
    const all = { subtree: true, childList: true, characterData: true, attributes: true };
    new MutationObserver(note).observe(document.getElementById("model-list"), all);
}"""
INSISTED = [head for head in HEADERS if head.name.startswith("deepseek4-moe")]  # unknown, and its experts are large
EIGHT = ",".join(["sim:12MiB"] * 8)


def serious(page: Page) -> list[Json]:
    """What axe-core finds that keeps somebody from using the page."""
    found = Axe().run(page).response["violations"]
    grave = [one for one in found if one["impact"] in ("serious", "critical")]
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in grave]


def overflow(page: Page) -> int:
    """How many pixels the page is wider than its window."""
    wider: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return wider


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_nobody_is_shut_out(service_url: str, show: Show, scheme: str, width: int) -> None:
    """axe-core finds nothing serious, neither on the page nor in the dialog; nothing is cut off at the side."""
    page = show(service_url, width=width, scheme=scheme)
    expect(page.locator("#detail .verdict")).to_have_text("Fits.")
    assert serious(page) == []
    assert overflow(page) == 0

    page.get_by_role("option", name="tiny-80").click()
    page.get_by_role("button", name="Load …").click()
    page.get_by_role("dialog").get_by_text("More options").click()
    expect(page.get_by_role("dialog").locator(".verdict")).to_have_text("Fits.")
    assert serious(page) == []
    assert overflow(page) == 0


@pytest.fixture(scope="module")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with eight devices, a model of 80 layers on all of them, and models with names that are attacks."""
    place = tmp_path_factory.mktemp("looks")
    models = place / "models"
    models.mkdir()
    (models / "deep-80.gguf").write_bytes(tiny_llama(n_layer=80))
    (models / "tiny-80.gguf").write_bytes(tiny_llama(n_layer=80, seed=1))
    (models / "broken.gguf").write_bytes(tiny_llama()[:1000])
    for head in INSISTED:
        materialised(head, models)
    for name in HOSTILE:
        (models / f"{name}.gguf").write_bytes(tiny_llama(n_layer=1))
    with running(place / "log", environment(place / "state", MODELS_DIR=str(models), DEVICES=EIGHT)) as (_, client):
        load(client, "/v1/models/deep-80", n_gpu_layers=64, split={"weights": "equal"})
        yield str(client.base_url)


def test_eighty_layers_on_eight_devices(service_url: str, show: Show) -> None:
    """Every layer has its cell, every device its card and its colour."""
    page = show(service_url)
    strip = page.locator("#detail .cell")
    expect(strip).to_have_count(82)  # input and output included

    colours = strip.evaluate_all("cells => new Set(cells.map(cell => getComputedStyle(cell).backgroundImage)).size")
    assert colours == 9
    expect(page.locator(".device")).to_have_count(9)


@pytest.mark.skipif(not INSISTED, reason="no shared fixtures beside the checkout")
def test_what_the_dialog_shows_is_what_is_loaded(service_url: str, show: Show) -> None:
    """An unknown architecture has to be allowed first; experts that the plan leaves on the host are left there."""
    page = show(service_url)
    page.get_by_role("option", name="deepseek4-moe").click()
    page.get_by_role("button", name="Load …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".verdict")).to_contain_text("unknown architecture")
    expect(dialog.get_by_role("slider")).to_be_disabled()
    dialog.get_by_label("Load it although its architecture is unknown").check()
    dialog.get_by_text("More options").click()
    dialog.get_by_label("Shared among devices").select_option("one device only")
    expect(dialog.locator("output")).to_have_text("1 of 4")
    expect(dialog.locator(".advice")).to_contain_text("the experts of the first 1 blocks stay on the host")
    dialog.get_by_role("button", name="Load, 1 on devices").click()

    expect(page.locator("#detail .heading .state")).to_have_text("loaded")
    expect(page.locator("#detail output")).to_have_text("1 of 4")
    expect(page.locator("#detail .verdict")).to_have_text("Fits.")
    with httpx.Client(base_url=service_url) as client:
        found = answer(client.get("/v1/models/deepseek4-moe"))
        unload(client, "/v1/models/deepseek4-moe")
    assert (found["n_gpu_layers"], found["n_cpu_moe"]) == (1, 1)


def test_names_are_text(service_url: str, show: Show) -> None:
    """A model whose name is markup is shown by that name, can be chosen and loaded, and nothing of it is run."""
    page = show(service_url)
    for name in HOSTILE:
        option = page.locator(".model").filter(
            has=page.locator(".name", has_text=name.split("\n")[0].split("/")[-1].lower())
        )
        option.first.click()
        page.get_by_role("button", name="Load …").click()
        page.get_by_role("dialog").get_by_role("button", name="Load, ").click()
        expect(page.locator("#detail .heading .state")).to_have_text("loaded")
        page.get_by_role("button", name="Unload").click()
        expect(page.locator("#detail .heading .state")).to_have_text("available")

    expect(page).to_have_title("Loadmaster")
    assert page.locator("img:not(h1 img), main script").count() == 0


def test_the_theme_is_chosen_and_kept(service_url: str, show: Show) -> None:
    """The system's colours at first, then what was chosen, also after the page is loaded again."""
    page = show(service_url, scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.get_by_role("button", name="Light").click()
    light = page.evaluate(background)
    page.reload()

    assert light != dark
    assert page.evaluate(background) == light
    expect(page.get_by_role("button", name="Dark")).to_be_visible()


def test_a_thousand_models(small: Path, tmp_path: Path, show: Show) -> None:
    """They are listed, found by a word, and an event touches no other row than its own."""
    tiny = tiny_llama(n_layer=1)
    for number in range(1000):
        folder = small / f"family-{number % 10}"
        folder.mkdir(exist_ok=True)
        (folder / f"model-{number}.gguf").write_bytes(tiny)
    env = environment(tmp_path / "state", MODELS_DIR=str(small), DEVICES="sim:8MiB")
    with running(tmp_path / "log", env) as (_, client):
        page = show(client.base_url)
        expect(page.locator(".model")).to_have_count(1000)
        page.evaluate(WATCH_ROWS)
        load(client, "/v1/models/family-7/model-777")
        expect(page.locator("#models-count")).to_have_text("1000 · 1 loaded")
        expect(page.locator(".model").first).to_have_attribute("title", "family-7/model-777")
        assert page.evaluate("[...window.touched]") == ["family-7/model-777"]

        page.get_by_label("Filter models").fill("model-99")
        expect(page.locator(".model")).to_have_count(11)
        page.get_by_label("Filter models").fill("nothing like it")
        expect(page.get_by_text("No model is called so.")).to_be_visible()
