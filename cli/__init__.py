"""The `openbook` command, one file for each group of sub-commands; heavy imports stand inside the commands."""
