"""The flag by which a command is told where what it finds is written."""

from absl import flags

OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder for what is written: tables, restored images, flows, contact sheets.",
    short_name="o",
)
