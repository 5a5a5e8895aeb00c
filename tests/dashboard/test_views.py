"""Tests of every view over a finished run: content, both colour schemes, widths, and accessibility."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from agentlightning.store import LightningStoreClient, LightningStoreServer

from .conftest import OpenPage, StoreProgram, show_view
from .sample_run import REVERSED_TEXT, WORDS

AXE = (Path(__file__).parent / "vendor/axe.js").read_text()
EXACT_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}")
VIEWS = [("#/", "Overview"), ("#/rollouts", "Rollouts"), ("#/resources", "Resources"), ("#/workers", "Workers")]


async def newest_rollout(store: StoreProgram, text: str) -> Any:
    """Return the newest rollout with `text` in its input."""
    async with LightningStoreClient(store.url) as client:
        return (await client.query_rollouts(text_contains=text, sort_order="desc", limit=1))[0]


async def test_overview_shows_rewards_statuses_errors_and_workers(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url)

    await expect(page.get_by_text("2 ×")).to_be_visible()
    await expect(page.get_by_role("link", name="ValueError: no label for 'lime'")).to_be_visible()
    await expect(page.get_by_role("img", name="Mean reward over time")).to_be_visible()
    await expect(page.get_by_role("img", name="Mean reward by resources version")).to_be_visible()
    await expect(page.get_by_role("link", name="Succeeded 19")).to_be_visible()
    await expect(page.get_by_text("1 worker:")).to_be_visible()
    await expect(page).to_have_title("Overview · Agent Lightning")


async def test_chart_shows_the_values_under_the_pointer(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url)
    card = page.locator("section[aria-labelledby=reward-by-resources]")
    await expect(card.get_by_text("95 % CI")).to_be_visible()

    await card.locator(".u-over").hover(position={"x": 20, "y": 40})
    await expect(card.locator(".readout")).to_contain_text("0.556 ± 0.404 (9 rewards)")

    await card.locator(".u-over").click(position={"x": 20, "y": 40})
    await expect(page.get_by_role("heading", name="Resources", exact=True)).to_be_visible()
    await expect(page).to_have_url(re.compile("right=rs-"))


async def test_rollouts_are_filtered_sorted_and_searched_in_the_url(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url + "#/rollouts")
    await expect(page.get_by_text("23 rollouts")).to_be_visible()

    await page.get_by_label("Search ids and inputs").fill("lime")
    await expect(page.get_by_text("2 matches")).to_be_visible()
    await page.get_by_role("button", name="Mode").click()
    await expect(page).to_have_url(re.compile("q=lime.*sort=mode|sort=mode.*q=lime"))

    await page.reload()
    await expect(page.get_by_text("2 matches")).to_be_visible()
    await expect(page.locator("tbody tr").first).to_contain_text("train")

    await page.locator("summary", has_text="Mode").click()
    await page.get_by_role("checkbox", name="val").check()
    await expect(page.get_by_text("1 match", exact=True)).to_be_visible()
    await page.get_by_role("link", name="Clear filters").click()
    await expect(page.get_by_text("23 rollouts")).to_be_visible()

    await page.get_by_role("button", name="Failed first").click()
    await expect(page.locator("tbody tr").first).to_contain_text("Failed")
    await expect(page.locator("tbody tr").nth(1)).to_contain_text("Failed")
    await expect(page.locator("tbody tr").nth(2)).not_to_contain_text("Failed")


async def test_chosen_columns_are_kept_after_a_reload(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url + "#/rollouts")

    await page.get_by_text("Columns", exact=True).click()
    await page.get_by_role("checkbox", name="Worker").check()
    await page.get_by_role("checkbox", name="Input").uncheck()
    await page.reload()

    await expect(page.get_by_role("columnheader", name="Worker")).to_be_visible()
    await expect(page.get_by_role("columnheader", name="Input")).to_have_count(0)


async def test_rollout_shows_its_trace_usage_and_reward_source(sample: StoreProgram, open_page: OpenPage) -> None:
    rollout = await newest_rollout(sample, '"wolf"')
    page = await open_page(f"{sample.url}#/rollouts/{rollout.rollout_id}")

    tree = page.get_by_role("tree", name="Spans")
    await expect(tree.get_by_role("treeitem")).to_have_count(4)
    await expect(tree.get_by_role("treeitem", name="look_up")).to_be_visible()
    await expect(page.locator(".chat-message.user").first).to_contain_text("is wolf an animal or a fruit?")
    await expect(page.locator(".chat-message.output")).to_contain_text("look_up")
    await expect(page.get_by_text("1 tool available")).to_be_visible()

    facts = page.locator(".facts-list")
    for name, value in {"Model calls": "2", "Tokens in / out": "80 / 6", "Cost": "$0.0004"}.items():
        await expect(facts.locator("div", has=page.get_by_text(name, exact=True)).locator("dd")).to_have_text(value)
    await expect(page.locator(".call .facts")).to_contain_text("40 tokens in")
    await expect(page.locator(".call .facts")).to_contain_text("$0.0002")

    await facts.get_by_role("button", name="Source: annotation").click()
    await expect(page.get_by_role("article", name="Span annotation")).to_be_visible()

    await page.get_by_role("button", name="Rewards").click()
    await expect(page.get_by_role("row", name="1 final")).to_be_visible()
    await page.get_by_role("button", name="annotation, span 4").click()
    await expect(page.get_by_role("article", name="Span annotation")).to_be_visible()
    await expect(page).to_have_url(re.compile("span="))


async def test_chat_shows_each_message_once(sample: StoreProgram, open_page: OpenPage) -> None:
    rollout = await newest_rollout(sample, '"wolf"')
    page = await open_page(f"{sample.url}#/rollouts/{rollout.rollout_id}?tab=chat")

    await expect(page.locator(".chat-message .role")).to_have_text(["user", "assistant", "tool", "assistant"])
    await page.get_by_text("1 token with probabilities").click()
    await expect(page.locator(".token").first).to_be_visible()


async def test_attempts_show_their_failure_reasons(sample: StoreProgram, open_page: OpenPage) -> None:
    rollout = await newest_rollout(sample, '"lime"')
    page = await open_page(f"{sample.url}#/rollouts/{rollout.rollout_id}")

    attempts = page.get_by_role("group", name="Attempts").get_by_role("button")
    await expect(attempts).to_have_count(2)
    await expect(attempts.first).to_contain_text("ValueError: no label for 'lime'")
    await attempts.first.click()
    await expect(page).to_have_url(re.compile("attempt="))
    await expect(page.locator("pre", has_text="Traceback (most recent call last)").first).to_be_visible()


async def test_model_call_is_copied_as_curl_and_as_python(sample: StoreProgram, open_page: OpenPage) -> None:
    rollout = await newest_rollout(sample, '"bear"')
    permissions = ["clipboard-read", "clipboard-write"]
    page = await open_page(f"{sample.url}#/rollouts/{rollout.rollout_id}", permissions=permissions)

    await page.get_by_role("button", name="Copy as curl").click()
    await expect(page.get_by_text("Copied the curl command.")).to_be_visible()
    curl = await page.evaluate("navigator.clipboard.readText()")
    assert curl.startswith('curl "$OPENAI_BASE_URL/chat/completions"')
    assert json.loads(curl.partition("-d '")[2].rstrip("'"))["model"] == "scripted"

    await page.locator(".call").get_by_role("button", name="Copy as Python").click()
    await expect(page.get_by_text("Copied the Python code.")).to_be_visible()
    python = await page.evaluate("navigator.clipboard.readText()")
    compile(python, "copied", "exec")


async def test_next_and_previous_follow_the_list_of_origin(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url + "#/rollouts?mode=val&sort=start_time")
    await page.locator("tbody tr").first.locator("a").first.click()
    await expect(page.locator("code.value, pre.value").first).to_contain_text("cat")

    await page.get_by_role("link", name="Next").click()
    await expect(page.locator("code.value, pre.value").first).to_contain_text("kiwi")
    await page.get_by_role("link", name="Previous").click()
    await expect(page.locator("code.value, pre.value").first).to_contain_text("cat")
    await page.keyboard.press("Escape")
    await expect(page.get_by_text("10 matches")).to_be_visible()


async def test_two_versions_are_compared_by_word_and_by_task(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url + "#/resources")

    await expect(page.locator(".diff")).to_contain_text("You know every animal and every fruit.")
    await expect(page.locator(".diff ins").first).to_be_visible()
    await expect(page.get_by_text("Tasks run with both versions")).to_be_visible()
    await expect(page.locator("section[aria-labelledby=shared-tasks] tbody tr")).to_have_count(len(WORDS))
    await expect(page.locator("section[aria-labelledby=shared-tasks] tbody tr").first).to_contain_text("+1")

    await expect(page.get_by_text("10 tasks: 4 better, 0 worse, 6 unchanged; mean change +0.4.")).to_be_visible()

    await page.get_by_role("button", name='{"word":"kiwi"}').click()
    sides = page.get_by_role("region", name="Side by side").get_by_role("article")
    await expect(sides).to_have_count(2)
    await expect(sides.first.locator(".chat-message.output").last).to_contain_text("animal")
    await expect(sides.last.locator(".chat-message.output").last).to_contain_text("fruit")
    await page.reload()
    await expect(sides).to_have_count(2)
    await page.keyboard.press("Escape")
    await expect(sides).to_have_count(0)

    await page.get_by_role("radio", name="Compare to").nth(1).check()
    await expect(page).to_have_url(re.compile("right="))


async def test_workers_show_their_heartbeat_host_and_process(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url + "#/workers")

    row = page.get_by_role("row", name="runner-1")
    for fact in ("Idle for", "host", "python", "cores", "load", "memory_mb"):
        await expect(row).to_contain_text(fact)
    await expect(page.locator("time").first).to_have_attribute("title", EXACT_TIME)


async def test_hostile_span_content_is_shown_as_text(sample: StoreProgram, open_page: OpenPage) -> None:
    rollout = await newest_rollout(sample, "hostile")
    page = await open_page(sample.url)
    for tab in ("", "?tab=chat", "?tab=rewards"):
        await show_view(page, f"#/rollouts/{rollout.rollout_id}{tab}", rollout.rollout_id)
        await expect(page.locator("main")).to_contain_text("<script>document.title='owned'</script>")
        await expect(page.locator("main")).to_contain_text(r"\u001b[31mred\u001b[0m")
        await expect(page.locator("main")).to_contain_text(r"\u202egnp.exe")
        assert REVERSED_TEXT not in await page.locator("body").inner_text()
        assert "owned" not in await page.title()
        assert await page.locator("main img, main script").count() == 0


async def test_large_span_is_loaded_on_request(sample: StoreProgram, open_page: OpenPage) -> None:
    rollout = await newest_rollout(sample, "hostile")
    page = await open_page(f"{sample.url}#/rollouts/{rollout.rollout_id}")

    await page.get_by_role("treeitem", name="object").click()
    async with page.expect_response(lambda response: "span_id=" in response.url) as fetched:
        await page.get_by_role("button", name="Load the full span (1.1 MB)").click()

    assert len(await (await fetched.value).body()) > 1_000_000
    await page.get_by_role("button", name="Show all").first.click()


async def test_link_to_a_missing_rollout_names_it(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url + "#/rollouts/ro-missing")
    await expect(page.get_by_text("Rollout ro-missing does not exist in this store.")).to_be_visible()


async def test_empty_store_suggests_a_command_in_each_view(store: LightningStoreServer, open_page: OpenPage) -> None:
    page = await open_page(store.endpoint)
    commands = ["agl demo", "enqueue_rollout", "add_resources", "runner.iter()"]
    for (fragment, heading), command in zip(VIEWS, commands, strict=True):
        await show_view(page, fragment, heading)
        await expect(page.locator(".empty pre")).to_contain_text(command)


async def test_views_are_accessible_in_both_colour_schemes(sample: StoreProgram, open_page: OpenPage) -> None:
    rollout = (await newest_rollout(sample, '"goat"')).rollout_id
    both = f"#/resources?task={rollout},{(await newest_rollout(sample, 'lime')).rollout_id}"
    rollout_views = [(f"#/rollouts/{rollout}", rollout), (f"#/rollouts/{rollout}?tab=chat", rollout)]
    page = await open_page(sample.url)
    await page.evaluate(AXE)
    for fragment, heading in [*VIEWS, *rollout_views, (both, "Resources")]:
        await show_view(page, fragment, heading)
        await page.emulate_media(color_scheme="light")
        assert await accessibility_violations(page) == [], fragment
        await page.emulate_media(color_scheme="dark")
        assert await accessibility_violations(page, "color-contrast") == [], fragment


async def accessibility_violations(page: Page, *rules: str) -> list[str]:
    """Return axe's violations, of all rules or of some."""
    options = {"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})}
    results = await page.evaluate("(options) => axe.run(document, options)", options)
    return [f"{one['id']}: {node['html'][:200]}" for one in results["violations"] for node in one["nodes"]]


async def test_theme_follows_the_system_and_the_button(sample: StoreProgram, open_page: OpenPage) -> None:
    page = await open_page(sample.url, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = await page.evaluate(background)

    await page.get_by_role("button", name="Theme: system").click()
    light = await page.evaluate(background)
    await page.reload()

    assert dark != light
    assert await page.evaluate(background) == light
    await expect(page.get_by_role("button", name="Theme: light")).to_be_visible()


async def test_no_view_is_wider_than_the_screen(sample: StoreProgram, open_page: OpenPage) -> None:
    rollout = (await newest_rollout(sample, "hostile")).rollout_id
    page = await open_page(sample.url)
    for fragment, heading in [*VIEWS, (f"#/rollouts/{rollout}", rollout)]:
        await show_view(page, fragment, heading)
        for width in (400, 1280):
            await page.set_viewport_size({"width": width, "height": 800})
            widest = "Math.max(...['html', 'main'].map((name) => document.querySelector(name).scrollWidth))"
            assert await page.evaluate(widest) <= width, fragment
