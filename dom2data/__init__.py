"""Create, manage and inspect offline multi-agent datasets."""

from dom2data.convert import minari_hook

minari_hook.install()
