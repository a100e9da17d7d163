"""Gateway: the OpenAI-compatible front of a model API."""
