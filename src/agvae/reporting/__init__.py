"""Presentation of runs and models: figures, the paper's tables, the report's page, tracking."""
