"""A model is loaded, moved, called off and unloaded by hand, in a real browser and without a word of curl."""

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.api.process import environment, running
from tests.api.server import DEMO, DEMO_ID, SLOW, answer, devices_of, load, unload, until
from tests.dashboard.conftest import Show

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A process with the demo model and two devices that can be watched: 98 MB take some three seconds."""
    place = tmp_path_factory.mktemp("driving")
    with running(place / "log", environment(place / "state", DEVICES=SLOW)) as (_, client):
        yield client


@pytest.fixture
def client(service: httpx.Client) -> httpx.Client:
    """A client of the process, with nothing loaded at the start."""
    unload(service)
    return service


def state(page: Page) -> Locator:
    """The word that says what the shown model is doing."""
    return page.locator("#detail .heading .state")


def slide(slider: Locator, layers: int) -> None:
    """Drag the slider to a number of layers, and let it go."""
    expect(slider).not_to_have_attribute("max", "0")
    expect(slider).to_be_enabled()
    slider.hover()  # waits until nothing above it grows any more
    box, most = slider.bounding_box(), int(slider.get_attribute("max") or 0)
    assert box is not None
    thumb = 20
    x = box["x"] + thumb / 2 + (box["width"] - thumb) * layers / most
    here = box["x"] + thumb / 2 + (box["width"] - thumb) * int(slider.input_value()) / most
    mouse, y = slider.page.mouse, box["y"] + box["height"] / 2
    mouse.move(here, y)
    mouse.down()
    mouse.move((here + x) / 2, y)
    mouse.move(x, y)
    mouse.up()
    expect(slider).to_have_value(str(layers))


def cells(page: Page, where: str = "#detail") -> Locator:
    """The layers that are on a device, or on their way to one."""
    return page.locator(f"{where} .cell:not([data-device=cpu])")


def test_a_model_is_loaded_and_watched(client: httpx.Client, show: Show) -> None:
    """The slider says what each device will need; the load shows its progress, and its layers as they arrive."""
    page = show(client.base_url)
    page.get_by_role("button", name="Load …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".verdict")).to_have_text("Fits.")
    slide(dialog.get_by_role("slider"), 12)
    expect(dialog.locator('.needs [data-device="sim:0"]')).to_contain_text("needs 28.7 MiB, has 64.0 MiB")
    dialog.get_by_role("button", name="Load, 12 on devices").click()

    expect(page.locator("#detail .job-words")).to_contain_text("/s · ")
    expect(page.locator("#detail .cell.arriving, #detail .cell.copied").first).to_be_visible()
    expect(state(page)).to_have_text("loaded")
    expect(cells(page)).to_have_count(14)
    expect(page.locator("#detail .cell.arriving, #detail .cell.copied")).to_have_count(0)
    assert answer(client.get(DEMO))["n_gpu_layers"] == 12
    sums = page.locator(".device .sum").all_text_contents()
    held = [row["used_bytes"] / 2**20 for row in answer(client.get("/v1/memory"))["devices"]]
    assert sums[:2] == [f"{held[0]:.1f} MiB of 64.0 MiB", f"{held[1]:.1f} MiB of 64.0 MiB"]


def test_layers_are_dragged_while_the_model_stays_loaded(client: httpx.Client, show: Show) -> None:
    """The slider moves layers as it is let go, once more while they move, and back: the service follows."""
    load(client, n_gpu_layers=2)
    page = show(client.base_url)
    slider = page.locator("#detail").get_by_role("slider")
    expect(cells(page)).to_have_count(4)

    slide(slider, 20)
    expect(state(page)).to_have_text("moving")
    slide(slider, 6)  # while the other change is on its way: the last wish wins
    expect(cells(page)).to_have_count(8)
    expect(state(page)).to_have_text("loaded")
    until(lambda: answer(client.get(DEMO))["n_gpu_layers"] == 6)
    page.get_by_role("button", name="Rebalance").click()
    expect(page.locator("#jobs .job").first).to_contain_text("offload")
    slide(slider, 0)
    until(lambda: set(devices_of(client).values()) == {"cpu"})
    expect(cells(page)).to_have_count(0)


def test_what_others_have_asked_for_holds(client: httpx.Client, show: Show) -> None:
    """The slider of a model that somebody else has loaded plans with what they asked for."""
    load(client, n_gpu_layers=0, devices=["sim:1"], strategy="ends", margin_bytes=1 << 20)
    page = show(client.base_url)
    needs = page.locator("#detail .needs")
    expect(needs.locator('[data-device="sim:1"]')).to_contain_text("has 63.0 MiB")
    expect(needs.locator('[data-device="sim:0"]')).to_have_count(0)
    slide(page.locator("#detail").get_by_role("slider"), 2)

    until(lambda: answer(client.get(DEMO))["n_gpu_layers"] == 2)
    found = answer(client.get(DEMO))["request"]
    assert (found["devices"], found["strategy"], found["margin_bytes"]) == (["sim:1"], "ends", 1 << 20)


def test_a_move_is_called_off(client: httpx.Client, show: Show) -> None:
    """Cancel ends the job, and strip and slider are where they were."""
    load(client, n_gpu_layers=1)
    page = show(client.base_url)
    slider = page.locator("#detail").get_by_role("slider")
    expect(cells(page)).to_have_count(3)
    slide(slider, 30)
    page.locator("#detail").get_by_role("button", name="Cancel: offload").click()

    expect(page.locator("#jobs .job").first.locator(".state")).to_have_text("cancelled")
    expect(cells(page)).to_have_count(3)
    expect(slider).to_have_value("1")
    page.get_by_role("button", name="Unload").click()
    expect(state(page)).to_have_text("available")
    assert answer(client.get("/v1/memory"))["models"] == []


def test_what_does_not_fit_is_refused_in_words(client: httpx.Client, show: Show) -> None:
    """What a device lacks is said before anything is asked for, and the service's refusal with all its numbers."""
    page = show(client.base_url)
    page.get_by_role("button", name="Load …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("More options").click()
    dialog.get_by_role("checkbox", name="sim:1").uncheck()
    expect(dialog.locator("output")).to_have_text("16 of 30")
    slide(dialog.get_by_role("slider"), 30)
    expect(dialog.locator(".verdict")).to_have_text("Does not fit: sim:0 lacks 28.1 MiB; 16 would fit.")
    dialog.get_by_role("button", name="Make room and load").click()

    expect(dialog.get_by_role("alert")).to_contain_text("does not fit: sim:0 needs 96576768 bytes and has 67108864")
    expect(dialog.get_by_role("alert")).to_contain_text("required92.1 MiB")
    dialog.get_by_label("Where there is no room").select_option("refuse")
    expect(dialog.locator("button[type=submit]")).to_be_disabled()


def test_the_keyboard_is_enough(client: httpx.Client, show: Show) -> None:
    """Choose, load, move and unload without a mouse; the focus is where one looks, and the outcome is announced."""
    page = show(client.base_url)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the models")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(4):  # rescan, filter, state, list
        page.keyboard.press("Tab")
    expect(page.get_by_role("listbox")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    slider = page.get_by_role("dialog").get_by_role("slider")
    expect(slider).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "1 of 30 layers, fits")
    page.keyboard.press("Enter")

    expect(state(page)).to_have_text("loaded")
    expect(page.locator("#announcer")).to_have_text(f"load of {DEMO_ID} succeeded")
    page.locator("#model-list").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#detail").get_by_role("slider")).to_be_focused()
    page.keyboard.press("ArrowRight")
    until(lambda: answer(client.get(DEMO))["n_gpu_layers"] == 2)
    page.get_by_role("button", name="Unload").focus()
    page.keyboard.press("Enter")
    expect(state(page)).to_have_text("available")


def test_how_long_a_model_stays_is_chosen(client: httpx.Client, show: Show) -> None:
    """Pinned and keep_alive are changed on a loaded model, and move no layer."""
    generation = load(client, n_gpu_layers=1)["generation"]
    page = show(client.base_url)
    page.get_by_label("Keep it loaded").select_option("1 hour without use")
    expect(page.locator("#detail .used")).to_contain_text("unloaded at")
    page.get_by_label("Pinned").check()

    until(lambda: answer(client.get(DEMO))["pinned"])
    found = answer(client.get(DEMO))
    assert (found["keep_alive"], found["generation"], found["n_gpu_layers"]) == (3600, generation, 1)


def test_a_file_is_verified(client: httpx.Client, show: Show) -> None:
    """Verify reads every byte, and its finding is a line of the job."""
    page = show(client.base_url)
    page.get_by_role("button", name="Verify").click()

    job = page.locator("#jobs .job", has_text="verify")
    expect(job.locator(".state")).to_have_text("succeeded")
    summary = answer(client.get("/v1/jobs"))["data"][0]["result"]["summary"]
    expect(job.locator(".job-words")).to_contain_text(summary)
