"""Interventions, the engine that runs them side by side, and what experiments make of both."""
