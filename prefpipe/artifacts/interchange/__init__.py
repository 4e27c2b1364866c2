"""Files of other tools: what they hold becomes candidates and scores, and groups become what they read."""
