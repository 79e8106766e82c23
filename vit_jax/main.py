"""Trains, evaluates or times: python -m vit_jax.main --config=configs/NAME.py --workdir=DIR."""

import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from vit_jax.machinery import cli, config_flag, process_flags

_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "A file of configs/, or FILE:ARGUMENT; --config.KEY=VALUE changes a key, and "
    "--config.KEY=None takes it back to its default. With --mode=evaluate the workdir's own is "
    "the default.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "benchmark", "lr_find"],
    "What to do; lr_find tries 100 learning rates, and says at which the loss falls.",
)


def main(
    argv: Sequence[str], overrides: Sequence[config_flag.Override], typed: Sequence[str]
) -> int:
    """Runs the mode, with what changes keys of the config; returns the exit code.

    Args:
        argv: what is no flag, the program's name first.
        overrides: from `config_flag.split`.
        typed: all arguments, without the program's name.
    """
    if len(argv) > 1:
        raise ValueError(f"do not know what to do with {' '.join(argv[1:])}; flags begin with --")
    config = _config(overrides)
    if _MODE.value != "evaluate" and config is None:
        name = "inference_time" if _MODE.value == "benchmark" else "NAME"
        raise ValueError(f"--mode={_MODE.value} needs --config=configs/{name}.py")

    with process_flags.joined():
        _run(config, typed)
    return 0


def _run(config: ConfigDict | None, typed: Sequence[str]) -> None:
    # Imported here, so that --help and mistakes on the command line are answered at once.
    from vit_jax import evaluate, experiment, inference_time, plugins, range_test, train
    from vit_jax.machinery import processes
    from vit_jax.workdir import Workdir

    if _MODE.value == "train":
        command = ("python", "-m", "vit_jax.main", *typed)
        train.train_and_evaluate(config, _WORKDIR.value, command)
        return
    if _MODE.value == "benchmark":
        inference_time.run(config, _WORKDIR.value)
        return
    if _MODE.value == "lr_find":
        range_test.run(config, _WORKDIR.value)
        return
    workdir = Workdir(_WORKDIR.value)
    stored = workdir.read_config()
    plugins.load(stored.plugins, beside=workdir.path)
    exp = experiment.build(stored if config is None else config)
    if config is not None:
        workdir.claim(config, exp.data.identity, writes=processes.is_first())
    evaluate.evaluate_workdir(exp, evaluate.make_eval_step(exp), workdir)


def _config(overrides: Sequence[config_flag.Override]) -> ConfigDict | None:
    if _CONFIG.value is not None:
        return config_flag.load(_CONFIG.value, overrides)
    if overrides:
        raise ValueError(
            f"--config.{overrides[0][0]} changes a key of a config: say of which, "
            "--config=configs/NAME.py"
        )
    return None


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.argv, changes = config_flag.split(sys.argv)
    cli.run(lambda argv: main(argv, changes, words))
