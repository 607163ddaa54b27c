"""What goes wrong under the page: a service that dies, a device that fails. It says so, and goes on."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.api.process import environment, kill, running
from tests.api.server import FAST, answer, load, until
from tests.dashboard.conftest import Show, live

pytestmark = pytest.mark.slow


def test_the_page_outlives_the_service(tmp_path: Path, show: Show) -> None:
    """A killed service is said to be away; another one on its port is found, and the page shows what that one has."""
    env = environment(tmp_path / "state", DEVICES=FAST)
    with running(tmp_path / "first.log", env) as (process, client):
        load(client, n_gpu_layers=3)
        page = show(client.base_url)
        expect(page.locator("#detail .cell:not([data-device=cpu])")).to_have_count(5)
        kill(process)
        expect(page.locator("#connection-state")).to_have_text("Reconnecting …")
        expect(page.get_by_role("alert").filter(has_text="What is shown was true at")).to_be_visible()
        port = client.base_url.port
    with running(tmp_path / "second.log", env, port) as (_, client):
        until(lambda: client.get("/readyz").is_success)  # what it had is loaded again
        live(page)
        expect(page.locator("#stale")).to_be_hidden()
        expect(page.locator("#detail .heading .state")).to_have_text("loaded")
        load(client, n_gpu_layers=8)
        expect(page.locator("#detail .cell:not([data-device=cpu])")).to_have_count(10)
        assert page.evaluate("performance.getEntriesByType('navigation').length") == 1  # never loaded again


def test_a_device_that_fails_is_told_in_words(tmp_path: Path, show: Show) -> None:
    """A load that fails on its way says why, in its job and on its model, and can be asked for again."""
    env = environment(tmp_path / "state", DEVICES="sim:64MiB:oom=3,sim:64MiB")
    with running(tmp_path / "log", env) as (_, client):
        page = show(client.base_url)
        page.get_by_role("button", name="Load …").click()
        page.get_by_role("dialog").get_by_role("button", name="Load, ").click()

        job = page.locator("#jobs .job").first
        expect(job.locator(".state")).to_have_text("failed")
        message = answer(client.get("/v1/jobs"))["data"][0]["error"]["message"]
        expect(job.locator(".error")).to_have_text(message)
        expect(page.locator("#detail .refusal .error").first).to_have_text(message)
        expect(page.locator("#announcer")).to_contain_text(message)
        page.get_by_role("button", name="Load …").click()
        page.get_by_role("dialog").get_by_role("button", name="Load, ").click()
        expect(page.locator("#detail .heading .state")).to_have_text("loaded")


def test_a_device_that_is_lost_is_told_where_one_looks(tmp_path: Path, show: Show) -> None:
    """Its card says so, and the move that lost it is told above its slider, which is back where the layers are."""
    env = environment(tmp_path / "state", DEVICES="sim:64MiB:lose=3")
    with running(tmp_path / "log", env) as (_, client):
        load(client, n_gpu_layers=0)
        page = show(client.base_url)
        slider = page.locator("#detail").get_by_role("slider")
        expect(slider).to_be_enabled()
        slider.press("ArrowRight")

        expect(page.locator('.device[data-device="sim:0"] .lost')).to_contain_text("This device is lost")
        expect(page.locator("#detail .refusal .error").first).to_contain_text("sim:0 is lost")
        expect(slider).to_have_value("0")
        expect(page.locator("#detail .heading .state")).to_have_text("loaded")


def test_a_key_is_asked_for(tmp_path: Path, show: Show) -> None:
    """Without a key there is no data; a wrong one is refused in words, and a right one is kept while the tab lives."""
    right = "0123456789abcdef"
    env = environment(tmp_path / "state", DEVICES=FAST, API_KEYS=f"desk:admin:{right}")
    with running(tmp_path / "log", env) as (_, client):
        page = show(client.base_url, wait=False)
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("API key").fill("a-key-that-is-wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("The service does not know this key.")
        expect(page.locator(".device")).to_have_count(0)
        dialog.get_by_label("API key").fill(right)
        page.keyboard.press("Enter")
        live(page)
        page.reload()
        live(page)
        page.get_by_role("button", name="Load …").click()
        dialog.get_by_role("button", name="Load, ").click()
        expect(page.locator("#detail .heading .state")).to_have_text("loaded")
