"""The flag by which a command is asked what it does: --help, -h."""

import sys

from absl import app, flags

_LAST = "vit_jax.machinery.cli"  # flags that all commands share


def define() -> None:
    """Defines --help in place of absl's, which shows flags of the command's own file alone.

    For after all other flags, and before they are read.
    """
    app.define_help_flags()  # or absl would later define its own over ours
    flags.DEFINE_flag(_Help(), module_name="absl.app")


class _Help(flags.BooleanFlag):
    def __init__(self) -> None:
        super().__init__("help", False, "Show this help.", short_name="h", allow_override=True)

    def parse(self, arg: str | bool) -> None:
        if self._parse(arg):
            print(_describe_command())
            sys.exit(0)


def _describe_command() -> str:
    """The command's docstring, and its flags in the order of their definition."""
    defined = flags.FLAGS.flags_by_module_dict()
    ours = [name for name in defined if name == sys.argv[0] or name.startswith("vit_jax.")]
    ours.sort(key=lambda name: name == _LAST)
    groups = ["\n".join(map(_describe, defined[name])) for name in ours]
    return "\n\n".join([(sys.modules["__main__"].__doc__ or "").rstrip(), *groups])


def _describe(flag: flags.Flag) -> str:
    short = f"-{flag.short_name}, " if flag.short_name else ""
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    unset = flag.default is False or flag.default in (None, "", [])
    default = "" if unset else f" (default: {flag.default})"
    text = f"{short}{name}: {flag.help}{default}"
    return flags.text_wrap(" ".join(text.split()), indent=" " * 6, firstline_indent="  ")
