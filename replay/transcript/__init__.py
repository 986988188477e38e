"""The scenario and its text, the .smtp notation."""
