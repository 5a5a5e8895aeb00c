"""An agent that selects meeting rooms with a tool, and APO, which improves its prompt.

    python room_selector.py          # train
    python room_selector.py try      # one task

The agent asks a model. The model can call `rooms_at(hour)`, which lists the rooms and shows which are taken. The grader
accepts exactly one room. For any other room it records the reason as a message, which APO's critique model reads.
"""

import json
import os
from typing import Any

import click
from openai import AsyncOpenAI, OpenAI
from tasks import ROOMS, TRAIN, VAL

import agentlightning as agl

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4.1-nano")
PROMPT = agl.PromptTemplate(template="Find a meeting room. {request}\nAnswer with the room's name.")
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "rooms_at",
        "description": "List all rooms with seats, equipment, accessibility, and availability at an hour.",
        "parameters": {"type": "object", "properties": {"hour": {"type": "integer"}}, "required": ["hour"]},
    },
}
MAX_TURNS = 3


def select_room(task: dict[str, Any], prompt_template: agl.PromptTemplate) -> float:
    """Let the model choose a room, and grade the choice."""
    answer = ask(task, prompt_template.format(request=task["request"]))
    reward, feedback = grade(task, answer)
    agl.emit_message(feedback)
    return reward


def ask(task: dict[str, Any], prompt: str) -> str:
    """Return the model's final answer, after at most `MAX_TURNS` turns with tool calls."""
    client, messages = OpenAI(), [{"role": "user", "content": prompt}]
    for _ in range(MAX_TURNS):
        answer = client.chat.completions.create(
            model=MODEL, messages=messages, tools=[TOOL], temperature=0, max_tokens=200
        )
        message = answer.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.model_dump(exclude_none=True))
        messages += [_tool_result(task, call) for call in message.tool_calls]
    return ""


def rooms_at(task: dict[str, Any], hour: int) -> list[dict[str, Any]]:
    """List all rooms (the tool). Taken rooms are known for the task's hour only."""
    taken = task["taken"] if hour == task["hour"] else []
    return [{**room, "taken": room["name"] in taken} for room in ROOMS]


def grade(task: dict[str, Any], answer: str) -> tuple[float, str]:
    """Return the reward (1 for exactly the right room, else 0) and feedback on the answer."""
    named = [room["name"] for room in ROOMS if room["name"].lower() in answer.lower()]
    if named == [task["room"]]:
        return 1.0, f"{named[0]} is right."
    if not named:
        return 0.0, f"No room was named; {task['room']} is right."
    if len(named) > 1:
        return 0.0, f"Several rooms were named ({', '.join(named)}); answer with exactly one, {task['room']}."
    reason = (
        "it is taken then" if named[0] in task["taken"] else "it is too small, lacks something, or is not the smallest"
    )
    return 0.0, f"{named[0]} is wrong: {reason}. {task['room']} is right."


def _tool_result(task: dict[str, Any], call: Any) -> dict[str, Any]:
    try:
        found: Any = rooms_at(task, int(json.loads(call.function.arguments)["hour"]))
    except (ValueError, KeyError, TypeError) as error:
        found = {"error": f"rooms_at takes an hour: {error}"}
    return {"role": "tool", "tool_call_id": call.id, "content": json.dumps(found)}


@click.command()
@click.argument("command", type=click.Choice(["train", "try"]), default="train")
@click.option("--n-runners", default=4, show_default=True, help="Number of runners.")
@click.option("--rounds", default=2, show_default=True, help="Number of rounds of APO.")
@click.option("--quick", is_flag=True, help="Use fewer tasks, to check that everything works.")
@click.option("--resume", is_flag=True, help="Resume the run that was stopped or killed.")
def main(command: str, n_runners: int, rounds: int, quick: bool, resume: bool) -> None:
    """Improve the prompt of the room selector."""
    if command == "try":
        trainer = agl.Trainer(initial_resources={"prompt_template": PROMPT})
        result = trainer.dev(select_room, TRAIN[:1])
        print(f"{TRAIN[0]['request']} Reward {result.mean_reward}")
        return
    apo = agl.APO(
        AsyncOpenAI(),
        gradient_model=os.environ.get("CRITIC_MODEL", "gpt-5-mini"),
        apply_edit_model=os.environ.get("EDITOR_MODEL", "gpt-4.1-mini"),
        beam_width=2,
        branch_factor=2,
        beam_rounds=rounds,
        val_batch_size=6 if quick else 16,
        validation_repeats=1 if quick else 3,
        rollout_timeout=120,
    )
    trainer = agl.Trainer(algorithm=apo, n_runners=n_runners, initial_resources={"prompt_template": PROMPT})
    result = trainer.fit(select_room, TRAIN, val_dataset=VAL[:12] if quick else VAL, resume=resume)
    if result.folder is None:  # AGL_CURRENT_ROLE=runner: the algorithm runs on another machine
        return
    print(result.report["summary"])
    print(f"Best prompt:\n{apo.get_best_prompt().template}")


if __name__ == "__main__":
    main()
