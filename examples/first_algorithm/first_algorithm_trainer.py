"""Run the first algorithm with the Trainer: one command instead of three terminals.

    python first_algorithm_trainer.py

The agent and the algorithm are those of `first_algorithm.py`, with `@algo` added. The Trainer starts the store and two
runners, runs the algorithm, and stops everything afterwards.
"""

from first_algorithm import PROMPTS, TASK, explain, find_best_prompt

import agentlightning as agl


@agl.algo
async def best_of_three(store: agl.LightningStore) -> str:
    """Run the algorithm; the Trainer passes the store."""
    return await find_best_prompt(store, PROMPTS, TASK)


def main() -> None:
    """Find the best prompt."""
    result = agl.Trainer(algorithm=best_of_three, n_runners=2).fit(explain)
    print(f"Best prompt found: {result.returned!r}")
    print(f"The run is saved to {result.folder}")


if __name__ == "__main__":
    main()
