"""Runs, pipelines and datasets on the Hugging Face Hub: pushed in one commit, pulled without running their code."""
