"""Evaluation (extra: eval): labelled data in; measures, diagnosis, a report and tuned settings out."""
