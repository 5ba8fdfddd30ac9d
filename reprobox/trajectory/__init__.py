"""The record of losses, step by step: read, kept, compared to a verdict, drawn."""
