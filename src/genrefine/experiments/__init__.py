"""What a training run is: its settings, where its pictures and networks come from, how it is carried out."""
