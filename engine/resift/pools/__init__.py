"""Files of candidate pools, read and ranked: one after another, as a job that resumes."""
