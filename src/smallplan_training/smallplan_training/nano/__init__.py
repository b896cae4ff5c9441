"""The default model from nothing: tokenizer, model, data, trainer, and the recipe that runs them in order."""
