"""Tests of interaction: live updates, actions on rollouts, keyboard, token, and a store that restarts."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from playwright.async_api import Error, Page, Route, expect

from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer
from tests.timing import quickest

from .conftest import UNREACHABLE, OpenPage, StoreProgram
from .sample_run import PROMPTS, enqueue_words, execute_rollouts, sample_model

TOKEN = "a-token-of-at-least-128-bits"


async def test_overview_updates_while_a_run_progresses(store: LightningStoreServer, open_page: OpenPage) -> None:
    page = await open_page(store.endpoint)
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    async with LightningStoreClient(store.endpoint) as client:
        await enqueue_words(client, PROMPTS["first"], ["cat", "kiwi", "wolf", "plum"], mode="train")
        await expect(page.get_by_role("link", name="Queued 4")).to_be_visible()

        with sample_model() as model:
            await execute_rollouts(client, model.base_url, 4)

    await expect(page.get_by_role("link", name="Succeeded 4")).to_be_visible()
    await expect(page.get_by_role("img", name="Mean reward over time: train from 0.5 to 0.5")).to_be_visible()


async def test_row_updates_within_a_second_of_the_commit(store: LightningStoreServer, open_page: OpenPage) -> None:
    rollout = await store.enqueue_rollout({"word": "cat"})
    page = await open_page(f"{store.endpoint}/#/rollouts")
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await expect(page.locator("tbody tr", has_text=rollout.rollout_id)).to_contain_text("Queued")

    added = await store.enqueue_rollout({"word": "dog"})
    await expect(page.locator("tbody tr").first).to_contain_text(added.rollout_id)

    async def seconds_until_shown() -> float:
        rollout = await store.start_rollout({"word": "cat"})
        await expect(page.locator("tbody tr", has_text=rollout.rollout_id)).to_contain_text("Preparing")
        await store.update_rollout(rollout.rollout_id, status="cancelled")
        started = time.monotonic()
        await page.wait_for_function(IS_CANCELLED, arg=rollout.rollout_id)
        return time.monotonic() - started

    assert await quickest(seconds_until_shown, 1) < 1


IS_CANCELLED = """(id) => [...document.querySelectorAll('tbody tr')].some(
    ({innerText}) => innerText.includes(id) && innerText.includes('Cancelled'))"""


async def test_spans_appear_while_a_rollout_is_open(store: LightningStoreServer, open_page: OpenPage) -> None:
    async with LightningStoreClient(store.endpoint) as client:
        [rollout_id] = await enqueue_words(client, PROMPTS["first"], ["cat"])
        page = await open_page(f"{store.endpoint}/#/rollouts/{rollout_id}")
        await expect(page.get_by_text("no attempt has started yet")).to_be_visible()

        with sample_model() as model:
            await execute_rollouts(client, model.base_url, 1)

    await expect(page.get_by_role("treeitem")).to_have_count(4)
    await expect(page.locator("h1 + .status")).to_have_text("Succeeded")


async def test_page_reconnects_to_a_restarted_store(open_page: OpenPage, tmp_path: Path) -> None:
    program = StoreProgram(tmp_path / "agl.db")
    try:
        page = await open_page(program.url + "#/rollouts", expecting=UNREACHABLE)
        await expect(page.get_by_text("live", exact=True)).to_be_visible()

        program.stop()
        await expect(page.get_by_text("store unreachable, reconnecting…")).to_be_visible()
        program.start()
        async with LightningStoreClient(program.url.rstrip("/")) as client:
            rollout = await client.enqueue_rollout({"word": "cat"})

        await expect(page.get_by_text("live", exact=True)).to_be_visible()
        await expect(page.locator("tbody tr", has_text=rollout.rollout_id)).to_be_visible()
    finally:
        program.stop()


async def test_rollouts_are_cancelled_and_retried(store: LightningStoreServer, open_page: OpenPage) -> None:
    first = await store.enqueue_rollout({"word": "cat"}, mode="train")
    await store.enqueue_rollout({"word": "dog"})
    page = await open_page(f"{store.endpoint}/#/rollouts")

    await page.get_by_role("checkbox", name=f"Select {first.rollout_id}").check()
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_text("has not finished (queued); cancel it first.")).to_be_visible()

    await page.get_by_role("checkbox", name=f"Select {first.rollout_id}").check()
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.get_by_text("1 rollout cancelled.")).to_be_visible()
    await expect(page.locator("tbody tr", has_text=first.rollout_id)).to_contain_text("Cancelled")

    await page.get_by_role("link", name=first.rollout_id).click()
    await page.get_by_role("button", name="Retry").click()
    await page.locator(".notifications a").click()
    await expect(page.locator("h1 + .status")).to_have_text("Queued")

    again = (await store.query_rollouts(sort_order="desc", limit=1))[0]
    assert (again.input, again.mode, again.metadata) == ({"word": "cat"}, "train", {"retry_of": first.rollout_id})


async def test_rollouts_are_exported_with_their_attempts_and_spans(
    sample: StoreProgram, open_page: OpenPage, tmp_path: Path
) -> None:
    page = await open_page(sample.url + "#/rollouts?q=cat")
    async with page.expect_download() as downloaded:
        await page.get_by_role("button", name="Export all 2 as JSONL").click()
    await (await downloaded.value).save_as(tmp_path / "out.jsonl")

    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["input"] for line in lines] == [{"word": "cat"}, {"word": "cat"}]
    assert [len(line["attempts"]) for line in lines] == [1, 1]
    assert [len(line["spans"]) for line in lines] == [4, 4]


async def test_keyboard_opens_searches_and_closes(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url)
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await page.keyboard.press("g")
    await page.keyboard.press("r")
    await expect(page.get_by_text("23 rollouts")).to_be_visible()

    await page.keyboard.press("/")
    await page.keyboard.type("lime")
    await expect(page.get_by_text("2 matches")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("k")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1 + .status")).to_have_text("Failed")

    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.keyboard.press("Escape")
    await expect(page.get_by_text("2 matches")).to_be_visible()


PRESS_KEYS_IN_ONE_FRAME = """(keys) => keys.forEach((key) => {
    document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
})"""


async def test_keys_pressed_within_one_frame_all_take_effect(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url + "#/rollouts?q=lime&sort=start_time")
    await expect(page.locator("tbody tr")).to_have_count(2)
    second = await page.locator("tbody tr").nth(1).locator("a").first.inner_text()

    await page.evaluate(PRESS_KEYS_IN_ONE_FRAME, ["j", "j", "Enter"])
    await expect(page.locator("h1")).to_have_text(second)


async def test_j_and_k_select_spans(sample: StoreProgram, open_page: OpenPage) -> None:
    async with LightningStoreClient(sample.url) as client:
        [rollout] = await client.query_rollouts(text_contains='"fig"', limit=1)
    page = await open_page(f"{sample.url}#/rollouts/{rollout.rollout_id}")
    selected = page.locator('[role=treeitem][aria-selected="true"]')
    await expect(selected).to_contain_text("openai.chat.completion")

    await page.keyboard.press("j")
    await expect(selected).to_contain_text("look_up")
    await page.keyboard.press("k")
    await expect(selected).to_contain_text("openai.chat.completion")
    await page.evaluate(PRESS_KEYS_IN_ONE_FRAME, ["j", "j", "j"])
    await expect(selected).to_contain_text("annotation")


async def test_next_key_pressed_before_the_list_is_loaded_takes_effect_later(
    sample: StoreProgram, open_page: OpenPage
) -> None:
    page = await open_page(sample.url + "#/rollouts?mode=val&sort=start_time")
    words = page.locator("code.value, pre.value").first
    await page.locator("tbody tr").first.locator("a").first.click()
    await expect(page.get_by_role("link", name="Next")).to_have_attribute("href", re.compile("at=1"))

    async with delayed_requests(page, "**/query_rollouts") as requested:
        await page.keyboard.press("]")
        await expect(words).to_contain_text("kiwi")
        await requested.wait()
        await page.keyboard.press("]")
        await page.keyboard.press("]")
        await page.keyboard.press("[")
        await expect(page.get_by_role("link", name="Next")).to_have_attribute("aria-disabled", "true")
    await expect(words).to_contain_text("wolf")

    # The second of two keys in one frame steps from the target of the first.
    await expect(page.get_by_role("link", name="Next")).to_have_attribute("href", re.compile("at=3"))
    await page.evaluate(PRESS_KEYS_IN_ONE_FRAME, ["]", "]"])
    await expect(words).to_contain_text("bear")


async def test_enter_pressed_before_the_row_is_loaded_opens_it_later(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url)
    await expect(page.get_by_text("live", exact=True)).to_be_visible()

    async with delayed_requests(page, "**/query_rollouts") as requested:
        await page.keyboard.press("g")
        await page.keyboard.press("r")
        await requested.wait()
        for key in ("j", "j", "Enter"):
            await page.keyboard.press(key)
    await expect(page.locator(".input")).to_contain_text("waiting")


@asynccontextmanager
async def delayed_requests(page: Page, path: str) -> AsyncIterator[asyncio.Event]:
    """Hold requests for `path` until the block ends; yield an event set by the first request."""
    requested, released = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        requested.set()
        await released.wait()
        with suppress(Error):  # The page may have aborted the request meanwhile.
            await route.continue_()

    await page.route(path, hold)
    yield requested
    released.set()
    await page.unroute_all(behavior="wait")


async def test_search_text_is_kept_while_rows_arrive(store: LightningStoreServer, open_page: OpenPage) -> None:
    page = await open_page(f"{store.endpoint}/#/rollouts")
    await expect(page.get_by_text("No rollouts yet")).to_be_visible()
    search = page.get_by_label("Search ids and inputs")
    # A key every 150 ms keeps the text out of the URL for long, while rows arrive.
    typing = asyncio.ensure_future(search.press_sequentially("kiwi-or-lime", delay=150))
    while not typing.done():
        await store.enqueue_rollout({"word": "kiwi-or-lime"})
        await asyncio.sleep(0.005)
    await typing

    await expect(search).to_have_value("kiwi-or-lime")
    await expect(page.get_by_text(re.compile(r"\d+ matches"))).to_be_visible()


async def test_token_is_requested_once_and_kept_in_the_tab(open_page: OpenPage) -> None:
    store = LightningStoreServer(InMemoryLightningStore(), port=0, token=TOKEN)
    await store.start()
    try:
        page = await open_page(store.endpoint, expecting="401")
        dialog = page.get_by_role("dialog", name="Token required")
        await dialog.get_by_role("textbox").fill("not the token, but as long as one")
        await page.keyboard.press("Enter")
        await expect(dialog.get_by_role("alert")).to_have_text("The store rejected this token.")
        await dialog.get_by_role("textbox").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("No rollouts in this store yet")).to_be_visible()

        await page.reload()
        await expect(page.get_by_text("live", exact=True)).to_be_visible()
        await expect(dialog).to_have_count(0)
        assert await page.evaluate("localStorage.length") == 0
        assert TOKEN not in page.url
        await page.close()
    finally:
        await store.close()


async def test_page_refuses_html_strings(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url, expecting="require")
    refused = await page.evaluate(
        """() => {
            try { document.body.innerHTML = '<b>no</b>'; return false; } catch { return true; }
        }"""
    )
    assert refused


async def test_long_list_is_loaded_while_scrolling(store: LightningStoreServer, open_page: OpenPage) -> None:
    for number in range(400):
        await store.enqueue_rollout({"number": number})
    page = await open_page(f"{store.endpoint}/#/rollouts?sort=start_time")
    await expect(page.get_by_text("400 rollouts")).to_be_visible()
    assert await page.locator("tbody tr").count() < 60

    await page.locator(".scroller").evaluate("(element, top) => (element.scrollTop = top)", 399 * 34)

    await expect(page.locator("tbody tr[aria-rowindex='401']")).to_contain_text(re.compile(r'"number":\d+'))
