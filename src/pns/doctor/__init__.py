"""What a machine has for a recipe, and what it lacks: behind `pns doctor`. Nothing here loads torch into this process."""
