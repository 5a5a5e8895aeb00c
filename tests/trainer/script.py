"""A user's script: the tutorial's algorithm with the Trainer. The test selects the agent and the strategy.

There is no `if __name__ == "__main__"`; the agent is a closure, and agent and algorithm are defined in `__main__`.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, cast

import agentlightning as agl

strategy, agent_name, *rest = sys.argv[1:]
options = dict(option.split("=") for option in rest)
if "log" in options:
    agl.setup_logging()

PROMPTS = ["You are helpful. {any_question}", "You are a knowledgeable AI. {any_question}", "Be kind. {any_question}"]


@agl.algo
async def find_best_prompt(store: agl.LightningStore) -> str:
    rewards = {}
    for prompt in PROMPTS:
        resources = await store.add_resources({"prompt_template": prompt})  # pyright: ignore[reportArgumentType]
        rollout = await store.enqueue_rollout(
            input="Why is the sky blue?",
            resources_id=resources.resources_id,
            metadata={"key": prompt},
            config=agl.RolloutConfig(
                max_attempts=int(options.get("attempts", 3)),
                retry_condition=["unresponsive"],
                timeout_seconds=float(options.get("timeout", 60)),
            ),
        )
        print("[Algo] Queued", rollout.rollout_id, flush=True)
        ended: Any = (await store.wait_for_rollouts([rollout.rollout_id]))[0]
        print("[Algo]", ended.status, (ended.attempt.metadata or {}).get("reason"), flush=True)
        rewards[prompt] = agl.find_final_reward(await store.query_spans(rollout.rollout_id)) or 0.0
    best = max(rewards, key=lambda prompt: rewards[prompt])
    print(f"[Algo] Best prompt found: '{best}' with reward {rewards[best]}", flush=True)
    return best


@agl.algo
async def crash(store: agl.LightningStore) -> None:
    await store.enqueue_rollout("task")
    raise ZeroDivisionError("the algorithm has a mistake")


def make_agent():
    unpicklable_only_by_name = {"length": 100}

    def score(task, prompt_template):
        return len(prompt_template.format(any_question=task)) / unpicklable_only_by_name["length"]

    def slow(task, prompt_template):
        print("[Rollout] started in", os.getpid(), flush=True)
        time.sleep(60)

    def kills_its_runner_once(task, prompt_template, rollout):
        print("[Rollout] attempt", rollout.attempt.sequence_id, flush=True)
        if rollout.attempt.sequence_id == 1 and "helpful" in prompt_template.template:
            os._exit(3)
        if rollout.attempt.sequence_id == 1 and "kind" in prompt_template.template:
            os.kill(os.getpid(), signal.SIGKILL)
        return score(task, prompt_template)

    def kills_its_runner(task, prompt_template):
        os._exit(3)

    def waits_before_the_third(task, prompt_template):
        print("[Rollout]", prompt_template.template, flush=True)
        if "kind" in prompt_template.template and "GO" not in os.environ:
            time.sleep(60)
        return score(task, prompt_template)

    def waits_for_a_file(task, prompt_template):
        print("[Rollout]", prompt_template.template, flush=True)
        while "helpful" in prompt_template.template and not Path("go").exists():
            time.sleep(0.05)
        return score(task, prompt_template)

    return locals()[agent_name]


class BrokenRunner(agl.LitAgentRunner):
    async def iter(self, event=None):
        raise LookupError("the runner has a mistake")


def make_runner():
    kind = BrokenRunner if "broken" in options else agl.LitAgentRunner
    return kind(agl.OtelTracer(), drain_seconds=float(options.get("drain", 0.2)))


trainer = agl.Trainer(
    algorithm=crash if "crash" in options else find_best_prompt,
    n_runners=int(options.get("runners", 1)),
    strategy=(
        agl.SharedMemoryExecutionStrategy(graceful_timeout=1)
        if strategy == "shm"
        else strategy
        if strategy == "cs"
        else agl.ClientServerExecutionStrategy(graceful_timeout=110)
        if strategy == "long grace"
        else agl.ClientServerExecutionStrategy(start_method=cast(Any, strategy), graceful_timeout=3, max_restarts=3)
    ),
    runner=make_runner,
    run_dir=options.get("run_dir"),
)


result = trainer.fit(make_agent(), resume="resume" in options)
print("[Result]", result.status, sorted(result.counts.items()), flush=True)
