"""What a function agent is given, and that it stays the function it was."""

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


def given(agent: agl.LitAgent[Any], **resources: Any) -> Any:
    """What the agent returns for a rollout with these resources."""
    return agent.method_for(None)("task", resources, ROLLOUT)


# What is injected


def test_the_first_parameter_is_the_task_whatever_its_name():
    @agl.rollout
    def agent(question):
        return question

    assert given(agent) == "task"


def test_a_prompt_template_is_found_by_name():
    @agl.rollout
    def agent(task, prompt_template):
        return prompt_template

    assert given(agent, other=BYE, prompt_template=HELLO) is HELLO


def test_a_prompt_template_of_another_name_is_given_when_it_is_the_only_one():
    @agl.rollout
    def agent(task, prompt_template):
        return prompt_template

    assert given(agent, greeting=HELLO, llm=MODEL) is HELLO


def test_of_several_that_fit_the_first_is_given_with_one_warning(caplog):
    @agl.rollout
    def agent(task, prompt_template):
        return prompt_template

    with caplog.at_level(logging.WARNING):
        results = [given(agent, greeting=HELLO, farewell=BYE) for _ in range(3)]

    assert results == [HELLO, HELLO, HELLO]
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning == (
        "Agent agent asks for 'prompt_template' (PromptTemplate): no resource has that name and 'greeting', 'farewell' "
        "fit; it gets the first, 'greeting'. Name the parameter after the resource it means."
    )


def test_a_resource_of_the_right_name_but_another_kind_is_not_given():
    @agl.rollout
    def agent(task, llm):
        return llm

    assert given(agent, llm=HELLO, model=MODEL) is MODEL


def test_a_proxy_llm_comes_as_a_plain_one_whose_url_names_the_attempt():
    @agl.rollout
    def agent(task, llm):
        return llm

    assert given(agent, llm=PROXY) == agl.LLM(
        endpoint="http://proxy/rollout/ro-1/attempt/at-1/v1", model="small", sampling_parameters={"temperature": 0.0}
    )


def test_a_proxy_llm_stays_one_where_that_is_asked_for():
    @agl.llm_rollout(strip_proxy=False)
    def by_option(task, llm):
        return llm

    @agl.rollout
    def by_annotation(task, llm: agl.ProxyLLM):
        return llm

    assert given(by_option, llm=PROXY) is PROXY
    assert given(by_annotation, llm=PROXY) is PROXY


def test_resources_are_all_of_them_and_rollout_is_the_attempted_rollout():
    @agl.rollout
    def agent(task, *, rollout, resources):
        return rollout, resources

    assert given(agent, llm=PROXY, prompt=HELLO) == (ROLLOUT, {"llm": PROXY, "prompt": HELLO})


def test_any_other_parameter_is_the_resource_of_its_name():
    @agl.rollout
    def agent(task, judge, limits):
        return judge, limits

    limits = agl.Config(value={"calls": 3})
    assert given(agent, llm=MODEL, judge=MODEL, limits=limits) == (MODEL, limits)


def test_an_annotation_says_which_kind_fits():
    @agl.rollout
    def agent(task, limits: Optional[agl.Config], greeting: agl.PromptTemplate | None = None):  # noqa: UP045
        return limits, greeting

    anything = agl.Config(value=1)
    assert given(agent, prompt=HELLO, some=anything) == (anything, HELLO)


def test_an_annotation_that_only_type_checkers_know_is_no_hindrance():
    @agl.rollout
    def agent(task: Unknown, prompt_template: Unknown):  # noqa: F821
        return prompt_template

    assert given(agent, prompt_template=HELLO) is HELLO


def test_a_default_is_kept_where_there_is_no_such_resource():
    @agl.rollout
    def agent(task, llm=None, verbose=False, *rest, **options):
        return llm, verbose, rest, options

    assert given(agent) == (None, False, (), {})
    assert given(agent, llm=MODEL) == (MODEL, False, (), {})


def test_positional_only_parameters_are_given_by_position():
    @agl.rollout
    def agent(task, llm, prompt_template, /):
        return task, llm, prompt_template

    assert given(agent, prompt=HELLO, llm=MODEL) == ("task", MODEL, HELLO)


@pytest.mark.parametrize("name", ["prompt", "prompt_template"])
def test_prompt_rollout_gives_the_second_parameter_a_prompt(name: str):
    scope: dict[str, Any] = {}
    exec(f"def agent(task, {name}): return {name}", scope)

    assert given(agl.prompt_rollout(scope["agent"]), greeting=HELLO) is HELLO


def test_llm_rollout_gives_the_second_parameter_a_model():
    @agl.llm_rollout
    def agent(task, model):
        return model

    assert given(agent, prompt=HELLO, main=MODEL) is MODEL


