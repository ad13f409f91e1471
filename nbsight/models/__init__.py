"""Language models: loading, prompts, and what their values look like."""
