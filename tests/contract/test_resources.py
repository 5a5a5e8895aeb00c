"""Resources: versions never change, and the latest is the one stored last."""

from __future__ import annotations

import re
import time

import pytest

from agentlightning.errors import InvalidInput
from agentlightning.store import LightningStore
from agentlightning.types import LLM, Config, PromptTemplate, ProxyLLM, ResourcesUpdate, Weights

from .making import everything

EVERY_KIND = {
    "main_llm": LLM(endpoint="http://h:1/v1", model="m", api_key="sk-1", sampling_parameters={"temperature": 0.5}),
    "proxied": ProxyLLM(endpoint="http://h:2/v1", model="m"),
    "prompt": PromptTemplate(template="{{ x }}", engine="jinja"),
    "settings": Config(value={"any": ["json", None, 1.5]}),
    "weights": Weights(uri="file:///w", format="safetensors", sha256="ab" * 32, metadata={"rank": 8}),
}


async def test_lists_hide_keys_and_lookups_return_them(store: LightningStore) -> None:
    update = await store.update_resources("rs", EVERY_KIND)

    [listed] = await store.query_resources()
    assert "sk-1" not in repr(listed)
    assert "sk-1" not in listed.model_dump_json()
    assert listed.resources["main_llm"] == EVERY_KIND["main_llm"].model_copy(update={"api_key": "***"})
    assert {**listed.resources, "main_llm": None} == {**EVERY_KIND, "main_llm": None}
    assert await store.get_resources_by_id("rs") == update == await store.get_latest_resources()
    assert update.resources == EVERY_KIND

    with pytest.raises(InvalidInput, match=r"api_key of resource 'main_llm' is the mask \*\*\*"):
        await store.update_resources("rs", listed.resources)


def test_repr_of_a_resource_hides_its_key() -> None:
    text = "endpoint='http://h/v1', model='m', sampling_parameters={}, api_key='***'"
    assert repr(LLM(endpoint="http://h/v1", model="m", api_key="secret")) == f"LLM(resource_type='llm', {text})"
    assert "api_key" not in repr(LLM(endpoint="http://h/v1", model="m"))
    assert "secret" not in str(ProxyLLM(endpoint="http://h/v1", model="m", api_key="secret"))


async def test_plain_string_becomes_a_prompt_template(store: LightningStore) -> None:
    update = await store.add_resources(resources={"prompt_template": "You are helpful. {any_question}"})  # type: ignore[dict-item]

    assert update.resources == {
        "prompt_template": PromptTemplate(template="You are helpful. {any_question}", engine="f-string")
    }


async def test_every_resource_type_is_returned_unchanged(store: LightningStore) -> None:
    before = time.time()
    update = await store.add_resources(EVERY_KIND)
    after = time.time()

    assert re.fullmatch(r"rs-[0-9a-f]{12}", update.resources_id)
    assert before - 0.01 <= update.create_time <= after + 0.01
    assert update == ResourcesUpdate(
        resources_id=update.resources_id,
        create_time=update.create_time,
        update_time=update.update_time,
        version=1,
        resources=EVERY_KIND,
    )
    assert {name: type(each) for name, each in update.resources.items()} == {
        name: type(each) for name, each in EVERY_KIND.items()
    }
    assert await store.get_resources_by_id(update.resources_id) == update
    assert await store.get_latest_resources() == update


async def test_poml_template_is_refused_with_reason_and_remedy(store: LightningStore) -> None:
    resources = {"ok": Config(value=1), "prompt": PromptTemplate(template="<poml>{{ 1 }}</poml>", engine="poml")}

    with pytest.raises(InvalidInput, match=r"'prompt'.* runs code .* render it yourself") as caught:
        await store.add_resources(resources)
    with pytest.raises(InvalidInput, match="runs code"):
        await store.update_resources("rs", resources)

    assert caught.value.field == "resources.prompt.engine"
    assert await store.get_latest_resources() is None


async def test_empty_store_has_no_latest_resources(store: LightningStore) -> None:
    assert await store.get_latest_resources() is None
    assert await store.get_resources_by_id("rs-unknown") is None
    assert (await store.query_resources()).items == []


async def test_resources_may_be_empty(store: LightningStore) -> None:
    update = await store.add_resources({})

    assert update.resources == {}
    assert await store.get_latest_resources() == update


async def test_resources_added_last_are_the_latest(store: LightningStore) -> None:
    updates = [await store.add_resources({"prompt": PromptTemplate(template=f"{n}")}) for n in range(3)]

    assert len({update.resources_id for update in updates}) == 3
    assert await store.get_latest_resources() == updates[-1]
    assert (await store.query_resources()).items == updates


async def test_update_creates_the_next_version_and_keeps_the_others(store: LightningStore) -> None:
    first = await store.add_resources({"a": PromptTemplate(template="1"), "b": Config(value=1)})
    second = await store.update_resources(first.resources_id, {"a": PromptTemplate(template="2")})
    third = await store.update_resources(first.resources_id, {"c": PromptTemplate(template="3")})

    assert second == ResourcesUpdate(
        resources_id=first.resources_id,
        create_time=first.create_time,
        update_time=second.update_time,
        version=2,
        resources={"a": PromptTemplate(template="2")},
    )
    assert (third.version, third.resources) == (3, {"c": PromptTemplate(template="3")})
    assert first.update_time <= second.update_time <= third.update_time
    assert [await store.get_resources_by_id(first.resources_id, version) for version in (1, 2, 3, None)] == [
        first,
        second,
        third,
        third,
    ]
    assert (await store.query_resources()).items == [first, second, third]


async def test_update_of_older_resources_makes_them_the_latest(store: LightningStore) -> None:
    older = await store.add_resources({"prompt": PromptTemplate(template="older")})
    await store.add_resources({"prompt": PromptTemplate(template="newer")})

    update = await store.update_resources(older.resources_id, {"prompt": PromptTemplate(template="again")})

    assert await store.get_latest_resources() == update
    assert (update.resources_id, update.version) == (older.resources_id, 2)


async def test_update_of_a_new_id_creates_version_one(store: LightningStore) -> None:
    update = await store.update_resources("my resources", {"prompt": PromptTemplate(template="mine")})

    assert (update.resources_id, update.version) == ("my resources", 1)
    assert await store.get_resources_by_id("my resources") == update
    assert await store.get_latest_resources() == update


@pytest.mark.parametrize("version", [2, 99])
async def test_unknown_version_is_none(store: LightningStore, version: int) -> None:
    update = await store.add_resources({})

    assert await store.get_resources_by_id(update.resources_id, version) is None


async def test_equal_resources_create_another_version(store: LightningStore) -> None:
    first = await store.add_resources({"prompt": PromptTemplate(template="same")})
    second = await store.update_resources(first.resources_id, first.resources)

    assert (second.version, second.resources) == (2, first.resources)


async def test_changing_returned_resources_does_not_change_the_store(store: LightningStore) -> None:
    config = Config(value={"list": [1]})
    update = await store.add_resources({"config": config})
    before = await everything(store)

    config.value["list"].append(2)
    update.resources.clear()
    latest = await store.get_latest_resources()
    assert latest is not None
    latest.resources["config"].value["list"].clear()  # type: ignore[union-attr]

    assert await everything(store) == before
