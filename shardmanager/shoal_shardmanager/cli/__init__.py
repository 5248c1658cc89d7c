"""The control plane's commands. `shoal.cli.main` loads the parts of it by name, when one is needed."""
