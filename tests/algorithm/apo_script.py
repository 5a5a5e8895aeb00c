"""A training script with APO. The agent's model, the critic and the editor are all at OPENAI_BASE_URL."""

import functools
import json
import os
import sys

from openai import AsyncOpenAI, OpenAI

import agentlightning as agl

options = dict(option.split("=") for option in sys.argv[1:])
TASKS = [{"number": n} for n in range(8)]


@functools.cache
def client():
    """Return the client of this process: creating one takes longer than a call."""
    return OpenAI(max_retries=5)


def agent(task, prompt_template):
    prompt = prompt_template.format(number=task["number"])
    answer = client().chat.completions.create(model="agent", messages=[{"role": "user", "content": prompt}])
    agl.emit_message(f"pid {os.getpid()}")
    return float(answer.choices[0].message.content or "")


trainer = agl.Trainer(
    algorithm=agl.APO(
        AsyncOpenAI(max_retries=5),
        gradient_model="critic",
        apply_edit_model="editor",
        gradient_batch_size=2,
        val_batch_size=4,
        beam_width=2,
        branch_factor=2,
        beam_rounds=2,
        validation_repeats=2,
    ),
    n_runners=2,
    initial_resources={"prompt_template": "Is {number} good?"},
    strategy=options.get("strategy", "cs"),
    tracer=agl.LightningTracer(),
    run_dir="run",
)
result = trainer.fit(agent, TASKS, val_dataset=TASKS, resume="resume" in options)
print("[Result]", json.dumps({"counts": result.counts, "report": result.report}, sort_keys=True), flush=True)