def test_an_explicit_form_may_take_more():
    @agl.llm_rollout()
    def agent(task, prompt_template, llm, rollout):
        return prompt_template, llm, rollout

    assert given(agent, prompt=HELLO, main=MODEL) == (HELLO, MODEL, ROLLOUT)


# What is missing


def test_a_missing_resource_is_named_beside_those_that_are_there():
    @agl.rollout
    def agent(task, prompt_template):
        pass

    with pytest.raises(ValueError, match="asks for") as caught:
        given(agent, llm=MODEL, limits=agl.Config(value=1))

    assert str(caught.value) == (
        "agent agent asks for 'prompt_template' (PromptTemplate), "
        "but the resources of rollout ro-1 are 'llm' (LLM), 'limits' (Config)"
    )


def test_without_any_resources_the_error_says_how_to_get_some():
    @agl.rollout
    def agent(task, judge):
        pass

    with pytest.raises(ValueError, match=r"asks for 'judge', but rollout ro-1 has no resources: add some"):
        given(agent)


# What cannot be an agent


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
    ("function", "complaint"),
    [
        (no_task, "agent no_task takes no parameters; an agent's first parameter is the task"),
        (keyword_task, "agent keyword_task must take the task as its first, positional parameter"),
        (resource_first, "the first parameter of agent resource_first is the task: put it before 'prompt_template'"),
        (Holder.method, "agent method is a method; to write an agent as a class, derive the class from agl.LitAgent"),
        (Holder, "only a function can be decorated as an agent"),
        ("text", "only a function can be decorated as an agent"),
    ],
)
def test_what_cannot_be_an_agent_is_refused_when_it_is_decorated(function: Any, complaint: str):
    with pytest.raises(TypeError, match=complaint):
        agl.rollout(function)


def test_explicit_forms_refuse_functions_without_that_parameter():
    with pytest.raises(TypeError, match="takes no PromptTemplate: make it the second parameter"):
        agl.prompt_rollout(lambda task, llm: None)
    with pytest.raises(TypeError, match="agent no_llm takes no LLM"):

        @agl.llm_rollout
        def no_llm(task):
            pass


# Still the function it was


@agl.rollout
def documented(task: str, prompt_template: agl.PromptTemplate) -> float:
    """Greets."""
    return len(prompt_template.format(name=task))


@agl.rollout
async def awaiting(task: str, resources: NamedResources) -> str:
    return task


def test_a_decorated_function_stays_callable_with_name_doc_and_signature():
    assert documented("Ann", HELLO) == 9.0
    assert documented("Ann", prompt_template=HELLO) == 9.0
    assert (documented.__name__, documented.__doc__, documented.__module__) == ("documented", "Greets.", __name__)
    assert str(inspect.signature(documented)) == "(task: 'str', prompt_template: 'agl.PromptTemplate') -> 'float'"


async def test_a_decorated_async_function_is_awaited_as_before():
    assert await awaiting("Ann", {}) == "Ann"
    assert await given(awaiting) == "task"
    assert inspect.iscoroutinefunction(awaiting.method_for("train"))


def test_a_decorated_function_is_pickled_by_name():
    assert pickle.loads(pickle.dumps(documented)) is documented


# Whatever is given where an agent is wanted


def test_an_agent_is_itself():
    assert as_agent(documented) is documented


def test_an_undecorated_function_becomes_an_agent():
    def simple(task, prompt_template):
        return prompt_template

    agent = as_agent(simple)

    assert isinstance(agent, FunctionAgent)
    assert given(agent, prompt_template=HELLO) is HELLO


def test_bound_methods_and_callable_objects_become_agents():
    class Callable:
        def __init__(self, value):
            self.value = value

        def method(self, task, llm):
            return self.value, llm

        async def __call__(self, task):
            return self.value, task

    assert given(as_agent(Callable(1).method), llm=MODEL) == (1, MODEL)
    assert inspect.iscoroutinefunction(as_agent(Callable(1)).method_for(None))


def test_what_is_no_agent_is_refused_with_its_type():
    with pytest.raises(TypeError, match="an agent is a function or a LitAgent, not int"):
        as_agent(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"Holder is a class; give an instance of it: Holder\(…\)"):
        as_agent(Holder)


def test_an_agent_made_inside_a_function_travels_by_value():
    greeting = "Hi"

    @agl.llm_rollout(strip_proxy=False)
    def local(task, model):
        return greeting, model

    there = pickle.loads(cloudpickle.dumps(local))

    assert given(there, any=PROXY) == ("Hi", PROXY)
    assert there.__name__ == "local"
