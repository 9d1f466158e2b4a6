"""Carriers: the crossbar's verbs on a wire. They encode and decode; `drivers/` do the I/O."""
