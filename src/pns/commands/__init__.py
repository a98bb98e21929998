"""One file a family of commands; `pns.cli` joins them. Heavy imports stand inside the functions."""
