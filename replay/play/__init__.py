"""The drivers: a scenario played in virtual time or in real time."""
