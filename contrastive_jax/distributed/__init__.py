"""Devices and hosts: collectives, running a per-device step on many devices, and connecting several processes."""
