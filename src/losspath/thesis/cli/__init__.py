"""The commands `train`, `demo` and `study`: entry points of the group `losspath.commands`."""
