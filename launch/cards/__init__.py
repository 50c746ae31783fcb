"""Result cards: scripts that run many trainings, resume where they were stopped, and write launch/records/."""
