"""Controls that see private images: what an attack could reach at best. They keep an attack's contract and are no
attacks; the engine brings them, and no method of anybody else gets what they get."""
