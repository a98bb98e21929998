"""The stages: each a plain function from typed records on disk to typed records on disk. `pns.pipeline` knows their order."""
