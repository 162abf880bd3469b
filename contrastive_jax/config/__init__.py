"""Configs: their fields, what is wrong with one, what is built from one, how a command line changes one."""
