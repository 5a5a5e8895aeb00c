"""Baseline: run every task and report statuses and mean rewards, without changing any resources."""

from __future__ import annotations

import logging
from collections import Counter
from statistics import fmean
from typing import Any

from ..types import Dataset, EnqueueRolloutRequest, RolloutMode
from .base import RETRY_LOST_RUNNERS, FastAlgorithm

logger = logging.getLogger(__name__)


class Baseline(FastAlgorithm):
    """Run the training tasks `n_epochs` times, then the validation tasks once, and log the results.

    `rollout_timeout` is the time limit for each attempt, in seconds.
    """

    def __init__(self, n_epochs: int = 1, *, rollout_timeout: float | None = None) -> None:
        if n_epochs < 1:
            raise ValueError(f"n_epochs must be at least 1, not {n_epochs}")
        self._n_epochs = n_epochs
        self._config = RETRY_LOST_RUNNERS.model_copy(update={"timeout_seconds": rollout_timeout})

    async def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None
    ) -> dict[str, float | None]:
        """Run the tasks and return the mean reward of each epoch and of the validation tasks.

        The keys are `epoch 1`, `epoch 2` and so on, and `validation`. A mean is None if none of the rollouts has a
        reward.
        """
        means: dict[str, float | None] = {}
        if train_dataset is not None:
            for epoch in range(self._n_epochs):
                means[f"epoch {epoch + 1}"] = await self._run_all(train_dataset, "train", epoch)
        if val_dataset is not None:
            means["validation"] = await self._run_all(val_dataset, "val", 0)
        return means

    async def _run_all(self, dataset: Dataset[Any], mode: RolloutMode, epoch: int) -> float | None:
        store = self.get_store()
        queued = await store.enqueue_many_rollouts(
            [
                EnqueueRolloutRequest(
                    input=dataset[n], mode=mode, config=self._config, metadata={"key": f"baseline/{mode}/{epoch}/{n}"}
                )
                for n in range(len(dataset))
            ]
        )
        finished = await store.wait_for_rollouts([rollout.rollout_id for rollout in queued])
        rewards = [rollout.reward for rollout in finished if rollout.reward is not None]
        mean = fmean(rewards) if rewards else None
        statuses = Counter(rollout.status for rollout in finished)
        counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
        logger.info("%s, epoch %d: %s, mean reward %s.", mode, epoch + 1, counts, mean)
        self.log_metrics({f"{mode}/mean_reward": mean}, epoch + 1)
        return mean
