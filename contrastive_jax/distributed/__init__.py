"""Devices and hosts: collectives, one step on many devices, the connection of several processes."""
