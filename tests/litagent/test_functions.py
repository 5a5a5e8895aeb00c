"""Function agents: arguments, errors, and unchanged behaviour of the decorated function."""

from __future__ import annotations

import inspect
import logging
import pickle
from typing import Any, Optional

import cloudpickle
import pytest

import agentlightning as agl
from agentlightning.litagent import FunctionAgent, as_agent
from agentlightning.types import NamedResources

HELLO = agl.PromptTemplate(template="Hello {name}")
BYE = agl.PromptTemplate(template="Bye {name}")
MODEL = agl.LLM(endpoint="http://m/v1", model="small")
PROXY = agl.ProxyLLM(endpoint="http://proxy/v1", model="small", sampling_parameters={"temperature": 0.0})

ROLLOUT = agl.AttemptedRollout(
    rollout_id="ro-1",
    input="task",
    start_time=0.0,
    attempt=agl.Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0),
)


def run(agent: agl.LitAgent[Any], **resources: Any) -> Any:
    """Return the agent's result for a rollout with these resources."""
    return agent.method_for(None)("task", resources, ROLLOUT)


# Arguments


def test_first_parameter_is_task():
    @agl.rollout
    def agent(question):
        return question

    assert run(agent) == "task"


def test_prompt_template_is_found_by_name():
    @agl.rollout
    def agent(task, prompt_template):
        return prompt_template

    assert run(agent, other=BYE, prompt_template=HELLO) is HELLO


def test_only_prompt_template_is_used_whatever_its_name():
    @agl.rollout
    def agent(task, prompt_template):
        return prompt_template

    assert run(agent, greeting=HELLO, llm=MODEL) is HELLO


def test_ambiguous_parameter_gets_first_resource_and_warns_once(caplog):
    @agl.rollout
    def agent(task, prompt_template):
        return prompt_template

    with caplog.at_level(logging.WARNING):
        results = [run(agent, greeting=HELLO, farewell=BYE) for _ in range(3)]

    assert results == [HELLO, HELLO, HELLO]
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning == (
        "Parameter 'prompt_template' (PromptTemplate) of agent agent matches several resources: 'greeting', "
        "'farewell'. Using the first, 'greeting'. To choose another one, name the parameter after it."
    )


def test_resource_of_wrong_kind_is_not_used():
    @agl.rollout
    def agent(task, llm):
        return llm

    assert run(agent, llm=HELLO, model=MODEL) is MODEL


def test_proxy_llm_is_passed_as_llm_with_attempt_url():
    @agl.rollout
    def agent(task, llm):
        return llm

    assert run(agent, llm=PROXY) == agl.LLM(
        endpoint="http://proxy/rollout/ro-1/attempt/at-1/v1", model="small", sampling_parameters={"temperature": 0.0}
    )


def test_proxy_llm_is_passed_unchanged_on_request():
    @agl.llm_rollout(strip_proxy=False)
    def by_option(task, llm):
        return llm

    @agl.rollout
    def by_annotation(task, llm: agl.ProxyLLM):
        return llm

    assert run(by_option, llm=PROXY) is PROXY
    assert run(by_annotation, llm=PROXY) is PROXY


def test_reserved_names_get_all_resources_and_rollout():
    @agl.rollout
    def agent(task, *, rollout, resources):
        return rollout, resources

    assert run(agent, llm=PROXY, prompt=HELLO) == (ROLLOUT, {"llm": PROXY, "prompt": HELLO})


def test_other_parameter_gets_resource_of_its_name():
    @agl.rollout
    def agent(task, judge, limits):
        return judge, limits

    limits = agl.Config(value={"calls": 3})
    assert run(agent, llm=MODEL, judge=MODEL, limits=limits) == (MODEL, limits)


def test_annotation_selects_kind():
    @agl.rollout
    def agent(task, limits: Optional[agl.Config], greeting: agl.PromptTemplate | None = None):  # noqa: UP045
        return limits, greeting

    anything = agl.Config(value=1)
    assert run(agent, prompt=HELLO, some=anything) == (anything, HELLO)


def test_unresolvable_annotation_is_ignored():
    @agl.rollout
    def agent(task: Unknown, prompt_template: Unknown):  # noqa: F821  # pyright: ignore[reportUndefinedVariable]
        return prompt_template

    assert run(agent, prompt_template=HELLO) is HELLO


def test_default_is_used_without_resource():
    @agl.rollout
    def agent(task, llm=None, verbose=False, *rest, **options):
        return llm, verbose, rest, options

    assert run(agent) == (None, False, (), {})
    assert run(agent, llm=MODEL) == (MODEL, False, (), {})


def test_positional_only_parameters_are_passed_by_position():
    @agl.rollout
    def agent(task, llm, prompt_template, /):
        return task, llm, prompt_template

    assert run(agent, prompt=HELLO, llm=MODEL) == ("task", MODEL, HELLO)


