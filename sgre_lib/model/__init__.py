"""SGRE and what it is compared with: attention, head, backbones, released names, checkpoints, experiments."""
