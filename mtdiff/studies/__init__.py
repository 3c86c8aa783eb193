"""Studies: many trainings and evaluations that answer one question, kept cell by cell."""