@pytest.mark.parametrize("name", ["prompt", "prompt_template"])
def test_prompt_rollout_passes_prompt_as_second_parameter(name: str):
    scope: dict[str, Any] = {}
    exec(f"def agent(task, {name}): return {name}", scope)

    assert run(agl.prompt_rollout(scope["agent"]), greeting=HELLO) is HELLO


def test_llm_rollout_passes_model_as_second_parameter():
    @agl.llm_rollout
    def agent(task, model):
        return model

    assert run(agent, prompt=HELLO, main=MODEL) is MODEL


def test_explicit_form_accepts_more_parameters():
    @agl.llm_rollout()
    def agent(task, prompt_template, llm, rollout):
        return prompt_template, llm, rollout

    assert run(agent, prompt=HELLO, main=MODEL) == (HELLO, MODEL, ROLLOUT)


# Missing resources


def test_missing_resource_error_lists_available_resources():
    @agl.rollout
    def agent(task, prompt_template):
        pass

    with pytest.raises(ValueError, match="needs") as caught:
        run(agent, llm=MODEL, limits=agl.Config(value=1))

    assert str(caught.value) == (
        "agent agent needs 'prompt_template' (PromptTemplate), "
        "but the resources of rollout ro-1 are 'llm' (LLM), 'limits' (Config)"
    )


def test_error_without_resources_says_how_to_add_them():
    @agl.rollout
    def agent(task, judge):
        pass

    with pytest.raises(ValueError, match=r"needs 'judge', but rollout ro-1 has no resources: add them"):
        run(agent)


# Invalid functions


def no_task():
    pass


def keyword_task(*, task):
    pass


def resource_first(prompt_template):
    pass


class Holder:
    def method(self, task):
        pass


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_task, "agent no_task takes no parameters; an agent's first parameter is the task"),
        (keyword_task, "agent keyword_task must take the task as its first, positional parameter"),
        (
            resource_first,
            "the first parameter of agent resource_first must be the task; put it before 'prompt_template'",
        ),
        (Holder.method, "agent method is a method; to write an agent as a class, derive the class from agl.LitAgent"),
        (Holder, "only a function can be decorated as an agent"),
        ("text", "only a function can be decorated as an agent"),
    ],
)
def test_invalid_function_is_rejected_by_decorator(function: Any, message: str):
    with pytest.raises(TypeError, match=message):
        agl.rollout(function)


def test_explicit_decorators_reject_functions_without_the_parameter():
    with pytest.raises(TypeError, match="takes no PromptTemplate: make it the second parameter"):
        agl.prompt_rollout(lambda task, llm: None)
    with pytest.raises(TypeError, match="agent no_llm takes no LLM"):

        @agl.llm_rollout
        def no_llm(task):
            pass


# The decorated function


@agl.rollout
def documented(task: str, prompt_template: agl.PromptTemplate) -> float:
    """Greets."""
    return len(prompt_template.format(name=task))


@agl.rollout
async def awaiting(task: str, resources: NamedResources) -> str:
    return task


def test_decorated_function_keeps_call_name_doc_and_signature():
    assert documented("Ann", HELLO) == 9.0
    assert documented("Ann", prompt_template=HELLO) == 9.0
    assert (documented.__name__, documented.__doc__, documented.__module__) == ("documented", "Greets.", __name__)
    assert str(inspect.signature(documented)) == "(task: 'str', prompt_template: 'agl.PromptTemplate') -> 'float'"


async def test_decorated_async_function_can_be_awaited():
    assert await awaiting("Ann", {}) == "Ann"
    assert await run(awaiting) == "task"
    assert inspect.iscoroutinefunction(awaiting.method_for("train"))


def test_decorated_function_is_pickled_by_name():
    assert pickle.loads(pickle.dumps(documented)) is documented


# Conversion to an agent


def test_agent_is_returned_unchanged():
    assert as_agent(documented) is documented


def test_undecorated_function_becomes_agent():
    def simple(task, prompt_template):
        return prompt_template

    agent = as_agent(simple)

    assert isinstance(agent, FunctionAgent)
    assert run(agent, prompt_template=HELLO) is HELLO


def test_bound_method_and_callable_object_become_agents():
    class Callable:
        def __init__(self, value):
            self.value = value

        def method(self, task, llm):
            return self.value, llm

        async def __call__(self, task):
            return self.value, task

    assert run(as_agent(Callable(1).method), llm=MODEL) == (1, MODEL)
    assert inspect.iscoroutinefunction(as_agent(Callable(1)).method_for(None))


def test_other_value_is_rejected():
    with pytest.raises(TypeError, match="an agent must be a function or a LitAgent, not int"):
        as_agent(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"Holder is a class; pass an instance: Holder\(…\)"):
        as_agent(Holder)


def test_local_agent_is_pickled_by_value():
    greeting = "Hi"

    @agl.llm_rollout(strip_proxy=False)
    def local(task, model):
        return greeting, model

    copy = pickle.loads(cloudpickle.dumps(local))

    assert run(copy, any=PROXY) == ("Hi", PROXY)
    assert copy.__name__ == "local"
