"""What the recipes are worth at a fifth and a tenth of the dose, on anatomy that no training has seen."""
