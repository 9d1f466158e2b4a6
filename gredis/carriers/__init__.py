"""Carriers: how the crossbar's verbs look on a wire. They encode; `drivers/` wait."""
