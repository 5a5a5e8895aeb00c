"""Every view, over a finished run: what stands there, in light and dark, wide and narrow, for every reader."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from agentlightning.store import LightningStoreClient

from .a_run import BACKWARDS, WORDS
from .conftest import Look, Served

AXE = (Path(__file__).parent / "vendor/axe.js").read_text()
EXACT_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}")
VIEWS = ["#/", "#/rollouts", "#/resources", "#/workers"]


async def rollout_of(store: Served, text: str) -> Any:
    """The newest rollout whose input holds `text`."""
    async with LightningStoreClient(store.url) as client:
        return (await client.query_rollouts(text_contains=text, sort_order="desc", limit=1))[0]


async def violations(page: Page) -> list[str]:
    """What a screen reader or a reader with weak eyes would stumble over."""
    await page.evaluate(AXE)
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{one['id']}: {node['html'][:200]}" for one in found["violations"] for node in one["nodes"]]


async def test_the_overview_shows_rewards_statuses_errors_and_workers(finished: Served, look: Look) -> None:
    page = await look(finished.url)

    await expect(page.get_by_text("2 ×")).to_be_visible()
    await expect(page.get_by_role("link", name="ValueError: no label for 'lime'")).to_be_visible()
    await expect(page.get_by_role("img", name="Mean reward by step")).to_be_visible()
    await expect(page.get_by_role("img", name="Mean reward by version of the resources")).to_be_visible()
    await expect(page.get_by_role("link", name="succeeded 19")).to_be_visible()
    await expect(page.get_by_text("1 worker:")).to_be_visible()
    await expect(page).to_have_title("Overview · Agent Lightning")


async def test_rollouts_are_filtered_sorted_and_searched_in_the_url(finished: Served, look: Look) -> None:
    page = await look(finished.url + "#/rollouts")
    await expect(page.get_by_text("23 in all")).to_be_visible()

    await page.get_by_label("Search ids and inputs").fill("lime")
    await expect(page.get_by_text("2 fit")).to_be_visible()
    await page.get_by_role("button", name="Mode").click()
    await expect(page).to_have_url(re.compile("q=lime.*sort=mode|sort=mode.*q=lime"))

    await page.reload()
    await expect(page.get_by_text("2 fit")).to_be_visible()
    await expect(page.locator("tbody tr").first).to_contain_text("train")

    await page.get_by_text("mode", exact=True).click()
    await page.get_by_role("checkbox", name="val").check()
    await expect(page.get_by_text("1 fit")).to_be_visible()
    await page.get_by_role("link", name="Clear filters").click()
    await expect(page.get_by_text("23 in all")).to_be_visible()


async def test_failed_rollouts_come_first_at_a_click(finished: Served, look: Look) -> None:
    page = await look(finished.url + "#/rollouts")

    await page.get_by_role("button", name="Failed first").click()

    await expect(page.locator("tbody tr").first).to_contain_text("failed")
    await expect(page.locator("tbody tr").nth(1)).to_contain_text("failed")
    await expect(page.locator("tbody tr").nth(2)).not_to_contain_text("failed")


async def test_columns_are_chosen_and_stay_chosen(finished: Served, look: Look) -> None:
    page = await look(finished.url + "#/rollouts")

    await page.get_by_text("columns", exact=True).click()
    await page.get_by_role("checkbox", name="Worker").check()
    await page.get_by_role("checkbox", name="Input").uncheck()
    await page.reload()

    await expect(page.get_by_role("columnheader", name="Worker")).to_be_visible()
    await expect(page.get_by_role("columnheader", name="Input")).to_have_count(0)


async def test_a_rollout_shows_its_trace_with_a_call_as_a_chat(finished: Served, look: Look) -> None:
    rollout = await rollout_of(finished, '"cat"')
    page = await look(f"{finished.url}#/rollouts/{rollout.rollout_id}")

    tree = page.get_by_role("tree", name="Spans")
    await expect(tree.get_by_role("treeitem")).to_have_count(4)
    await expect(tree.get_by_role("treeitem", name="look_up")).to_be_visible()
    await expect(page.locator(".said.user").first).to_contain_text("is cat an animal or a fruit?")
    await expect(page.locator(".said.answer")).to_contain_text("look_up")
    await expect(page.get_by_text("1 tool offered")).to_be_visible()

    await page.get_by_role("button", name="Rewards").click()
    await expect(page.get_by_role("row", name="1 final")).to_be_visible()
    await page.get_by_role("button", name="annotation, span 4").click()
    await expect(page.get_by_role("article", name="Span annotation")).to_be_visible()
    await expect(page).to_have_url(re.compile("span="))


async def test_a_rollout_says_what_it_took_and_where_its_reward_came_from(finished: Served, look: Look) -> None:
    rollout = await rollout_of(finished, '"wolf"')
    page = await look(f"{finished.url}#/rollouts/{rollout.rollout_id}")

    facts = page.locator(".facts-list")
    for name, value in {"Calls": "2", "Tokens in, out": "80, 6", "Cost": "$0.0004"}.items():
        await expect(facts.locator("div", has=page.get_by_text(name, exact=True)).locator("dd")).to_have_text(value)
    await expect(page.locator(".call .facts")).to_contain_text("40 tokens in")
    await expect(page.locator(".call .facts")).to_contain_text("$0.0002")

    await facts.get_by_role("button", name="by annotation").click()
    await expect(page.get_by_role("article", name="Span annotation")).to_be_visible()


async def test_what_is_pointed_at_in_a_curve_is_said_in_numbers(finished: Served, look: Look) -> None:
    page = await look(finished.url)
    card = page.locator("section[aria-labelledby=by-version]")
    await expect(card.get_by_text("19 times out of 20")).to_be_visible()

    await card.locator(".u-over").hover(position={"x": 20, "y": 40})
    await expect(card.locator(".readout")).to_contain_text("0.556 ± 0.404 of 9 rewards")

    await card.locator(".u-over").click(position={"x": 20, "y": 40})
    await expect(page.get_by_role("heading", name="Resources", exact=True)).to_be_visible()
    await expect(page).to_have_url(re.compile("right=rs-"))


async def test_the_chat_says_nothing_twice(finished: Served, look: Look) -> None:
    rollout = await rollout_of(finished, '"wolf"')
    page = await look(f"{finished.url}#/rollouts/{rollout.rollout_id}?tab=chat")

    await expect(page.locator(".said .role")).to_have_text(["user", "assistant", "tool", "assistant"])
    await page.get_by_text("1 token and how likely each was").click()
    await expect(page.locator(".token").first).to_be_visible()


async def test_attempts_stand_on_a_time_line_with_why_each_ended(finished: Served, look: Look) -> None:
    rollout = await rollout_of(finished, '"lime"')
    page = await look(f"{finished.url}#/rollouts/{rollout.rollout_id}")

    attempts = page.get_by_role("group", name="Attempts").get_by_role("button")
    await expect(attempts).to_have_count(2)
    await expect(attempts.first).to_contain_text("ValueError: no label for 'lime'")
    await attempts.first.click()
    await expect(page).to_have_url(re.compile("attempt="))
    await expect(page.locator("pre", has_text="Traceback (most recent call last)").first).to_be_visible()


async def test_a_call_is_copied_as_curl_and_as_python(finished: Served, look: Look) -> None:
    rollout = await rollout_of(finished, '"bear"')
    page = await look(
        f"{finished.url}#/rollouts/{rollout.rollout_id}", permissions=["clipboard-read", "clipboard-write"]
    )

    await page.get_by_role("button", name="Copy as curl").click()
    await expect(page.get_by_text("Copied: copy as curl")).to_be_visible()
    curl = await page.evaluate("navigator.clipboard.readText()")
    assert curl.startswith('curl "$OPENAI_BASE_URL/chat/completions"')
    assert json.loads(curl.partition("-d '")[2].rstrip("'"))["model"] == "scripted"

    await page.locator(".call").get_by_role("button", name="Copy as Python").click()
    await expect(page.get_by_text("Copied: copy as python")).to_be_visible()
    python = await page.evaluate("navigator.clipboard.readText()")
    compile(python, "copied", "exec")


async def test_next_and_previous_follow_the_list_that_was_left(finished: Served, look: Look) -> None:
    page = await look(finished.url + "#/rollouts?mode=val&sort=start_time")
    await page.locator("tbody tr").first.locator("a").first.click()
    await expect(page.locator("code.value, pre.value").first).to_contain_text("cat")

    await page.get_by_role("link", name="Next").click()
    await expect(page.locator("code.value, pre.value").first).to_contain_text("kiwi")
    await page.get_by_role("link", name="Previous").click()
    await expect(page.locator("code.value, pre.value").first).to_contain_text("cat")
    await page.keyboard.press("]")
    await expect(page.locator("code.value, pre.value").first).to_contain_text("kiwi")
    await page.keyboard.press("Escape")
    await expect(page.get_by_text("10 fit")).to_be_visible()


async def test_two_versions_are_compared_word_by_word_and_task_by_task(finished: Served, look: Look) -> None:
    page = await look(finished.url + "#/resources")

    await expect(page.locator(".difference")).to_contain_text("You know every animal and every fruit.")
    await expect(page.locator(".difference ins").first).to_be_visible()
    await expect(page.get_by_text("The same task under both")).to_be_visible()
    await expect(page.locator("section[aria-labelledby=same-tasks] tbody tr")).to_have_count(len(WORDS))
    await expect(page.locator("section[aria-labelledby=same-tasks] tbody tr").first).to_contain_text("+1")

    await expect(page.get_by_text("10 tasks: 4 better, 0 worse, 6 the same")).to_be_visible()

    await page.get_by_role("button", name='{"word":"kiwi"}').click()
    sides = page.get_by_role("region", name="Side by side").get_by_role("article")
    await expect(sides).to_have_count(2)
    await expect(sides.first.locator(".said.answer").last).to_contain_text("animal")
    await expect(sides.last.locator(".said.answer").last).to_contain_text("fruit")
    await page.reload()
    await expect(sides).to_have_count(2)
    await page.keyboard.press("Escape")
    await expect(sides).to_have_count(0)

    await page.get_by_role("radio", name="Compare to").nth(1).check()
    await expect(page).to_have_url(re.compile("right="))


async def test_workers_show_their_heartbeat_and_what_they_say_of_themselves(finished: Served, look: Look) -> None:
    page = await look(finished.url + "#/workers")

    row = page.get_by_role("row", name="runner-1")
    for fact in ("host", "python", "cores", "load", "memory_mb"):
        await expect(row).to_contain_text(fact)
    await expect(page.locator("time").first).to_have_attribute("title", EXACT_TIME)


async def test_what_a_span_holds_is_shown_as_text(finished: Served, look: Look) -> None:
    rollout = await rollout_of(finished, "hostile")
    for tab in ("", "?tab=chat", "?tab=rewards"):
        page = await look(f"{finished.url}#/rollouts/{rollout.rollout_id}{tab}")
        await expect(page.locator("main")).to_contain_text("<script>document.title='owned'</script>")
        await expect(page.locator("main")).to_contain_text(r"\u001b[31mred\u001b[0m")
        await expect(page.locator("main")).to_contain_text(r"\u202egnp.exe")
        assert BACKWARDS not in await page.locator("body").inner_text()
        assert "owned" not in await page.title()
        assert await page.locator("main img, main script").count() == 0
        await page.close()


async def test_a_payload_of_a_megabyte_comes_when_it_is_asked_for(finished: Served, look: Look) -> None:
    rollout = await rollout_of(finished, "hostile")
    page = await look(f"{finished.url}#/rollouts/{rollout.rollout_id}")

    await page.get_by_role("treeitem", name="object").click()
    async with page.expect_response(lambda response: "span_id=" in response.url) as fetched:
        await page.get_by_role("button", name="Fetch all of it (1.1 MB)").click()

    assert len(await (await fetched.value).body()) > 1_000_000
    await page.get_by_role("button", name="Show all").first.click()


async def test_a_link_to_what_is_not_there_says_so(finished: Served, look: Look) -> None:
    page = await look(finished.url + "#/rollouts/ro-nowhere")
    await expect(page.get_by_text("There is no rollout ro-nowhere in this store.")).to_be_visible()


async def test_an_empty_store_names_the_next_command(served: Served, look: Look) -> None:
    for view, command in zip(VIEWS, ["agl demo", "enqueue_rollout", "add_resources", "runner.iter()"], strict=True):
        page = await look(served.url + view)
        await expect(page.locator(".empty pre")).to_contain_text(command)
        await page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_keeps_a_screen_reader_or_weak_eyes_out(finished: Served, look: Look, scheme: Any) -> None:
    rollout = await rollout_of(finished, '"goat"')
    both = f"#/resources?task={rollout.rollout_id},{(await rollout_of(finished, 'lime')).rollout_id}"
    for view in [*VIEWS, f"#/rollouts/{rollout.rollout_id}", f"#/rollouts/{rollout.rollout_id}?tab=chat", both]:
        page = await look(finished.url + view, color_scheme=scheme)
        await expect(page.locator("main h1")).to_be_visible()
        await expect(page.locator(".waiting")).to_have_count(0)
        assert await violations(page) == [], view
        await page.close()


async def test_dark_and_light_follow_the_system_and_the_button(finished: Served, look: Look) -> None:
    page = await look(finished.url, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = await page.evaluate(ground)

    await page.get_by_role("button", name="Theme: system").click()
    light = await page.evaluate(ground)
    await page.reload()

    assert dark != light
    assert await page.evaluate(ground) == light
    await expect(page.get_by_role("button", name="Theme: light")).to_be_visible()


@pytest.mark.parametrize("width", [400, 1280])
async def test_no_view_is_wider_than_the_screen(finished: Served, look: Look, width: int) -> None:
    rollout = await rollout_of(finished, "hostile")
    for view in [*VIEWS, f"#/rollouts/{rollout.rollout_id}"]:
        page = await look(finished.url + view, viewport={"width": width, "height": 800})
        await expect(page.locator("main h1")).to_be_visible()
        await expect(page.locator(".waiting")).to_have_count(0)
        widest = "Math.max(...['html', 'main'].map((name) => document.querySelector(name).scrollWidth))"
        assert await page.evaluate(widest) <= width, view
        await page.close()
