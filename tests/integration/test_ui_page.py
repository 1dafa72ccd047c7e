"""The page at /ui in a real browser, over a real gateway whose neurons follow a script."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from gateway_process import RunningGateway, model_entry, until
from operator_access import ADMIN_KEY, operated
from playwright.async_api import Page, async_playwright, expect
from scripted_neuron import Fault, ScriptedNeuron, scripted

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
MARKUP = "a<img src=x onerror=alert(1)>"
LOADED, COLD = "model-a", "model-b"
MISSED_ANSWER = "Failed to load resource"  # what a browser says of a 401, or of an answer that did not come
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

if CHROMIUM is None and os.environ.get("CI") != "true":
    pytest.skip("there is no Chromium on this machine: the page at /ui is not tested", allow_module_level=True)


@asynccontextmanager
async def browser_at(url: str) -> AsyncIterator[Page]:
    """A page of a headless Chromium. Whatever it complains of, or asks of another address, fails the test."""
    assert CHROMIUM is not None, "CI must have Chromium: see .ci/install-tools"
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("request", lambda asked: None if asked.url.startswith((url, "data:")) else complaints.append(asked.url))
        await page.goto(f"{url}/ui")
        yield page
        await browser.close()
    assert not [complaint for complaint in complaints if not complaint.startswith(MISSED_ANSWER)]


@asynccontextmanager
async def signed_in(gateway: RunningGateway) -> AsyncIterator[Page]:
    """The page, past its question for the key."""
    async with browser_at(gateway.url) as page:
        await page.get_by_label("Admin key").fill(ADMIN_KEY)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.locator("#fleet")).to_be_visible()
        yield page


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[tuple[RunningGateway, ScriptedNeuron, ScriptedNeuron]]:
    """Two neurons; one has LOADED, nobody COLD."""
    entries = [model_entry(LOADED, aliases=["alias-a"]), model_entry(COLD)]
    async with scripted("tower", LOADED) as tower, scripted("spare") as spare:
        tower.devices = [{"index": 0, "total": 24000, "free": 6000}, {"index": 1, "total": 24000, "free": 600}]
        async with operated(folder, [tower, spare], entries) as gateway:
            yield gateway, tower, spare


async def test_the_page_asks_for_the_key_and_shows_nothing_without(tmp_path: Path) -> None:
    """A wrong key is refused in words; the right one opens the page, and signing out closes it again."""
    async with fleet(tmp_path) as (gateway, *_), browser_at(gateway.url) as page:
        await expect(page.locator("#fleet")).to_be_hidden()
        await page.get_by_label("Admin key").fill("a-key-that-is-not-the-one")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.locator("#sign-in-problem")).not_to_be_empty()
        await expect(page.locator("#fleet")).to_be_hidden()
        await page.get_by_label("Admin key").fill(ADMIN_KEY)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", name="Neurons")).to_be_visible()
        await page.reload()
        await expect(page.get_by_role("heading", name="Neurons")).to_be_visible()
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.locator("#fleet")).to_be_hidden()


async def test_it_shows_neurons_devices_models_and_requests_live(tmp_path: Path) -> None:
    """Memory as bars that are read out too; a request appears while it runs and goes when it is over."""
    async with fleet(tmp_path) as (gateway, tower, spare), signed_in(gateway) as page:
        cards = page.locator(".neuron")
        await expect(cards).to_have_count(2)
        await expect(cards.filter(has_text="tower")).to_contain_text("ready")
        bars = cards.filter(has_text="tower").get_by_role("meter")
        await expect(bars).to_have_count(2)
        await expect(bars.first).to_have_attribute("aria-valuenow", "75")
        await expect(page.locator("#models tr").filter(has_text=LOADED)).to_contain_text(re.compile("loaded.*tower"))
        await expect(page.locator("#models tr").filter(has_text=COLD)).to_contain_text("unloaded")
        spare.has(LOADED, "sleeping", vram_used_mb=0, host_memory_mb=900)
        where = re.compile(r"loaded.*spare \(sleeping\), tower")
        await expect(page.locator("#models tr").filter(has_text=LOADED)).to_contain_text(where)
        tower.fault, tower.pace_s = Fault.SLOW, 1.5
        async with gateway.ask("alias-a", stream=True) as response:
            await response.content.readany()
            await expect(page.locator("#requests tr")).to_contain_text(re.compile(f"{LOADED}.*tower.*answering"))
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            await page.screenshot(path=SCREENSHOTS / "ui.png", full_page=True)
            await response.read()
        await expect(page.locator("#no-requests")).to_be_visible()
        await expect(page.locator("#decisions tr").first).to_contain_text(LOADED)
        spare.poll_fails = True
        await expect(cards.filter(has_text="spare")).to_contain_text("down")


async def test_its_buttons_do_what_they_say(tmp_path: Path) -> None:
    """Explain, load, pin, unload and drain reach the neurons; what takes something away asks first."""
    async with fleet(tmp_path) as (gateway, tower, spare), signed_in(gateway) as page:
        cold = page.locator("#models tr").filter(has_text=COLD)
        await cold.get_by_role("button", name="Explain").click()
        await expect(page.locator("#considered tr")).to_have_count(2)
        await page.get_by_role("button", name="Close").click()
        await cold.get_by_role("button", name="Load").click()
        await until(lambda: bool(tower.loads or spare.loads))
        await cold.get_by_role("button", name="Pin").click()
        await expect(cold).to_contain_text("(pinned)")
        await cold.get_by_role("button", name="Unload").click()
        await page.get_by_role("button", name="Cancel").click()
        assert [*tower.unloads, *spare.unloads] == []
        await cold.get_by_role("button", name="Unload").click()
        await page.locator("#question-yes").click()
        await until(lambda: [*tower.unloads, *spare.unloads] == [COLD])
        card = page.locator(".neuron").filter(has_text="tower")
        await card.get_by_role("button", name="Drain").click()
        await page.locator("#question-yes").click()
        await expect(card).to_contain_text("draining")
        assert tower.state == "draining"
        await card.get_by_role("button", name="Undrain").click()
        await expect(card).to_contain_text("ready")


async def test_names_are_shown_as_text_and_a_gateway_that_is_gone_is_told(tmp_path: Path) -> None:
    """What a neuron says of itself is no markup; when nobody answers the page says so and keeps what it knew."""
    async with fleet(tmp_path) as (gateway, tower, _), signed_in(gateway) as page:
        tower.version = MARKUP
        await expect(page.locator(".neuron").filter(has_text="tower")).to_contain_text(MARKUP)
        assert await page.locator("img").count() == 0
        await page.route("**/fleet/**", lambda route: route.abort())
        await expect(page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()
        await expect(page.locator(".neuron")).to_have_count(2)
        await page.unroute("**/fleet/**")
        await expect(page.locator("#lost")).to_be_hidden()


async def test_no_other_site_may_use_the_page(tmp_path: Path) -> None:
    """Its headers allow nothing from elsewhere and no frame; a file that is none is 404, outside of the page too."""
    async with fleet(tmp_path) as (gateway, *_):
        for path in ("/ui", "/ui/", "/ui/page.js"):
            async with gateway.http.get(gateway.url + path) as response:
                assert response.status == 200
                policy = response.headers["content-security-policy"]
                assert "default-src 'self'" in policy
                assert "frame-ancestors 'none'" in policy
        for path in ("/ui/none.js", "/ui/..%2fapi%2fpage.py", "/ui/../cli.py"):
            async with gateway.http.get(gateway.url + path) as response:
                assert response.status == 404
