"""Trains, evaluates or times: python -m vit_jax.main --config=configs/NAME.py --workdir=DIR."""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

import configs
from vit_jax.machinery import cli, process_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file of configs/; --config.KEY=VALUE changes a key. With --mode=evaluate the workdir's own "
    "is the default.",
    lock_config=False,
    accept_new_attributes=True,  # validate_config refuses unknown keys, and names the known ones
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "benchmark"], "What to do.")


def main(argv: Sequence[str]) -> int:
    """Runs the mode; returns the exit code."""
    if len(argv) > 1:
        raise ValueError(f"do not know what to do with {' '.join(argv[1:])}; flags begin with --")
    config = _config()
    if _MODE.value != "evaluate" and config is None:
        name = "inference_time" if _MODE.value == "benchmark" else "NAME"
        raise ValueError(f"--mode={_MODE.value} needs --config=configs/{name}.py")

    with process_flags.joined():
        _run(config)
    return 0


def _run(config: ConfigDict | None) -> None:
    # Imported here, so that --help and mistakes on the command line are answered at once.
    from vit_jax import evaluate, experiment, inference_time, plugins, train
    from vit_jax.machinery import processes
    from vit_jax.workdir import Workdir

    if _MODE.value == "train":
        train.train_and_evaluate(config, _WORKDIR.value)
        return
    if _MODE.value == "benchmark":
        inference_time.run(config, _WORKDIR.value)
        return
    workdir = Workdir(_WORKDIR.value)
    stored = workdir.read_config()
    plugins.load(stored.plugins, beside=workdir.path)
    exp = experiment.build(stored if config is None else config)
    if config is not None:
        workdir.claim(config, exp.data.identity, writes=processes.is_first())
    evaluate.evaluate_workdir(exp, evaluate.make_eval_step(exp), workdir)


def _config() -> ConfigDict | None:
    config = _CONFIG.value
    if config is None or isinstance(config, ConfigDict):
        return config
    try:
        config.keys()  # ml_collections hands on an object that raises when it is used
    except OSError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"cannot load the config: {reason}") from None
    raise ValueError(f"the config's get_config must return a ConfigDict, not {type(config)}")


def _find_installed_config(arg: str) -> str:
    """Lets --config=configs/NAME.py work from any folder, by the configs that were installed."""
    name, _, path = arg.partition("=")
    if name.lstrip("-") != "config" or not path.startswith("configs/"):
        return arg
    file, colon, argument = path.partition(":")
    installed = Path(configs.__file__).parent / file.removeprefix("configs/")
    if Path(file).exists() or not installed.exists():
        return arg
    return f"{name}={installed}{colon}{argument}"


if __name__ == "__main__":
    sys.argv = [_find_installed_config(arg) for arg in sys.argv]
    cli.run(main)
