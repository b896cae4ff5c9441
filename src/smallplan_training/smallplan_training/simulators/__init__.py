"""Simulated robots in simulated houses, behind one contract (`search_env.SearchEnv`)."""
