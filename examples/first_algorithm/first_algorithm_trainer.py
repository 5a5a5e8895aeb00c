"""The first algorithm under the Trainer: one command instead of three terminals.

    python first_algorithm_trainer.py

The agent and the algorithm are those of `first_algorithm.py`; `@algo` is all that the Trainer needs to know. It starts
the store and two runners, runs the algorithm, and stops everything when that is done.
"""

from first_algorithm import PROMPTS, TASK, explain, find_best_prompt

import agentlightning as agl


@agl.algo
async def best_of_three(store: agl.LightningStore) -> str:
    """The algorithm, as the Trainer calls it."""
    return await find_best_prompt(store, PROMPTS, TASK)


def main() -> None:
    """Find the best prompt."""
    result = agl.Trainer(algorithm=best_of_three, n_runners=2).fit(explain)
    print(f"Best prompt found: {result.returned!r}")
    print(f"Everything that was recorded lies in {result.folder}")


if __name__ == "__main__":
    main()
