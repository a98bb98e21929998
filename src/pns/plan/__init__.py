"""What a run will take: work counted from the recipe, a cost model, and checks before anything starts. No torch here."""
