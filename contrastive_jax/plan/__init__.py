"""Plans a run before it starts: compiles its step for described devices, and reads what the program costs."""
