"""The training loop: every prompt thought through and painted G times, judged once, both policies updated."""

from cluster.metrics import Clock
from cluster.system import System
from configs.schema import TrainConfig


def train(system: System, config: TrainConfig) -> None:
    """UniGRPO (arXiv:2603.23500) until `config.steps`, from the newest complete checkpoint."""
    step = system.learner.restore()
    system.metrics.resume(step)
    system.rollouts.load(system.learner.publish(step), version=step)
    while True:
        if config.panel_due(step):
            system.inspect(step)
        if config.evaluation.due(step, config.steps):
            system.evaluate(step)
        if step == config.steps:
            return
        clock = Clock(system.view.stage)
        with clock("rollout"):
            groups_P = system.rollouts.generate(system.prompts.batch(step), system.sampling(step))
        with clock("update"):
            stats = system.learner.update(step, groups_P, mini_batches=config.algorithm.mini_batches)
        step += 1
        with clock("sync"):
            system.rollouts.load(system.learner.publish(step), version=step)
        system.record(step, groups_P, stats, clock.seconds)
        if config.checkpoint.due(step, config.steps):
            system.learner.save(step)
