"""Using it: what happens live, what can be done, the keyboard, the token, and a store that goes away and comes back."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from playwright.async_api import Error, Page, Route, expect

from agentlightning.store import LightningStoreClient
from tests.timing import quickest

from .a_run import PROMPTS, model, put_in_queue, work
from .conftest import AWAY, Look, Served

TOKEN = "a-token-of-at-least-128-bits"


async def test_a_run_is_seen_while_it_goes_on(served: Served, look: Look) -> None:
    page = await look(served.url)
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    async with LightningStoreClient(served.url) as store:
        await put_in_queue(store, PROMPTS["first"], ["cat", "kiwi", "wolf", "plum"], mode="train")
        await expect(page.get_by_role("link", name="queuing 4")).to_be_visible()

        with model() as served_model:
            await work(store, served_model.base_url, 4)

    await expect(page.get_by_role("link", name="succeeded 4")).to_be_visible()
    await expect(page.get_by_role("img", name="Mean reward by step: train from 0.5 to 0.5")).to_be_visible()


async def test_a_row_changes_within_a_second_of_its_commit(served: Served, look: Look) -> None:
    async with LightningStoreClient(served.url) as store:
        rollout = await store.enqueue_rollout({"word": "cat"})
        page = await look(served.url + "#/rollouts")
        await expect(page.get_by_text("live", exact=True)).to_be_visible()
        await expect(page.locator("tbody tr", has_text=rollout.rollout_id)).to_contain_text("queuing")

        added = await store.enqueue_rollout({"word": "dog"})
        await expect(page.locator("tbody tr").first).to_contain_text(added.rollout_id)

        async def seconds_until_it_is_seen() -> float:
            rollout = await store.start_rollout({"word": "cat"})
            await expect(page.locator("tbody tr", has_text=rollout.rollout_id)).to_contain_text("preparing")
            await store.update_rollout(rollout.rollout_id, status="cancelled")
            began = time.monotonic()
            await page.wait_for_function(CANCELLED, arg=rollout.rollout_id)
            return time.monotonic() - began

        assert await quickest(seconds_until_it_is_seen, 1) < 1


CANCELLED = """(id) => [...document.querySelectorAll('tbody tr')].some(
    ({innerText}) => innerText.includes(id) && innerText.includes('cancelled'))"""


async def test_spans_appear_while_the_rollout_is_looked_at(served: Served, look: Look) -> None:
    async with LightningStoreClient(served.url) as store:
        [rollout_id] = await put_in_queue(store, PROMPTS["first"], ["cat"])
        page = await look(f"{served.url}#/rollouts/{rollout_id}")
        await expect(page.get_by_text("It waits in the queue")).to_be_visible()

        with model() as served_model:
            await work(store, served_model.base_url, 1)

    await expect(page.get_by_role("treeitem")).to_have_count(4)
    await expect(page.locator("h1 + .status")).to_have_text("succeeded")


async def test_a_store_that_restarts_is_found_again(served: Served, look: Look) -> None:
    page = await look(served.url + "#/rollouts", expecting=AWAY)
    await expect(page.get_by_text("live", exact=True)).to_be_visible()

    served.stop()
    await expect(page.get_by_text("store away, trying again…")).to_be_visible()
    served.start()
    async with LightningStoreClient(served.url) as store:
        rollout = await store.enqueue_rollout({"word": "cat"})

    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await expect(page.locator("tbody tr", has_text=rollout.rollout_id)).to_be_visible()


async def test_rollouts_are_cancelled_and_tried_again(served: Served, look: Look) -> None:
    async with LightningStoreClient(served.url) as store:
        first = await store.enqueue_rollout({"word": "cat"}, mode="train")
        await store.enqueue_rollout({"word": "dog"})
        page = await look(served.url + "#/rollouts")

        await page.get_by_role("checkbox", name=f"Select {first.rollout_id}").check()
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.get_by_text("1 rollout cancelled.")).to_be_visible()
        await expect(page.locator("tbody tr", has_text=first.rollout_id)).to_contain_text("cancelled")

        await page.get_by_role("link", name=first.rollout_id).click()
        await page.get_by_role("button", name="Retry").click()
        await page.locator(".messages a").click()
        await expect(page.locator("h1 + .status")).to_have_text("queuing")

        again = (await store.query_rollouts(sort_order="desc", limit=1))[0]
        assert (again.input, again.mode, again.metadata) == ({"word": "cat"}, "train", {"retry_of": first.rollout_id})


async def test_what_cannot_be_retried_says_why(served: Served, look: Look) -> None:
    async with LightningStoreClient(served.url) as store:
        rollout = await store.enqueue_rollout({"word": "cat"})
    page = await look(served.url + "#/rollouts")

    await page.get_by_role("checkbox", name=f"Select {rollout.rollout_id}").check()
    await page.get_by_role("button", name="Retry").click()

    await expect(page.get_by_text("is still queuing; cancel it first.")).to_be_visible()


async def test_rollouts_are_exported_with_their_attempts_and_spans(
    finished: Served, look: Look, tmp_path: Path
) -> None:
    page = await look(finished.url + "#/rollouts?q=cat")
    async with page.expect_download() as downloaded:
        await page.get_by_role("button", name="Export all 2 as JSONL").click()
    await (await downloaded.value).save_as(tmp_path / "out.jsonl")

    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["input"] for line in lines] == [{"word": "cat"}, {"word": "cat"}]
    assert [len(line["attempts"]) for line in lines] == [1, 1]
    assert [len(line["spans"]) for line in lines] == [4, 4]


async def test_the_keyboard_is_enough(finished: Served, look: Look) -> None:
    page = await look(finished.url)
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await page.keyboard.press("g")
    await page.keyboard.press("r")
    await expect(page.get_by_text("23 in all")).to_be_visible()

    await page.keyboard.press("/")
    await page.keyboard.type("lime")
    await expect(page.get_by_text("2 fit")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("k")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1 + .status")).to_have_text("failed")

    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.keyboard.press("Escape")
    await expect(page.get_by_text("2 fit")).to_be_visible()


KEYS_OF_ONE_FRAME = """(keys) => keys.forEach((key) => {
    document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
})"""


async def test_keys_count_that_are_pressed_faster_than_the_page_is_drawn(finished: Served, look: Look) -> None:
    page = await look(finished.url + "#/rollouts?q=lime&sort=start_time")
    await expect(page.locator("tbody tr")).to_have_count(2)
    second = await page.locator("tbody tr").nth(1).locator("a").first.inner_text()

    await page.evaluate(KEYS_OF_ONE_FRAME, ["j", "j", "Enter"])
    await expect(page.locator("h1")).to_have_text(second)

    async with LightningStoreClient(finished.url) as store:
        [rollout] = await store.query_rollouts(text_contains='"fig"', limit=1)
    page = await look(f"{finished.url}#/rollouts/{rollout.rollout_id}")
    await expect(page.get_by_role("treeitem")).to_have_count(4)
    await page.evaluate(KEYS_OF_ONE_FRAME, ["j", "j", "j"])
    await expect(page.locator('[role=treeitem][aria-selected="true"]')).to_contain_text("annotation")


async def test_a_step_asked_for_before_the_list_is_here_is_taken_when_it_comes(finished: Served, look: Look) -> None:
    page = await look(finished.url + "#/rollouts?mode=val&sort=start_time")
    words = page.locator("code.value, pre.value").first
    await page.locator("tbody tr").first.locator("a").first.click()
    await expect(page.get_by_role("link", name="Next")).to_have_attribute("href", re.compile("at=1"))

    async with held(page, "**/query_rollouts") as asked:
        await page.keyboard.press("]")
        await expect(words).to_contain_text("kiwi")
        await asked.wait()
        await page.keyboard.press("]")
        await page.keyboard.press("]")
        await page.keyboard.press("[")
        await expect(page.get_by_role("link", name="Next")).to_have_attribute("aria-disabled", "true")
    await expect(words).to_contain_text("wolf")

    # Two in one frame: the second is a step from where the first one leads.
    await expect(page.get_by_role("link", name="Next")).to_have_attribute("href", re.compile("at=3"))
    await page.evaluate(KEYS_OF_ONE_FRAME, ["]", "]"])
    await expect(words).to_contain_text("bear")


async def test_a_row_is_opened_when_it_comes(finished: Served, look: Look) -> None:
    page = await look(finished.url)
    await expect(page.get_by_text("live", exact=True)).to_be_visible()

    async with held(page, "**/query_rollouts") as asked:
        await page.keyboard.press("g")
        await page.keyboard.press("r")
        await asked.wait()
        for key in ("j", "j", "Enter"):
            await page.keyboard.press(key)
    await expect(page.locator(".input")).to_contain_text("waiting")


@asynccontextmanager
async def held(page: Page, path: str) -> AsyncIterator[asyncio.Event]:
    """Until it is left, requests for `path` wait on their way; the event is set when the first of them is asked for."""
    asked, let_go = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        asked.set()
        await let_go.wait()
        with suppress(Error):  # The page may have given the request up meanwhile.
            await route.continue_()

    await page.route(path, hold)
    yield asked
    let_go.set()
    await page.unroute_all(behavior="wait")


async def test_what_is_typed_stays_while_the_page_changes(served: Served, look: Look) -> None:
    page = await look(served.url + "#/rollouts")
    await expect(page.get_by_text("No rollouts yet")).to_be_visible()
    search = page.get_by_label("Search ids and inputs")
    # A key every 150 ms, so that what is typed is for long not yet in the URL, while rows come in.
    async with LightningStoreClient(served.url) as store:
        typing = asyncio.ensure_future(search.press_sequentially("kiwi-or-lime", delay=150))
        while not typing.done():
            await store.enqueue_rollout({"word": "kiwi-or-lime"})
        await typing

    await expect(search).to_have_value("kiwi-or-lime")
    await expect(page.get_by_text(re.compile(r"\d+ fit"))).to_be_visible()


async def test_spans_are_walked_with_j_and_k(finished: Served, look: Look) -> None:
    async with LightningStoreClient(finished.url) as store:
        [rollout] = await store.query_rollouts(text_contains='"fig"', limit=1)
    page = await look(f"{finished.url}#/rollouts/{rollout.rollout_id}")
    chosen = page.locator('[role=treeitem][aria-selected="true"]')
    await expect(chosen).to_contain_text("openai.chat.completion")

    await page.keyboard.press("j")
    await expect(chosen).to_contain_text("look_up")
    await page.keyboard.press("k")
    await expect(chosen).to_contain_text("openai.chat.completion")


async def test_the_token_is_asked_for_once_and_kept_by_the_tab(tmp_path: Path, look: Look) -> None:
    served = Served(tmp_path / "agl.db", "--token", TOKEN)
    try:
        page = await look(served.url, expecting="401")
        dialog = page.get_by_role("dialog", name="This store asks for a token")
        await dialog.get_by_role("textbox").fill("not the token, but as long as one")
        await page.keyboard.press("Enter")
        await expect(dialog.get_by_role("alert")).to_have_text("The store does not know this token.")
        await dialog.get_by_role("textbox").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("Nothing has run in this store yet")).to_be_visible()

        await page.reload()
        await expect(page.get_by_text("live", exact=True)).to_be_visible()
        await expect(dialog).to_have_count(0)
        assert await page.evaluate("localStorage.length") == 0
        assert TOKEN not in page.url
    finally:
        await page.close()
        served.stop()


async def test_markup_cannot_be_put_into_the_page(finished: Served, look: Look) -> None:
    page = await look(finished.url, expecting="require")
    refused = await page.evaluate(
        """() => {
            try { document.body.innerHTML = '<b>no</b>'; return false; } catch { return true; }
        }"""
    )
    assert refused


async def scroll_to_row(page: Page, row: int) -> None:
    await page.locator(".scroller").evaluate("(element, top) => (element.scrollTop = top)", row * 34)


async def test_a_long_list_is_fetched_as_one_scrolls(served: Served, look: Look) -> None:
    async with LightningStoreClient(served.url) as store:
        await asyncio.gather(*(store.enqueue_rollout({"number": n}) for n in range(400)))
    page = await look(served.url + "#/rollouts?sort=start_time")
    await expect(page.get_by_text("400 in all")).to_be_visible()
    assert await page.locator("tbody tr").count() < 60

    await scroll_to_row(page, 399)

    await expect(page.locator("tbody tr[aria-rowindex='401']")).to_contain_text(re.compile(r'"number":\d+'))
