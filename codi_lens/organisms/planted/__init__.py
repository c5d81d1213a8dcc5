"""Organisms: small CODI models in which a mechanism was planted, so that it is known.

* `task`: problems whose every result on the way is known; `mechanism`: which thought holds which result, by which route,
  as data.
* `family`, `interchange`, `train`: what they are made of, and how (interchange training).
* `truth`, `pairs`, `certify`, `card`, `export`: the folder that comes out, and what is measured of it.
* `models/`: those that ship.
"""
