"""`unigrpo`: train, sft, evaluate, export, validate, reproduce, reward and the quickstart."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from cluster.benchmarks import BENCHMARKS
from cluster.faults import Fault
from configs.load import ConfigError, load, still_to_be_given
from configs.reward_model import RewardModelConfig
from configs.reward_service import RewardServiceConfig
from configs.schema import SftConfig, TrainConfig
from configs.study import StudyConfig

C = TypeVar("C", TrainConfig, SftConfig, RewardServiceConfig, RewardModelConfig)
EXPORT_DTYPES = ("bfloat16", "float32")
OVERRIDES = "dotted.key=value on top of the file, the value in YAML"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status.

    Faults of the user's making end with one message and status 2, a cluster that fails in a run with one and status 1, an
    interrupt with one and status 130, and what should not happen with its traceback.
    """
    options = _options(arguments)
    try:
        options.run(options)
    except ConfigError as error:
        print(f"unigrpo: {error}", file=sys.stderr)
        return 2
    except Fault as error:
        print(f"unigrpo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "unigrpo: interrupted; a training run goes on from its newest checkpoint when it is started again", file=sys.stderr
        )
        return 130
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command; overrides may stand on either side of an option, which argparse alone does not allow."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    takes_overrides = "overrides" in options
    if unknown := [each for each in rest if not takes_overrides or each.startswith("-") or "=" not in each]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if takes_overrides:
        options.overrides = [*options.overrides, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unigrpo", description="Reinforcement learning of unified multimodal models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("train", _train, "train a policy; a run found in run_dir is resumed"),
        ("sft", _sft, "make a checkpoint by supervised fine-tuning; a run found in run_dir is resumed"),
        ("validate", _validate, "say everything about a config that can be known before Ray starts"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("config", type=Path, help="YAML file, such as configs/quickstart.yaml")
        command.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
        command.set_defaults(run=run)
    evaluate = commands.add_parser("evaluate", help="score a checkpoint, or pictures in GenEval's folder layout")
    evaluate.add_argument(
        "subject",
        type=Path,
        metavar="RUN_OR_FOLDER",
        help="a run folder (its newest checkpoint), a checkpoint, bundled:shapes, or a folder of pictures in GenEval's layout",
    )
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    evaluate.add_argument("--benchmark", choices=BENCHMARKS, help="default: the config's evaluation section")
    evaluate.add_argument("--config", type=Path, help="YAML file (default: the run's own, else configs/quickstart.yaml)")
    evaluate.add_argument("--json", type=Path, help="also write the scores here")
    evaluate.add_argument(
        "--out", type=Path, help="new folder for pictures, rows, scores and a sheet (default: in the run, or beside FOLDER)"
    )
    evaluate.set_defaults(run=_evaluate)
    export = commands.add_parser("export", help="write a run's policy as a folder in the released BAGEL layout")
    export.add_argument(
        "subject",
        type=Path,
        metavar="RUN_OR_CHECKPOINT",
        help="a run folder (its newest checkpoint), a checkpoint or bundled:shapes",
    )
    export.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="new or empty folder")
    export.add_argument("--dtype", choices=EXPORT_DTYPES, default=EXPORT_DTYPES[0], help="of the weights, default %(default)s")
    export.add_argument("--text-expert", action="store_true", help="what thinks alone, as a Qwen2 folder that vLLM serves")
    export.set_defaults(run=_export)
    reward = commands.add_parser("reward", help="judges on their own: serve them, or fit the shapes world's reward model")
    verbs = reward.add_subparsers(required=True, metavar="VERB")
    for name, run, text in (
        ("serve", _serve_reward, "serve a reward over HTTP until interrupted"),
        ("fit", _fit_reward, "train the shapes world's differentiable reward model and report its agreement"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("config", type=Path, help="YAML file, such as configs/shapes_reward_service.yaml")
        verb.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
        verb.set_defaults(run=run)
    reproduce = commands.add_parser("reproduce", help="run a study of several rows and seeds, and write its report")
    reproduce.add_argument("study", help="table1 or another file of configs/studies, or the path of a YAML file")
    reproduce.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    reproduce.add_argument("--rows", type=_names, default=(), metavar="ROW,ROW", help="a part of the rows")
    reproduce.add_argument("--seeds", type=_seeds, default=(), metavar="N,N", help="instead of the study's seeds")
    reproduce.add_argument("--report", action="store_true", help="only write the report of what is finished")
    reproduce.set_defaults(run=_reproduce)
    quickstart = commands.add_parser("quickstart", help="train the bundled model for a few minutes and show before and after")
    quickstart.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    quickstart.set_defaults(run=_quickstart)
    return parser


COMMANDS = {
    "train": "train",
    "sft": "sft",
    "reward_service": "reward serve",
    "reward_model": "reward fit",
    "study": "reproduce",
}
"""The command of each task."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(number) for number in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"seeds are {text!r}; give numbers separated by commas, such as 3,4") from None


def _config(options: argparse.Namespace, kind: type[C]) -> C:
    """The config of a command. Raises ConfigError, naming the right command, for one of another task."""
    config = load(options.config, options.overrides)
    if not isinstance(config, kind):
        raise ConfigError(f"{options.config} has task {config.task}; run `unigrpo {COMMANDS[config.task]} {options.config}`")
    return config


def _train(options: argparse.Namespace) -> None:
    config = _config(options, TrainConfig)
    from cluster.run import run_training

    run_training(config)


def _sft(options: argparse.Namespace) -> None:
    config = _config(options, SftConfig)
    from cluster.sft import run_sft

    run_sft(config)


def _serve_reward(options: argparse.Namespace) -> None:
    config = _config(options, RewardServiceConfig)
    from cluster.reward_service import run_reward_service

    run_reward_service(config)


def _fit_reward(options: argparse.Namespace) -> None:
    config = _config(options, RewardModelConfig)
    from cluster.reward_model import run_reward_model

    run_reward_model(config)


def _validate(options: argparse.Namespace) -> None:
    config = load(options.config, options.overrides)
    from cluster.preflight import resolved

    for line in resolved(config):
        print(line)
    if isinstance(config, StudyConfig):
        from cluster.studies.plan import runs_of

        runs_of(config, options.config.parent)  # refuses rows that cannot run
    missing = still_to_be_given(config)
    for key in missing:
        print(f"still to be given: {key}")
    rest = f", but {len(missing)} key{'s are' if len(missing) > 1 else ' is'} still to be given" if missing else ""
    print(f"{options.config} is valid{rest}")


def _evaluate(options: argparse.Namespace) -> None:
    from cluster.evaluate import run_evaluation

    run_evaluation(
        options.subject,
        options.overrides,
        benchmark=options.benchmark,
        config_path=options.config,
        json_path=options.json,
        out=options.out,
    )


def _export(options: argparse.Namespace) -> None:
    import torch

    from cluster.export import run_export

    run_export(options.subject, options.to, dtype=getattr(torch, options.dtype), text_expert=options.text_expert)


def _reproduce(options: argparse.Namespace) -> None:
    from cluster.studies.reproduce import run_study

    run_study(options.study, options.overrides, rows=options.rows, seeds=options.seeds, only_report=options.report)


def _quickstart(options: argparse.Namespace) -> None:
    from cluster.quickstart import run_quickstart

    run_quickstart(options.overrides)


if __name__ == "__main__":
    sys.exit(main())
